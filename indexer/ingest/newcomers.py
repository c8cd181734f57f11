"""Accounts that appeared in a gap, looked for at the hosts where no relay lists them.

Every host's list is read to its end. An unknown account counts if its rev was made after the gap
began; its host then says which collections it has, and only one in scope makes it worth tracking.
A host may invent accounts and pages without end: each group of hosts is asked so much in a day, and
a list that is longer is gone on with on the next days. What is cut after that the gap's row counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from indexer.clock import Clock
from indexer.errors import InvalidUpstream
from indexer.hosts import HostsPage
from indexer.limits import DAY_S, day_of
from indexer.listings import Listed, ListingPage, Question
from indexer.model import AccountStatus
from indexer.protocol.hosts import host_group
from indexer.protocol.syntax import tid_timestamp_us

log = structlog.get_logger(__name__)

KIND = "newcomers"
"""Of a question."""

SKEW_S = 300.0
"""How far the clocks of hosts may be apart."""

HOST_PAGES_MAX = 20
"""Pages of a relay's list of hosts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What looking for newcomers may cost at hosts of strangers."""

    pages_of_host: int = 2_000
    """Of one list, for one survey: a million repos."""
    pages_of_group: int = 20_000
    """Of all lists of a group of hosts, in a day of UTC."""
    accounts_of_group: int = 10_000
    """Unknown accounts that a group is asked about in a day, and up to a page of them more."""
    days: int = 7
    """A list that takes longer than that is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one question came to."""

    repos: Sequence[Listed] = ()  # worth tracking
    then: Question | None = None  # what to ask next; None: nothing
    not_before: float = 0.0  # unix seconds
    is_cut: bool = False  # whether nothing more is asked though there may be more


class Lists(Protocol):
    """What hosts and relays list."""

    async def of_host(self, pds_url: str, cursor: str | None) -> ListingPage | None:
        """A page of a PDS's listRepos."""

    async def of_relay(self, cursor: str | None) -> HostsPage | None:
        """A page of the relay's listHosts."""

    async def collections_of(self, pds_url: str, did: str) -> tuple[str, ...] | None:
        """The collections of a repo, by its host's word."""

    @property
    def relay_url(self) -> str:
        """Who is asked for the lists of a relay."""


class NewcomerRows(Protocol):
    """The store as this module needs it."""

    async def missed_since(self) -> float:
        """Unix seconds at which the earliest open gap began; 0 where that is not known."""

    async def ask_hosts(self, hosts: Sequence[str], question: Question, *, is_cut: bool) -> None:
        """Look for newcomers at each of these hosts and each that we know.

        The gaps that wait for `question` wait for the answers, and count what is cut.
        """

    async def unknown(self, dids: Sequence[str]) -> set[str]:
        """Those that are not tracked."""

    async def asked_of(self, group: str) -> tuple[int, int]:
        """(pages, accounts) that a group of hosts was asked for today."""

    async def note_asked(self, group: str, *, accounts: int) -> None:
        """It was asked for one more page, and about so many accounts."""


class Newcomers:
    """Answers questions of the kind `newcomers`."""

    def __init__(
        self,
        rows: NewcomerRows,
        lists: Lists,
        clock: Clock,
        *,
        is_in_scope: Callable[[str], bool],
        bounds: Bounds | None = None,
    ) -> None:
        self._rows = rows
        self._lists = lists
        self._is_in_scope = is_in_scope  # of a collection
        self._clock = clock
        self._bounds = bounds or Bounds()
        self._looked_since: set[float] = set()

    async def look_for(self, question: Question) -> None:
        """The relay lists no collections: ask the hosts that it lists, and those that we know.

        Once for all collections that were to be asked about from the same moment on.
        """
        if question.since in self._looked_since:
            return
        self._looked_since = {question.since}
        try:
            hosts, is_cut = await self._hosts()
            await self._rows.ask_hosts(hosts, question, is_cut=is_cut)
        except BaseException:
            self._looked_since = set()
            raise

    async def _hosts(self) -> tuple[list[str], bool]:
        """Those that the relay lists, and whether it may have more."""
        hosts: list[str] = []
        cursor: str | None = None
        for _ in range(HOST_PAGES_MAX):
            page = await self._lists.of_relay(cursor)
            if page is None:
                hosts.append(self._lists.relay_url)  # a PDS that is followed itself
                break
            hosts += page.urls
            if page.cursor is None or page.cursor == cursor:
                break
            cursor = page.cursor
        else:
            log.warning("gaps.hosts_cut", hosts=len(hosts))
            return list(dict.fromkeys(hosts)), True
        return list(dict.fromkeys(hosts)), False

    async def read_page(self, question: Question) -> Found:
        """Accounts of the next page that are worth tracking, and what to ask then.

        Raises `Unavailable` or `InvalidUpstream` when the host does not answer usefully.
        """
        group = host_group(question.target)
        refusal = await self._refusal(question, group)
        if refusal is not None:
            return refusal
        page = await self._lists.of_host(question.target, question.cursor)
        if page is None:
            return Found()
        repos = await self._worth_tracking(question.target, page, group)
        if page.cursor is None:
            return Found(repos=repos)
        if page.cursor == question.cursor:
            return replace(self._cut(question), repos=repos)
        then = replace(question, cursor=page.cursor, pages=question.pages + 1, failures=0)
        return Found(repos=repos, then=then)

    async def _refusal(self, question: Question, group: str) -> Found | None:
        """What follows where no more may be asked for, today or at all."""
        now, bounds = self._clock.now(), self._bounds
        if question.pages >= bounds.pages_of_host:
            return self._cut(question)
        pages, accounts = await self._rows.asked_of(group)
        if pages < bounds.pages_of_group and accounts < bounds.accounts_of_group:
            return None
        if now - question.wanted_at >= bounds.days * DAY_S:
            return self._cut(question)
        return Found(then=question, not_before=(day_of(now) + 1) * DAY_S)

    def _cut(self, question: Question) -> Found:
        log.warning("gaps.list_cut", host=question.target, pages=question.pages)
        return Found(is_cut=True)

    async def _worth_tracking(self, pds_url: str, page: ListingPage, group: str) -> list[Listed]:
        since = await self._rows.missed_since() - SKEW_S
        young = [each for each in page.repos if _is_of_the_gap(each, since)]
        unknown = await self._rows.unknown([each.did for each in young])
        asked, found = 0, []
        try:
            for each in young:
                if each.did in unknown:
                    asked += 1
                    if await self._is_worth_it(pds_url, each.did):
                        found.append(each)
        finally:
            await self._rows.note_asked(group, accounts=asked)
        return found

    async def _is_worth_it(self, pds_url: str, did: str) -> bool:
        try:
            names = await self._lists.collections_of(pds_url, did)
        except InvalidUpstream:
            return True  # the fetch will tell
        return any(map(self._is_in_scope, names or ()))


def _is_of_the_gap(listed: Listed, since: float) -> bool:
    """Whether an account that we do not know may have appeared in it."""
    if listed.status is not AccountStatus.ACTIVE:
        return False
    return listed.rev is None or tid_timestamp_us(listed.rev) / 1e6 >= since
