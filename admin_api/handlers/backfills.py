"""Methods that start, watch and cancel operations.

The lexicon has already accepted parameters and body when a handler runs; what only the operation
type can judge is refused by the runner, before anything has started.
"""

from __future__ import annotations

from collections.abc import Mapping

from admin_api.handlers.hosts import host_outcomes
from admin_api.ports import HostListing
from admin_api.xrpc import Call, Handler
from indexer.clock import Clock
from indexer.errors import RequestRefused
from indexer.model import SCHEDULE, Json, Operation, OperationStatus, OperationType, utc_text
from indexer.ports import Backfills

LISTED_MAX = 100
"""Operations in one answer, the newest."""

ETA_S_MAX = 365 * 86_400.0
"""An end that is further away is not told: it says only that the clock or the count is odd."""

RATED_AFTER_S = 0.001
"""What has worked for less has no rate yet: the clock's own resolution would be all it tells."""

TRIGGERS = {
    "pub.chive.admin.triggerPDSScan": OperationType.PDS_SCAN,
    "pub.chive.admin.triggerFreshnessScan": OperationType.FRESHNESS_SCAN,
    "pub.chive.admin.triggerCitationExtraction": OperationType.CITATION_EXTRACTION,
    "pub.chive.admin.triggerFullReindex": OperationType.FULL_REINDEX,
    "pub.chive.admin.triggerGovernanceSync": OperationType.GOVERNANCE_SYNC,
    "pub.chive.admin.triggerDIDSync": OperationType.DID_SYNC,
}
"""Methods that start one type each."""

DROPPED_PARAMS = {OperationType.FRESHNESS_SCAN: frozenset({"tier"})}
"""What older clients send and has no meaning: one scan covers every repo.

All else is handed on, so that the type refuses what it does not know.
"""


def backfill_handlers(
    backfills: Backfills, hosts: HostListing, *, clock: Clock
) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def trigger(call: Call) -> Json:
        params = {name: value for name, value in call.input.items() if name != "type"}
        operation = await backfills.start(
            str(call.input["type"]), params, started_by=call.actor.own_did
        )
        return {"operation": operation_json(operation, now=clock.now())}

    def trigger_one(kind: OperationType) -> Handler:
        async def start(call: Call) -> Json:
            dropped = DROPPED_PARAMS.get(kind, frozenset[str]())
            params = {name: each for name, each in call.input.items() if name not in dropped}
            operation = await backfills.start(kind, params, started_by=call.actor.own_did)
            value: dict[str, Json] = {
                "operationId": operation.id,
                "status": operation.status.value,
                "mode": operation.mode.value,
                "params": operation.params,
            }
            return value | ({"did": operation.key} if kind is OperationType.DID_SYNC else {})

        return start

    async def rescan(call: Call) -> Json:
        operation = await backfills.start(
            OperationType.PDS_SCAN, call.input, started_by=call.actor.own_did
        )
        return {"success": True, "operationId": operation.id}

    async def cancel(call: Call) -> Json:
        identifier = str(call.input["id"])
        success = await backfills.cancel(identifier)
        operation = await _operation(backfills, identifier)
        return {"success": success, "id": identifier, "status": operation.status.value}

    async def status(call: Call) -> Json:
        if (identifier := call.params.get("id")) is not None:
            operation = await _operation(backfills, str(identifier))
            details = await _details(operation, backfills, hosts)
            return {"operation": operation_json(operation, now=clock.now()) | details}
        wanted = call.params.get("status")
        listed = await backfills.list(
            status=None if wanted is None else _status(str(wanted)), limit=LISTED_MAX
        )
        return {"operations": [operation_json(each, now=clock.now()) for each in listed]}

    async def history(_: Call) -> Json:
        ended = await backfills.history(limit=LISTED_MAX)
        return {"operations": [operation_json(each, now=clock.now()) for each in ended]}

    return {
        "pub.chive.admin.triggerBackfill": trigger,
        **{nsid: trigger_one(kind) for nsid, kind in TRIGGERS.items()},
        "pub.chive.admin.rescanPDS": rescan,
        "pub.chive.admin.cancelBackfill": cancel,
        "pub.chive.admin.getBackfillStatus": status,
        "pub.chive.admin.getBackfillHistory": history,
    }


async def _details(
    operation: Operation, backfills: Backfills, hosts: HostListing
) -> dict[str, Json]:
    """What is told of one operation only: its failures, and the hosts that it came to."""
    value: dict[str, Json] = {}
    if operation.units_failed:
        value["failures"] = [
            {"unit": each.unit, "outcome": each.outcome, "message": each.message or ""}
            for each in await backfills.failures(operation.id)
        ]
    if operation.type is OperationType.PDS_SCAN:
        found = await hosts.of_operation(operation.id, limit=LISTED_MAX)
        value["hosts"] = [host_outcomes(row) for row in found]
    return value


async def _operation(backfills: Backfills, identifier: str) -> Operation:
    operation = await backfills.get(identifier)
    if operation is None:
        raise RequestRefused("InvalidRequest", f"parameter id: no operation {identifier[:100]}")
    return operation


def _status(text: str) -> OperationStatus:
    try:
        return OperationStatus(text)
    except ValueError:
        known = ", ".join(OperationStatus)
        raise RequestRefused(
            "InvalidRequest", f"parameter status: {text[:100]!r} is none of {known}"
        ) from None


def operation_json(operation: Operation, *, now: float) -> dict[str, Json]:
    """An operation as the lexicon has it; `now` in unix seconds. What is unknown is left out."""
    value: dict[str, Json] = {
        "id": operation.id,
        "type": operation.type.value,
        "key": operation.key,
        "params": operation.params,
        "status": operation.status.value,
        "startedAt": utc_text(operation.started_at),
        "recordsProcessed": operation.records_processed,
        "mode": operation.mode.value,
        "phase": operation.phase,
        "unit": operation.unit,
        "unitsProcessed": operation.units_processed,
        "unitsFailed": operation.units_failed,
        "cancelRequested": operation.cancel_requested,
        "outcomes": [
            {"name": name, "units": units} for name, units in sorted(operation.outcomes.items())
        ],
    }
    is_scheduled = operation.started_by == SCHEDULE
    known: dict[str, Json] = {
        "completedAt": None if operation.completed_at is None else utc_text(operation.completed_at),
        "totalRecords": operation.total_records,
        "totalUnits": operation.total_units,
        "error": operation.error,
        "note": operation.note,
        "startedBy": None if is_scheduled else operation.started_by,
        "isScheduled": is_scheduled or None,
        **_progress(operation, now),
    }
    value.update({name: each for name, each in known.items() if each is not None})
    return value


def _progress(operation: Operation, now: float) -> dict[str, Json]:
    """Percent, units a minute and the expected end, as far as they follow from the counts.

    What counts is the time since work last began: neither a wait for its turn nor a stop of the
    process says how fast it goes.
    """
    done, total = operation.units_processed, operation.total_units
    lately = max(done - operation.units_before, 0)
    ended_at = now if operation.completed_at is None else operation.completed_at
    elapsed_s = 0.0 if operation.work_began_at is None else ended_at - operation.work_began_at
    is_running = operation.status is OperationStatus.RUNNING
    remaining_s = None
    if total is not None and done <= total and lately and elapsed_s >= RATED_AFTER_S:
        remaining_s = (total - done) * elapsed_s / lately
    return {
        "progress": min(100 * done // total, 100) if total else None,
        "rate": round(lately * 60 / elapsed_s) if elapsed_s >= RATED_AFTER_S else None,
        "eta": (
            utc_text(now + remaining_s)
            if is_running and remaining_s is not None and 0 <= remaining_s < ETA_S_MAX
            else None
        ),
    }
