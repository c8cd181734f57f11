"""Whether a stream is whole: numbers that run backwards, and patience with what breaks it."""

from __future__ import annotations

from collections import deque

from indexer.clock import Clock

REMEMBERED = 1000
"""Numbers of a connection that count as repeated when they come again, not as out of order."""

RECONNECTS_MAX = 5
WINDOW_S = 3600.0
"""So many times in this time a flaw of the stream costs the connection; then it is passed over."""


class Patience:
    """Bounds how often connections are given up for one kind of flaw."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent_at: deque[float] = deque(maxlen=RECONNECTS_MAX)

    @property
    def is_worn_out(self) -> bool:
        """Whether another connection must not be given up now."""
        is_full = len(self._spent_at) == RECONNECTS_MAX
        return is_full and self._clock.monotonic() - self._spent_at[0] < WINDOW_S

    def spend(self) -> None:
        """A connection is given up."""
        self._spent_at.append(self._clock.monotonic())


class SeqOrder:
    """The numbers of one connection: they rise, repeat or run backwards."""

    def __init__(self) -> None:
        self.last = 0
        self.handed_on = 0  # up to here batches have been passed to the next stage
        self._recent: deque[int] = deque(maxlen=REMEMBERED)

    def is_next(self, seq: int) -> bool:
        """Whether `seq` rises above all before it; it is remembered then."""
        if seq <= self.last:
            return False
        self.last = seq
        self._recent.append(seq)
        return True

    def is_repeated(self, seq: int) -> bool:
        """Whether a number that does not rise has just been seen on this connection."""
        return seq in self._recent

    def remember(self, seq: int) -> None:
        """Count `seq` as seen."""
        self._recent.append(seq)
