"""The operator's hold on the live stream: at most one, and never longer than the relay remembers.

Operations have holds of their own; the stream runs when nobody holds it. A hold that an operator
forgets ends by itself, because what a relay has dropped would have to be fetched repo by repo.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from indexer.clock import Clock
from indexer.errors import LocalBusy
from indexer.model import FirehoseStatus
from indexer.ports import HeldStream

log = structlog.get_logger(__name__)

HELD_S_MAX = 3600.0
"""Longest hold, and the greatest age of the cursor's event under one."""

QUIET_S = 10.0
"""Time for what has arrived to be applied."""

LOOK_S = 1.0


class OperatorHold:
    """Satisfies `admin_api.ports.StreamSwitch`."""

    def __init__(
        self,
        stream: HeldStream,
        *,
        drained: Callable[[], Awaitable[None]],
        status: Callable[[], Awaitable[FirehoseStatus]],
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._drained = drained
        self._status = status
        self._clock = clock
        self._held_since: float | None = None  # monotonic
        self._changed = asyncio.Event()
        self._waits: set[asyncio.Timeout] = set()  # of calls that wait for the stream to be held

    async def run(self) -> None:
        """Watch over holds until cancelled."""
        while True:
            self._changed.clear()
            if self._held_since is None:
                await self._changed.wait()
                continue
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                await self._end_overdue()

    async def pause(self) -> int | None:
        """Close the stream; the cursor up to which everything is durable then.

        Raises `LocalBusy` when that has not come about in `QUIET_S`, with the hold in force, and
        when another call has let the stream go on meanwhile.
        """
        if self._held_since is None:
            self._held_since = self._clock.monotonic()
            self._stream.pause()
            self._changed.set()
            log.warning("firehose.held")
        limit = asyncio.timeout(QUIET_S)
        self._waits.add(limit)
        try:
            async with limit:
                await self._stream.paused()
                await self._drained()
        except TimeoutError as error:
            if self._held_since is None:
                raise LocalBusy("another call has let the stream go on meanwhile") from error
            raise LocalBusy("the stream is held, but what has arrived is not yet stored") from error
        finally:
            self._waits.discard(limit)
        return (await self._status()).cursor

    async def resume(self) -> FirehoseStatus:
        """End the hold; the stream as it is then, which an operation may go on holding."""
        self._release()
        return await self._status()

    def _release(self) -> None:
        if self._held_since is not None:
            self._held_since = None
            self._stream.resume()
            self._changed.set()
            for limit in self._waits:
                if not limit.expired():
                    limit.reschedule(0.0)
            log.info("firehose.released")

    async def _end_overdue(self) -> None:
        since = self._held_since
        try:
            event_at = (await self._status()).last_event_at
        except LocalBusy:
            event_at = None  # the length of the hold still counts
        is_long = since is not None and self._clock.monotonic() - since >= HELD_S_MAX
        is_old = event_at is not None and self._clock.now() - event_at >= HELD_S_MAX
        if since is not None and since == self._held_since and (is_long or is_old):
            log.warning("firehose.hold_overdue")
            self._release()
