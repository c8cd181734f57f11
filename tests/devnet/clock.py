"""Time in the devnet: an injectable clock, TIDs that always rise, and event times.

The devnet never reads the system clock except through the callable it was given, so a run with a
`ManualClock` is the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Now: TypeAlias = Callable[[], float]
"""Unix seconds."""

_TID_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"


class ManualClock:
    """A clock that starts at `at` and moves by `step_s` at every reading, or when told."""

    def __init__(self, at: float = 1_790_000_000.0, step_s: float = 0.001) -> None:
        self.at = at
        self.step_s = step_s

    def __call__(self) -> float:
        """The time, after one step."""
        self.at += self.step_s
        return self.at

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self.at += seconds


class TidClock:
    """TIDs of one repo: microseconds of `now`, one more where that would not rise."""

    def __init__(self, now: Now, clock_id: int) -> None:
        self._now = now
        self._clock_id = clock_id % 1024
        self._last_us = 0

    def next(self) -> str:
        """A TID above every earlier one of this clock."""
        self._last_us = max(self._last_us + 1, int(self._now() * 1_000_000))
        return tid(self._last_us, self._clock_id)


def tid(microseconds: int, clock_id: int = 0) -> str:
    """The TID of a time and clock id."""
    number = microseconds << 10 | clock_id
    digits = ""
    for _ in range(13):
        digits = _TID_ALPHABET[number & 31] + digits
        number >>= 5
    return digits


def time_text(at: float) -> str:
    """Event time as the PDS writes it: UTC, milliseconds, `Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
