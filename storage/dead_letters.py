"""Dead letters: what upstream sent and we refused, bounded per DID and reason."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from indexer.model import DeadLetterDraft
from storage.rows import delete_rows

PER_DID_AND_REASON_MAX = 20
MESSAGE_CHARS_MAX = 1000

_INSERT = """
INSERT INTO dead_letter (reason, did, uri, seq, message, retry_count, created_at)
VALUES (?, ?, ?, ?, ?, 0, ?)
"""

_EVICT = """
DELETE FROM dead_letter WHERE did IS ? AND reason = ? AND id <= (
    SELECT id FROM dead_letter WHERE did IS ? AND reason = ?
    ORDER BY id DESC LIMIT 1 OFFSET ?)
"""

OLDER = "SELECT id FROM dead_letter WHERE created_at < ? ORDER BY id LIMIT ?"
"""Ids of some that are older. All letters are looked at: by a reader, which holds nobody up."""

_SETTLE = """
DELETE FROM dead_letter
WHERE did = ?1 AND last_retry_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM record JOIN repo ON repo.id = record.repo_id
    WHERE dead_letter.uri IS NOT NULL AND repo.did = ?1 AND record.problem IS NOT NULL
      AND record.path = substr(dead_letter.uri, length('at://' || ?1 || '/') + 1))
"""

IS_TRIED_AGAIN = """
record.problem IS NOT NULL AND EXISTS (
    SELECT 1 FROM dead_letter WHERE last_retry_at IS NOT NULL
    AND uri = 'at://' || (SELECT did FROM repo WHERE id = record.repo_id) || '/' || record.path)
"""
"""SQL that tells of a row of `record` whether it is refused and was to be tried again."""

_HAS_ONE_TRIED_AGAIN = f"""
SELECT EXISTS (
    SELECT 1 FROM repo JOIN dead_letter ON dead_letter.did = repo.did
    JOIN record ON record.repo_id = repo.id
        AND record.path = substr(dead_letter.uri, length('at://' || repo.did || '/') + 1)
    WHERE repo.id = ? AND {IS_TRIED_AGAIN})
"""  # noqa: S608 - constants


def insert_dead_letters(
    connection: sqlite3.Connection, drafts: Iterable[DeadLetterDraft], *, now: float
) -> None:
    """Keep refusals; the oldest of the same DID and reason give way beyond the bound."""
    for draft in drafts:
        connection.execute(
            _INSERT,
            (draft.reason, draft.did, draft.uri, draft.seq, draft.message[:MESSAGE_CHARS_MAX], now),
        )
        connection.execute(
            _EVICT,
            (draft.did, draft.reason, draft.did, draft.reason, PER_DID_AND_REASON_MAX),
        )


def delete_record_letters(connection: sqlite3.Connection, uris: Iterable[str]) -> None:
    """Forget the letters of records that have changed or gone."""
    delete_rows(connection, "dead_letter", "uri", uris)


def is_to_be_read_again(connection: sqlite3.Connection, repo_id: int | None) -> bool:
    """Whether the repo has a refused record that was to be tried again."""
    return bool(connection.execute(_HAS_ONE_TRIED_AGAIN, (repo_id,)).fetchone()[0])


def settle_retried(connection: sqlite3.Connection, did: str) -> None:
    """Forget letters that were to be tried again, now that the repo equals its host's.

    One about a record stays for as long as that record is still refused.
    """
    connection.execute(_SETTLE, (did,))
