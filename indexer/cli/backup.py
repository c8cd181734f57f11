"""Commands that copy the local store and put a copy back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from indexer.cli.options import config_option, json_option
from indexer.cli.wording import counted
from indexer.errors import ConfigurationError, LocalBusy, LocalFault, RequestRefused
from indexer.settings import load_settings
from storage.backup import copy_store
from storage.restore import StoreCopy, inspect_copy, restore_store


class StoreTrouble(click.ClickException):
    """The machine does not let us; nothing was changed."""

    exit_code = os.EX_IOERR


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@config_option
def backup(*, path: Path, is_json: bool, config: Path | None) -> int:
    """Copy the local store to PATH, also while a daemon uses it.

    The copy is of one instant, with the cursor of the stream as it was then, checked, and complete
    or absent. It needs twice the size of the store in free space. Where PATH is a folder the copy
    gets a name with its date there.
    """
    database = load_settings(config).storage.file
    if not database.is_file():
        raise ConfigurationError(f"storage.path: there is no store at {database} to be copied")
    if path.is_dir():
        path = path / f"index-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    if path.exists():
        raise click.UsageError(f"{path} exists already: name another file, or a folder")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        size_bytes = copy_store(database, path, place=str(path.parent))
    found = inspect_copy(path)
    if is_json:
        _print({"path": str(path), "sizeBytes": size_bytes, **_told(found)})
    else:
        click.echo(f"{path}: {size_bytes:,} bytes, {_summary(found)}, checked.")
    return os.EX_OK


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@config_option
def restore(*, path: Path, is_json: bool, config: Path | None) -> int:
    """Put the copy at PATH in the place of the local store.

    Stop the daemon first: while one has the store this is refused, as is a copy that is damaged,
    foreign or of a newer version. The old store is kept beside the new one. A daemon that is
    started then goes on from the copy's cursor, and repairs what the relay no longer has.
    """
    database = load_settings(config).storage.file
    with _explained(path):
        found, aside = restore_store(path, database)
    if is_json:
        kept = None if aside is None else str(aside)
        _print({"path": str(database), "keptAside": kept, **_told(found)})
        return os.EX_OK
    click.echo(f"{database} is restored: {_summary(found)}.")
    if aside is not None:
        click.echo(f"The store that was there is {aside} now; remove it when all is well.")
    click.echo("Start the daemon: it goes on from there.")
    return os.EX_OK


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except RequestRefused as error:
        raise StoreTrouble(f"{error.message}: free some, or name another place") from error
    except LocalBusy as error:
        raise StoreTrouble(f"{error}: nothing was changed, try again") from error
    except LocalFault as error:
        raise StoreTrouble(
            f"{error}: nothing was changed; `chive-indexer verify` says if the store is damaged"
        ) from error
    except OSError as error:
        raise StoreTrouble(f"{error.filename or path}: {error.strerror}") from error


def _told(found: StoreCopy) -> dict[str, object]:
    return {
        "schemaVersion": found.version,
        "records": found.records,
        "cursors": [{"url": url, "cursor": seq} for url, seq in found.cursors.items()],
    }


def _summary(found: StoreCopy) -> str:
    places = [
        f"{url} {'from its present' if seq is None else f'up to {seq}'}"
        for url, seq in found.cursors.items()
    ]
    return f"{counted(found.records, 'record')}, {'; '.join(places) or 'no cursor yet'}"


def _print(value: dict[str, object]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
