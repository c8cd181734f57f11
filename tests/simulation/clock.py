"""Time that can pass faster than it does, for both clocks of a daemon and its network."""

from __future__ import annotations

import time


class ScaledClock:
    """Wall and monotonic time at `rate` times the machine's; the rate may change, time never falls."""

    def __init__(self, rate: float = 1.0) -> None:
        self._base = time.time()
        self._base_monotonic = time.monotonic()
        self._since = time.monotonic()
        self._rate = rate

    def set_rate(self, rate: float) -> None:
        """Let time pass at another rate from now on."""
        passed = (time.monotonic() - self._since) * self._rate
        self._base += passed
        self._base_monotonic += passed
        self._since, self._rate = time.monotonic(), rate

    def now(self) -> float:
        return self._base + (time.monotonic() - self._since) * self._rate

    def monotonic(self) -> float:
        return self._base_monotonic + (time.monotonic() - self._since) * self._rate
