"""A verified snapshot, and the commits buffered meanwhile, made into rows of a claimed repo."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from indexer.claims import Claim, Fetched, SnapshotChunk
from indexer.ingest.attempts import Result, Resync, Route
from indexer.ingest.portions import weight
from indexer.ingest.snapshot import Leaves, RepoSnapshot, compare_next, joined, prepare_chunk
from indexer.ingest.verification import RawFrame, Verifier
from indexer.metrics import Metrics
from indexer.model import RepoState
from indexer.planning import CommitSeen
from indexer.ports import RepoRows
from indexer.protocol.keys import VerifyingKey

PORTION_WRITES_MAX = 200
"""Records of buffered commits in one transaction, beside the live stream: less than 50 ms."""


class RepoMerge:
    """Does it in short transactions; the claim is released with the last one."""

    def __init__(
        self,
        rows: RepoRows,
        verifier: Verifier,
        *,
        metrics: Metrics,
        on_work: Callable[[], None],
        turn: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._turn = turn  # surrounds a piece of computing
        self._rows = rows
        self._verifier = verifier
        self._metrics = metrics
        self._on_work = on_work

    async def merge(
        self,
        claim: Claim,
        route: Route,
        snapshot: RepoSnapshot,
        key: VerifyingKey,
        host_rev: str | None,
    ) -> Resync:
        """Make the rows equal to the snapshot, chunk by chunk in key order.

        One chunk is made ready while the one before it is written.
        """
        chunk, rest = await self._prepared(claim, snapshot, None)
        while chunk.upto is not None:
            try:
                async with asyncio.TaskGroup() as group:
                    following = group.create_task(self._prepared(claim, snapshot, rest))
                    await self._apply(claim, route, chunk)
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
            chunk, rest = following.result()
        fetched = Fetched(
            rev=snapshot.commit.rev,
            data=snapshot.data_text,
            host_rev=host_rev,
            scope_id=self._verifier.scope.scope_id,
        )
        return await self.finish(claim, route, (fetched, chunk), key, is_confirmed=True)

    async def _prepared(
        self, claim: Claim, snapshot: RepoSnapshot, rest: Leaves | None
    ) -> tuple[SnapshotChunk, Leaves | None]:
        """The next chunk, and leaves beyond it that had been read with it."""
        leaves, rest, ours = await compare_next(self._rows, claim, snapshot, rest)
        leaves, beyond, texts, records = await prepare_chunk(
            snapshot, leaves, ours, self._verifier.prepare, turn=self._turn
        )
        rest = joined(beyond, rest)
        chunk = SnapshotChunk(
            after=leaves.after,
            upto=leaves.upto,
            leaves=texts,
            records=records,
            rev=snapshot.commit.rev,
        )
        return chunk, rest

    async def _apply(self, claim: Claim, route: Route, chunk: SnapshotChunk) -> None:
        changes = await self._rows.apply_chunk(claim, chunk, route.count)
        route.changes.update(changes)
        self._metrics.count_records(changes, "backfill")

    async def catch_up(self, claim: Claim, route: Route, key: VerifyingKey) -> Claim:
        """Apply what an active repo's doubtful key held up; the claim for what is left of it."""
        if claim.repo.state is not RepoState.ACTIVE or not claim.repo.is_key_stale:
            return claim
        after = 0
        while True:
            pending = await self._rows.load_pending(claim, after)
            for upto, commits in commit_portions(await self._verified(pending, key)):
                after = max(after, upto)
                done = await self._rows.catch_up(claim, commits, upto_id=after)
                route.changes.update(done.applied.records)
                self._metrics.count_applied(done.applied, source="backfill")
                if done.is_done:
                    return replace(claim, repo=done.repo)

    async def finish(
        self,
        claim: Claim,
        route: Route,
        brought: tuple[Fetched, SnapshotChunk] | None,
        key: VerifyingKey,
        *,
        is_confirmed: bool,
        look_again_at: float | None = None,
    ) -> Resync:
        """Set what was fetched and replay what was buffered meanwhile, until nothing is left."""
        result = Result.CURRENT if look_again_at is None else Result.PUT_OFF
        if brought is not None:
            result = Result.FETCHED
        after = 0
        fetched, chunk = brought or (None, None)
        while True:
            pending = await self._rows.load_pending(claim, after)
            for upto, commits in commit_portions(await self._verified(pending, key)):
                after = max(after, upto)
                done = await self._rows.finish(
                    claim,
                    fetched,
                    chunk,
                    commits,
                    upto_id=after,
                    is_confirmed=is_confirmed,
                    look_again_at=look_again_at,
                )
                route.changes.update(done.applied.records)
                self._metrics.count_applied(done.applied, source="backfill")
                fetched = chunk = None
                if done.is_done:
                    if done.repo.wanted:
                        self._on_work()
                    return Resync(result=result, records=done.records, reason=done.repo.reason)

    async def _verified(
        self, pending: list[tuple[int, bytes]], key: VerifyingKey
    ) -> list[tuple[int, CommitSeen]]:
        if not pending:
            return []
        frames = [RawFrame.decoded(data) for _, data in pending]
        async with self._turn():
            commits = await asyncio.to_thread(self._verifier.commits, frames, key.multibase)
        return [(row[0], commit) for row, commit in zip(pending, commits, strict=True)]


def commit_portions(
    commits: Sequence[tuple[int, CommitSeen]],
) -> Iterator[tuple[int, list[CommitSeen]]]:
    """Buffered commits in portions for one transaction each: (id of the last one, commits).

    There is always at least one, if only to end the claim.
    """
    portion: list[CommitSeen] = []
    last = taken = 0
    for identifier, commit in commits:
        if portion and taken + weight(commit) > PORTION_WRITES_MAX:
            yield last, portion
            portion, taken = [], 0
        portion.append(commit)
        last, taken = identifier, taken + weight(commit)
    yield last, portion
