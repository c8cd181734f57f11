"""The DID directory's log, followed: keys that change without an event are noticed all the same.

One durable position, a thousand operations a request, in pauses. What concerns a tracked DID makes
its key stale; the resync does the rest. A directory that keeps no such log is told once and asked
again a day later. The repair of a gap waits until the log was read to its end after the gap.

The log is in the order of the times in it, and a directory whose clock was fast has written some
that are still to come: others will be written before those. Such lines count, but the position
stays at the last one of the past, by the clock that the directory answers with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from indexer.clock import Clock
from indexer.directory import Reading
from indexer.errors import InvalidUpstream, LocalBusy, Unavailable
from indexer.protocol.plc_export import ExportedOperation, ExportPage

log = structlog.get_logger(__name__)

TICK_S = 1.0
PAGE_PAUSE_S = 0.5
"""Between full pages: the directory answers others too."""

OVERLAP_MS = 5_000
"""The end of the log is read again: two operations may be written in another order than made."""

FIRST_REACH_MS = 600_000
"""How far before the present a first reading begins."""

RETRY_S_MIN = 30.0
RETRY_S_MAX = 3600.0
NOT_OFFERED_S = 86_400.0
TRIES_MAX = 3
"""A line that was unreadable so often is passed over, and a log that was not there so often is not
asked for before the next day."""

SKEW_MS = 60_000
"""A position further ahead of the directory's clock than this was set by a clock that was wrong."""

AHEAD_MAX = 10_000
"""Lines of the future that are remembered as taken; further ones count at every reading."""


class Log(Protocol):
    """The directory."""

    async def page(self, after_ms: int, *, skips_bad: bool) -> ExportPage | None:
        """Operations made after a time, oldest first; None where there is no such list."""


class DirectoryRows(Protocol):
    """The position, and the repos that operations are about."""

    async def reading(self) -> Reading | None:
        """How far it was read."""

    async def begin(self, at_ms: int) -> None:
        """Read from this time on."""

    async def forget(self) -> None:
        """It is not read any more."""

    async def put_aside(self) -> None:
        """It is read on from here once it is to be had again, and nothing waits for that."""

    async def is_awaited(self) -> bool:
        """Whether the repair of a gap waits for the log to be read."""

    async def take(
        self,
        operations: Sequence[ExportedOperation],
        reading: Reading,
        after_ms: int,
        *,
        ended_at: float | None,
    ) -> int:
        """Raise work for tracked repos and move on from `reading`; how many have some now."""


class DirectoryFollower:
    """Reads the log every `interval_s`, or never where that is 0."""

    def __init__(
        self,
        directory: Log,
        rows: DirectoryRows,
        *,
        interval_s: float,
        clock: Clock,
        on_work: Callable[[], None],
        on_read: Callable[[float], None],
    ) -> None:
        self._log = directory
        self._rows = rows
        self._interval_s = interval_s
        self._clock = clock
        self._on_work = on_work
        self._on_read = on_read
        self._due_at = 0.0  # monotonic
        self._failures = 0
        self._is_offered = True
        self._is_at_end = True
        self._begun_ms: int | None = None  # where a first reading began that has no page yet
        self._beyond: tuple[int, int] | None = None
        """(position, where to read on) in the midst of lines of the future."""
        self._ahead: dict[tuple[str, int], None] = {}  # (did, made_ms) of those taken, oldest first

    async def run(self) -> None:
        """Follow until cancelled."""
        if self._interval_s == 0:
            await self._rows.forget()
            return
        while True:
            try:
                await self.go_on()
            except LocalBusy as error:
                log.warning("directory.store_busy", reason=str(error))
            await asyncio.sleep(TICK_S if self._is_at_end else PAGE_PAUSE_S)

    async def go_on(self) -> None:
        """Read a page, if it is time to or a gap waits for it."""
        is_due = self._clock.monotonic() >= self._due_at
        if not is_due and (self._failures or not self._is_offered):
            return
        if not is_due and not await self._rows.is_awaited():
            return
        try:
            await self._read_on()
        except (Unavailable, InvalidUpstream) as error:
            delay_s = min(RETRY_S_MIN * 2.0**self._failures, RETRY_S_MAX)
            if isinstance(error, Unavailable):
                delay_s = max(delay_s, min(error.retry_after_s or 0.0, RETRY_S_MAX))
            self._failures = min(self._failures + 1, 20)
            self._due_at = self._clock.monotonic() + delay_s
            log.warning("directory.not_read", reason=error.detail, retry_in_s=delay_s)

    async def _read_on(self) -> None:
        asked_at = self._clock.now()
        reading = await self._rows.reading()
        if reading is None:
            first_ms = self._begun_ms = int(asked_at * 1000) - FIRST_REACH_MS
            reading = Reading(first_ms)
            await self._rows.begin(first_ms)
        is_new = reading.after_ms == self._begun_ms
        after_ms = reading.after_ms - (OVERLAP_MS if self._is_at_end else 0)
        if self._beyond is not None and self._beyond[0] == reading.after_ms:
            after_ms = self._beyond[1]
        page = await self._log.page(after_ms, skips_bad=self._failures >= TRIES_MAX)
        if page is None:
            if not is_new and self._is_offered and self._failures < TRIES_MAX:
                raise Unavailable("the log that was there is not")
            await self._stop_for_a_day(is_new=is_new)
            return
        self._begun_ms = None
        now_ms = int(asked_at * 1000) if page.at_ms is None else page.at_ms
        is_late = is_new and reading.after_ms < now_ms - FIRST_REACH_MS - SKEW_MS
        if is_late or reading.after_ms > now_ms + SKEW_MS:
            log.warning("directory.read_anew", reason="the position was by a clock that was wrong")
            self._is_at_end, self._beyond = True, None
            await self._rows.begin(now_ms - FIRST_REACH_MS)
            return
        if page.bad_lines and not page.made_ms and not page.is_last:
            raise Unavailable("the log begins with a line that cannot be read")
        if not self._is_offered:
            log.info("directory.log_offered")
        self._is_offered, self._failures = True, 0
        await self._take(page, reading, after_ms, asked_at=asked_at, now_ms=now_ms)

    async def _take(
        self, page: ExportPage, reading: Reading, after_ms: int, *, asked_at: float, now_ms: int
    ) -> None:
        end_ms = max(page.made_ms, default=after_ms)
        if not page.is_last:
            # Others of the same moment may be on the next page.
            end_ms = max((ms for ms in page.made_ms if ms < end_ms), default=end_ms)
        past = (ms for ms in page.made_ms if ms <= min(end_ms, now_ms))
        position_ms = max(past, default=reading.after_ms)
        ahead = [op for op in page.operations if op.made_ms > now_ms]
        if ahead:
            await self._take_ahead(ahead, reading)
        # Documents have the time of our clock: where that is fast, these are to be as late by it.
        fast_ms = max(int(asked_at * 1000) - now_ms, 0)
        operations = [
            replace(op, made_ms=op.made_ms + fast_ms)
            for op in page.operations
            if op.made_ms <= now_ms
        ]
        ended_at = asked_at if page.is_last else None
        if await self._rows.take(operations, reading, position_ms, ended_at=ended_at):
            self._on_work()
        self._is_at_end, self._beyond = page.is_last, None
        if page.is_last:
            self._on_read(asked_at)
        elif end_ms > now_ms:
            self._beyond = (max(position_ms, reading.after_ms), end_ms)
        self._due_at = self._clock.monotonic() + (self._interval_s if page.is_last else 0.0)

    async def _take_ahead(self, operations: Sequence[ExportedOperation], reading: Reading) -> None:
        """Operations that are dated in the future, each once and apart from the others.

        None of them says that it is later than one of its DID in the past.
        """
        fresh = {(op.did, op.made_ms): op for op in operations}
        new = [op for key, op in fresh.items() if key not in self._ahead]
        if new and await self._rows.take(new, reading, reading.after_ms, ended_at=None):
            self._on_work()
        for key in fresh:
            self._ahead.pop(key, None)
            self._ahead[key] = None
        while len(self._ahead) > AHEAD_MAX:
            del self._ahead[next(iter(self._ahead))]

    async def _stop_for_a_day(self, *, is_new: bool) -> None:
        if self._is_offered:
            log.warning("directory.log_not_offered", retry_in_s=NOT_OFFERED_S)
        self._is_offered, self._is_at_end, self._failures = False, True, 0
        self._beyond = None
        self._due_at = self._clock.monotonic() + NOT_OFFERED_S
        await (self._rows.forget() if is_new else self._rows.put_aside())
