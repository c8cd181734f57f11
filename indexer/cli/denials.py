"""Commands by which an operator keeps accounts, records and hosts out of the index of a daemon."""

from __future__ import annotations

import os
from datetime import datetime

import click
import msgspec

from indexer.cli.admin_client import Remedy
from indexer.cli.options import Target, target_options
from indexer.cli.wording import counted, printable, table

DENY = "pub.chive.indexer.deny"
ALLOW = "pub.chive.indexer.allow"
LIST = "pub.chive.indexer.listDenied"
PAGE = "100"
REMEDY = Remedy(
    "give a DID, the AT-URI of a record (at://did:.../collection/rkey) or a host name", "subject"
)


class DenialReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`pub.chive.indexer.listDenied#denial`."""

    subject: str
    kind: str
    reason: str
    denied_at: datetime
    denied_by: str = ""
    purged: bool = False


class ListedDenials(msgspec.Struct, frozen=True):
    """The answer of listDenied."""

    denied: tuple[DenialReport, ...]
    cursor: str | None = None


class _RawPage(msgspec.Struct, frozen=True):
    """The same, with what is handed on as it came."""

    denied: tuple[msgspec.Raw, ...]


class _Denied(msgspec.Struct, frozen=True, rename="camel"):
    success: bool
    hidden_records: int | None = None


class _Allowed(msgspec.Struct, frozen=True):
    success: bool


@click.command()
@click.argument("subject", metavar="DID|URI|HOST")
@click.option("--reason", required=True, help="Why, for whoever reads the list later.")
@click.option("--purge", is_flag=True, help="Also remove the rows, in the background.")
@target_options
@click.pass_obj
def deny(target: Target, *, subject: str, reason: str, purge: bool, is_json: bool) -> int:
    """Hide an account, one record or a whole host, and keep it out.

    A host name stands for all names below it. Nothing is asked of a denied host, and no event or
    fetch brings back what is denied; `allow` does.
    """
    client = target.client()
    body: dict[str, str | int] = {"subject": subject, "reason": reason, "purge": purge}
    answer = client.call(DENY, body, remedy=REMEDY)
    report = client.read(answer, _Denied)
    if is_json:
        click.echo(msgspec.json.format(answer, indent=2))
        return os.EX_OK
    hidden = report.hidden_records
    count = "" if hidden is None else f", {counted(hidden, 'record')} hidden"
    purging = "; its rows are being removed, `chive-indexer denied` says when" if purge else ""
    click.echo(f"{printable(subject)} is denied{count}{purging}.")
    return os.EX_OK


@click.command()
@click.argument("subject", metavar="DID|URI|HOST")
@click.option("--reason", help="Why, for the audit log.")
@target_options
@click.pass_obj
def allow(target: Target, *, subject: str, reason: str | None, is_json: bool) -> int:
    """Lift a denial; exit code 1 where there was none.

    What it hid is fetched and verified again, and shown once that has been done.
    """
    client = target.client()
    body: dict[str, str | int] = {"subject": subject}
    answer = client.call(
        ALLOW, body if reason is None else body | {"reason": reason}, remedy=REMEDY
    )
    is_lifted = client.read(answer, _Allowed).success
    if is_json:
        click.echo(msgspec.json.format(answer, indent=2))
    elif is_lifted:
        click.echo(f"{printable(subject)} is allowed; what was hidden is being fetched again.")
    else:
        click.echo(
            f"{printable(subject)} was not denied; `chive-indexer denied` lists what is.", err=True
        )
    return os.EX_OK if is_lifted else 1


@click.command()
@target_options
@click.pass_obj
def denied(target: Target, *, is_json: bool) -> int:
    """List what is denied, newest first."""
    client = target.client()
    found: list[DenialReport] = []
    parts: list[msgspec.Raw] = []
    cursor: str | None = None
    while True:
        params = {"limit": PAGE} | ({} if cursor is None else {"cursor": cursor})
        answer = client.query(LIST, params)
        page = client.read(answer, ListedDenials)
        found += page.denied
        parts += client.read(answer, _RawPage).denied
        if page.cursor is None or page.cursor == cursor:
            break
        cursor = page.cursor
    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"denied": parts}), indent=2))
    elif not found:
        click.echo("Nothing is denied.")
    else:
        click.echo("\n".join(listed_denials(found)))
    return os.EX_OK


def listed_denials(found: list[DenialReport]) -> list[str]:
    """Lines with aligned columns."""
    head = ("denied", "kind", "rows", "subject", "reason")
    rows = [
        (
            f"{denial.denied_at:%Y-%m-%d %H:%M:%S}",
            printable(denial.kind),
            "purged" if denial.purged else "kept",
            printable(denial.subject),
            printable(denial.reason),
        )
        for denial in found
    ]
    return table([head, *rows])
