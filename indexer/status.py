"""The daemon's condition, gathered from its parts for health, status and readiness answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from indexer.clock import Clock
from indexer.errors import LocalBusy, LocalFault
from indexer.model import Cursor, DeadLetter, FirehoseStatus, Overview, StoreCounts


class StatusRows(Protocol):
    """The store as this module needs it."""

    async def counts(self) -> StoreCounts:
        """Totals as of the last commit."""

    async def overview(self) -> Overview:
        """How much of what is visible."""

    async def dead_letters(self, *, limit: int, offset: int) -> tuple[Sequence[DeadLetter], int]:
        """One page, newest first, and the number of all."""

    async def cursors(self) -> dict[str, Cursor]:
        """Stream URL -> how far it has been read."""

    async def check(self) -> float:
        """Seconds that a trivial read took."""


class StreamState(Protocol):
    """The firehose as this module needs it."""

    @property
    def url(self) -> str:
        """The stream that is followed now."""

    @property
    def trouble(self) -> str | None:
        """Why the last connection to it, or attempt at one, has failed."""

    @property
    def is_connected(self) -> bool:
        """Whether frames can arrive."""

    @property
    def is_paused(self) -> bool:
        """Whether an operation or an admin holds the stream."""

    @property
    def last_received_at(self) -> float | None:
        """Our clock when the last frame arrived, unix seconds."""


class DaemonStatus:
    """Satisfies `indexer.ports.Status`."""

    def __init__(
        self,
        rows: StatusRows,
        stream: StreamState,
        *,
        busy_reason: Callable[[], str | None],
        held_reason: Callable[[], str | None],
        clock_reason: Callable[[], str | None],
        clock: Clock,
    ) -> None:
        self._rows = rows
        self._stream = stream
        self._busy_reason = busy_reason
        self._held_reason = held_reason
        self._clock_reason = clock_reason
        self._clock = clock
        self._started = clock.monotonic()

    async def firehose(self) -> FirehoseStatus:
        """The live stream."""
        cursor = (await self._rows.cursors()).get(self._stream.url)
        return FirehoseStatus(
            url=self._stream.url,
            connected=self._stream.is_connected,
            paused=self._stream.is_paused,
            cursor=None if cursor is None else cursor.seq,
            last_event_at=None if cursor is None else cursor.event_at,
            last_received_at=self._stream.last_received_at,
            cursor_saved_at=None if cursor is None else cursor.saved_at,
        )

    async def counts(self) -> StoreCounts:
        """Totals of the store."""
        return await self._rows.counts()

    async def overview(self) -> Overview:
        """How much of what is visible in the index."""
        return await self._rows.overview()

    async def dead_letters(self, *, limit: int, offset: int) -> tuple[Sequence[DeadLetter], int]:
        """One page, newest first, and the number of all."""
        return await self._rows.dead_letters(limit=limit, offset=offset)

    async def check_store(self) -> float:
        """Seconds that a trivial read took."""
        return await self._rows.check()

    async def readiness(self) -> Mapping[str, str | None]:
        """Component -> why it is not ready, or None."""
        return {
            "store": await self._store_problem(),
            "firehose": self._stream_problem(),
            "clock": self._clock_reason(),
        }

    def uptime_s(self) -> float:
        """Seconds since the process started."""
        return self._clock.monotonic() - self._started

    async def _store_problem(self) -> str | None:
        try:
            await self._rows.check()
        except (LocalBusy, LocalFault) as error:
            return str(error)
        return self._busy_reason()

    def _stream_problem(self) -> str | None:
        if self._stream.is_paused:
            return "paused"
        if not self._stream.is_connected:
            trouble = self._stream.trouble
            why = "" if trouble is None else f" ({trouble})"
            return self._held_reason() or f"not connected to {self._stream.url}{why}"
        return None
