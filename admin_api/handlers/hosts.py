"""The method that shows the hosts that we know."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from admin_api.ports import HostListing
from admin_api.xrpc import Call, Handler
from indexer.hosts import HostRow, HostState
from indexer.model import Json, utc_text

LISTED_DEFAULT = 50

HEALTH = {
    HostState.ACTIVE: "healthy",
    HostState.EMPTY: "healthy",
    HostState.UNREACHABLE: "unhealthy",
    HostState.PENDING: "unknown",
}


def host_handlers(listing: HostListing) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def hosts(call: Call) -> Json:
        limit = msgspec.convert(call.params.get("limit", LISTED_DEFAULT), int)
        found = await listing.hosts(after=str(call.params.get("cursor", "")), limit=limit)
        totals, with_records = await listing.totals()
        stats: dict[str, Json] = {
            "total": sum(totals.values()),
            "healthy": totals.get(HostState.ACTIVE, 0) + totals.get(HostState.EMPTY, 0),
            "unhealthy": totals.get(HostState.UNREACHABLE, 0),
            "withRecords": with_records,
            "items": [_host_json(row) for row in found],
        }
        value: dict[str, Json] = {"stats": stats}
        return value | ({"cursor": found[-1].url} if len(found) == limit else {})

    return {"pub.chive.admin.listPDSes": hosts}


def host_outcomes(row: HostRow) -> dict[str, Json]:
    """What became of the repos on a host's list in its last pass."""
    outcomes: list[Json] = [
        {"name": name, "units": units} for name, units in sorted(row.outcomes.items())
    ]
    return {"url": row.url, "state": row.status.value, "outcomes": outcomes}


def _host_json(row: HostRow) -> Json:
    """A host as the lexicon has it; what is unknown is left out."""
    value: dict[str, Json] = {
        **host_outcomes(row),
        "status": _health(row),
        "errorCount": row.failures_total,
        "consecutiveErrors": row.failures,
        "repoCount": row.repos,
    }
    known: dict[str, Json] = {
        "lastScan": None if row.scanned_at is None else utc_text(row.scanned_at),
        "recordCount": None if row.scanned_at is None else row.records,
        "nextScanAt": utc_text(row.next_scan_at) if row.next_scan_at else None,
        "error": row.error,
        "operationId": row.operation_id,
    }
    return value | {name: each for name, each in known.items() if each is not None}


def _health(row: HostRow) -> str:
    """By how the last pass ended; one under way has not ended yet."""
    if row.status is not HostState.SCANNING:
        return HEALTH[row.status]
    if row.failures:
        return "unhealthy"
    return "unknown" if row.scanned_at is None else "healthy"
