"""The command `verify`: the local index held against its own records, without any network."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import click

from indexer.cli.options import config_option
from indexer.cli.wording import counted, printable
from indexer.errors import ConfigurationError
from indexer.records.prepare import prepare_stored
from indexer.records.projection import SEARCH
from indexer.records.registry import load_registry
from indexer.settings import Settings, load_settings
from storage.projections import Projections
from storage.reading import open_reader
from storage.verification import Verification, check_search_index

EXIT_DIFFERENT = 1
SHOWN_MAX = 100
PROGRESS_RECORDS = 10_000


@click.command()
@click.option("--did", help="Only the records of this account.")
@config_option
def verify(*, did: str | None, config: Path | None) -> int:
    """Recompute every CID, compare typed tables, search and totals with the records.

    Reads the local file only. Exit codes: 0 all is as it must be, 1 something is different.
    """
    settings = load_settings(config)
    path = settings.storage.path
    verification, differences = _compare(settings, did)
    if did is None:
        try:
            broken = check_search_index(path, SEARCH)
        except ConfigurationError:
            click.echo("The index of words was not checked: a daemon uses the file.", err=True)
        else:
            differences += broken is not None
            if broken is not None:
                click.echo(f"{broken.what}: {printable(broken.detail)}")
    click.echo(
        f"{counted(verification.records, 'record')} verified,"
        f" {counted(differences, 'difference')} found."
    )
    return EXIT_DIFFERENT if differences else os.EX_OK


def _compare(settings: Settings, did: str | None) -> tuple[Verification, int]:
    """Print the first differences; all that was verified, and the number of all differences."""
    governance_did = settings.governance.did
    registry = load_registry(governance_did=governance_did, lexicon_dir=settings.scope.lexicon_dir)
    path = settings.storage.path
    found = 0
    with open_reader(path) as reader:
        if not Projections(registry.types, SEARCH, basis=governance_did).is_current(reader):
            raise ConfigurationError(
                f"storage.path: the typed tables of {path} were made by another version or for"
                " another governance.did; start the daemon once, which makes them anew"
            )
        prepare = partial(prepare_stored, registry=registry)
        verification = Verification(reader, registry.types, SEARCH, prepare)
        for difference in verification.differences(did, on_chunk=_show_progress):
            found += 1
            if found <= SHOWN_MAX:
                subject, detail = printable(difference.subject), printable(difference.detail)
                click.echo(f"{difference.what}: {subject}: {detail}")
    if found > SHOWN_MAX:
        click.echo(f"... and {found - SHOWN_MAX:,} more")
    return verification, found


def _show_progress(records: int) -> None:
    if sys.stderr.isatty() and records % PROGRESS_RECORDS == 0:
        click.echo(f"\r{counted(records, 'record')} ...", nl=False, err=True)
