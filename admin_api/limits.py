"""How much one client may ask, and how often it may fail.

Two limits, both by client address and both in bounded tables: requests of any kind, which are
counted before anything is computed for them, and wrong credentials. The second slows only those
who fail: a correct credential is accepted whatever came before it.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from indexer.clock import Clock
from indexer.errors import RequestRefused

BURST_S = 2.0
"""A client that has been quiet may ask at once for what it may ask in this time."""

FAILURES_MAX = 10
"""Wrong credentials of one client in `WINDOW_S` that are answered as such; further ones 429."""

WINDOW_S = 60.0
CLIENTS_MAX = 10_000
"""Clients remembered in either table; the one seen longest ago is forgotten first."""


class Limited(RequestRefused):
    """A client asks too much: it may try again after `retry_after_s` (whole seconds, 1 or more)."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        self.retry_after_s = max(math.ceil(retry_after_s), 1)
        super().__init__("RateLimitExceeded", f"{what}: wait {self.retry_after_s} s", status=429)


class RequestLimit:
    """A bucket of requests for each client, filled at `rate` a second up to `burst`."""

    def __init__(self, rate: float, *, clock: Clock, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = max(rate * BURST_S, 1.0) if burst is None else burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (at, left)

    def take(self, client: str) -> None:
        """Count one request of `client`. Raises `Limited` when it has none left."""
        now = self._clock.monotonic()
        at, left = self._buckets.pop(client, (now, self._burst))
        left = min(left + (now - at) * self._rate, self._burst)
        is_allowed = left >= 1.0
        self._buckets[client] = (now, left - 1.0 if is_allowed else left)
        if len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        if not is_allowed:
            raise Limited("too many requests", (1.0 - left) / self._rate)


class FailureLimit:
    """Counts wrong credentials of each client in a window that starts with the first."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()  # (since, count)

    def note(self, client: str) -> float | None:
        """Count one failure of `client`; seconds until the next is judged, if it has too many."""
        now = self._clock.monotonic()
        since, count = self._failures.pop(client, (now, 0))
        if now - since >= WINDOW_S:
            since, count = now, 0
        self._failures[client] = (since, count + 1)
        if len(self._failures) > CLIENTS_MAX:
            self._failures.popitem(last=False)
        return since + WINDOW_S - now if count >= FAILURES_MAX else None
