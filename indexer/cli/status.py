"""The command `status`: what a running daemon is doing, on one screen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import click
import msgspec

from indexer.cli.admin_client import AdminBusy, AdminClient, NotServed
from indexer.cli.operation_report import ListedOperations, progress_line
from indexer.cli.options import Target, target_options
from indexer.cli.wording import counted, duration, printable, table

METHODS = {
    "health": ("pub.chive.admin.getSystemHealth", {}),
    "firehose": ("pub.chive.admin.getFirehoseStatus", {}),
    "overview": ("pub.chive.admin.getOverview", {}),
    "backfills": ("pub.chive.admin.getBackfillStatus", {"status": "running"}),
}
"""Part of the status -> the method behind it, with its parameters."""

COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}


class _Database(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    healthy: bool
    latency_ms: int | None = None
    error: str | None = None


class _Health(msgspec.Struct, frozen=True):
    status: str
    uptime: int  # seconds
    databases: tuple[_Database, ...] = ()
    version: str = "of unknown version"


class _Firehose(msgspec.Struct, frozen=True, rename="camel"):
    dlq_count: int
    timestamp: datetime
    cursor: str | None = None
    url: str = "the relay"
    connected: bool = False
    paused: bool = False
    last_received_at: datetime | None = None
    lag_seconds: int | None = None


class _RepoState(msgspec.Struct, frozen=True):
    state: str
    repos: int


class _Readiness(msgspec.Struct, frozen=True):
    ready: bool = False
    components: dict[str, str | None] = {}  # name -> why it is not ready
    notes: dict[str, str] = {}  # subject -> what else there is to know
    message: str | None = None  # instead of all that from a daemon that cannot look


@click.command()
@target_options
@click.pass_obj
def status(target: Target, *, is_json: bool) -> int:
    """Show how a running daemon is: readiness, stream, store, operations.

    Exit code 69 where it cannot tell everything, because it is short of something.
    """
    client = target.client()
    parts: dict[str, bytes | None] = {}
    troubles = []
    for name, (nsid, params) in METHODS.items():
        try:
            parts[name] = client.query(nsid, params)
        except NotServed:
            parts[name] = None
        except AdminBusy as error:
            parts[name] = None
            troubles.append(error.message)
    parts["readiness"] = client.readiness()
    if is_json:
        click.echo(_as_json(client, parts, troubles))
    else:
        click.echo(_headline(client, parts["health"]) + "\n")
        rows = [*_rows(client, parts), *(("trouble", text) for text in dict.fromkeys(troubles))]
        click.echo("\n".join(table([(f"  {label}", printable(text)) for label, text in rows])))
    return os.EX_UNAVAILABLE if troubles else os.EX_OK


def _as_json(client: AdminClient, parts: dict[str, bytes | None], troubles: list[str]) -> bytes:
    """What the daemon said, part by part; null for what it did not tell."""
    told = {
        name: None if part is None else client.read(part, dict[str, msgspec.Raw])
        for name, part in parts.items()
    }
    whole = msgspec.json.encode({"url": client.url, **told, "troubles": troubles})
    return msgspec.json.format(whole, indent=2)


def _headline(client: AdminClient, answer: bytes | None) -> str:
    if answer is None:
        return f"chive-indexer at {client.url}"
    health = client.read(answer, _Health)
    return (
        f"chive-indexer {printable(health.version)} at {client.url}: "
        + click.style(printable(health.status), fg=COLOURS.get(health.status), bold=True)
        + f", up {duration(health.uptime)}"
    )


def _rows(client: AdminClient, parts: dict[str, bytes | None]) -> Iterator[tuple[str, str]]:
    """Label and text of every line; parts that the daemon does not serve have none."""
    if (answer := parts["readiness"]) is not None:
        readiness = client.read(answer, _Readiness)
        reasons = [f"{name}: {why}" for name, why in readiness.components.items() if why]
        reasons += [readiness.message] if readiness.message is not None else []
        yield "ready", "yes" if readiness.ready else f"no; {'; '.join(reasons)}"
        yield from ((printable(subject), note) for subject, note in readiness.notes.items())
    if (answer := parts["firehose"]) is not None:
        yield from _firehose_rows(client.read(answer, _Firehose))
    if (answer := parts["health"]) is not None:
        for store in client.read(answer, _Health).databases:
            yield "store", _store_text(store)
    if (answer := parts["overview"]) is not None:
        overview = client.read(answer, dict[str, int | tuple[_RepoState, ...]])
        totals = {name: total for name, total in overview.items() if isinstance(total, int)}
        yield "index", ", ".join(f"{total:,} {name}" for name, total in totals.items())
        if states := ", ".join(_states(overview.get("repoStates", ()))):
            yield "repos", states
    if (answer := parts["backfills"]) is not None:
        running = client.read(answer, ListedOperations).operations
        if not running:
            yield "operations", "none running"
        for operation in running:
            yield "operation", f"{operation.id} {progress_line(operation, datetime.now(UTC))}"


def _firehose_rows(firehose: _Firehose) -> Iterator[tuple[str, str]]:
    state = "connected to" if firehose.connected else "not connected to"
    yield "stream", f"{'paused, ' if firehose.paused else ''}{state} {firehose.url}"
    if firehose.cursor is not None:
        lag = firehose.lag_seconds
        age = "" if lag is None else f", newest event {duration(lag)} old"
        yield "cursor", firehose.cursor + age
    if firehose.last_received_at is not None:
        seconds = (firehose.timestamp - firehose.last_received_at).total_seconds()
        yield "received", f"{duration(seconds)} ago"
    yield "refused", counted(firehose.dlq_count, "dead letter")


def _states(states: int | tuple[_RepoState, ...]) -> Iterator[str]:
    for each in states if isinstance(states, tuple) else ():
        if each.repos:
            yield f"{each.repos:,} {printable(each.state)}"


def _store_text(store: _Database) -> str:
    if not store.healthy:
        return f"{store.name} does not work: {store.error or 'its log says why'}"
    latency = "" if store.latency_ms is None else f", answers in {store.latency_ms} ms"
    return f"{store.name} works{latency}"
