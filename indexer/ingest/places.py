"""Who may wait for whom: bounds on the attempts under way, by host and by what is known of it.

A host that hangs costs a place for as long as it is waited for, so places are dealt out by
standing: hosts that answer have theirs, those that nobody has asked yet and those that failed have
others, and none takes another's. At one host few attempts wait at the same time. Tracked repos and
new ones have a set of places each. A tracked repo that may have left its host waits at the
directory, and takes a place at the host only where it is found there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Protocol

from indexer.claims import Claim, Identity
from indexer.clock import Clock
from indexer.lanes import DOUBT, NOWHERE, Standing, doubt

PLACES: Mapping[Standing, int] = MappingProxyType(
    {Standing.ANSWERS: 16, Standing.UNKNOWN: 96, Standing.FAILED: 8, Standing.IN_DOUBT: 16}
)
"""Attempts under way at hosts of each standing. One waits for an answer, with next to no memory."""

AT_HOST: Mapping[Standing, int] = MappingProxyType(
    {Standing.ANSWERS: 2, Standing.UNKNOWN: 1, Standing.FAILED: 1, Standing.IN_DOUBT: 2}
)
"""Attempts at the same host."""

AT_DIRECTORY = 16

HOSTS_MAX = 20_000
PAUSE_S_MIN = 10.0
PAUSE_S_MAX = 600.0

COUNTED_S = 3_600.0
"""For so long it is held against a host how long its transfers took."""


class Hosts:
    """How hosts, and groups of them, did when they were last asked."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, int] = OrderedDict()  # in a row; 0: answers

    def standing(self, host: str) -> Standing:
        """What is known of it."""
        if host.startswith(DOUBT):
            return Standing.IN_DOUBT
        failures = self._failures.get(host)
        if failures is None:
            return Standing.UNKNOWN
        return Standing.FAILED if failures else Standing.ANSWERS

    def answered(self, host: str) -> None:
        """An attempt there came to an end."""
        self._note(host, 0)

    def failed(self, host: str) -> float:
        """An attempt there came to nothing; seconds for which to leave it alone."""
        failures = self._failures.get(host, 0) + 1
        self._note(host, failures)
        return min(PAUSE_S_MIN * 2.0 ** min(failures - 1, 10), PAUSE_S_MAX)

    def _note(self, host: str, failures: int) -> None:
        self._failures[host] = failures
        self._failures.move_to_end(host)
        while len(self._failures) > HOSTS_MAX:
            self._failures.popitem(last=False)


class Places:
    """The places of one kind of repos."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._taken: Counter[Standing] = Counter()
        self._at: Counter[str] = Counter()

    def free(self, first: Standing) -> list[Standing]:
        """Standings with a place left, `first` the first of them."""
        order = sorted(PLACES, key=lambda standing: standing is not first)
        return [each for each in order if self._taken[each] < PLACES[each]]

    def busy(self) -> list[str]:
        """Hosts at which no further attempt may wait."""
        asked = (name for host in self._at for name in (host, doubt(host)))
        return [host for host in asked if self._is_full(host)]

    def _is_full(self, host: str) -> bool:
        if host == NOWHERE:
            return self._at[host] >= AT_DIRECTORY
        attempts = self._at[host]
        known = host.removeprefix(DOUBT)
        if known != host and self._hosts.standing(known) is Standing.ANSWERS:
            # Most repos are where they were, and go on there: without a place it would be in vain.
            attempts += self._at[known]
        return attempts >= AT_HOST[self._hosts.standing(host)]

    def is_crowded(self, standing: Standing) -> bool:
        """Whether more than half of the places are taken."""
        return 2 * self._taken[standing] > PLACES[standing]

    def enter(self, host: str) -> Standing | None:
        """Take a place; None where there is none left."""
        standing = self._hosts.standing(host)
        if self._taken[standing] >= PLACES[standing] or self._is_full(host):
            return None
        self._taken[standing] += 1
        self._at[host] += 1
        return standing

    def leave(self, host: str, standing: Standing) -> None:
        """Give a place back."""
        self._taken[standing] -= 1
        self._at[host] -= 1
        if not self._at[host]:
            del self._at[host]


class Transfers:
    """The repos fetched at the same time, of which at most half from hosts that may hang.

    A host may take half an hour for one repo, so who waits longest is not who comes next: it is the
    host (or group) with the fewest under way, and among those the one that has had the least time.
    """

    def __init__(self, workers: int, *, clock: Clock) -> None:
        self._clock = clock
        self._doubtful = asyncio.Semaphore(max(workers // 2, 1))
        self._free = workers
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []  # in the order of asking
        self._under_way: Counter[str] = Counter()
        self._had_s: dict[str, float] = {}  # since the time below
        self._counted_since = clock.monotonic()

    @asynccontextmanager
    async def turn(self, standing: Standing, host: str) -> AsyncIterator[None]:
        """Wait for one, and hold it."""
        async with AsyncExitStack() as stack:
            if standing is not Standing.ANSWERS:
                await stack.enter_async_context(self._doubtful)
            await self._enter(host)
            began = self._clock.monotonic()
            try:
                yield
            finally:
                self._leave(host, self._clock.monotonic() - began)

    async def _enter(self, host: str) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append((host, place))
        self._deal_out()
        try:
            await place
        except asyncio.CancelledError:
            if (host, place) in self._waiting:
                self._waiting.remove((host, place))
            else:  # it was dealt one at the same moment
                self._leave(host, 0.0)
            raise

    def _leave(self, host: str, held_s: float) -> None:
        now = self._clock.monotonic()
        if now - self._counted_since >= COUNTED_S or len(self._had_s) >= HOSTS_MAX:
            self._had_s.clear()
            self._counted_since = now
        self._had_s[host] = self._had_s.get(host, 0.0) + held_s
        self._under_way[host] -= 1
        if not self._under_way[host]:
            del self._under_way[host]
        self._free += 1
        self._deal_out()

    def _deal_out(self) -> None:
        while self._free:
            # Who was cancelled takes himself out, a moment later.
            waiting = [each for each in self._waiting if not each[1].done()]
            if not waiting:
                return
            chosen = min(
                waiting, key=lambda each: (self._under_way[each[0]], self._had_s.get(each[0], 0.0))
            )
            host, place = chosen
            self._waiting.remove(chosen)
            self._free -= 1
            self._under_way[host] += 1
            place.set_result(None)


class Admission(Protocol):
    """Who may be fetched for the first time today."""

    async def admit(self, claim: Claim, identity: Identity) -> bool | None:
        """Whether the repo may be fetched; its claim is ended where it may not.

        None: that is not known before its host has answered.
        """


class Seat:
    """The place of one attempt, which may move on to the host that it turns out to be about."""

    def __init__(
        self,
        places: Places,
        transfers: Transfers,
        host: str,
        *,
        key_of: Callable[[str], str],
        closed_s: Callable[[str], float],  # seconds until a host's window opens
        admission: Admission | None,  # None: all are held already
    ) -> None:
        self._places = places
        self._transfers = transfers
        self._key_of = key_of
        self.closed_s = closed_s
        self._admission = admission
        self.host = host
        """Host or group at which the attempt waits."""
        self.asked_url: str | None = None
        """The PDS that was asked anything."""
        self._standing = places.enter(host)

    @property
    def is_taken(self) -> bool:
        """Whether there was a place."""
        return self._standing is not None

    @property
    def is_awaited(self) -> bool:
        """Whether others will soon wait for such a place."""
        return self._standing is not None and self._places.is_crowded(self._standing)

    def move(self, pds_url: str | None) -> bool:
        """Go on at the place of this PDS; False where it is closed, or none is left there."""
        if pds_url is None:
            return True
        if self.closed_s(pds_url) > 0.0:
            return False
        host = self._key_of(pds_url)
        if host != self.host:
            standing = self._places.enter(host)
            if standing is None:
                return False
            self.leave()
            self.host, self._standing = host, standing
        self.asked_url = pds_url
        return True

    async def admit(self, claim: Claim, identity: Identity) -> bool | None:
        """Whether the repo may be fetched, as `Admission` has it."""
        if self._admission is None or identity.pds_url is None:
            return True
        return await self._admission.admit(claim, identity)

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[None]:
        """Wait for a turn at fetching, and hold it."""
        async with self._transfers.turn(self._standing or Standing.UNKNOWN, self.host):
            yield

    def leave(self) -> None:
        """Give the place back; again changes nothing."""
        if self._standing is not None:
            self._places.leave(self.host, self._standing)
            self._standing = None
