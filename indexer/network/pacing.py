"""Per-host manners: how many requests at once, how many a second, and when to stay away.

A host is who a rate limit attaches to: scheme, name and port. A refusal closes its window for as
long as the host says, or for a minute and then twice as long each time where it does not say; a
host that fails several times in a row is left alone likewise. The table of hosts is bounded; those
that nobody waits for are forgotten first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from indexer.clock import Clock
from indexer.errors import Unavailable

PER_HOST_CONCURRENCY = 2
BURST_S = 2.0
"""An idle host may be asked this many seconds' worth of requests at once."""

HOSTS_MAX = 10_000
FAILURES_MAX = 5
"""Failures in a row after which a host is left alone for a while."""

SILENT_PAUSE_S = 60.0
PAUSE_S_MAX = 3600.0
FAILURE_PAUSE_S_MAX = 600.0
WAIT_S_MAX = 30.0
"""A closed window that lasts longer is an answer: the caller does not wait for it."""

TURN_S_MAX = 120.0
"""Nor for a host whose places are taken for so long by others."""


@dataclass(slots=True)
class _Host:
    slots: asyncio.Semaphore
    tokens: float
    filled_at: float  # monotonic
    closed_until: float = 0.0  # monotonic
    refusals: int = 0  # without a time, in a row
    failures: int = 0  # in a row
    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pacing:
    """Hands out turns at hosts."""

    def __init__(
        self,
        *,
        clock: Clock,
        rate: float,  # requests a second and host
        concurrency: int = PER_HOST_CONCURRENCY,
        hosts_max: int = HOSTS_MAX,
    ) -> None:
        self._clock = clock
        self._concurrency = concurrency
        self._rate = rate
        self._burst = max(rate * BURST_S, 1.0)
        self._hosts_max = hosts_max
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def __len__(self) -> int:
        """Hosts remembered."""
        return len(self._hosts)

    @asynccontextmanager
    async def turn(self, origin: str) -> AsyncIterator[float]:
        """Wait for a turn at a host and hold it; gives the seconds waited.

        Turns at one host come in the order of asking. Raises `Unavailable` when its window stays
        closed, or its places taken, for longer than is worth waiting.
        """
        host = self._host(origin)
        host.users += 1
        started = self._clock.monotonic()
        try:
            await self._take_slot(host, origin)
            try:
                async with host.turn:
                    await self._pass(host, origin)
                yield self._clock.monotonic() - started
            finally:
                host.slots.release()
        finally:
            host.users -= 1

    def refused(self, origin: str, retry_after_s: float | None) -> float:
        """The host said too many requests: close its window; seconds until it opens.

        Requests that were under way together are refused together, and count as one refusal.
        """
        host = self._host(origin)
        now = self._clock.monotonic()
        if retry_after_s is not None:
            pause_s = min(max(retry_after_s, 1.0), PAUSE_S_MAX)
        elif host.closed_until > now:
            pause_s = host.closed_until - now
        else:
            pause_s = min(SILENT_PAUSE_S * 2.0 ** min(host.refusals, 10), PAUSE_S_MAX)
            host.refusals += 1
        host.closed_until = max(host.closed_until, now + pause_s)
        return pause_s

    def failed(self, origin: str) -> None:
        """The host did not answer, or with a failure of its own."""
        host = self._host(origin)
        now = self._clock.monotonic()
        host.failures += 1
        surplus = host.failures - FAILURES_MAX
        if surplus >= 0 and host.closed_until <= now:
            pause_s = min(SILENT_PAUSE_S * 2.0 ** min(surplus, 10), FAILURE_PAUSE_S_MAX)
            host.closed_until = now + pause_s

    def answered(self, origin: str) -> None:
        """The host gave an ordinary answer."""
        host = self._host(origin)
        host.refusals = 0
        host.failures = 0

    async def _take_slot(self, host: _Host, origin: str) -> None:
        try:
            async with asyncio.timeout(TURN_S_MAX):
                await host.slots.acquire()
        except TimeoutError as error:
            raise Unavailable(f"{origin} is busy with our own requests") from error

    async def _pass(self, host: _Host, origin: str) -> None:
        while True:
            now = self._clock.monotonic()
            wait_s = host.closed_until - now
            if wait_s > WAIT_S_MAX:
                raise Unavailable(f"{origin} is left alone for now", retry_after_s=wait_s)
            if wait_s <= 0:
                host.tokens = min(self._burst, host.tokens + (now - host.filled_at) * self._rate)
                host.filled_at = now
                if host.tokens >= 1.0:
                    host.tokens -= 1.0
                    return
                wait_s = (1.0 - host.tokens) / self._rate
            await asyncio.sleep(wait_s)

    def _host(self, origin: str) -> _Host:
        host = self._hosts.get(origin)
        if host is None:
            self._make_room()
            now = self._clock.monotonic()
            host = _Host(asyncio.Semaphore(self._concurrency), self._burst, now)
            self._hosts[origin] = host
        self._hosts.move_to_end(origin)
        return host

    def _make_room(self) -> None:
        """Forget the host that was idle longest: one whose window is open, else any.

        One in use is never forgotten, and those are as few as the requests under way.
        """
        if len(self._hosts) < self._hosts_max:
            return
        now = self._clock.monotonic()
        idle = [name for name, host in self._hosts.items() if host.users == 0]
        is_open = (name for name in idle if self._hosts[name].closed_until <= now)
        victim = next(is_open, idle[0] if idle else None)
        if victim is not None:
            del self._hosts[victim]


def requested_pause_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds to stay away: `Retry-After` (seconds or date), else `RateLimit-Reset` (unix time).

    None where neither says anything usable; may be negative for a time that has passed.
    """
    after = headers.get("Retry-After", "").strip()
    if after.isascii() and after.isdigit():
        return float(after[:12])
    if after:
        try:
            moment = parsedate_to_datetime(after)
            return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now_s
        except (ValueError, OverflowError):
            pass  # an unreadable date says nothing; the next header may
    reset = headers.get("RateLimit-Reset", "").strip()
    remaining = headers.get("RateLimit-Remaining", "0").strip()
    if reset.isascii() and reset.isdigit() and remaining == "0":
        return float(reset[:12]) - now_s
    return None
