"""The repo table as a work queue: claims, snapshots, and how an attempt ends.

A claim is numbered. Whatever a worker brings back is written only while its number is still the
repo's: a later claim or a purge makes it `StaleClaim`. From `begin_fetch` on nobody but the claim
holder changes the repo's rows, because live commits of it are buffered.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from indexer.claims import (
    CHUNK_ROWS,
    Claim,
    Fetched,
    Finish,
    HostDenied,
    Identity,
    SnapshotChunk,
    identified,
    is_forgotten,
    looked_up,
    purged,
    purging,
    released,
    resumed,
)
from indexer.clock import Clock
from indexer.model import (
    AccountStatus,
    DeadLetterDraft,
    Priority,
    RepoState,
    Source,
    Wanted,
    utc_text,
)
from indexer.planning import CommitSeen, Repo, plan_discovery
from storage.buffers import drop_pending, has_pending, replay_buffer
from storage.database import Database
from storage.dead_letters import (
    IS_TRIED_AGAIN,
    insert_dead_letters,
    is_to_be_read_again,
    settle_retried,
)
from storage.denied import judged_by_host
from storage.repos import COLUMNS, insert_repo, load_repo, update_repos
from storage.room import untrack
from storage.session import Sessions
from storage.snapshots import PATH_MAX, SnapshotRows, current_row, ignored, row_id
from storage.tracked import TrackedRepos
from storage.turns import TurnQueue, claim_for, claim_from_row, give_back_all

T = TypeVar("T")

PENDING_FRAMES = 200
"""Buffered commits handed out at once."""

_IS_FOLLOWED = "state = 'active' AND account_status = 'active'"

SCOPED_AT_ONCE = 10_000
"""Row ids looked through in one transaction at start, while no stream waits for the writer."""

_LEAVE_SCOPE = f"""
UPDATE repo SET scope_id = NULL,
                wanted = iif({_IS_FOLLOWED}, wanted | {Wanted.CONTENT:d}, wanted),
                priority = iif({_IS_FOLLOWED}, min(priority, {Priority.REPAIR:d}), priority),
                retry_at = iif({_IS_FOLLOWED}, ?1, retry_at),
                fetch_at = iif({_IS_FOLLOWED}, min(fetch_at, ?1), fetch_at)
WHERE id > ?2 AND id <= ?3 AND scope_id <> ?4
"""  # noqa: S608 - constants

# A time to come is from a clock that was ahead.
_NOTE_OLDER = """
INSERT INTO rollback (repo_id, pds_url, since, host_rev) VALUES (?, ?, ?, ?)
ON CONFLICT (repo_id) DO UPDATE SET
    since = CASE WHEN pds_url = excluded.pds_url THEN min(since, excluded.since)
                 ELSE excluded.since END,
    pds_url = excluded.pds_url, host_rev = excluded.host_rev
RETURNING since
"""


# The host was asked right after the directory: what came while it was read is not compared.
_VERIFIED = "UPDATE repo SET verified_at = max(verified_at, identity_at) WHERE id = ?"


class ResyncStore:
    """Claims and their results. Satisfies what `indexer.ingest.resync` needs."""

    def __init__(
        self,
        database: Database,
        tracked: TrackedRepos,
        sessions: Sessions,
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._tracked = tracked
        self._sessions = sessions
        self._room = sessions.room
        self._clock = clock
        self._snapshots = SnapshotRows(database, sessions.records, sessions.room, clock=clock)
        queue = TurnQueue(database, self._room, clock=clock)
        self.claim_next = queue.claim_next
        self.next_due_at = queue.next_due_at
        self.judge = queue.judge

    async def give_back_all(self) -> None:
        """At start: no worker holds anything, so what was claimed is wanted again.

        How hosts did is forgotten: they may do better now.
        """
        await self._database.write(give_back_all)

    async def enter_scope(self, scope_id: str) -> int:
        """At start, before any event: what was read under another scope is not complete; how much.

        Repos that are followed are fetched, which brings what is missing and removes what is out of
        scope; hidden ones are when they are shown again. Until a fetch has come to them, which may
        take hours, they go on with the stream: their chain is whole.
        """
        now = self._clock.now()
        [(last,)] = await self._database.read("SELECT coalesce(max(id), 0) FROM repo")

        def change(connection: sqlite3.Connection, after: int) -> int:
            row = (now, after, after + SCOPED_AT_ONCE, scope_id)
            return connection.execute(_LEAVE_SCOPE, row).rowcount

        return sum(
            [
                await self._database.write(partial(change, after=after))
                for after in range(0, last, SCOPED_AT_ONCE)
            ]
        )

    async def claim_repo(self, did: str, *, is_operator: bool = True) -> Claim:
        """Claim one repo for all kinds of work, now; unknown ones are tracked.

        What is left to do afterwards comes first if it was for an operator. A worker that holds an
        older claim finds it stale and gives up. Raises `RepoLimited` for an unknown one, unless it
        is for an operator, while no new repos are taken in.
        """
        now = self._clock.now()
        everything = Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT

        def change(connection: sqlite3.Connection) -> Claim:
            repo, is_new = load_repo(connection, did), False
            if repo is None:
                if not is_operator:
                    self._room.check_new(connection)
                new = plan_discovery(did).repo
                if new is None:
                    raise AssertionError("a discovery makes a repo")
                repo = replace(new, id=insert_repo(connection, new, at=utc_text(now)))
                is_new = is_operator
            taken = replace(
                repo,
                claim=repo.claim + 1,
                claimed=everything,
                wanted=Wanted.NOTHING,
                priority=Priority.OPERATOR if is_operator else repo.priority,
                state=repo.state if repo.state is RepoState.ACTIVE else RepoState.RESYNCING,
            )
            update_repos(connection, [(repo, taken)], at=utc_text(now))
            if is_operator and repo.state is RepoState.LIMITED:
                connection.execute("UPDATE repo SET is_unlimited = 1 WHERE id = ?", (repo.id,))
            row = connection.execute(
                f"SELECT {COLUMNS}, pds_url FROM repo WHERE did = ?",  # noqa: S608 - a constant
                (did,),
            ).fetchone()
            return replace(claim_from_row(row), is_new=is_new)

        return await claim_for(
            self._database, change, committed=lambda _: self._tracked.add((did,)), now=now
        )

    async def save_identity(self, claim: Claim, identity: Identity) -> Claim:
        """Keep what the DID document says; the claim with it. Raises `HostDenied`."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection, repo: Repo) -> Claim:
            handle, pds_url = connection.execute(
                "SELECT handle, pds_url FROM repo WHERE id = ?", (repo.id,)
            ).fetchone()
            verified = identity.handle
            if identity.is_handle_unasked and verified != handle:
                verified = None
            is_news = (
                (repo.signing_key, pds_url) != (identity.signing_key, identity.pds_url)
                or verified not in {None, handle}  # a lost one may be the former one
            )
            was_known = pds_url is not None or repo.identity_at > 0.0  # though it named no host
            has_moved = was_known and identity.pds_url not in {None, pds_url}
            known = looked_up(
                repo, identity.signing_key, is_news=is_news, has_moved=has_moved, now=now
            )
            known = replace(known, identity_at=now - identity.age_s)
            known = judged_by_host(connection, known, identity.pds_url)
            update_repos(connection, [(repo, known)], at=utc_text(now))
            connection.execute(
                "UPDATE repo SET handle = ?, pds_url = ?, host_group = ? WHERE id = ?",
                (verified, identity.pds_url, identity.host_group, repo.id),
            )
            return replace(claim, repo=known, pds_url=identity.pds_url)

        def note(saved: Claim) -> None:
            self._tracked.forget_key(claim.did)
            is_denied = saved.repo.account_status is AccountStatus.DENIED
            (self._tracked.deny if is_denied else self._tracked.allow)((claim.did,))

        saved = await self._change(claim, change, committed=note)
        if saved.repo.account_status is AccountStatus.DENIED:
            raise HostDenied(f"{claim.did}: {saved.repo.reason}")
        return saved

    async def catch_up(
        self, claim: Claim, commits: Sequence[CommitSeen], *, upto_id: int
    ) -> Finish:
        """Replay verified commits that waited for the key that is now saved; the claim stays.

        `commits` are all buffered ones up to `upto_id`. Once none is left, live commits of the
        repo are applied as they come, however long its host takes to answer.
        """
        self._room.check()
        now = self._clock.now()

        def change(connection: sqlite3.Connection, stored: Repo) -> Finish:
            session = self._sessions.open(connection, Source.BACKFILL, now)
            session.load((stored.did,))
            left = replay_buffer(
                connection, session, stored, None, commits, upto_id=upto_id, now=now
            )
            repo = session.expect(stored.did)
            is_done = not left or repo.state is not RepoState.ACTIVE
            if is_done:
                repo = identified(repo)
                session.replace(repo)
            applied = session.flush()
            if is_done and left is not None:
                drop_pending(connection, stored)
            return Finish(applied, repo, 0, is_done)

        return await self._change(claim, change)

    async def begin_fetch(self, claim: Claim) -> Claim:
        """From here on live commits of the repo are buffered: call before the first request."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection, repo: Repo) -> Claim:
            fetching = replace(repo, state=RepoState.RESYNCING)
            update_repos(connection, [(repo, fetching)], at=utc_text(now))
            return replace(claim, repo=fetching)

        return await self._change(claim, change)

    async def cids_between(self, claim: Claim, after: str, upto: str | None) -> dict[str, str]:
        """The first of our rows with after < path <= upto, in key order: path -> CID text.

        One that was refused and is to be tried again has an empty text, which differs from any.
        """
        rows = await self._database.read(
            f"SELECT path, CASE WHEN {IS_TRIED_AGAIN} THEN '' ELSE cid END FROM record"  # noqa: S608 - a constant
            " WHERE repo_id = ? AND path > ? AND path <= ? ORDER BY path LIMIT ?",
            (claim.repo.id, after, PATH_MAX if upto is None else upto, CHUNK_ROWS),
        )
        return {row[0]: row[1] for row in rows}

    async def apply_chunk(
        self,
        claim: Claim,
        chunk: SnapshotChunk,
        on_compared: Callable[[int], Awaitable[None]] = ignored,
    ) -> Counter[tuple[str, str]]:
        """Make our rows of the chunk's range equal to its leaves; rows by (collection, action).

        `on_compared` is told after each transaction how many leaves it has dealt with.
        Until `finish` the repo's rows count as incomplete. Raises `RepoLimited` for more than a
        repo may have.
        """
        return await self._snapshots.apply(claim, chunk, on_compared)

    async def note_older(self, claim: Claim, pds_url: str, host_rev: str) -> float:
        """Remember that a host shows less than we hold; since when it does, in unix seconds.

        Forgotten when the repo is found equal, and begun anew by another host.
        """
        now = self._clock.now()

        def change(connection: sqlite3.Connection, repo: Repo) -> float:
            row = connection.execute(_NOTE_OLDER, (repo.id, pds_url, now, host_rev)).fetchone()
            return float(row[0])

        return await self._change(claim, change)

    async def load_pending(self, claim: Claim, after_id: int) -> list[tuple[int, bytes]]:
        """The oldest buffered commits after `after_id`: (id, raw frame)."""
        rows = await self._database.read(
            "SELECT id, frame FROM pending_commit WHERE repo_id = ? AND id > ? ORDER BY id LIMIT ?",
            (claim.repo.id, after_id, PENDING_FRAMES),
        )
        return [(row[0], row[1]) for row in rows]

    async def finish(
        self,
        claim: Claim,
        fetched: Fetched | None,
        last_chunk: SnapshotChunk | None,
        commits: Sequence[CommitSeen],
        *,
        upto_id: int,
        is_confirmed: bool,
        look_again_at: float | None = None,
    ) -> Finish:
        """Set the fetched commit, replay verified buffered commits upon it, release the claim.

        `last_chunk` is the end of the snapshot, applied here so that a small repo changes in one
        transaction; of a long one only the last portion is. `commits` are all buffered ones up to
        `upto_id`. If more have been buffered since, the claim stays and `is_done` is False: call
        again with those and `fetched` None.
        With `look_again_at` (unix seconds) the repo is to be compared with its host once more.
        """
        merged, last = Counter[tuple[str, str]](), None
        if last_chunk is not None:
            merged, last = await self._snapshots.apply_beginning(claim, last_chunk)
        self._room.check()
        now = self._clock.now()

        def change(connection: sqlite3.Connection, stored: Repo) -> Finish:
            session = self._sessions.open(connection, Source.BACKFILL, now)
            session.load((stored.did,))
            if last is not None:
                session.applied.records += merged + self._snapshots.merge(
                    connection, stored, last, now
                )
            session.replace(resumed(stored, fetched, is_confirmed=is_confirmed, now=now))
            left = replay_buffer(
                connection, session, stored, fetched, commits, upto_id=upto_id, now=now
            )
            repo = session.expect(stored.did)
            is_done = not left or repo.state in {RepoState.DESYNCHRONIZED, RepoState.ERROR}
            if is_done:
                repo = released(repo, look_again_at=look_again_at, now=now)
                if repo.wanted & Wanted.CONTENT and is_to_be_read_again(connection, repo.id):
                    # It was asked for during the fetch, which may have passed the place by then.
                    repo = replace(repo, scope_id=None)
                session.replace(repo)
            applied = session.flush()
            if is_confirmed and look_again_at is None:
                connection.execute(_VERIFIED, (stored.id,))
                connection.execute("DELETE FROM rollback WHERE repo_id = ?", (stored.id,))
            if not is_done:
                return Finish(applied, repo, 0, is_done)
            if left is not None:
                drop_pending(connection, stored)
            applied.refused += self._room.limit_repos(connection, (row_id(stored),))
            if is_confirmed and repo.state is RepoState.ACTIVE:
                settle_retried(connection, stored.did)
            records = connection.execute(
                "SELECT count(*) FROM record WHERE repo_id = ?", (stored.id,)
            ).fetchone()[0]
            return Finish(applied, repo, records, is_done)

        return await self._change(claim, change)

    async def settle(
        self,
        claim: Claim,
        ending: Callable[[Repo], Repo],
        *,
        letter: DeadLetterDraft | None = None,
    ) -> Repo:
        """End a claim without new rows; `ending` says how the row becomes.

        Of what an operator named and nobody knows, not even the row is kept.
        """
        now = self._clock.now()

        def change(connection: sqlite3.Connection, repo: Repo) -> Repo:
            settled = ending(repo)
            update_repos(connection, [(repo, settled)], at=utc_text(now))
            if is_forgotten(claim, settled) and not has_pending(connection, repo):
                untrack(connection, [row_id(repo)])
                return settled
            if not settled.is_key_stale:
                drop_pending(connection, repo)
            if letter is not None:
                insert_dead_letters(connection, [letter], now=now)
            return settled

        return await self._change(claim, change)

    async def purge(self, claim: Claim, reason: str) -> Counter[tuple[str, str]]:
        """Delete all rows of a repo whose account is gone, hidden first, in short transactions."""
        now = self._clock.now()
        at = utc_text(now)
        total: Counter[tuple[str, str]] = Counter()

        def begin(connection: sqlite3.Connection, repo: Repo) -> None:
            update_repos(connection, [(repo, purging(repo, reason))], at=at)

        def change(connection: sqlite3.Connection, repo: Repo) -> Counter[tuple[str, str]] | None:
            deleted = self._snapshots.delete_some(connection, repo, now)
            if deleted:
                return deleted
            update_repos(connection, [(repo, purged(repo, now=now))], at=at)
            connection.execute("DELETE FROM rollback WHERE repo_id = ?", (repo.id,))
            drop_pending(connection, repo)
            settle_retried(connection, repo.did)
            return None

        await self._change(claim, begin)
        while (deleted := await self._change(claim, change)) is not None:
            total += deleted
        return total

    async def _change(
        self,
        claim: Claim,
        change: Callable[[sqlite3.Connection, Repo], T],
        *,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Run `change` with the row as it is now, if the claim is still the current one."""

        def guarded(connection: sqlite3.Connection) -> T:
            return change(connection, current_row(connection, claim))

        return await self._database.write(guarded, committed=committed)
