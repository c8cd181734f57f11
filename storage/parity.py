"""Whether a new generation holds what the records demand, before readers see it.

Which records have rows is compared for all of them; what the rows say, for a sample of records
that is spread over the whole index, and all of it where there are few; of the sample also whether
the search index finds its rows. Spans of records are held by themselves, each in a snapshot, and
its sample in further ones that are bounded by its text: a live index can be held against itself.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from storage.generations import Generation, GenerationState, find_generation
from storage.reading import read_only, snapshot
from storage.rebuild_parts import Preparing, Tell
from storage.search_queue import RECORD_TASK, REPO_TASK
from storage.search_sample import unfound
from storage.sqlite_errors import error_code
from storage.verification import Verification

SAMPLE_RECORDS = 1000
SAMPLE_PER_SPAN_MIN = 5
SLICE_RECORDS = 100
SLICE_CHARS = 500_000
"""Of a sample that is held against its rows in one step, whichever comes first: some tenths of a
second. A slice ends with the record that brings it to so much."""
DAMAGED_INDEX = "SQLITE_CORRUPT_VTAB"
"""What FTS5 says of its own tables; of the file itself SQLite says something else."""

_RECORDS = """
SELECT record.id, record.collection, problem IS NULL, repo.account_status = 'active', repo_id
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id > ? AND record.id <= ? ORDER BY record.id
"""

_NAME = """
SELECT repo.did || '/' || path FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id = ?
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Records that are held against their rows as one: those above the first and up to the last."""

    after_id: int
    upto_id: int
    share: float  # of them that are read in full


def share_of_sample(records: int) -> float:
    """How much of so many records is read in full."""
    return min(1.0, SAMPLE_RECORDS / max(records, 1))


def difference(
    index: Path, number: int, span: Span, preparing: Preparing, tell: Tell
) -> str | None:
    """What differs first, in generation `number` of the file, from what its records demand.

    None also where the generation is no longer in the making. `tell` is told of records that are
    done. Raises `sqlite3.Error` as the file gives it.
    """
    comparison = _Comparison(preparing, number, span)
    try:
        with closing(read_only(index)) as connection:
            found = None
            while found is None and comparison.is_going_on:
                before = int(comparison.held)
                with snapshot(connection):
                    found = comparison.step(connection)
                tell(int(comparison.held) - before)
            return found
    except sqlite3.Error as error:
        if error_code(error) == DAMAGED_INDEX:
            return f"the search index is damaged: {error}"
        raise


class _Comparison:
    """Of one span: the ids of all, then a sample of them slice by slice."""

    def __init__(self, preparing: Preparing, number: int, span: Span) -> None:
        self._preparing = preparing
        self._number = number
        self._span = span
        self._sample: list[int] | None = None  # what is still to be read in full, once it is chosen
        self._stands_for = 0.0  # records of the span, each of the sample
        self.held = 0.0  # records that are done

    @property
    def is_going_on(self) -> bool:
        """Whether a step is left."""
        return self._sample is None or bool(self._sample)

    def step(self, connection: sqlite3.Connection) -> str | None:
        """What differs first among the ids, or in the next slice of the sample."""
        generation = find_generation(connection, GenerationState.BUILDING)
        if generation is None or generation.number != self._number:
            self._sample = []
            return None
        if self._sample is not None:
            return self._compare_slice(connection, generation, self._sample)
        between = (self._span.after_id, self._span.upto_id)
        rows = connection.execute(_RECORDS, between).fetchall()
        wanted = max(round(len(rows) * self._span.share), SAMPLE_PER_SPAN_MIN)
        self._sample = [row[0] for row in rows[:: max(len(rows) // wanted, 1)]]
        self._stands_for = len(rows) / max(len(self._sample), 1)
        return self._compare_ids(connection, generation, rows, between)

    def _compare_ids(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        rows: list[tuple[int, str, int, int, int]],
        between: tuple[int, int],
    ) -> str | None:
        queue = generation.table("search_queue")
        owed, undecided = (
            {
                int(subject)
                for (subject,) in connection.execute(
                    f"SELECT subject FROM {queue} WHERE kind = ?",  # noqa: S608 - declared names
                    (task,),
                )
            }
            for task in (REPO_TASK, RECORD_TASK)
        )
        types, search = self._preparing.types, self._preparing.search
        search_table = generation.search_table(search)
        search_tables = {search_table: "rowid", f"{search_table}_docsize": "id"}
        wanted: defaultdict[str, set[int]] = defaultdict(set)  # table -> records with a row
        for record_id, collection, is_valid, is_visible, repo_id in rows:
            kind = types.get(collection)
            if kind is None or not is_valid:
                continue
            wanted[generation.table(kind.table)].add(record_id)
            if kind.search is not None:
                if repo_id in owed:
                    undecided.add(record_id)
                elif is_visible:
                    for table in search_tables:
                        wanted[table].add(record_id)
        columns = {generation.table(kind.table): "record_id" for kind in types.values()}
        for table, column in (columns | search_tables).items():
            found = connection.execute(
                f'SELECT {column} FROM "{table}" WHERE {column} > ? AND {column} <= ?',  # noqa: S608 - declared names
                between,
            )
            differing = {row[0] for row in found} ^ wanted[table]
            if table in search_tables:
                differing -= undecided
            if differing:
                record_id = min(differing)
                verb = "lacks" if record_id in wanted[table] else "should not have"
                return f"{table} {verb} {_name(connection, record_id)}"
        return None

    def _compare_slice(
        self, connection: sqlite3.Connection, generation: Generation, sample: list[int]
    ) -> str | None:
        """Hold the next records of the sample, as they are now, against their rows."""
        size = _slice_size(connection, sample)
        slice_, self._sample = sample[:size], sample[size:]
        self.held += size * self._stands_for
        types, search = self._preparing.types, self._preparing.search
        verification = Verification(connection, types, search, self._preparing.prepare)
        for found in verification.differences_among(slice_, generation):
            # A value that is not what its author signed is for a fetch to repair, not for a copy.
            if found.what not in {"cid", "value"}:
                return f"{found.what} of {found.subject}: {found.detail}"
        table = generation.search_table(search)
        missed = unfound(connection, table, search, slice_)
        return None if missed is None else f"{table} does not find row {missed[0]} by {missed[1]}"


def _name(connection: sqlite3.Connection, record_id: int) -> str:
    found = connection.execute(_NAME, (record_id,)).fetchone()
    return f"row {record_id} of no record" if found is None else str(found[0])


def _slice_size(connection: sqlite3.Connection, record_ids: list[int]) -> int:
    """How many of these records are a slice."""
    chars = 0
    for at, record_id in enumerate(record_ids[:SLICE_RECORDS], start=1):
        found = connection.execute("SELECT length(value) FROM record WHERE id = ?", (record_id,))
        chars += sum(length or 0 for (length,) in found)
        if chars >= SLICE_CHARS:
            return at
    return min(len(record_ids), SLICE_RECORDS)
