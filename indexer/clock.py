"""The two clocks that behaviour may depend on, as one parameter.

Owns nothing but the distinction: `now` is for records and people and may jump, `monotonic` is for
intervals and never runs backwards. Code that decides by time takes a `Clock`, so that a test owns
the time.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time and monotonic time, both in seconds."""

    def now(self) -> float:
        """Unix time; jumps when the machine's clock is set."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; for intervals only."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Unix time of the machine."""
        return time.time()

    def monotonic(self) -> float:
        """The machine's monotonic clock."""
        return time.monotonic()
