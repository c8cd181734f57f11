"""Commands about dead letters: what upstream sent and a running daemon refused."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime

import click
import msgspec

from indexer.cli.admin_client import AdminClient, AdminError, Refused, Remedy
from indexer.cli.options import Target, target_options
from indexer.cli.wording import counted, printable, table

LIST = "pub.chive.admin.listDLQEntries"
RETRY = "pub.chive.admin.retryDLQEntry"
RETRY_ALL = "pub.chive.admin.retryAllDLQ"
DISMISS = "pub.chive.admin.dismissDLQEntry"
PURGE = "pub.chive.admin.purgeOldDLQ"
MESSAGE_CHARS = 80
UNKNOWN_ID = Remedy("`chive-indexer dlq list` shows the ids of those that exist", "index")


class LetterReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`pub.chive.admin.listDLQEntries#dlqEntry`."""

    id: str
    error_type: str
    retry_count: int
    created_at: datetime
    error_message: str = ""
    did: str | None = None
    uri: str | None = None


class ListedLetters(msgspec.Struct, frozen=True):
    """The answer of listDLQEntries."""

    entries: tuple[LetterReport, ...]
    total: int


class _Retried(msgspec.Struct, frozen=True):
    success: bool
    message: str = ""


class _RetriedAll(msgspec.Struct, frozen=True, rename="camel"):
    retried_count: int


class _Purged(msgspec.Struct, frozen=True, rename="camel"):
    purged_count: int


@click.group()
def dlq() -> None:
    """Look at dead letters, try them again, drop them.

    A dead letter is something that upstream sent and the daemon refused. Trying it again means
    that the account's repo is compared with its host; the letter goes when that has succeeded.
    """


@dlq.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=50, show_default=True)
@click.option("--offset", type=click.IntRange(min=0), default=0, help="Letters to pass over.")
@target_options
@click.pass_obj
def list_letters(target: Target, *, limit: int, offset: int, is_json: bool) -> int:
    """List dead letters, newest first."""
    client = target.client()
    answer = client.query(LIST, {"limit": str(limit), "offset": str(offset)})
    listed = client.read(answer, ListedLetters)
    if is_json:
        _print(answer)
    elif not listed.entries:
        click.echo("There are no dead letters." if not listed.total else "There are no more.")
    else:
        click.echo("\n".join(listed_letters(listed.entries)))
        shown = offset + len(listed.entries)
        if shown < listed.total:
            left = counted(listed.total - shown, "older letter")
            click.echo(f"{left}: `chive-indexer dlq list --offset {shown}` goes on.", err=True)
    return os.EX_OK


@dlq.command()
@click.argument("identifiers", metavar="[ID]...", type=int, nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All letters that name an account.")
@click.option("--reason", help="With --all: only letters of this reason, such as signature.")
@target_options
@click.pass_obj
def retry(
    target: Target, *, identifiers: tuple[int, ...], is_all: bool, reason: str | None, is_json: bool
) -> int:
    """Have the accounts of these letters compared with their hosts again.

    Exit code 1 where a letter names no account, so that there is nothing to be fetched.
    """
    if is_all == bool(identifiers) or (reason is not None and not is_all):
        raise click.UsageError("give ids of letters, or --all and perhaps a --reason")
    client = target.client()
    if is_all:
        answer = client.call(RETRY_ALL, {} if reason is None else {"errorType": reason})
        total = client.read(answer, _RetriedAll).retried_count
        if is_json:
            _print(answer)
        else:
            click.echo(f"{counted(total, 'letter')} will be tried again.")
        return os.EX_OK
    done = _one_by_one(client, RETRY, identifiers)
    reports = {each: client.read(answer, _Retried) for each, answer in done.answers.items()}
    if not is_json:
        for each, report in reports.items():
            click.echo(f"{each}: {printable(report.message)}")
    code = done.told(is_json=is_json)
    return code or (os.EX_OK if all(report.success for report in reports.values()) else 1)


@dlq.command()
@click.argument("identifiers", metavar="ID...", type=int, nargs=-1, required=True)
@target_options
@click.pass_obj
def dismiss(target: Target, *, identifiers: tuple[int, ...], is_json: bool) -> int:
    """Drop these letters."""
    done = _one_by_one(target.client(), DISMISS, identifiers)
    if not is_json:
        which = "" if done.is_all else f": {', '.join(map(str, done.answers)) or 'none'}"
        click.echo(f"{counted(len(done.answers), 'letter')} dropped{which}.")
    return done.told(is_json=is_json)


@dlq.command()
@click.option("--older-than-days", "days", type=click.IntRange(min=1), default=7, show_default=True)
@target_options
@click.pass_obj
def purge(target: Target, *, days: int, is_json: bool) -> int:
    """Drop all letters that are older than some days."""
    client = target.client()
    answer = client.call(PURGE, {"olderThanDays": days})
    total = client.read(answer, _Purged).purged_count
    if is_json:
        _print(answer)
    else:
        click.echo(f"{counted(total, 'letter')} dropped.")
    return os.EX_OK


def listed_letters(letters: tuple[LetterReport, ...]) -> list[str]:
    """Lines with aligned columns."""
    head = ("id", "reason", "refused", "tries", "about", "why")
    rows = [
        (
            letter.id,
            printable(letter.error_type),
            f"{letter.created_at:%Y-%m-%d %H:%M:%S}",
            str(letter.retry_count),
            printable(letter.uri or letter.did or "-"),
            printable(letter.error_message.replace("\n", " "))[:MESSAGE_CHARS],
        )
        for letter in letters
    ]
    return table([head, *rows])


def _print(answer: bytes) -> None:
    click.echo(msgspec.json.format(answer, indent=2))


@dataclass
class _Done:
    """What became of a call for each of several letters."""

    answers: dict[int, bytes] = field(default_factory=dict)
    refusals: dict[int, Refused] = field(default_factory=dict)
    failure: AdminError | None = None  # why those that are in neither were not tried

    @property
    def is_all(self) -> bool:
        return not self.refusals and self.failure is None

    def told(self, *, is_json: bool) -> int:
        """Print the rest: as JSON one document, id -> answer or error. The exit code."""
        if is_json:
            told: dict[str, msgspec.Raw | dict[str, str]] = {
                str(each): msgspec.Raw(answer) for each, answer in self.answers.items()
            }
            told |= {str(each): {"error": why.message} for each, why in self.refusals.items()}
            _print(msgspec.json.encode(told))
        for text in dict.fromkeys(why.message for why in self.refusals.values()):
            click.echo(f"chive-indexer: {text}", err=True)
        if self.failure is not None:
            raise self.failure
        return Refused.exit_code if self.refusals else os.EX_OK


def _one_by_one(client: AdminClient, nsid: str, identifiers: tuple[int, ...]) -> _Done:
    """Call for each letter: one that is refused leaves the others their turn."""
    done = _Done()
    for each in identifiers:
        try:
            done.answers[each] = client.call(nsid, {"index": each}, remedy=UNKNOWN_ID)
        except Refused as refused:
            done.refusals[each] = refused
        except AdminError as failure:
            done.failure = failure
            break
    return done
