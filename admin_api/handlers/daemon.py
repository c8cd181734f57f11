"""Methods that act on the daemon itself: its stream and its store."""

from __future__ import annotations

from collections.abc import Mapping

from admin_api.ports import Backups, StreamSwitch
from admin_api.xrpc import Call, Handler
from indexer.model import Json


def daemon_handlers(stream: StreamSwitch, backups: Backups) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def pause(_: Call) -> Json:
        return _held(is_held=True, cursor=await stream.pause())

    async def resume(_: Call) -> Json:
        left = await stream.resume()
        return _held(is_held=left.paused, cursor=left.cursor)

    async def backup(_: Call) -> Json:
        name, size_bytes = await backups.create()
        return {"name": name, "sizeBytes": size_bytes}

    return {
        "pub.chive.indexer.pauseStream": pause,
        "pub.chive.indexer.resumeStream": resume,
        "pub.chive.indexer.createBackup": backup,
    }


def _held(*, is_held: bool, cursor: int | None) -> Json:
    value: dict[str, Json] = {"paused": is_held}
    return value if cursor is None else value | {"cursor": str(cursor)}
