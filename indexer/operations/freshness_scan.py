"""freshnessScan: every tracked repo compared with its host, those first that have waited longest.

Hosts are asked for their lists where that is cheaper, else for each of our repos there. A repo at
the same rev is done with; anything else is the resync's work, and the scan waits for what comes of
it. Two things are no loss: what the live stream may yet bring, and what a host says of the repos of
others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import msgspec
import structlog

from indexer.clock import Clock
from indexer.errors import InvalidUpstream, Unavailable
from indexer.freshness import (
    Circumstances,
    Decision,
    Scan,
    Wait,
    WaitingHost,
    WaitingRepo,
    as_compared,
    heard,
    is_list_worthwhile,
    sent,
    waited,
)
from indexer.listings import Listed, ListingPage
from indexer.model import AccountStatus, Json, Operation, OperationMode, OperationType
from indexer.operations.freshness_visits import Visits
from indexer.operations.operation import Context, Request, insist, refuse_foreign_params
from indexer.planning import Repo
from indexer.ports import Compared

log = structlog.get_logger(__name__)

ASKERS = 8
"""Hosts asked at the same time, so that one which hangs does not hold up the others."""

ATTEMPTS_AT_HOST = 2
HOSTS_AT_ONCE = 100
REPOS_AT_ONCE = 50
SWEEP_REPOS = 500

TRIES_MAX = 3
RETRY_S = 0.5
RETRY_S_MAX = 60.0
"""A host that fails is asked again after 0.5 s, 2 s, or what it asks for, up to this."""

BEFORE_ALL = -1.0
"""A time before every one in a row."""


class FreshnessRows(Protocol):
    """The store as a scan needs it."""

    async def begin(self, operation_id: str) -> Operation:
        """Set what the scan comprises, once; its row then."""

    async def hosts(
        self, scan: Scan, *, after: tuple[float, str], limit: int
    ) -> Sequence[WaitingHost]:
        """Hosts of repos not verified since it began, those that have waited longest first."""

    async def of_host(
        self, scan: Scan, pds_url: str, *, after: tuple[float, int], limit: int
    ) -> Sequence[WaitingRepo]:
        """Repos of a host left to visit, those that have waited longest first."""

    async def of_all(self, scan: Scan, *, after_id: int, limit: int) -> Sequence[WaitingRepo]:
        """Repos left to visit, whatever their host, by id."""

    async def decide(
        self,
        scan: Scan,
        dids: Collection[str],
        decide: Callable[[Repo], Decision],
        *,
        pds_url: str | None = None,
    ) -> tuple[Operation | None, Mapping[str, Decision]]:
        """Apply `decide` to those of the repos that are left to visit, at `pds_url` if given."""

    async def keep(self, scan: Scan, checkpoint: Json) -> None:
        """Save where the scan has come to."""

    async def load(self, dids: Collection[str]) -> Sequence[Repo]:
        """The repos as they are now."""


class HostWord(Protocol):
    """What a host says of one account."""

    @property
    def status(self) -> AccountStatus:
        """`active`, or why not."""

    @property
    def rev(self) -> str | None:
        """The host's rev of the repo; None where it does not tell."""


class HostLists(Protocol):
    """The lists that hosts keep of their repos."""

    async def of_host(self, pds_url: str, cursor: str | None) -> ListingPage | None:
        """A page of a host's listRepos; None where that is not served."""


class HostStatuses(Protocol):
    """Single questions to hosts."""

    async def fetch_status(self, pds_url: str, did: str) -> HostWord | None:
        """The account's status at its host; None when the host does not know the repo."""


class RepoSync(Protocol):
    """The resync as a scan needs it."""

    async def sync_listed(self, did: str, *, on_compared: Compared | None = None) -> object:
        """One attempt at a repo; its row says afterwards how it went."""


class FreshnessScan:
    """One pass over all tracked repos, whatever their collections."""

    type = OperationType.FRESHNESS_SCAN
    unit = "repo"

    def __init__(
        self,
        rows: FreshnessRows,
        lists: HostLists,
        statuses: HostStatuses,
        repos: RepoSync,
        *,
        scope_id: str,
        stream_at: Callable[[], float | None],
        clock: Clock,
    ) -> None:
        self._rows = rows
        self._lists = lists
        self._statuses = statuses
        self._repos = repos
        self._scope_id = scope_id
        self._stream_at = stream_at
        self._clock = clock

    def parse(self, params: Mapping[str, Json]) -> Request:
        """Takes nothing: a scan covers every repo."""
        refuse_foreign_params(params, frozenset(), self.type)
        return Request(key=self.type.value, params={})

    async def run(self, context: Context) -> None:
        """Visit what has not been visited since the operation began."""
        row = await insist(partial(self._rows.begin, context.operation.id))
        context.take(row)
        scan, reads = _restored(row)

        def circumstances(*, is_page: bool = False) -> Circumstances:
            return Circumstances(
                scope_id=self._scope_id,
                stream_at=self._stream_at(),
                is_held=context.operation.mode is OperationMode.PAUSE,
                is_page=is_page,
                now=self._clock.now(),
            )

        def look_again(repo: Repo, wait: Wait) -> Decision:
            return waited(repo, wait, circumstances())

        visits = Visits(self._rows, scan, context, look_again)
        walk = _Walk(
            self._rows, self._lists, self._statuses, self._repos,
            scan=scan, visits=visits, circumstances=circumstances, reads=reads,
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                tending = group.create_task(visits.tend(), name="freshness-tend")
                await walk.run()
                await visits.over()
                tending.cancel()
        except ExceptionGroup as failures:
            raise _first(failures) from failures


@dataclass(frozen=True, slots=True)
class _ListRead:
    """How far a host's list has been read."""

    tracked: int  # repos of ours there that had not been visited when it was begun
    cursor: str | None = None
    pages: int = 0
    covered: int = 0  # of ours
    is_over: bool = False

    @property
    def is_worthwhile(self) -> bool:
        return not self.is_over and is_list_worthwhile(
            tracked=self.tracked, pages=self.pages, covered=self.covered
        )


class _Walk:
    """The way of one scan past all hosts."""

    def __init__(
        self,
        rows: FreshnessRows,
        lists: HostLists,
        statuses: HostStatuses,
        repos: RepoSync,
        *,
        scan: Scan,
        visits: Visits,
        circumstances: Callable[..., Circumstances],
        reads: dict[str, _ListRead],
    ) -> None:
        self._rows = rows
        self._lists = lists
        self._statuses = statuses
        self._repos = repos
        self._scan = scan
        self._visits = visits
        self._circumstances = circumstances
        self._reads = reads  # URL -> what of its list has been read, for hosts in hand
        self._after = (BEFORE_ALL, "")
        self._hosts: list[WaitingHost] = []
        self._begun: set[str] = set()  # URLs of hosts handed out
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Past all hosts, several at a time; then what no host was asked for."""
        async with asyncio.TaskGroup() as group:
            for number in range(ASKERS):
                group.create_task(self._visit_hosts(), name=f"freshness-{number}")
        await self._sweep()

    async def _visit_hosts(self) -> None:
        while (host := await self._next_host()) is not None:
            await self._visit(host)
            if self._reads.pop(host.pds_url, None) is not None:
                await self._keep()

    async def _next_host(self) -> WaitingHost | None:
        async with self._turn:
            while True:
                if not self._hosts:
                    after = self._after
                    step = partial(self._rows.hosts, self._scan, after=after, limit=HOSTS_AT_ONCE)
                    self._hosts = list(await insist(step))
                if not self._hosts:
                    return None
                host = self._hosts.pop(0)
                self._after = (host.oldest, host.pds_url)
                # One whose oldest repos have been visited moves on in the order.
                if host.is_open and host.pds_url not in self._begun:
                    self._begun.add(host.pds_url)
                    return host

    async def _visit(self, host: WaitingHost) -> None:
        for number in range(TRIES_MAX):
            try:
                await self._read_list(host)
                await self._ask_singly(host.pds_url)
            except (Unavailable, InvalidUpstream) as error:
                log.warning("freshness.host_failed", host=host.pds_url, reason=error.detail)
                asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
                pause_s = max(RETRY_S * 4.0**number, asked_s or 0.0)
                if number + 1 < TRIES_MAX:
                    await asyncio.sleep(min(pause_s, RETRY_S_MAX))
            else:
                return
        await self._send_all(host.pds_url)

    async def _read_list(self, host: WaitingHost) -> None:
        url = host.pds_url
        read = self._reads.setdefault(url, _ListRead(host.repos))
        while read.is_worthwhile:
            await self._visits.room()
            page = await insist(partial(self._lists.of_host, url, read.cursor))
            words = {} if page is None else {word.did: word for word in page.repos}
            at = self._circumstances(is_page=True)

            def decide(
                repo: Repo, words: dict[str, Listed] = words, at: Circumstances = at
            ) -> Decision:
                return heard(repo, words[repo.did], at)

            made = await self._visits.decide(words, decide, pds_url=url)
            cursor = None if page is None else page.cursor
            read = replace(
                read,
                cursor=cursor,
                pages=read.pages + 1,
                covered=read.covered + len(made),
                is_over=cursor is None or cursor == read.cursor,
            )
            self._reads[url] = read
            await self._keep()
            await self._attempt(made)

    async def _ask_singly(self, url: str) -> None:
        """Ask for each that its list has not told of; one that fails is left to the resync."""
        failures = 0
        async for repo in self._left_at(url):
            word: Listed | None = None
            try:
                answer = await insist(partial(self._statuses.fetch_status, url, repo.did))
            except (Unavailable, InvalidUpstream):
                failures += 1
                if failures >= TRIES_MAX:
                    raise
            else:
                failures = 0
                word = Listed(repo.did, None, None)
                if answer is not None:
                    word = Listed(repo.did, answer.status, answer.rev)
            told = partial(self._told, word)
            await self._attempt(await self._visits.decide([repo.did], told, pds_url=url))

    def _told(self, word: Listed | None, repo: Repo) -> Decision:
        at = self._circumstances()
        return sent(repo, at.now) if word is None else heard(repo, word, at)

    async def _send_all(self, url: str) -> None:
        """The host does not answer: the resync finds out whether its accounts live elsewhere."""
        silent = partial(self._told, None)
        async for repo in self._left_at(url):
            await self._attempt(await self._visits.decide([repo.did], silent, pds_url=url))

    async def _left_at(self, url: str) -> AsyncIterator[WaitingRepo]:
        """Repos of a host that were not visited, oldest first; each when there is room for it."""
        after = (BEFORE_ALL, 0)
        while True:
            step = partial(self._rows.of_host, self._scan, url, after=after, limit=REPOS_AT_ONCE)
            found = await insist(step)
            for repo in found:
                # What others have compared is the sweep's.
                if not repo.is_compared and not self._visits.is_waited_for(repo.did):
                    await self._visits.room()
                    yield repo
                after = (repo.verified_at, repo.id)
            if not found:
                return

    async def _sweep(self) -> None:
        """Settle what others have compared meanwhile; look at what has no host yet, or moved."""
        after_id = 0
        while True:
            step = partial(self._rows.of_all, self._scan, after_id=after_id, limit=SWEEP_REPOS)
            found = await insist(step)
            if not found:
                return
            after_id = found[-1].id
            compared = [each.did for each in found if each.is_compared]
            await self._visits.decide(compared, partial(as_compared, since=self._scan.since))
            for repo in found:
                if not repo.is_compared and not self._visits.is_waited_for(repo.did):
                    await self._visits.room()
                    made = await self._visits.decide([repo.did], partial(self._told, None))
                    await self._attempt(made)

    async def _attempt(self, made: Mapping[str, Decision]) -> None:
        """Make the attempts that were decided upon, a few at a time; their rows tell of the end."""
        waits = [(did, each.wait) for did, each in made.items()]
        sent_now = [did for did, wait in waits if wait is not None and wait.claim is not None]
        places = asyncio.Semaphore(ATTEMPTS_AT_HOST)

        async def attempt(did: str) -> None:
            async with places:
                if self._visits.is_waited_for(did) and await self._visits.begin(did):
                    compared = self._visits.compared(did)
                    await insist(partial(self._repos.sync_listed, did, on_compared=compared))
                    await self._visits.put_down(did)

        async with asyncio.TaskGroup() as group:
            for did in sent_now:
                group.create_task(attempt(did), name=f"freshness-attempt-{did}")

    async def _keep(self) -> None:
        lists: dict[str, Json] = {
            url: [read.tracked, read.cursor, read.pages, read.covered, read.is_over]
            for url, read in self._reads.items()
        }
        checkpoint: Json = {"upto": self._scan.upto, "lists": lists}
        await insist(partial(self._rows.keep, self._scan, checkpoint))


def _restored(row: Operation) -> tuple[Scan, dict[str, _ListRead]]:
    """What the checkpoint says."""
    checkpoint = msgspec.convert(row.checkpoint, _Checkpoint)
    scan = Scan(operation_id=row.id, upto=checkpoint.upto, since=row.started_at)
    return scan, {url: _ListRead(*read) for url, read in checkpoint.lists.items()}


class _Checkpoint(msgspec.Struct, frozen=True):
    upto: int
    lists: dict[str, tuple[int, str | None, int, int, bool]] = {}


def _first(failures: ExceptionGroup) -> Exception:
    """The first cause: a group of tasks says nothing by itself."""
    cause = failures.exceptions[0]
    return _first(cause) if isinstance(cause, ExceptionGroup) else cause
