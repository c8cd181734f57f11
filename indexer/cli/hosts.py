"""Commands about the hosts that a running daemon knows."""

from __future__ import annotations

import os
from datetime import datetime

import click
import msgspec

from indexer.cli.options import Target, target_options
from indexer.cli.wording import printable, table

LIST = "pub.chive.admin.listPDSes"
RESCAN = "pub.chive.admin.rescanPDS"
PAGE_HOSTS = "100"
PAGES_MAX = 10_000


class HostReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`pub.chive.admin.listPDSes#pdsInfo`."""

    url: str
    status: str
    state: str | None = None
    repo_count: int = 0
    record_count: int | None = None
    last_scan: datetime | None = None
    next_scan_at: datetime | None = None
    consecutive_errors: int = 0
    error: str | None = None


class HostStats(msgspec.Struct, frozen=True):
    """`pub.chive.admin.listPDSes#pdsStats`."""

    total: int
    items: tuple[msgspec.Raw, ...]


class ListedHosts(msgspec.Struct, frozen=True):
    """The answer of listPDSes."""

    stats: HostStats
    cursor: str | None = None


class Started(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of rescanPDS."""

    success: bool
    operation_id: str


@click.group()
def pds() -> None:
    """Show the hosts of repos that the daemon knows, or have one of them scanned."""


@pds.command(name="list")
@target_options
@click.pass_obj
def list_hosts(target: Target, *, is_json: bool) -> int:
    """List all known hosts, how they answered, and when they are due for a scan again."""
    client = target.client()
    items: list[msgspec.Raw] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        asked = {"limit": PAGE_HOSTS} | ({} if cursor is None else {"cursor": cursor})
        page = client.read(client.query(LIST, asked), ListedHosts)
        items += page.stats.items
        cursor = page.cursor
        if cursor is None:
            break
    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"hosts": items}), indent=2))
    elif not items:
        click.echo("No host is known yet.")
    else:
        hosts = [client.read(bytes(item), HostReport) for item in items]
        click.echo("\n".join(listed_hosts(hosts)))
    return os.EX_OK


@pds.command()
@click.argument("host_url", metavar="URL")
@target_options
@click.pass_obj
def rescan(target: Target, *, host_url: str, is_json: bool) -> int:
    """Scan one host now, or join the scan of it that runs. URL is as in https://pds.example.com."""
    client = target.client()
    answer = client.call(RESCAN, {"pdsUrl": host_url})
    started = client.read(answer, Started)
    if is_json:
        click.echo(msgspec.json.format(answer, indent=2))
    else:
        identifier = printable(started.operation_id)
        click.echo(f"Operation {identifier} scans {printable(host_url)}.")
    return os.EX_OK


def listed_hosts(hosts: list[HostReport]) -> list[str]:
    """Lines with aligned columns."""
    head = ("host", "state", "repos", "records", "scanned", "due", "error")
    rows = [
        (
            printable(host.url),
            printable(host.state or host.status),
            str(host.repo_count),
            "" if host.record_count is None else str(host.record_count),
            _when(host.last_scan),
            "now" if host.next_scan_at is None else _when(host.next_scan_at),
            printable(host.error or ""),
        )
        for host in hosts
    ]
    return table([head, *rows])


def _when(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M}"
