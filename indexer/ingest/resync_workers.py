"""The workers of the resync: they take repos from the queue, host by host, and see them attempted.

Tracked repos and new ones are served apart. Before anything is claimed there is a place for it: at
hosts that answer, at hosts not known to, at hosts that failed. A host that says nothing keeps its
own few places occupied and nobody else's; it is asked again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import structlog

from indexer.claims import Claim, StaleClaim
from indexer.clock import Clock
from indexer.errors import LocalBusy
from indexer.ingest.attempts import Result
from indexer.ingest.places import NOWHERE, Admission, Hosts, Places, Seat, Transfers
from indexer.ingest.resync import Resyncer
from indexer.lanes import NEW, TRACKED, Lane, Standing, doubt, left_alone, put_back
from indexer.model import Wanted
from indexer.ports import WorkQueue
from indexer.protocol.hosts import host_group

log = structlog.get_logger(__name__)

T = TypeVar("T")

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

BUSY_RETRY_S = 1.0
BURST_S = 1.0
"""New repos that may be begun at once, as seconds of their rate."""


class HostManners(Protocol):
    """How hosts are dealt with on the wire."""

    def closed_s(self, origin: str) -> float:
        """Seconds until the host's window opens; 0 when it is open."""

    def failures(self, origin: str) -> int:
        """How often in a row the host has not answered, or with a failure of its own."""


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
class _Pool:
    """One kind of repos, with the places that it has."""

    lanes: tuple[Lane, ...]
    places: Places
    key_of: Callable[[str], str]  # PDS -> host or group whose turn it is
    bell: asyncio.Event
    pace: _Pace | None
    admission: Admission | None
    orders: Iterator[tuple[Lane, ...]]  # in which the lanes are looked through
    preferred: Iterator[Standing] = field(default_factory=lambda: itertools.cycle(PREFERRED))

    def key(self, claim: Claim) -> str:
        """The host or group for which a repo was claimed."""
        if claim.pds_url is None:
            return NOWHERE
        host = self.key_of(claim.pds_url)
        is_turn_of_host = self.lanes != TRACKED or not claim.repo.claimed & Wanted.IDENTITY
        return host if is_turn_of_host else doubt(host)


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
        self._manners = manners
        self._clock = clock
        self._is_held = is_held
        self._transfers = Transfers(workers)
        self._hosts = Hosts()
        self._pools = (
            _Pool(
                lanes=TRACKED,
                orders=itertools.repeat(TRACKED),
                places=Places(self._hosts),
                key_of=str,
                bell=resyncer.bell(),
                pace=None,
                admission=None,
            ),
            _Pool(
                lanes=NEW,
                orders=itertools.cycle((NEW, NEW[::-1])),
                places=Places(self._hosts),
                key_of=host_group,
                bell=resyncer.bell(),
                pace=_Pace(discovery_per_s, clock),
                admission=admission,
            ),
        )

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for pool in self._pools:
                group.create_task(self._serve(pool, group), name=f"resync-{pool.lanes[0].name}")

    async def _serve(self, pool: _Pool, group: asyncio.TaskGroup) -> None:
        while True:
            pool.bell.clear()
            if self._is_held():
                await asyncio.sleep(HELD_S)
                continue
            if pool.pace is not None:
                await pool.pace.wait()
            standings = pool.places.free(next(pool.preferred))
            claim = None
            if standings:
                busy = pool.places.busy()
                claim = await self._insist(
                    partial(self._queue.claim_next, next(pool.orders), standings, busy)
                )
            if claim is None:
                await self._wait_for_work(pool)
                continue
            seat = await self._seat(pool, claim)
            if seat is not None:
                if pool.pace is not None:
                    pool.pace.spend()
                group.create_task(self._work(pool, claim, seat), name="resync-attempt")

    async def _wait_for_work(self, pool: _Pool) -> None:
        due_at = await self._insist(partial(self._queue.next_due_at, pool.lanes))
        idle_s = IDLE_S_MAX
        if due_at is not None:
            wait_s = due_at - self._clock.now()
            idle_s = min(wait_s, IDLE_S_MAX) if wait_s > 0 else BLOCKED_S
        try:
            async with asyncio.timeout(idle_s):
                await pool.bell.wait()
        except TimeoutError:
            return

    async def _seat(self, pool: _Pool, claim: Claim) -> Seat | None:
        """The place for a claim; None where it has to wait for its host, and is given back."""
        host = pool.key(claim)
        now = self._clock.now()
        closed_s = 0.0
        # With its identity in doubt, it is not known to be at that host.
        if claim.pds_url is not None and not claim.repo.claimed & Wanted.IDENTITY:
            closed_s = self._manners.closed_s(claim.pds_url)
        if closed_s == 0.0:
            seat = Seat(
                pool.places,
                self._transfers,
                host,
                key_of=pool.key_of,
                closed_s=self._manners.closed_s,
                admission=pool.admission,
            )
            if seat.is_taken:
                return seat
        ending = partial(put_back, has_moved=False, now=now)
        until = now + closed_s
        if closed_s > 0.0 and host != claim.pds_url:
            # The others of a group may be at hosts that are open.
            ending, until = partial(left_alone, until=until), 0.0
        with suppress(StaleClaim):
            await self._insist(partial(self._queue.settle, claim, ending))
        await self._judge(host, self._hosts.standing(host), until)
        return None

    async def _work(self, pool: _Pool, claim: Claim, seat: Seat) -> None:
        try:
            done = await self._resyncer.attempt(claim, seat=seat)
            if seat.asked_url is not None and done.result is not Result.QUEUED:
                is_host_at_fault = self._manners.failures(seat.asked_url) > 0
                await self._learn(
                    seat.asked_url, is_failed=done.result is Result.FAILED and is_host_at_fault
                )
        finally:
            seat.leave()
            pool.bell.set()

    async def _learn(self, url: str, *, is_failed: bool) -> None:
        """Note how a host did. A group is not left alone for one of its hosts."""
        for host in (url, host_group(url)):
            before = self._hosts.standing(host)
            if is_failed:
                pause_s = self._hosts.failed(host)
                until = self._clock.now() + pause_s if host == url else 0.0
                await self._judge(host, Standing.FAILED, until)
            else:
                self._hosts.answered(host)
                if before is not Standing.ANSWERS:
                    await self._judge(host, Standing.ANSWERS, 0.0)

    async def _judge(self, host: str, standing: Standing, until: float) -> None:
        await self._insist(partial(self._queue.judge, host, standing, until=until))

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step in the store that has to be taken, however long the machine is short of space."""
        while True:
            try:
                return await step()
            except LocalBusy as error:
                log.warning("resync.store_busy", reason=str(error))
                await asyncio.sleep(BUSY_RETRY_S)
