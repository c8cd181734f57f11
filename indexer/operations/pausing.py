"""Pauses of the live stream for operations: nested, granted while it is up to date, never for long.

What bounds a pause is lag: how far the newest event behind the cursor lies in the past. A relay
forgets what is older than its window, and that would have to be fetched repo by repo. An operation
that gets no pause, or loses it, goes on beside the stream, and its row says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog

from indexer.clock import Clock
from indexer.model import FirehoseStatus, Operation, OperationMode
from indexer.operations.operation import insist
from indexer.operations.rows import OperationRows
from indexer.ports import HeldStream

log = structlog.get_logger(__name__)

LAG_S_MAX = 60.0
"""A stream that lags further behind is not held back any more."""

QUIET_S = 10.0
"""Time for what has arrived to be applied."""

LOOK_S = 1.0


class Pauses:
    """Who holds the stream. It goes on when the last operation lets go, and any operator does."""

    def __init__(
        self,
        stream: HeldStream,
        rows: OperationRows,
        *,
        drained: Callable[[], Awaitable[None]],
        status: Callable[[], Awaitable[FirehoseStatus]],
        stream_at: Callable[[], float | None],
        pause_s_max: float,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._rows = rows
        self._drained = drained
        self._status = status
        self._stream_at = stream_at  # how far the stream has come, unix seconds
        self._pause_s_max = pause_s_max
        self._clock = clock
        self._held: set[str] = set()  # ids of operations
        self._held_at = 0.0  # how far the stream had come when the first of them began
        self._held_since = 0.0  # when that was, monotonic: the clock may be set back meanwhile
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """End pauses that have become too long, until cancelled."""
        while True:
            self._changed.clear()
            if not self._held:
                await self._changed.wait()
                continue
            await asyncio.sleep(LOOK_S)
            late_s = self._clock.now() - self._held_at
            held_s = self._clock.monotonic() - self._held_since
            if max(late_s, held_s) >= self._pause_s_max:
                await self._end_all()

    @asynccontextmanager
    async def hold(self, operation: Operation) -> AsyncIterator[None]:
        """Hold the stream while the block runs, if the operation's mode asks for it and it may be.

        When the block begins, whatever had arrived is applied and the cursor stands still.
        """
        try:
            if operation.mode is OperationMode.PAUSE:
                refusal = await self._begin(operation.id)
                if refusal is not None:
                    self._release(operation.id)
                    await self._tell(operation.id, f"the stream was not paused: {refusal}")
            yield
        finally:
            self._release(operation.id)

    async def _begin(self, operation_id: str) -> str | None:
        """Why the stream cannot be held; None when it is, and quiet."""
        status = await insist(self._status)
        if status.cursor is None:
            return "it has no position yet to go on from"
        now = self._clock.now()
        at = min(max(self._stream_at() or 0.0, status.last_event_at or 0.0), now)
        if now - at > LAG_S_MAX:
            return f"it was {now - at:.0f} s late"
        if not self._held:
            self._held_at, self._held_since = at, self._clock.monotonic()
        self._held.add(operation_id)
        self._stream.pause()
        self._changed.set()
        try:
            async with asyncio.timeout(QUIET_S):
                await self._stream.paused()
                await self._drained()
        except TimeoutError:
            return "what had arrived was not stored in time"
        log.info("firehose.held_for_operation", operation_id=operation_id)
        return None

    def _release(self, operation_id: str) -> None:
        if operation_id in self._held:
            self._held.remove(operation_id)
            self._stream.resume()

    async def _end_all(self) -> None:
        log.warning("firehose.pause_overdue", operations=len(self._held))
        for operation_id in sorted(self._held):
            self._release(operation_id)
            await self._tell(
                operation_id, f"the pause ended when the stream was {self._pause_s_max:.0f} s late"
            )

    async def _tell(self, operation_id: str, note: str) -> None:
        await insist(partial(self._rows.go_on_as_supplement, operation_id, note))
