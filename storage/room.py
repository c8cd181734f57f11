"""How much more may be stored: of one repo, of new repos, and altogether."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection

from indexer.errors import LocalBusy, RepoLimited
from indexer.limits import Limit, Limits
from indexer.model import RepoState

_OVER = """
SELECT id, records, record_bytes FROM repo
WHERE id IN (SELECT value FROM json_each(?)) AND is_unlimited = 0
  AND (records > ? OR record_bytes > ?)
"""

_WAITING = "SELECT total FROM tally WHERE kind = 'repo_state' AND name = ?"

RESERVE_BYTES = 64 * 1024 * 1024
"""Held for the moment when the disk is full. Twice as much must be free before anything is taken
in again, half of it to be held once more."""

WALK_S_MIN = 600.0
"""Repos that were refused are looked for at most so often."""

_REFUSED_AGAIN = f"""
UPDATE gap SET surveyed_at = NULL,
               not_before = max(not_before, ?1, coalesce(surveyed_at + {WALK_S_MIN}, 0.0))
WHERE reason = 'discovery' AND repaired_at IS NULL
  AND (surveyed_at IS NOT NULL OR not_before < ?1)
"""  # noqa: S608 - a constant

_DISCOVERY_GAP = """
INSERT INTO gap (url, reason, after_at, detected_at, not_before)
SELECT ?1, 'discovery', ?2, ?2, ?3
WHERE NOT EXISTS (SELECT 1 FROM gap WHERE reason = 'discovery' AND repaired_at IS NULL)
"""


class Room:
    """Shared by all that write; what the file takes is measured by whoever looks after it."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.db_bytes = 0
        """Of the file, in use."""
        self.is_disk_full = False
        """Whether a transaction has lately found no space."""

    @property
    def is_discovery_stopped(self) -> bool:
        """Whether no new repo is taken in for want of space."""
        limits = self.limits
        return self.is_disk_full or self.db_bytes >= limits.db_bytes_max - limits.db_bytes_reserve

    @property
    def problem(self) -> str | None:
        """Why nothing more is taken in at all, or None."""
        if self.is_disk_full:
            mebibytes = 2 * RESERVE_BYTES // 2**20
            return f"the disk is full: intake goes on once {mebibytes} MiB are free"
        if self.db_bytes >= self.limits.db_bytes_max:
            return "limits.db_bytes_max is reached"
        return None

    def notes(self) -> dict[str, str]:
        """What an operator should know of it: that no new repo is taken in, and why."""
        if not self.is_discovery_stopped:
            return {}
        why = self.problem or "the store is close to limits.db_bytes_max"
        return {"discovery": f"no new repos are taken in: {why}"}

    def check(self) -> None:
        """Raises `LocalBusy` while nothing more is taken in."""
        if self.problem is not None:
            raise LocalBusy(self.problem)

    def refusal(self, connection: sqlite3.Connection) -> Limit | None:
        """Why no further repo may be tracked, or None."""
        if self.is_discovery_stopped:
            return Limit.DB_BYTES_MAX
        found = connection.execute(_WAITING, (RepoState.PENDING,)).fetchone()
        is_full = found is not None and found[0] >= self.limits.pending_max
        return Limit.PENDING_MAX if is_full else None

    def check_new(self, connection: sqlite3.Connection) -> None:
        """Raises `RepoLimited` while no further repo may be tracked."""
        limit = self.refusal(connection)
        if limit is not None:
            raise RepoLimited(limit)

    def check_repo(self, connection: sqlite3.Connection, repo_id: int) -> None:
        """Raises `RepoLimited` for a repo that holds more than it may."""
        for limit in self._over(connection, (repo_id,)).values():
            raise RepoLimited(limit)

    def limit_repos(
        self, connection: sqlite3.Connection, repo_ids: Collection[int]
    ) -> Counter[Limit]:
        """End the following of those that hold more than they may; how many met which bound.

        With it goes what was buffered for them, which nobody would ever look at.
        """
        met: Counter[Limit] = Counter()
        for repo_id, limit in self._over(connection, repo_ids).items():
            connection.execute(
                "UPDATE repo SET state = ?, reason = ?, wanted = 0, scope_id = NULL,"
                " pending_bytes = 0, is_holed = 0 WHERE id = ?",
                (RepoState.LIMITED, f"over limits.{limit}", repo_id),
            )
            connection.execute("DELETE FROM pending_commit WHERE repo_id = ?", (repo_id,))
            met[limit] += 1
        return met

    def _over(self, connection: sqlite3.Connection, repo_ids: Collection[int]) -> dict[int, Limit]:
        """Those among these repos that hold more than they may, with the bound they are over."""
        limits = self.limits
        found = connection.execute(
            _OVER, (json.dumps(list(repo_ids)), limits.records_per_repo, limits.bytes_per_repo)
        )
        return {
            repo_id: limit
            for repo_id, records, record_bytes in found
            if (limit := limits.exceeded_by(records, record_bytes)) is not None
        }


def open_discovery_gap(
    connection: sqlite3.Connection, url: str, *, now: float, not_before: float = 0.0
) -> int:
    """New repos were not taken in, and are to be looked for from `not_before` on.

    One gap stands for all of them until it is repaired: 0 where there is one. If its repair has
    begun, it begins once more: what was refused since may not be found by it.
    """
    connection.execute(_REFUSED_AGAIN, (not_before,))
    return connection.execute(_DISCOVERY_GAP, (url, now, not_before)).rowcount


def untrack(connection: sqlite3.Connection, repo_ids: Collection[int]) -> None:
    """Forget repos that hold no rows."""
    each = [(repo_id,) for repo_id in repo_ids]
    connection.executemany("DELETE FROM pending_commit WHERE repo_id = ?", each)
    connection.executemany("DELETE FROM repo WHERE id = ?", each)
