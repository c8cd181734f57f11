"""The command `export`: the records of the local index as JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from indexer.cli.options import config_option
from indexer.settings import load_settings
from storage.export import ExportedRecord, exported_records
from storage.reading import open_reader


class OutputTrouble(click.FileError):
    """The file that is to take the records cannot."""

    exit_code = os.EX_IOERR


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl"]),
    default="jsonl",
    show_default=True,
    help="One JSON object a line.",
)
@click.option("--collection", help="Only this collection (NSID).")
@click.option("--did", help="Only the records of this account.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write to this file instead of standard output; it appears when it is complete.",
)
@config_option
def export(
    *,
    form: str,
    collection: str | None,
    did: str | None,
    output: Path | None,
    config: Path | None,
) -> int:
    """Write all records of visible accounts, as their authors signed them.

    A line has uri, did, collection, rkey, cid, rev, indexedAt, valid and value; value is null
    where the record breaks the data model. While a daemon writes, each record is as it was when
    its page was read: use a backup for a copy of one instant.
    """
    del form  # there is one so far
    with open_reader(load_settings(config).storage.path) as reader:
        records = exported_records(reader, collection=collection, did=did)
        if output is None:
            for record in records:
                sys.stdout.buffer.write(_line(record))
            sys.stdout.buffer.flush()
            return os.EX_OK
        try:
            _write_whole(output, records)
        except OSError as error:
            raise OutputTrouble(str(output), error.strerror) from error
    return os.EX_OK


def _write_whole(output: Path, records: Iterable[ExportedRecord]) -> None:
    if output.exists() and not output.is_file():  # a device or a pipe is there to be written to
        with output.open("wb") as file:
            file.writelines(map(_line, records))
        return
    output = output.resolve()  # a link stays one
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("wb") as file:
            for record in records:
                file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


_encode = msgspec.json.Encoder().encode


def _line(record: ExportedRecord) -> bytes:
    value = b"null" if record.value is None else record.value.encode()
    return (
        _encode(
            {
                "uri": record.uri,
                "did": record.did,
                "collection": record.collection,
                "rkey": record.rkey,
                "cid": record.cid,
                "rev": record.rev,
                "indexedAt": record.indexed_at,
                "valid": record.is_valid,
                "value": msgspec.Raw(value),
            }
        )
        + b"\n"
    )
