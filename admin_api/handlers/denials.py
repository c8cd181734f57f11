"""Methods by which operators keep accounts, records and hosts out, and let them in again."""

from __future__ import annotations

from collections.abc import Mapping

from admin_api.handlers.paging import asked_page, next_cursor
from admin_api.ports import Denials
from admin_api.xrpc import Call, Handler
from indexer.denials import Denial
from indexer.model import Json, utc_text


def denial_handlers(denials: Denials) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def deny(call: Call) -> Json:
        hidden = await denials.deny(
            str(call.input["subject"]),
            str(call.input["reason"]),
            purge=call.input.get("purge") is True,
            by=call.actor.did,
        )
        value: dict[str, Json] = {"success": True}
        return value if hidden is None else value | {"hiddenRecords": hidden}

    async def allow(call: Call) -> Json:
        return {"success": await denials.allow(str(call.input["subject"]))}

    async def listing(call: Call) -> Json:
        before, limit = asked_page(call)
        found = await denials.denials(before=before, limit=limit)
        return {"denied": [_denial_json(each) for each in found], **next_cursor(found, limit)}

    return {
        "pub.chive.indexer.deny": deny,
        "pub.chive.indexer.allow": allow,
        "pub.chive.indexer.listDenied": listing,
    }


def _denial_json(denial: Denial) -> Json:
    return {
        "subject": denial.subject,
        "kind": denial.kind,
        "reason": denial.reason,
        "purged": denial.is_purged,
        "deniedBy": denial.denied_by,
        "deniedAt": utc_text(denial.denied_at),
    }
