"""Commands that start, watch, list and cancel operations of a running daemon."""

from __future__ import annotations

import os
import shutil
import sys
import time
from datetime import UTC, datetime
from signal import SIGINT

import click
import msgspec

from indexer.cli.admin_client import AdminClient, AdminUnreachable, Remedy
from indexer.cli.operation_report import (
    ListedOperations,
    OneOperation,
    OperationReport,
    listing,
    progress_line,
    summary,
)
from indexer.cli.options import Target, target_options
from indexer.model import OperationMode, OperationStatus, OperationType

TRIGGER = "pub.chive.admin.triggerBackfill"
CANCEL = "pub.chive.admin.cancelBackfill"
STATUS = "pub.chive.admin.getBackfillStatus"

UNKNOWN_ID = Remedy("`chive-indexer operations` lists those that exist", "id")
EXIT_CODES = {
    OperationStatus.COMPLETED: 0,
    OperationStatus.FAILED: 1,
    OperationStatus.CANCELLED: 2,
}
EXIT_INTERRUPTED = 128 + SIGINT

POLL_S_MIN = 0.1
POLL_S_MAX = 1.0
OUTAGE_S_MAX = 60.0
"""How long a watch waits for a daemon that is gone: a restarted one resumes its operations."""

LINE_S_MIN = 10.0
"""Shortest time between two lines of progress where there is no terminal to redraw."""


@click.command()
@click.argument(
    "type_name", metavar="TYPE", type=click.Choice([str(each) for each in OperationType])
)
@click.option("--did", help="The account, for didSync.")
@click.option("--uri", help="The eprint, for citationExtraction; all when absent.")
@click.option("--pds-url", help="The host, for pdsScan; all known ones when absent.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Records between checkpoints, for fullReindex."
)
@click.option(
    "--mode",
    type=click.Choice([str(each) for each in OperationMode]),
    help="Let the live stream go on beside it, or hold it; as configured when absent.",
)
@click.option(
    "--accept-rollback",
    is_flag=True,
    help="For didSync: let the host's state replace a newer one of ours.",
)
@click.option("--watch", is_flag=True, help="Show progress until the operation ends.")
@target_options
@click.pass_obj
def backfill(
    target: Target,
    *,
    type_name: str,
    did: str | None,
    uri: str | None,
    pds_url: str | None,
    batch_size: int | None,
    mode: str | None,
    accept_rollback: bool,
    watch: bool,
    is_json: bool,
) -> int:
    """Start an operation, or join the one that runs over the same thing.

    TYPE is one of pdsScan, freshnessScan, citationExtraction, fullReindex, governanceSync and
    didSync. With --watch the exit code says how it ended: 0 completed, 1 failed, 2 cancelled.
    """
    client = target.client()
    given = {
        "did": did, "uri": uri, "pdsUrl": pds_url, "batchSize": batch_size, "mode": mode,
        "acceptRollback": accept_rollback or None,
    }  # fmt: skip
    body = {name: value for name, value in given.items() if value is not None}
    answer = client.call(
        TRIGGER,
        {"type": type_name, **body},
        remedy=Remedy("`chive-indexer backfill --help` says what each type takes"),
    )
    if watch:
        return _watch(client, client.read(answer, OneOperation).operation.id, is_json=is_json)
    _print_one(client, answer, is_json=is_json)
    return os.EX_OK


@click.command()
@click.argument("identifier", metavar="[ID]", required=False)
@click.option("--status", type=click.Choice([str(each) for each in OperationStatus]))
@target_options
@click.pass_obj
def operations(target: Target, *, identifier: str | None, status: str | None, is_json: bool) -> int:
    """List the newest operations, or show the one with this ID."""
    client = target.client()
    if identifier is not None:
        answer = client.query(STATUS, {"id": identifier}, remedy=UNKNOWN_ID)
        _print_one(client, answer, is_json=is_json)
        return os.EX_OK
    answer = client.query(STATUS, {} if status is None else {"status": status})
    listed = client.read(answer, ListedOperations).operations
    if is_json:
        _print_json(answer)
        return os.EX_OK
    lines = listing(listed, datetime.now(UTC)) if listed else ["There are no operations."]
    click.echo("\n".join(lines))
    return os.EX_OK


class _Cancelled(msgspec.Struct, frozen=True):
    """The answer of cancelBackfill."""

    success: bool
    status: str = "ended"


@click.command()
@click.argument("identifier", metavar="ID")
@target_options
@click.pass_obj
def cancel(target: Target, *, identifier: str, is_json: bool) -> int:
    """Stop a running operation; exit code 1 where it had already ended."""
    client = target.client()
    answer = client.call(CANCEL, {"id": identifier}, remedy=UNKNOWN_ID)
    cancelled = client.read(answer, _Cancelled)
    if is_json:
        _print_json(answer)
    elif cancelled.success:
        click.echo(f"Operation {identifier} stops as soon as its unit of work is done.")
    else:
        click.echo(f"Operation {identifier} had already ended: {cancelled.status}.")
    return os.EX_OK if cancelled.success else 1


def _watch(client: AdminClient, identifier: str, *, is_json: bool) -> int:
    try:
        answer, operation = _follow(client, identifier)
    except KeyboardInterrupt:
        click.echo(
            f"\nOperation {identifier} goes on; `chive-indexer operations {identifier}` shows it,"
            f" `chive-indexer cancel {identifier}` stops it.",
            err=True,
        )
        return EXIT_INTERRUPTED
    if is_json:
        _print_json(answer)
    else:
        click.echo("\n".join(summary(operation)))
    return EXIT_CODES[operation.status]


def _follow(client: AdminClient, identifier: str) -> tuple[bytes, OperationReport]:
    """Look again and again until the operation has ended; its last state."""
    progress = _Progress()
    pause_s, answered_at = POLL_S_MIN, time.monotonic()
    try:
        while True:
            try:
                answer = client.query(STATUS, {"id": identifier}, remedy=UNKNOWN_ID)
            except AdminUnreachable:
                if time.monotonic() - answered_at > OUTAGE_S_MAX:
                    raise
                progress.show("the daemon does not answer: waiting for it")
            else:
                answered_at = time.monotonic()
                operation = client.read(answer, OneOperation).operation
                if not operation.is_running:
                    return answer, operation
                progress.show(progress_line(operation, datetime.now(UTC)))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, POLL_S_MAX)
    finally:
        progress.clear()


class _Progress:
    """One line on standard error: redrawn on a terminal, repeated now and then elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown_at = float("-inf")

    def show(self, line: str) -> None:
        """Show where things stand."""
        now = time.monotonic()
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{line[:width]:{width}}", nl=False, err=True)
        elif now - self._shown_at >= LINE_S_MIN:
            click.echo(line, err=True)
            self._shown_at = now

    def clear(self) -> None:
        """Leave an empty line for what comes next."""
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{'':{width}}\r", nl=False, err=True)


def _print_one(client: AdminClient, answer: bytes, *, is_json: bool) -> None:
    operation = client.read(answer, OneOperation).operation
    if is_json:
        _print_json(answer)
    else:
        click.echo("\n".join(summary(operation)))


def _print_json(answer: bytes) -> None:
    click.echo(msgspec.json.format(answer, indent=2))
