"""Repair of gaps: hosts are asked what their repos are at, and what differs is fetched.

A gap changes no repo. A host's list is read as long as its pages are fewer than the repos of ours
there; those that it has not told of are asked for one by one. The relay's lists by collection tell
of accounts that appeared meanwhile, and where it has none, the lists of all hosts. Everything is
rows: a restart goes on where this one ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from indexer.clock import Clock
from indexer.errors import InvalidUpstream, LocalBusy, NotAsked, Unavailable
from indexer.ingest.attempts import HostStatus
from indexer.ingest.newcomers import KIND as NEWCOMERS
from indexer.ingest.newcomers import Newcomers
from indexer.listings import Listed, ListingPage, Question

log = structlog.get_logger(__name__)

ASKERS = 4
"""Hosts asked at the same time, so that one which hangs does not hold up the others."""

IDLE_S = 1.0
LAG_S_MAX = 60.0
"""While the stream lags more than this, what differs may only be on its way."""

RETRY_S_MIN = 60.0
RETRY_S_MAX = 3600.0
DOUBLINGS_MAX = 10  # a relay may be away for so long that no float is twice as much any more
TRIES_MAX = 5
"""A host that failed so often has its repos left to the resync, one by one."""

PATIENCE_S = 21_600.0
"""After this time it counts as a try too that a host is left alone: where it is dead, somebody else
may always be the first to find that out again."""


class GapRows(Protocol):
    """The repair's rows."""

    async def has_open_gaps(self) -> bool:
        """Whether anything is left to repair."""

    async def survey(self, collections: Sequence[str]) -> bool:
        """Put down what the gaps that are due make worth asking; whether there were any."""

    async def close_gaps(self) -> list[int]:
        """Mark as repaired what waits for nothing any more; for each gap the repos it lacks."""


class Questions(Protocol):
    """What is still to be asked, and what the answers do."""

    async def questions(self) -> list[Question]:
        """The next ones that are due."""

    async def count_tracked(self, pds_url: str) -> int:
        """Tracked repos of a host."""

    async def uncompared(self, question: Question) -> list[tuple[int, str]]:
        """(id, DID) of some repos of the host that no listing has told of."""

    async def compare(
        self, repos: Sequence[Listed], then: Question, *, is_answered: bool = True
    ) -> bool:
        """Take a host's word on its own repos, and go on with `then`; whether any differs.

        Without an answer all of them count as different, and none as compared.
        """

    async def discover(
        self, repos: Sequence[Listed], then: Question, *, retry_at: float = 0.0
    ) -> bool:
        """Track those that are unknown, and go on with `then`; whether there were any."""

    async def put_off(self, question: Question, *, delay_s: float) -> None:
        """Ask again later."""

    async def settle(self, question: Question, *, is_cut: bool = False) -> None:
        """Nothing more is to be asked here; `is_cut`: though a list was not read to its end."""


class Listings(Protocol):
    """The lists of hosts and relays. None: not served there."""

    async def of_host(self, pds_url: str, cursor: str | None) -> ListingPage | None:
        """A page of a PDS's listRepos."""

    async def of_collection(self, collection: str, cursor: str | None) -> ListingPage | None:
        """A page of the relay's listReposByCollection."""


class Statuses(Protocol):
    """Single questions to a PDS."""

    async def fetch_status(self, pds_url: str, did: str) -> HostStatus | None:
        """The account's status at its host; None when the host does not know the repo."""


class GapRepair:
    """Repairs gaps in the background, paced by the HTTP client."""

    def __init__(
        self,
        gaps: GapRows,
        questions: Questions,
        listings: Listings,
        statuses: Statuses,
        newcomers: Newcomers,
        *,
        collections: Sequence[str],
        clock: Clock,
        stream_at: Callable[[], float | None],
        is_followed: Callable[[], bool],
        on_work: Callable[[], None],
    ) -> None:
        self._gaps = gaps
        self._questions = questions
        self._listings = listings
        self._statuses = statuses
        self._newcomers = newcomers
        self._collections = collections
        self._clock = clock
        self._stream_at = stream_at
        self._is_followed = is_followed
        self._on_work = on_work
        self._in_hand: set[tuple[str, str]] = set()
        self._picking = asyncio.Lock()

    async def run(self) -> None:
        """Repair until cancelled."""
        while True:
            try:
                await self.go_on()
            except LocalBusy as error:
                log.warning("gaps.store_busy", reason=str(error))
            await asyncio.sleep(IDLE_S)

    async def go_on(self) -> None:
        """Ask everything that is due, and close the gaps that wait for nothing more.

        Raises `LocalBusy` where the store is busy; what was asked by then stays.
        """
        if not await self._gaps.has_open_gaps() or self._is_lagging():
            return
        # Before the stream goes on a gap may not have ended: what hosts say now would be all.
        if self._is_followed() and await self._gaps.survey(self._collections):
            log.warning("gaps.repair_begun")
        # Kept apart: an error within a group takes the place of a cancel that comes at that moment.
        busy: list[LocalBusy] = []
        async with asyncio.TaskGroup() as group:
            for number in range(ASKERS):
                group.create_task(self._ask_all(busy), name=f"gap-repair-{number}")
        if busy:
            raise busy[0]
        closed = await self._gaps.close_gaps()
        if closed:
            log.info("gaps.repaired", gaps=len(closed), unreachable_repos=max(closed))

    def _is_lagging(self) -> bool:
        stream_at = self._stream_at()
        return stream_at is not None and self._clock.now() - stream_at > LAG_S_MAX

    async def _ask_all(self, busy: list[LocalBusy]) -> None:
        """Ask until nothing is due, or the store is `busy`."""
        try:
            while not busy and await self._ask_next():
                pass
        except LocalBusy as error:
            busy.append(error)

    async def _ask_next(self) -> bool:
        """Ask one question; False where none is due."""
        question = await self._pick()
        if question is None:
            return False
        key = (question.kind, question.target)
        try:
            await self._ask(question)
        except (Unavailable, InvalidUpstream) as error:
            await self._failed(question, error)
        finally:
            self._in_hand.discard(key)
        return True

    async def _pick(self) -> Question | None:
        async with self._picking:
            # What another asker has done with one while they are read may not be in them yet.
            in_hand = frozenset(self._in_hand)
            for question in await self._questions.questions():
                key = (question.kind, question.target)
                if key not in in_hand:
                    self._in_hand.add(key)
                    return question
        return None

    async def _ask(self, question: Question) -> None:
        if question.kind == "collection":
            await self._ask_relay(question)
        elif question.kind == NEWCOMERS:
            await self._ask_for_newcomers(question)
        elif question.after_id is None:
            await self._read_page(question)
        else:
            await self._ask_singly(question)

    async def _ask_relay(self, question: Question) -> None:
        page = await self._listings.of_collection(question.target, question.cursor)
        if page is None:
            log.warning("gaps.relay_lists_no_collections", collection=question.target)
            await self._newcomers.look_for(question)
        else:
            then = replace(question, cursor=page.cursor, pages=question.pages + 1, failures=0)
            if await self._questions.discover(page.repos, then):
                self._on_work()
        if page is None or page.cursor is None or page.cursor == question.cursor:
            await self._questions.settle(question)

    async def _ask_for_newcomers(self, question: Question) -> None:
        found = await self._newcomers.read_page(question)
        then = found.then or question
        if await self._questions.discover(found.repos, then, retry_at=found.not_before):
            self._on_work()
        if found.then is None:
            await self._questions.settle(question, is_cut=found.is_cut)

    async def _read_page(self, question: Question) -> None:
        tracked = await self._questions.count_tracked(question.target)
        page = await self._listings.of_host(question.target, question.cursor)
        pages = question.pages + 1
        is_last = (
            page is None
            or page.cursor is None
            or page.cursor == question.cursor
            or pages >= tracked
        )
        then = replace(
            question,
            cursor=None if page is None else page.cursor,
            after_id=0 if is_last else None,
            pages=pages,
            failures=0,
        )
        if await self._questions.compare(() if page is None else page.repos, then):
            self._on_work()

    async def _ask_singly(self, question: Question) -> None:
        left = await self._questions.uncompared(question)
        if not left:
            await self._questions.settle(question)
            return
        for identifier, did in left:
            answer = await self._statuses.fetch_status(question.target, did)
            listed = Listed(did, None, None)
            if answer is not None:
                listed = Listed(did, answer.status, answer.rev)
            question = replace(question, after_id=identifier, failures=0)
            if await self._questions.compare((listed,), question):
                self._on_work()

    async def _failed(self, question: Question, error: Unavailable | InvalidUpstream) -> None:
        log.warning(
            "gaps.not_answered", kind=question.kind, target=question.target, reason=error.detail
        )
        doublings = min(question.failures, DOUBLINGS_MAX)
        delay_s = min(RETRY_S_MIN * 2.0**doublings, RETRY_S_MAX)
        is_try = True
        if isinstance(error, NotAsked) and question.kind != "collection":
            # Our own manners are no try at the host, which may ask for an hour of them.
            delay_s = min(max(delay_s, error.wait_s), RETRY_S_MAX)
            is_try = not 0.0 <= self._clock.now() - question.wanted_at < PATIENCE_S
        later = replace(question, failures=question.failures + is_try)
        if question.kind == "collection" or later.failures < TRIES_MAX:
            await self._questions.put_off(later, delay_s=delay_s)
            return
        if question.kind == NEWCOMERS:
            await self._questions.settle(question, is_cut=True)
            return
        while left := await self._questions.uncompared(question):
            unknown = [Listed(did, None, None) for _, did in left]
            question = replace(question, after_id=left[-1][0])
            if await self._questions.compare(unknown, question, is_answered=False):
                self._on_work()
        await self._questions.settle(question)
