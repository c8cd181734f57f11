"""Whether a new generation holds what the records demand, before readers see it.

Which records have rows is compared for all of them; what the rows say, for a sample of records
that is spread over the whole index, and all of it where there are few; of the sample also whether
the search index finds its rows. Reads in snapshots of `CHUNK_ROWS` records, and of the sample of a
chunk in further ones that are bounded by its text, so that a live index can be held against itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from storage.generations import Generation, GenerationState, find_generation
from storage.projections import Projections
from storage.reading import read_only, snapshot
from storage.search_queue import RECORD_TASK, REPO_TASK
from storage.search_rows import PrepareStored
from storage.search_sample import unfound
from storage.sqlite_errors import error_code, translated
from storage.verification import Verification

CHUNK_ROWS = 5000
SAMPLE_RECORDS = 1000
SAMPLE_PER_CHUNK_MIN = 5
SLICE_RECORDS = 100
SLICE_CHARS = 500_000
"""Of a sample that is held against its rows in one step, whichever comes first: some tenths of a
second. A slice ends with the record that brings it to so much."""
ID_MAX = 2**63 - 1
DAMAGED_INDEX = "SQLITE_CORRUPT_VTAB"
"""What FTS5 says of its own tables; of the file itself SQLite says something else."""

_RECORDS = """
SELECT record.id, record.collection, repo.did || '/' || path, problem IS NULL,
       repo.account_status = 'active', repo_id
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id > ? ORDER BY record.id LIMIT ?
"""


class Parity:
    """One comparison of a generation in the making, chunk by chunk."""

    def __init__(
        self,
        path: Path,
        projections: Projections,
        prepare: PrepareStored,
        *,
        number: int,
        total: int,
    ) -> None:
        """Of generation `number` in the file at `path`, which holds some `total` records."""
        self._path = path
        self._projections = projections
        self._prepare = prepare
        self._number = number
        self._share = min(1.0, SAMPLE_RECORDS / max(total, 1))
        self._last = 0  # record that was compared
        self._sample: list[int] = []  # of the last chunk, what is still to be read in full
        self._stands_for = 0.0  # records of the chunk, each of the sample
        self._is_last = False  # chunk
        self.held = 0.0  # records that are done

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        return self._is_last and not self._sample

    async def step(self) -> str | None:
        """What differs first in the next chunk of records, or of a sample, if anything does."""
        return await asyncio.to_thread(self._step)

    def _step(self) -> str | None:
        """On a connection of its own: whoever waits for it may be cancelled and gone."""
        try:
            with (
                closing(read_only(self._path)) as connection,
                snapshot(connection),
            ):
                return self._compare(connection)
        except sqlite3.Error as error:
            if error_code(error) == DAMAGED_INDEX:
                return f"the search index is damaged: {error}"
            raise translated(error) from error

    def _compare(self, connection: sqlite3.Connection) -> str | None:
        generation = find_generation(connection, GenerationState.BUILDING)
        if generation is None or generation.number != self._number:
            self._is_last, self._sample = True, []
            return None
        if self._sample:
            return self._compare_slice(connection, generation)
        rows = connection.execute(_RECORDS, (self._last, CHUNK_ROWS)).fetchall()
        self._is_last = len(rows) < CHUNK_ROWS
        upto = ID_MAX if self._is_last else rows[-1][0]
        found = self._compare_ids(connection, generation, rows, (self._last, upto))
        self._last = upto
        if rows:
            wanted = max(round(len(rows) * self._share), SAMPLE_PER_CHUNK_MIN)
            self._sample = [row[0] for row in rows[:: max(len(rows) // wanted, 1)]]
            self._stands_for = len(rows) / len(self._sample)
        return found

    def _compare_ids(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        rows: list[tuple[int, str, str, int, int, int]],
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
        types, search = self._projections.types, self._projections.search
        search_table = generation.search_table(search)
        search_tables = {search_table: "rowid", f"{search_table}_docsize": "id"}
        wanted: defaultdict[str, set[int]] = defaultdict(set)  # table -> records with a row
        names = {}
        for record_id, collection, name, is_valid, is_visible, repo_id in rows:
            names[record_id] = name
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
                return f"{table} {verb} {names.get(record_id, f'row {record_id} of no record')}"
        return None

    def _compare_slice(self, connection: sqlite3.Connection, generation: Generation) -> str | None:
        """Hold the next records of the sample, as they are now, against their rows."""
        size = _slice_size(connection, self._sample)
        sample, self._sample = self._sample[:size], self._sample[size:]
        self.held += size * self._stands_for
        projections = self._projections
        verification = Verification(
            connection, projections.types, projections.search, self._prepare
        )
        for found in verification.differences_among(sample, generation):
            # A value that is not what its author signed is for a fetch to repair, not for a copy.
            if found.what not in {"cid", "value"}:
                return f"{found.what} of {found.subject}: {found.detail}"
        table = generation.search_table(projections.search)
        missed = unfound(connection, table, projections.search, sample)
        return None if missed is None else f"{table} does not find row {missed[0]} by {missed[1]}"


def _slice_size(connection: sqlite3.Connection, record_ids: list[int]) -> int:
    """How many of these records are a slice."""
    chars = 0
    for at, record_id in enumerate(record_ids[:SLICE_RECORDS], start=1):
        found = connection.execute("SELECT length(value) FROM record WHERE id = ?", (record_id,))
        chars += sum(length or 0 for (length,) in found)
        if chars >= SLICE_CHARS:
            return at
    return min(len(record_ids), SLICE_RECORDS)
