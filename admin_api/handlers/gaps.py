"""Methods about what was missed of the streams, and where they are followed from."""

from __future__ import annotations

from collections.abc import Mapping

from admin_api.handlers.paging import asked_page, next_cursor
from admin_api.ports import CursorReset, GapListing
from admin_api.xrpc import Call, Handler
from indexer.errors import RequestRefused
from indexer.gaps import Gap
from indexer.model import Json, utc_text


def gap_handlers(gaps: GapListing, cursors: CursorReset) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def listing(call: Call) -> Json:
        before, limit = asked_page(call)
        found = await gaps.gaps(before=before, limit=limit)
        return {"gaps": [_gap_json(each) for each in found], **next_cursor(found, limit)}

    async def reset(call: Call) -> Json:
        if call.input.get("consent") is not True:
            raise RequestRefused("ConsentRequired", "a reset opens a gap: consent must be true")
        url = call.input.get("url")
        cursor = await cursors.reset(
            None if url is None else str(url), str(call.input.get("cursor", "live"))
        )
        value: dict[str, Json] = {"success": True}
        return value if cursor is None else value | {"cursor": str(cursor)}

    return {
        "pub.chive.indexer.listGaps": listing,
        "pub.chive.indexer.resetCursor": reset,
    }


def _gap_json(gap: Gap) -> Json:
    status = "open" if gap.surveyed_at is None else "repairing"
    value: dict[str, Json] = {
        "id": str(gap.id),
        "url": gap.url,
        "reason": gap.reason,
        "status": status if gap.repaired_at is None else "repaired",
        "startedAt": utc_text(gap.detected_at if gap.after_at is None else gap.after_at),
        "afterSeq": gap.after_seq,
        "beforeSeq": gap.before_seq,
        "endedAt": None if gap.before_at is None else utc_text(gap.before_at),
        "repairedAt": None if gap.repaired_at is None else utc_text(gap.repaired_at),
        "unreachable": gap.unreachable or None,
        "unread": gap.unread or None,
    }
    return {name: each for name, each in value.items() if each is not None}
