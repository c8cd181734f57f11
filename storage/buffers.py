"""The buffers of live commits, as whoever holds a repo's claim empties them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from indexer.claims import Fetched, outrun
from indexer.errors import Check
from indexer.model import Wanted
from indexer.planning import CommitSeen, Repo, plan_buffered
from storage.session import Session


def replay_buffer(
    connection: sqlite3.Connection,
    session: Session,
    stored: Repo,
    fetched: Fetched | None,
    commits: Sequence[CommitSeen],
    *,
    upto_id: int,
    now: float,
) -> int | None:
    """Replay buffered commits, all up to `upto_id`; bytes of those that have come since.

    None: nothing is replayed, and all is kept for another look at the identity. It has changed
    since the claim began, so the key that the commits were verified with may be a revoked one.
    """
    if stored.wanted & Wanted.IDENTITY:
        return None
    rounds = _replay(connection, session, stored, fetched, commits, now=now)
    left = _drop_replayed(connection, stored, upto_id)
    connection.execute(
        "UPDATE repo SET pending_bytes = ?, rounds = ? WHERE id = ?", (left, rounds, stored.id)
    )
    return left


def _replay(
    connection: sqlite3.Connection,
    session: Session,
    stored: Repo,
    fetched: Fetched | None,
    commits: Sequence[CommitSeen],
    *,
    now: float,
) -> int:
    """Plan buffered commits; how many fetches in a row have been outrun at the same rev.

    They cannot be followed where older ones of the buffer were dropped.
    """
    is_holed, rounds = connection.execute(
        "SELECT is_holed, rounds FROM repo WHERE id = ?", (stored.id,)
    ).fetchone()
    if fetched is not None and (stored.rev is None or fetched.rev > stored.rev):
        rounds = 0
    for commit in commits:
        repo = session.expect(stored.did)
        change = plan_buffered(commit, repo, now=now)
        if is_holed and change.failed_check is Check.CHAIN:
            # Nothing that the repo did to us: such a fetch does not count towards its throttle.
            uncounted = replace(repo, desyncs=stored.desyncs, synced_at=stored.synced_at)
            session.replace(outrun(uncounted, rounds + 1, now=now))
            return int(rounds) + 1
        session.stage(change)
    return 0


def _drop_replayed(connection: sqlite3.Connection, repo: Repo, upto_id: int) -> int:
    """Forget buffered commits up to `upto_id`; bytes of those that have come since."""
    connection.execute(
        "DELETE FROM pending_commit WHERE repo_id = ? AND id <= ?", (repo.id, upto_id)
    )
    left: int = connection.execute(
        "SELECT coalesce(sum(length(frame)), 0) FROM pending_commit WHERE repo_id = ?", (repo.id,)
    ).fetchone()[0]
    return left


def has_pending(connection: sqlite3.Connection, repo: Repo) -> bool:
    """Whether anything is buffered for a repo."""
    found = connection.execute("SELECT 1 FROM pending_commit WHERE repo_id = ? LIMIT 1", (repo.id,))
    return found.fetchone() is not None


def drop_pending(connection: sqlite3.Connection, repo: Repo) -> None:
    """Forget what was buffered for a repo."""
    connection.execute("DELETE FROM pending_commit WHERE repo_id = ?", (repo.id,))
    connection.execute("UPDATE repo SET pending_bytes = 0, is_holed = 0 WHERE id = ?", (repo.id,))
