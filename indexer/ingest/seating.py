"""Where an attempt sits: which of the places, whether its host is open, and how hosts did.

A claim is given back where there is no place for it, or its host is closed; the queue is told then
how long to leave the host alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog

from indexer.claims import Claim, StaleClaim
from indexer.clock import Clock
from indexer.errors import LocalBusy
from indexer.ingest.attempts import Result
from indexer.ingest.places import Admission, Hosts, Places, Seat, Transfers
from indexer.lanes import NEW, NOWHERE, TRACKED, Lane, Standing, doubt, left_alone, put_back
from indexer.model import Wanted
from indexer.ports import WorkQueue, insist_on
from indexer.protocol.hosts import host_group

log = structlog.get_logger(__name__)

T = TypeVar("T")


class HostManners(Protocol):
    """How hosts are dealt with on the wire."""

    def closed_s(self, origin: str) -> float:
        """Seconds until the host's window opens; 0 when it is open."""

    def failures(self, origin: str) -> int:
        """How often in a row the host has not answered, or with a failure of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One kind of repos, with the places that it has."""

    lanes: tuple[Lane, ...]
    places: Places
    key_of: Callable[[str], str]  # PDS -> host or group whose turn it is
    admission: Admission | None

    def key(self, claim: Claim) -> str:
        """The host or group for which a repo was claimed."""
        if claim.pds_url is None:
            return NOWHERE
        host = self.key_of(claim.pds_url)
        is_turn_of_host = self.lanes != TRACKED or not claim.repo.claimed & Wanted.IDENTITY
        return host if is_turn_of_host else doubt(host)


class Seating:
    """Seats attempts, and remembers how their hosts did."""

    def __init__(
        self,
        queue: WorkQueue,
        manners: HostManners,
        *,
        workers: int,  # repos fetched at the same time
        clock: Clock,
        admission: Admission,
    ) -> None:
        self._queue = queue
        self._manners = manners
        self._clock = clock
        self._transfers = Transfers(workers, clock=clock)
        self._hosts = Hosts()
        self.tracked = Pool(lanes=TRACKED, places=Places(self._hosts), key_of=str, admission=None)
        self.new = Pool(
            lanes=NEW, places=Places(self._hosts), key_of=host_group, admission=admission
        )

    async def seat(self, pool: Pool, claim: Claim) -> Seat | None:
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
        is_about_host = host == claim.pds_url
        if closed_s > 0.0 and not is_about_host:  # others of a group may be at hosts that are open
            ending = partial(left_alone, until=now + closed_s)
        with suppress(StaleClaim):
            await self.insist(partial(self._queue.settle, claim, ending))
        if closed_s > 0.0 and is_about_host and self._manners.failures(host) > 0:
            self._hosts.failed(host)  # whoever asked it
        until = now + closed_s if is_about_host else 0.0
        await self._judge(host, self._hosts.standing(host), until)
        return None

    async def learn(self, seat: Seat, result: Result) -> None:
        """Note how the host did that an attempt asked. A group is not left alone for one of its."""
        url = seat.asked_url
        if url is None or result is Result.QUEUED:
            return
        is_failed = result is Result.FAILED and self._manners.failures(url) > 0
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
        await self.insist(partial(self._queue.judge, host, standing, until=until))

    async def insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step in the store that has to be taken."""
        return await insist_on(step, _wait)


def _wait(error: LocalBusy) -> None:
    log.warning("resync.store_busy", reason=str(error))
