"""Accounts that appeared in a gap, looked for at the hosts where no relay lists them.

Every host's list is read to its end. An unknown account counts if its rev was made after the gap
began; its host then says which collections it has, and only one in scope makes it worth tracking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from indexer.errors import InvalidUpstream
from indexer.hosts import HostsPage
from indexer.listings import Listed, ListingPage, Question
from indexer.model import AccountStatus
from indexer.protocol.syntax import tid_timestamp_us

log = structlog.get_logger(__name__)

KIND = "newcomers"
"""Of a question."""

SKEW_S = 300.0
"""How far the clocks of hosts may be apart."""

HOST_PAGES_MAX = 20
ASKED_MAX = 10_000
"""Unknown accounts asked about in the life of a process; what is beyond is left to a pdsScan."""


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

    async def ask_hosts(self, hosts: Sequence[str], question: Question) -> None:
        """Look for newcomers at each of these hosts and each that we know.

        The gaps that wait for `question` wait for the answers.
        """

    async def unknown(self, dids: Sequence[str]) -> set[str]:
        """Those that are not tracked."""


class Newcomers:
    """Answers questions of the kind `newcomers`."""

    def __init__(
        self, rows: NewcomerRows, lists: Lists, *, is_in_scope: Callable[[str], bool]
    ) -> None:
        self._rows = rows
        self._lists = lists
        self._is_in_scope = is_in_scope  # of a collection
        self._asked = 0
        self._looked_since: set[float] = set()

    async def look_for(self, question: Question) -> None:
        """The relay lists no collections: ask the hosts that it lists, and those that we know.

        Once for all collections that were to be asked about from the same moment on.
        """
        if question.since in self._looked_since:
            return
        self._looked_since = {question.since}
        try:
            await self._rows.ask_hosts(await self._hosts(), question)
        except BaseException:
            self._looked_since = set()
            raise

    async def _hosts(self) -> list[str]:
        hosts: list[str] = []
        page = await self._lists.of_relay(None)
        if page is None:
            hosts.append(self._lists.relay_url)  # a PDS that is followed itself
        for _ in range(HOST_PAGES_MAX):
            if page is None:
                break
            hosts += page.urls
            page = None if page.cursor is None else await self._lists.of_relay(page.cursor)
        return list(dict.fromkeys(hosts))

    async def read_page(self, question: Question) -> tuple[list[Listed], Question | None]:
        """Accounts of the next page that are worth tracking, and what to ask then: None, nothing.

        Raises `Unavailable` or `InvalidUpstream` when the host does not answer usefully.
        """
        page = await self._lists.of_host(question.target, question.cursor)
        if page is None:
            return [], None
        since = await self._rows.missed_since() - SKEW_S
        young = [each for each in page.repos if _is_of_the_gap(each, since)]
        unknown = await self._rows.unknown([each.did for each in young])
        found = [
            each
            for each in young
            if each.did in unknown and await self._is_worth_it(question.target, each.did)
        ]
        if page.cursor is None or page.cursor == question.cursor:
            return found, None
        return found, replace(question, cursor=page.cursor, pages=question.pages + 1, failures=0)

    async def _is_worth_it(self, pds_url: str, did: str) -> bool:
        if self._asked >= ASKED_MAX:
            return False
        self._asked += 1
        if self._asked == ASKED_MAX:
            log.warning("gaps.newcomers_unasked", asked=ASKED_MAX)
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
