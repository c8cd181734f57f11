"""Per-host manners: how many requests at once, how many a second, and when to stay away.

A host is who a rate limit attaches to: scheme, name and port. A refusal closes its window for as
long as the host says, or for a minute and then twice as long each time where it does not say; a
host that fails several times in a row is left alone likewise. Hosts with a domain or an address in
common form groups with wider bounds, since one operator can make hosts without end; a last bound
holds for all hosts together. The table is bounded; those that nobody waits for are forgotten first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from indexer.clock import Clock
from indexer.errors import NotAsked

PER_HOST_CONCURRENCY = 2
GROUP_WIDTH = 4
"""A group may be asked as much as this many hosts."""

REQUESTS_MAX = 256
"""Requests under way to strangers' hosts, all together."""

DOUBTFUL_SHARE = 4
"""Hosts whose last request failed get one of this many places: those that hang are many, slow and
in nobody's way."""

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
"""Nor for a place that others of our own requests hold for so long."""

BUSY_S = 60.0
"""And it is looked for again after this time."""


@dataclass(slots=True)
class _Host:
    """A host, or a group of hosts, which only the bounds concern."""

    slots: asyncio.Semaphore
    rate: float  # requests a second
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
        requests_max: int = REQUESTS_MAX,
        turn_s_max: float = TURN_S_MAX,
    ) -> None:
        self._clock = clock
        self._concurrency = concurrency
        self._rate = rate
        self._hosts_max = hosts_max
        self._turn_s_max = turn_s_max
        self._all = asyncio.Semaphore(requests_max)
        self._doubtful = asyncio.Semaphore(max(requests_max // DOUBTFUL_SHARE, 1))
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def __len__(self) -> int:
        """Hosts and groups remembered."""
        return len(self._hosts)

    @asynccontextmanager
    async def turn(
        self, origin: str, *, groups: Iterable[str] = (), is_trusted: bool = False
    ) -> AsyncIterator[float]:
        """Wait for a turn at a host and hold it; gives the seconds waited.

        Turns at one host come in the order of asking. `is_trusted` spares a host of the
        operator's own choice the bound on all together, so that strangers cannot block it. Raises
        `NotAsked` when the host's window stays closed, or a place taken, for longer than is
        worth waiting.
        """
        started = self._clock.monotonic()
        # The host before its groups, those in one order, the bound on all last: requests that wait
        # hold only what is narrower, and no two wait for each other.
        names = [origin, *sorted(groups)]
        async with AsyncExitStack() as stack:
            for at, name in enumerate(names):
                host = self._host(name, width=GROUP_WIDTH if at else 1)
                host.users += 1
                stack.callback(_leave, host)
                await self._take(host.slots, name, stack)
                async with host.turn:
                    await self._pass(host, name)
            if not is_trusted:
                await self._take_common(origin, stack)
            yield self._clock.monotonic() - started

    def closed_s(self, origin: str) -> float:
        """Seconds until the host's window opens; 0 when it is open."""
        host = self._hosts.get(origin)
        return 0.0 if host is None else max(host.closed_until - self._clock.monotonic(), 0.0)

    def refuse_closed(self, origin: str, wait_s_max: float = 0.0) -> None:
        """Raise `NotAsked` for a host that is left alone for longer than `wait_s_max`."""
        closed_s = self.closed_s(origin)
        if closed_s > wait_s_max:
            raise NotAsked(f"{origin} is left alone for now", retry_after_s=closed_s)

    def failures(self, origin: str) -> int:
        """How often in a row the host has not answered, or with a failure of its own."""
        host = self._hosts.get(origin)
        return 0 if host is None else host.failures

    def close(self, origin: str, pause_s: float) -> float:
        """Close the host's window for as long as it asks; seconds until it opens."""
        host = self._host(origin)
        pause_s = min(max(pause_s, 1.0), PAUSE_S_MAX)
        host.closed_until = max(host.closed_until, self._clock.monotonic() + pause_s)
        return self.closed_s(origin)

    def refused(self, origin: str, retry_after_s: float | None) -> float:
        """The host said too many requests: close its window; seconds until it opens.

        Requests that were under way together are refused together, and count as one refusal.
        """
        if retry_after_s is not None:
            return self.close(origin, retry_after_s)
        remaining_s = self.closed_s(origin)
        if remaining_s > 0.0:
            return remaining_s
        host = self._host(origin)
        pause_s = SILENT_PAUSE_S * 2.0 ** min(host.refusals, 10)
        host.refusals += 1
        return self.close(origin, pause_s)

    def failed(self, origin: str) -> None:
        """The host did not answer, or with a failure of its own."""
        host = self._host(origin)
        host.failures += 1
        surplus = host.failures - FAILURES_MAX
        if surplus >= 0 and self.closed_s(origin) == 0.0:
            self.close(origin, min(SILENT_PAUSE_S * 2.0 ** min(surplus, 10), FAILURE_PAUSE_S_MAX))

    def answered(self, origin: str) -> None:
        """The host gave an ordinary answer."""
        host = self._host(origin)
        host.refusals = 0
        host.failures = 0

    async def _take_common(self, origin: str, stack: AsyncExitStack) -> None:
        """A place among those for all hosts; a host in doubt does not wait for one of its few."""
        if self._host(origin).failures:
            if self._doubtful.locked():
                detail = f"{origin} failed, and other such hosts are asked first"
                raise NotAsked(detail, retry_after_s=BUSY_S)
            await self._take(self._doubtful, origin, stack)
        await self._take(self._all, origin, stack)

    async def _take(self, slots: asyncio.Semaphore, name: str, stack: AsyncExitStack) -> None:
        try:
            async with asyncio.timeout(self._turn_s_max):
                await slots.acquire()
        except TimeoutError as error:
            detail = f"{name} is busy with our own requests"
            raise NotAsked(detail, retry_after_s=BUSY_S) from error
        stack.callback(slots.release)

    async def _pass(self, host: _Host, name: str) -> None:
        while True:
            now = self._clock.monotonic()
            wait_s = host.closed_until - now
            if wait_s > WAIT_S_MAX:
                raise NotAsked(f"{name} is left alone for now", retry_after_s=wait_s)
            if wait_s <= 0:
                burst = _burst(host.rate)
                host.tokens = min(burst, host.tokens + (now - host.filled_at) * host.rate)
                host.filled_at = now
                if host.tokens >= 1.0:
                    host.tokens -= 1.0
                    return
                wait_s = (1.0 - host.tokens) / host.rate
            await asyncio.sleep(wait_s)

    def _host(self, name: str, *, width: int = 1) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            self._make_room()
            rate = self._rate * width
            slots = asyncio.Semaphore(self._concurrency * width)
            host = _Host(slots, rate, _burst(rate), self._clock.monotonic())
            self._hosts[name] = host
        self._hosts.move_to_end(name)
        return host

    def _make_room(self) -> None:
        """Forget the host that was idle longest and whose window is open, else opens next.

        One in use is never forgotten, and those are as few as the requests under way.
        """
        if len(self._hosts) < self._hosts_max:
            return
        now = self._clock.monotonic()
        idle = [name for name, host in self._hosts.items() if host.users == 0]
        is_open = (name for name in idle if self._hosts[name].closed_until <= now)
        victim = next(is_open, None)
        if victim is None and idle:
            victim = min(idle, key=lambda name: self._hosts[name].closed_until)
        if victim is not None:
            del self._hosts[victim]


def _leave(host: _Host) -> None:
    host.users -= 1


def _burst(rate: float) -> float:
    return max(rate * BURST_S, 1.0)
