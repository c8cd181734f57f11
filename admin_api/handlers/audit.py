"""The method that tells what admins did."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from admin_api.ports import AuditLog
from admin_api.xrpc import Call, Handler
from indexer.audit import AuditEntry
from indexer.errors import RequestRefused
from indexer.model import Json, utc_text

LISTED_DEFAULT = 50
ID_DIGITS_MAX = 18


def audit_handlers(audit: AuditLog) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def entries(call: Call) -> Json:
        limit = msgspec.convert(call.params.get("limit", LISTED_DEFAULT), int)
        actor, cursor = call.params.get("actorDid"), call.params.get("cursor")
        found, total = await audit.entries(
            actor=None if actor is None else str(actor),
            before=None if cursor is None else row_cursor(str(cursor)),
            limit=limit,
        )
        value: dict[str, Json] = {"entries": [_entry_json(each) for each in found], "total": total}
        if len(found) == limit:
            value["cursor"] = str(found[-1].id)
        return value

    return {"pub.chive.admin.getAuditLog": entries}


def row_cursor(cursor: str) -> int:
    """The row id that a cursor of ours stands for."""
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= ID_DIGITS_MAX):
        raise RequestRefused("InvalidRequest", "parameter cursor: is not one of ours")
    return int(cursor)


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
