"""What a freshness scan decides about repos, written down, and what it waits for because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

from indexer.freshness import Decision, Scan, Wait
from indexer.model import Operation
from indexer.operations.operation import Context, insist
from indexer.planning import Repo
from indexer.ports import Compared

WAITS_MAX = 500
"""Repos waited for at the same time; beyond it no further ones are asked about."""

LOOK_S = 0.25
LOOK_REPOS = 200


class DecidedRows(Protocol):
    """The store as decisions need it."""

    async def load(self, dids: Collection[str]) -> Sequence[Repo]:
        """The repos as they are now."""

    async def decide(
        self,
        scan: Scan,
        dids: Collection[str],
        decide: Callable[[Repo], Decision],
        *,
        pds_url: str | None = None,
    ) -> tuple[Operation | None, Mapping[str, Decision]]:
        """Apply `decide` to those of the repos that are left to visit, at `pds_url` if given.

        Returns the operation's row if it has changed, and the decisions.
        """


class Visits:
    """The scan's decisions. Those that have to wait for something are looked at again and again."""

    def __init__(
        self,
        rows: DecidedRows,
        scan: Scan,
        context: Context,
        look_again: Callable[[Repo, Wait], Decision],
    ) -> None:
        self._rows = rows
        self._scan = scan
        self._context = context
        self._look_again = look_again
        self._waits: dict[str, Wait] = {}
        self._changed = asyncio.Event()

    async def decide(
        self,
        dids: Collection[str],
        decide: Callable[[Repo], Decision],
        *,
        pds_url: str | None = None,
    ) -> Mapping[str, Decision]:
        """Apply `decide` to those that are left to visit, and begin to wait where need be."""
        step = partial(self._rows.decide, self._scan, dids, decide, pds_url=pds_url)
        row, decisions = await insist(step)
        if row is not None:
            self._context.take(row)
        for did, decision in decisions.items():
            self._waits.pop(did, None)
            if decision.wait is not None:
                self._waits[did] = decision.wait
        self._changed.set()
        return decisions

    def is_waited_for(self, did: str) -> bool:
        """Whether what becomes of the repo is already waited for."""
        return did in self._waits

    async def begin(self, did: str) -> bool:
        """Say that an attempt at the repo begins; False for one that is to be left alone."""
        is_begun = await self._context.begin(did)
        if not is_begun:
            self._forget([did])
        return is_begun

    async def put_down(self, did: str) -> None:
        """Say that the attempt is over; what became of the repo may be waited for much longer."""
        await self._context.put_down(did)

    def compared(self, did: str) -> Compared:
        """What an attempt at the repo is to tell of its progress."""
        return self._context.compared(did)

    async def room(self) -> None:
        """Wait until not too many are waited for."""
        await self._fewer(WAITS_MAX)

    async def over(self) -> None:
        """Wait until nothing is waited for."""
        await self._fewer(1)

    async def _fewer(self, limit: int) -> None:
        while len(self._waits) >= limit:
            self._changed.clear()
            await self._changed.wait()

    async def tend(self) -> None:
        """Look at what is waited for, again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            dids = list(self._waits)[:LOOK_REPOS]
            for did in dids:
                self._waits[did] = self._waits.pop(did)
            repos = await insist(partial(self._rows.load, dids)) if dids else ()
            self._forget(set(dids) - {repo.did for repo in repos})
            moved = [repo.did for repo in repos if self._has_moved(repo)]
            if moved:
                self._forget(set(moved) - (await self.decide(moved, self._look)).keys())

    def _forget(self, dids: Collection[str]) -> None:
        """Wait no more for what is not tracked any longer, or settled already."""
        for did in dids:
            self._waits.pop(did, None)
        if dids:
            self._changed.set()

    def _has_moved(self, repo: Repo) -> bool:
        wait = self._waits.get(repo.did)
        return wait is not None and self._look_again(repo, wait).wait != wait

    def _look(self, repo: Repo) -> Decision:
        wait = self._waits.get(repo.did)
        return Decision(repo=repo) if wait is None else self._look_again(repo, wait)
