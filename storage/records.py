"""Record rows, the truth of the index: written here and nowhere else."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from indexer.claims import SnapshotChunk
from indexer.denials import DENIED_PROBLEM, without_content
from indexer.errors import Check
from indexer.model import DeadLetterDraft, PreparedRecord, Source
from indexer.planning import Repo
from storage.dead_letters import delete_record_letters, insert_dead_letters
from storage.denied import denied_records
from storage.rows import delete_rows, insert_rows

PORTION_ROWS = 24
PORTION_BYTES = 36 * 1024
"""What is written of a snapshot before the live stream may have the writer: rows, and bytes of
their values (of several records).

A row costs its typed row and its search row, and the latter by the length of its text: a hundred
long records would hold up the live stream for longer than it may be late.
"""

_EXISTING = """
SELECT record.repo_id, record.path, record.id, record.cid, record.problem
FROM json_each(?) AS wanted
JOIN record ON record.repo_id = json_extract(wanted.value, '$[0]')
           AND record.path = json_extract(wanted.value, '$[1]')
"""

_INTO = "record (id, repo_id, path, cid, rev, value, problem, source, indexed_at)"

_UPDATE = """
ON CONFLICT (id) DO UPDATE SET cid = excluded.cid, rev = excluded.rev, value = excluded.value,
    problem = excluded.problem, source = excluded.source, indexed_at = excluded.indexed_at
"""


@dataclass(frozen=True, slots=True)
class RowWrite:
    """What becomes of one record row; `record` None deletes it."""

    did: str
    rev: str  # commit that says so
    record: PreparedRecord | None


@dataclass(frozen=True, slots=True)
class ProjectionWrite:
    """A record row that typed tables must follow."""

    record_id: int
    repo_id: int
    did: str
    path: str
    indexed_at: str
    record: PreparedRecord | None  # None: deleted
    is_new: bool


class Projector(Protocol):
    """Keeps typed tables and search in step with record rows, in the same transaction."""

    def write(self, connection: sqlite3.Connection, writes: Sequence[ProjectionWrite]) -> None:
        """Replace the derived rows of every given record."""

    def last_id(self, connection: sqlite3.Connection) -> int:
        """The last record that derived rows are kept of, which may outlive it for a while."""


class RecordTable:
    """Writes record rows with everything that follows from them."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector

    def write(
        self,
        connection: sqlite3.Connection,
        writes: Mapping[tuple[int, str], RowWrite],  # (repo id, path) -> last word on it
        *,
        source: Source,
        at: str,
        now: float,
    ) -> Counter[tuple[str, str]]:
        """Make the rows say what `writes` say; the number of rows by (collection, action).

        A record that already has the same CID and verdict is left alone and not counted. One that
        is kept without being valid counts as `refuse` too.
        """
        counts: Counter[tuple[str, str]] = Counter()
        if not writes:
            return counts
        existing = _load_existing(connection, writes)
        denied = denied_records(connection, (f"at://{w.did}/{key[1]}" for key, w in writes.items()))
        next_id = self._next_id(connection)
        rows: list[tuple[object, ...]] = []
        deletes: list[int] = []
        settled: list[str] = []  # URIs whose old dead letters no longer apply
        letters: list[DeadLetterDraft] = []
        projections: list[ProjectionWrite] = []
        for (repo_id, path), write in writes.items():
            found = existing.get((repo_id, path))
            record = _allowed(write, path, denied)
            if record is None:
                if found is None:
                    continue
                action, record_id = "delete", found[0]
                deletes.append(record_id)
            elif found is None:
                action, record_id, next_id = "create", next_id, next_id + 1
            elif found[1:] == (record.cid, record.problem):
                continue
            else:
                action, record_id = "update", found[0]
            if record is not None:
                rows.append(
                    (record_id, repo_id, path, record.cid, write.rev, record.value,
                     record.problem, source, at)
                )  # fmt: skip
            counts[path[: path.index("/")], action] += 1
            if found is not None and found[2] is not None:
                settled.append(f"at://{write.did}/{path}")
            if record is not None and record.problem not in (None, DENIED_PROBLEM):
                letters.append(_record_letter(write.did, path, f"{record.problem}"))
                counts[path[: path.index("/")], "refuse"] += 1
            projections.append(
                ProjectionWrite(
                    record_id, repo_id, write.did, path, at, record, is_new=action == "create"
                )
            )
        insert_rows(connection, _INTO, rows, on_conflict=_UPDATE)
        delete_rows(connection, "record", "id", deletes)
        delete_record_letters(connection, settled)
        insert_dead_letters(connection, letters, now=now)
        self._projector.write(connection, projections)
        return counts

    def _next_id(self, connection: sqlite3.Connection) -> int:
        """Row ids are handed out here: there is one writer, and derived rows need them at once.

        None is of a deleted record that is still searched by: the new one would be found by that.
        """
        found = connection.execute("SELECT max(id) FROM record").fetchone()[0]
        return max(found or 0, self._projector.last_id(connection)) + 1

    def empty(self, connection: sqlite3.Connection, repo: Repo, path: str, *, at: str) -> int:
        """Leave nothing of a record but its path and CID; how many rows had more."""
        row = connection.execute(
            "SELECT id, cid FROM record WHERE repo_id = ? AND path = ? AND problem IS NOT ?",
            (repo.id, path, DENIED_PROBLEM),
        ).fetchone()
        if row is None or repo.id is None:
            return 0
        record_id, cid = row
        connection.execute(
            "UPDATE record SET value = NULL, problem = ? WHERE id = ?", (DENIED_PROBLEM, record_id)
        )
        record = PreparedRecord(path, cid, None, DENIED_PROBLEM)
        self._projector.write(
            connection,
            [ProjectionWrite(record_id, repo.id, repo.did, path, at, record, is_new=False)],
        )
        return 1


def judge_again(
    connection: sqlite3.Connection, record_id: int, did: str, record: PreparedRecord
) -> None:
    """A stored value is held to other lexicons than when it came: its verdict and its letter."""
    connection.execute("UPDATE record SET problem = ? WHERE id = ?", (record.problem, record_id))
    delete_record_letters(connection, [f"at://{did}/{record.path}"])
    if record.problem is not None:
        letter = _record_letter(did, record.path, record.problem)
        insert_dead_letters(connection, [letter], now=time.time())


def _load_existing(
    connection: sqlite3.Connection, keys: Mapping[tuple[int, str], object]
) -> dict[tuple[int, str], tuple[int, str, str | None]]:
    """(repo id, path) -> (row id, CID, problem), for those of `keys` that have a row."""
    rows = connection.execute(_EXISTING, (json.dumps(list(keys)),))
    return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}


def _allowed(write: RowWrite, path: str, denied: frozenset[str]) -> PreparedRecord | None:
    """The record with as much of it as may be kept."""
    if denied and write.record is not None and f"at://{write.did}/{path}" in denied:
        return without_content(write.record)
    return write.record


def _record_letter(did: str, path: str, problem: str) -> DeadLetterDraft:
    return DeadLetterDraft(Check.RECORD, problem, did=did, uri=f"at://{did}/{path}")


def portions(chunk: SnapshotChunk) -> Iterator[SnapshotChunk]:
    """A chunk in one or more pieces, in key order, that together say what it says."""
    after, start, rows, size = chunk.after, 0, 0, 0
    for at, (path, _) in enumerate(chunk.leaves):
        record = chunk.records.get(path)
        if record is None:
            continue  # the row is as it should be
        length = len(record.value or b"")
        if rows and (rows == PORTION_ROWS or size + length > PORTION_BYTES):
            upto = chunk.leaves[at - 1][0]
            yield replace(chunk, after=after, upto=upto, leaves=chunk.leaves[start:at])
            after, start, rows, size = upto, at, 0, 0
        rows += 1
        size += length
    yield replace(chunk, after=after, leaves=chunk.leaves[start:])
