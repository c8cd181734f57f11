"""Commands that hold the live stream of a running daemon, and let it go on."""

from __future__ import annotations

import os

import click
import msgspec

from indexer.cli.options import Target, target_options

PAUSE = "pub.chive.indexer.pauseStream"
RESUME = "pub.chive.indexer.resumeStream"


class HoldReport(msgspec.Struct, frozen=True):
    """The answer of pauseStream and resumeStream."""

    paused: bool
    cursor: str | None = None


@click.command()
@click.option("--reason", help="Why, for the audit log.")
@target_options
@click.pass_obj
def pause(target: Target, *, reason: str | None, is_json: bool) -> int:
    """Hold the live stream. What was received is stored; the cursor waits.

    The stream opens by itself after an hour, because relays forget; `resume` opens it before.
    """
    body: dict[str, str | int] = {} if reason is None else {"reason": reason}
    held_by = "`chive-indexer resume` lets it go on"
    return _switch(target, PAUSE, body, held_by, is_json=is_json)


@click.command()
@target_options
@click.pass_obj
def resume(target: Target, *, is_json: bool) -> int:
    """Let a held stream go on from its cursor, unless an operation holds it too."""
    held_by = "an operation holds it, see `chive-indexer operations --status running`"
    return _switch(target, RESUME, {}, held_by, is_json=is_json)


def _switch(
    target: Target, nsid: str, body: dict[str, str | int], held_by: str, *, is_json: bool
) -> int:
    client = target.client()
    answer = client.call(nsid, body)
    report = client.read(answer, HoldReport)
    if is_json:
        click.echo(msgspec.json.format(answer, indent=2))
        return os.EX_OK
    place = "" if report.cursor is None else f" {'at' if report.paused else 'from'} {report.cursor}"
    if report.paused:
        click.echo(f"The stream is held{place}; {held_by}.")
    else:
        click.echo(f"The stream goes on{place}.")
    return os.EX_OK
