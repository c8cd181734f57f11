"""Methods that deal with dead letters. `index` is the id of a letter, never a place in a list."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from admin_api.ports import DeadLetterQueue
from admin_api.xrpc import Call, Handler
from indexer.model import Json

PURGE_DAYS_DEFAULT = 7
DAY_S = 86_400


def dead_letter_handlers(letters: DeadLetterQueue) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def retry(call: Call) -> Json:
        did = await letters.retry(_index(call))
        if did is None:
            return {
                "success": False,
                "message": "the refused frame names no account that could be fetched again",
            }
        return {
            "success": True,
            "message": f"{did} is compared with its host again; the entry goes when that succeeds",
        }

    async def retry_all(call: Call) -> Json:
        reason = call.input.get("errorType")
        return {"retriedCount": await letters.retry_all(None if reason is None else str(reason))}

    async def dismiss(call: Call) -> Json:
        await letters.dismiss(_index(call))
        return {"success": True}

    async def purge(call: Call) -> Json:
        days = msgspec.convert(call.input.get("olderThanDays", PURGE_DAYS_DEFAULT), int)
        return {"purgedCount": await letters.purge(days * DAY_S)}

    return {
        "pub.chive.admin.retryDLQEntry": retry,
        "pub.chive.admin.retryAllDLQ": retry_all,
        "pub.chive.admin.dismissDLQEntry": dismiss,
        "pub.chive.admin.purgeOldDLQ": purge,
    }


def _index(call: Call) -> int:
    return msgspec.convert(call.input["index"], int)
