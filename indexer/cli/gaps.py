"""Commands about what a running daemon missed of its streams, and where it follows them from."""

from __future__ import annotations

import os
from datetime import datetime

import click
import msgspec

from indexer.cli.options import Target, target_options
from indexer.cli.wording import printable, table

LIST = "pub.chive.indexer.listGaps"
RESET = "pub.chive.indexer.resetCursor"
PAGE = "100"
PAGES_MAX = 100
"""Far more than the daemon keeps rows for."""


class GapReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`pub.chive.indexer.listGaps#gap`."""

    id: str
    url: str
    reason: str
    status: str
    started_at: datetime
    after_seq: int | None = None
    before_seq: int | None = None
    repaired_at: datetime | None = None
    unreachable: int = 0
    unread: int = 0


class ListedGaps(msgspec.Struct, frozen=True):
    """The answer of listGaps."""

    gaps: tuple[msgspec.Raw, ...]
    cursor: str | None = None


class ResetReport(msgspec.Struct, frozen=True):
    """The answer of resetCursor."""

    success: bool
    cursor: str | None = None


@click.command()
@target_options
@click.pass_obj
def gaps(target: Target, *, is_json: bool) -> int:
    """List what was missed of the stream, newest first; exit code 1 while any is not repaired."""
    client = target.client()
    parts: list[msgspec.Raw] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):  # an old one may wait long after newer ones are repaired
        asked = {"limit": PAGE} | ({} if cursor is None else {"cursor": cursor})
        page = client.read(client.query(LIST, asked), ListedGaps)
        parts += page.gaps
        cursor = page.cursor
        if cursor is None:
            break
    found = [client.read(bytes(part), GapReport) for part in parts]
    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"gaps": parts}), indent=2))
    elif not found:
        click.echo("Nothing was missed.")
    else:
        click.echo("\n".join(listed_gaps(found)))
    return os.EX_OK if all(gap.status == "repaired" for gap in found) else 1


@click.command()
@click.option("--yes", is_flag=True, help="Consent to what it costs. Nothing happens without.")
@click.option("--cursor", default="live", show_default=True, help="live, oldest or a number.")
@click.option("--relay", help="A URL of firehose.url; the one in use when absent.")
@target_options
@click.pass_obj
def reset_cursor(
    target: Target, *, yes: bool, cursor: str, relay: str | None, is_json: bool
) -> int:
    """Give up where the stream stands, for one that a relay set back has made useless.

    What lies between is a gap: every host is then asked what its repos are at.
    """
    if not yes:
        raise click.UsageError("what lies between is a gap to be repaired: --yes consents to that")
    client = target.client()
    body: dict[str, str | int] = {"consent": True, "cursor": cursor}
    answer = client.call(RESET, body if relay is None else body | {"url": relay})
    report = client.read(answer, ResetReport)
    if is_json:
        click.echo(msgspec.json.format(answer, indent=2))
    else:
        place = "from its present" if report.cursor is None else f"from {report.cursor} on"
        click.echo(f"The stream is followed {place}.")
    return os.EX_OK


def listed_gaps(found: list[GapReport]) -> list[str]:
    """Lines with aligned columns."""
    head = ("id", "status", "reason", "after", "before", "began", "without", "relay")
    rows = [
        (
            gap.id,
            printable(gap.status),
            printable(gap.reason),
            "" if gap.after_seq is None else str(gap.after_seq),
            "" if gap.before_seq is None else str(gap.before_seq),
            f"{gap.started_at:%Y-%m-%d %H:%M:%S}",
            _lacking(gap),
            printable(gap.url),
        )
        for gap in found
    ]
    return table([head, *rows])


def _lacking(gap: GapReport) -> str:
    """What the repair of a gap could not reach."""
    parts = []
    if gap.unreachable:
        parts.append(f"{gap.unreachable} repos")
    if gap.unread:
        parts.append(f"{gap.unread} lists")
    return ", ".join(parts)
