"""The workers of the resync: they take repos from the queue, host by host, and see them attempted.

Tracked repos and new ones are served apart. Before anything is claimed there is a place for it: at
hosts that answer, at hosts not known to, at hosts that failed, at the directory (`seating`). A host
that says nothing keeps its own few places occupied and nobody else's; it is asked again after a
pause that grows.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from indexer.claims import Claim
from indexer.clock import Clock
from indexer.ingest.places import Admission, Seat
from indexer.ingest.resync import Resyncer
from indexer.ingest.seating import HostManners, Pool, Seating
from indexer.lanes import NEW, TRACKED, Lane, Standing
from indexer.ports import WorkQueue

IDLE_S_MAX = 5.0
"""Due work is looked for at least this often."""

BLOCKED_S = 1.0
"""And this often where there is some, at hosts that have no place."""

HELD_S = 1.0
"""Between two looks whether anything may be begun."""

PREFERRED = (
    Standing.ANSWERS,
    Standing.UNKNOWN,
    Standing.ANSWERS,
    Standing.IN_DOUBT,
    Standing.ANSWERS,
    Standing.FAILED,
)
"""Who is served first, by turns: hosts that answer have half of what the store can do."""

BURST_S = 1.0
"""New repos that may be begun at once, as seconds of their rate."""


class _Pace:
    """So many beginnings a second."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._next_at = clock.monotonic()

    async def wait(self) -> None:
        """Wait until the next one may be."""
        await asyncio.sleep(max(self._next_at - self._clock.monotonic(), 0.0))

    def spend(self) -> None:
        """One is made."""
        earliest = self._clock.monotonic() - BURST_S
        self._next_at = max(self._next_at, earliest) + 1.0 / self._rate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A pool with its place in the order of things."""

    pool: Pool
    bell: asyncio.Event
    pace: _Pace | None
    orders: Iterator[tuple[Lane, ...]]  # in which the lanes are looked through
    preferred: Iterator[Standing] = field(default_factory=lambda: itertools.cycle(PREFERRED))


class ResyncWorkers:
    """Runs the attempts."""

    def __init__(
        self,
        resyncer: Resyncer,
        queue: WorkQueue,
        manners: HostManners,
        *,
        workers: int,  # repos fetched at the same time
        discovery_per_s: float,  # new repos looked up in the directory
        clock: Clock,
        is_held: Callable[[], bool],  # nothing may be judged now
        admission: Admission,
    ) -> None:
        self._resyncer = resyncer
        self._queue = queue
        self._clock = clock
        self._is_held = is_held
        self._seating = Seating(queue, manners, workers=workers, clock=clock, admission=admission)
        self._served = (
            _Served(
                pool=self._seating.tracked,
                orders=itertools.repeat(TRACKED),
                bell=resyncer.bell(),
                pace=None,
            ),
            _Served(
                pool=self._seating.new,
                orders=itertools.cycle((NEW, NEW[::-1])),
                bell=resyncer.bell(),
                pace=_Pace(discovery_per_s, clock),
            ),
        )

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for served in self._served:
                name = f"resync-{served.pool.lanes[0].name}"
                group.create_task(self._serve(served, group), name=name)

    async def _serve(self, served: _Served, group: asyncio.TaskGroup) -> None:
        pool = served.pool
        while True:
            served.bell.clear()
            await self._resyncer.give_back()
            if self._is_held():
                await asyncio.sleep(HELD_S)
                continue
            if served.pace is not None:
                await served.pace.wait()
            standings = pool.places.free(next(served.preferred))
            claim = None
            if standings:
                busy = pool.places.busy()
                claim = await self._seating.insist(
                    partial(self._queue.claim_next, next(served.orders), standings, busy)
                )
            if claim is None:
                await self._wait_for_work(served)
                continue
            seat = await self._seating.seat(pool, claim)
            if seat is not None:
                if served.pace is not None:
                    served.pace.spend()
                group.create_task(self._work(served, claim, seat), name="resync-attempt")

    async def _wait_for_work(self, served: _Served) -> None:
        due_at = await self._seating.insist(partial(self._queue.next_due_at, served.pool.lanes))
        idle_s = IDLE_S_MAX
        if due_at is not None:
            wait_s = due_at - self._clock.now()
            idle_s = min(wait_s, IDLE_S_MAX) if wait_s > 0 else BLOCKED_S
        try:
            async with asyncio.timeout(idle_s):
                await served.bell.wait()
        except TimeoutError:
            return

    async def _work(self, served: _Served, claim: Claim, seat: Seat) -> None:
        try:
            done = await self._resyncer.attempt(claim, seat=seat)
            await self._seating.learn(seat, done.result)
        finally:
            seat.leave()
            served.bell.set()
