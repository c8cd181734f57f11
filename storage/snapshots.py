"""Records of a fetched repo written over what we hold of it, in transactions that give way."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from indexer.claims import DELETED_ROWS, Claim, SnapshotChunk, StaleClaim
from indexer.clock import Clock
from indexer.model import Source, utc_text
from indexer.planning import Repo
from storage.database import Database, IsOver
from storage.records import RecordTable, RowWrite, portions
from storage.repos import load_repo, update_repos
from storage.room import Room

PATH_MAX = "\U0010ffff"
"""Greater than any record path."""


async def ignored(_: int) -> None:
    """Nobody wants to be told."""


class SnapshotRows:
    """Makes rows of a claimed repo equal to portions of its snapshot."""

    def __init__(
        self, database: Database, records: RecordTable, room: Room, *, clock: Clock
    ) -> None:
        self._database = database
        self._records = records
        self._room = room
        self._clock = clock

    async def apply(
        self, claim: Claim, chunk: SnapshotChunk, on_compared: Callable[[int], Awaitable[None]]
    ) -> Counter[tuple[str, str]]:
        """Write a chunk in as few transactions as the live stream allows.

        The rows changed, by (collection, action). Until the claim ends the repo's rows count as
        incomplete. `on_compared` is told after each transaction how many leaves it has dealt with.
        Raises `RepoLimited` for more than a repo may have.
        """
        return await self._apply(claim, list(portions(chunk)), on_compared)

    async def apply_beginning(
        self, claim: Claim, chunk: SnapshotChunk
    ) -> tuple[Counter[tuple[str, str]], SnapshotChunk]:
        """The same but for its last portion, which comes with the rows changed."""
        *parts, last = portions(chunk)
        return await self._apply(claim, parts, ignored), last

    async def _apply(
        self,
        claim: Claim,
        parts: Sequence[SnapshotChunk],
        on_compared: Callable[[int], Awaitable[None]],
    ) -> Counter[tuple[str, str]]:
        changes: Counter[tuple[str, str]] = Counter()
        left = parts
        while left:
            done, changed = await self._apply_some(claim, left)
            await on_compared(sum(len(part.leaves) for part in left[:done]))
            left = left[done:]
            changes += changed
        return changes

    async def _apply_some(
        self, claim: Claim, parts: Sequence[SnapshotChunk]
    ) -> tuple[int, Counter[tuple[str, str]]]:
        """How many of the first are written by one transaction, at least one, and the changes."""
        self._room.check()
        now = self._clock.now()

        def change(
            connection: sqlite3.Connection, is_over: IsOver
        ) -> tuple[int, Counter[tuple[str, str]]]:
            repo = current_row(connection, claim)
            update_repos(connection, [(repo, replace(repo, scope_id=None))], at=utc_text(now))
            changes: Counter[tuple[str, str]] = Counter()
            done = 0
            while done < len(parts) and not (done and is_over()):
                changes += self.merge(connection, repo, parts[done], now)
                done += 1
            self._room.check_repo(connection, row_id(repo))
            return done, changes

        return await self._database.write_some(change)

    def merge(
        self, connection: sqlite3.Connection, repo: Repo, chunk: SnapshotChunk, now: float
    ) -> Counter[tuple[str, str]]:
        """Write one portion as a part of the caller's transaction."""
        rows = connection.execute(
            "SELECT path, cid FROM record WHERE repo_id = ? AND path > ? AND path <= ?",
            (repo.id, chunk.after, PATH_MAX if chunk.upto is None else chunk.upto),
        )
        ours: dict[str, str] = dict(rows.fetchall())
        leaves = dict(chunk.leaves)
        writes = {
            (row_id(repo), path): RowWrite(repo.did, chunk.rev, None)
            for path in ours.keys() - leaves.keys()
        }
        for path, cid in chunk.leaves:
            if ours.get(path) != cid or path in chunk.records:
                writes[row_id(repo), path] = RowWrite(repo.did, chunk.rev, chunk.records[path])
        return self._records.write(
            connection, writes, source=Source.BACKFILL, at=utc_text(now), now=now
        )

    def delete_some(
        self, connection: sqlite3.Connection, repo: Repo, now: float
    ) -> Counter[tuple[str, str]]:
        """Delete some rows of a repo as a part of the caller's transaction; none: all are gone."""
        rows = connection.execute(
            "SELECT path FROM record WHERE repo_id = ? ORDER BY path LIMIT ?",
            (repo.id, DELETED_ROWS),
        )
        writes = {(row_id(repo), path): RowWrite(repo.did, "", None) for (path,) in rows}
        return self._records.write(
            connection, writes, source=Source.BACKFILL, at=utc_text(now), now=now
        )


def current_row(connection: sqlite3.Connection, claim: Claim) -> Repo:
    """The row as it is now. Raises `StaleClaim` where it is no longer the claim's."""
    repo = load_repo(connection, claim.did)
    if repo is None or repo.claim != claim.repo.claim or not repo.claimed:
        raise StaleClaim(f"{claim.did}: claim {claim.repo.claim} is no longer current")
    return repo


def row_id(repo: Repo) -> int:
    """The id of a repo that is stored."""
    if repo.id is None:
        raise AssertionError("a claimed repo is stored")
    return repo.id
