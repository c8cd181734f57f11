"""The operator's way to give a cursor up: the stream stops, the cursor moves, it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import structlog

from indexer.errors import LocalBusy, RequestRefused
from indexer.model import FROM_NOW_ON
from indexer.ports import HeldStream

log = structlog.get_logger(__name__)

WORDS = {"live": FROM_NOW_ON, "oldest": 0}
SEQ_MAX = 2**53 - 1
QUIET_S = 10.0
"""Time for what has arrived to be applied."""


class CursorRows(Protocol):
    """The store as this module needs it."""

    async def reset_cursor(self, url: str, seq: int) -> int:
        """Move a stream's cursor, whatever it was; how many gaps that opens."""


class CursorReset:
    """Satisfies `admin_api.ports.CursorReset`."""

    def __init__(
        self,
        stream: HeldStream,
        rows: CursorRows,
        *,
        drained: Callable[[], Awaitable[None]],
        urls: Collection[str],
        url_in_use: Callable[[], str],
        opened: Callable[[int], None],
    ) -> None:
        self._stream = stream
        self._rows = rows
        self._drained = drained
        self._urls = urls
        self._url_in_use = url_in_use
        self._opened = opened  # told how many gaps that opened

    async def reset(self, url: str | None, cursor: str) -> int | None:
        """Move the cursor of one relay, by default the one in use; the number it has then.

        `cursor` is live, oldest or a sequence number. Raises `RequestRefused` for anything else,
        `LocalBusy` when the stream does not come to rest.
        """
        seq = WORDS[cursor] if cursor in WORDS else _seq(cursor)
        target = self._url_in_use() if url is None else url.rstrip("/")
        if target not in self._urls:
            raise RequestRefused("InvalidRequest", "parameter url: is not among firehose.url")
        self._stream.pause()
        try:
            async with asyncio.timeout(QUIET_S):
                await self._stream.paused()
                await self._drained()
            self._opened(await self._rows.reset_cursor(target, seq))
        except TimeoutError as error:
            raise LocalBusy("the stream does not come to rest; nothing was changed") from error
        finally:
            self._stream.resume()
        log.warning("firehose.cursor_reset", url=target, cursor=cursor)
        return None if seq == FROM_NOW_ON else seq


def _seq(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text) <= SEQ_MAX:
        return int(text)
    raise RequestRefused("InvalidRequest", "parameter cursor: must be live, oldest or a number")
