"""What a gap waits for, and how it ends: repaired, with what could not be compared in its row."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from indexer.lanes import Standing
from indexer.model import RepoState, Wanted

ATTEMPTS_MAX = 3
"""A repo that fails so often while it is waited for is the resync's own business."""

LET_GO_S = 21_600.0
"""Nor is a host waited for any longer that does not answer."""

GAPS_KEPT = 1_000
"""Repaired gaps, for people to look at."""

SETTLED_AT_ONCE = 500

_ENDED = ", ".join(
    f"'{state}'"
    for state in (
        RepoState.DELETED, RepoState.NOT_FOUND, RepoState.INVALID, RepoState.TOO_LARGE,
        RepoState.LIMITED, RepoState.FOREIGN, RepoState.DENIED,
    )
)  # fmt: skip

# Whether work is wanted again since then is not the gap's concern.
_IS_SETTLED = f"""
(verified_at > put_at
 OR (wanted & {Wanted.ACCOUNT | Wanted.CONTENT:d} = 0 AND claimed = 0)
 OR (repo.claim > gap_repo.claim AND claimed = 0 AND state IN ({_ENDED})))
"""

_IS_LET_GO = f"""
(repo.attempts >= gap_repo.attempts + {ATTEMPTS_MAX}
 OR (let_go_at <= ?2
     AND (repo.attempts > gap_repo.attempts
          OR EXISTS (SELECT 1 FROM turn
                     WHERE host = pds_url AND standing = {Standing.FAILED:d}))))
"""  # noqa: S608 - constants

# All repos that are waited for are looked at for these, and all questions: by readers.
ENDING = f"""
SELECT repo_id FROM gap_repo CROSS JOIN repo ON repo.id = gap_repo.repo_id
WHERE {_IS_SETTLED} OR {_IS_LET_GO} LIMIT ?1
"""  # noqa: S608 - constants
"""Up to ?1 repos that need not be waited for any longer at the time ?2."""

WAITS_SINCE = """
SELECT min(wanted_at) FROM (SELECT min(wanted_at) AS wanted_at FROM gap_question
                            UNION ALL SELECT min(wanted_at) FROM gap_repo)
"""
"""When the first gap was surveyed that waits for anything; NULL where none does."""

_AMONG = """
DELETE FROM gap_repo WHERE repo_id IN (
    SELECT repo_id FROM json_each(?1)
    CROSS JOIN gap_repo ON gap_repo.repo_id = json_each.value
    CROSS JOIN repo ON repo.id = gap_repo.repo_id WHERE {})
"""
_SETTLED = _AMONG.format(_IS_SETTLED)
_LET_GO = _AMONG.format(_IS_LET_GO) + "RETURNING wanted_at"

_UNREACHABLE = """
UPDATE gap SET unreachable = unreachable + ? WHERE repaired_at IS NULL AND surveyed_at >= ?
"""

_UNREAD = "UPDATE gap SET unread = unread + 1 WHERE repaired_at IS NULL AND surveyed_at >= ?"

_CLOSE = """
UPDATE gap SET repaired_at = ?
WHERE repaired_at IS NULL AND surveyed_at < ?
  AND NOT EXISTS (SELECT 1 FROM directory_cursor WHERE read_at < gap.detected_at)
RETURNING unreachable
"""

_FORGET = f"""
DELETE FROM gap WHERE repaired_at IS NOT NULL AND id <= (
    SELECT id FROM gap WHERE repaired_at IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET {GAPS_KEPT})
"""  # noqa: S608 - a constant

_AWAIT = f"""
INSERT INTO gap_repo (repo_id, wanted_at, put_at, let_go_at, claim, attempts)
SELECT id, ?2, ?3, ?3 + {LET_GO_S}, claim, attempts FROM repo WHERE id = ?1
ON CONFLICT DO UPDATE SET wanted_at = min(wanted_at, excluded.wanted_at),
                          put_at = excluded.put_at, claim = excluded.claim
"""  # noqa: S608 - a constant


def await_repos(
    connection: sqlite3.Connection, repo_ids: Iterable[int | None], *, wanted_at: float, now: float
) -> None:
    """Have the gaps surveyed at `wanted_at` or later wait for repos that differ from their host."""
    connection.executemany(_AWAIT, ((repo_id, wanted_at, now) for repo_id in repo_ids))


def settle_repos(connection: sqlite3.Connection, ending: Sequence[int], *, now: float) -> None:
    """Wait no longer for those among these repos that have been compared since, or cannot be.

    The latter are counted in the rows of the gaps that waited for them.
    """
    ids = json.dumps(ending)
    connection.execute(_SETTLED, (ids,))
    let_go = Counter(row[0] for row in connection.execute(_LET_GO, (ids, now)).fetchall())
    connection.executemany(_UNREACHABLE, ((count, at) for at, count in let_go.items()))


def count_unread(connection: sqlite3.Connection, *, wanted_at: float) -> None:
    """A list was not read to its end, and the gaps surveyed then or later were to know it."""
    connection.execute(_UNREAD, (wanted_at,))


def close_gaps(connection: sqlite3.Connection, waits_since: float, *, now: float) -> list[int]:
    """Mark as repaired what was surveyed earlier; for each the repos that it lacks."""
    closed = [left for (left,) in connection.execute(_CLOSE, (now, waits_since)).fetchall()]
    if closed:
        connection.execute(_FORGET)
    return closed
