"""The method that tells what admins did."""

from __future__ import annotations

from collections.abc import Mapping

from admin_api.handlers.paging import asked_page, next_cursor
from admin_api.ports import AuditLog
from admin_api.xrpc import Call, Handler
from indexer.audit import AuditEntry
from indexer.model import Json, utc_text


def audit_handlers(audit: AuditLog) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def entries(call: Call) -> Json:
        before, limit = asked_page(call)
        actor = call.params.get("actorDid")
        found, total = await audit.entries(
            actor=None if actor is None else str(actor), before=before, limit=limit
        )
        listed: list[Json] = [_entry_json(each) for each in found]
        return {"entries": listed, "total": total, **next_cursor(found, limit)}

    return {"pub.chive.admin.getAuditLog": entries}


def _entry_json(entry: AuditEntry) -> Json:
    value: dict[str, Json] = {
        "id": str(entry.id),
        "action": entry.action,
        "actorDid": entry.actor,
        "details": entry.details,
        "timestamp": utc_text(entry.at),
        "outcome": entry.outcome,
    }
    return value if entry.target is None else value | {"targetUri": entry.target}
