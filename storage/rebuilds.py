"""A new generation of the derived tables, made from `record` beside the one that readers see.

Changes of records are written to both from the first moment on, whatever their place in the copy,
which therefore ends: it goes up to the newest record that was there when it began. It reads ahead,
outside of any transaction; what it writes, it first compares with the row as it is then, and leaves
alone what has changed, because whoever changed it has written its new rows. Eprints come last: when
they do, the labels and tags that their search rows hold are there, so that each is written once.

Every step is one short transaction, in which the place it has come to and the operation's progress
are saved with it. The swap is one of them.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from indexer.model import Operation, PreparedRecord
from storage.database import Database
from storage.generation_swap import swap_generations
from storage.generations import (
    IN_USE,
    Generation,
    GenerationState,
    add_generation,
    current_generation,
    find_generation,
    generation_from_row,
    next_number,
)
from storage.operations import load_operation
from storage.parity import Parity
from storage.projections import Projections
from storage.records import ProjectionWrite, judge_again
from storage.search_rows import PrepareStored, SearchRows

STEP_S = 0.025
"""Time that a step takes of the writer before it commits."""

PART_ROWS = 32
"""Records written between two looks at the clock."""

SEARCH_ROWS = 50

_NEXT = """
SELECT record.id, repo_id, repo.did, path, cid, value, problem
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.collection = ? AND record.id > ? AND record.id <= ? ORDER BY record.id LIMIT ?
"""

_COLLECTIONS = "SELECT name FROM tally WHERE kind = 'collection' AND total > 0"

_TOTAL = "SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'collection'"

_AS_THEY_ARE = """
SELECT id, repo_id, path, cid, problem FROM record WHERE id IN (SELECT value FROM json_each(?))
"""

_BEGIN = """
UPDATE operation SET total_records = ?1, total_units = ?1, records_processed = 0,
                     units_processed = 0, units_failed = 0, outcomes = '{}', checkpoint = NULL
WHERE id = ?2 AND status = 'running'
"""

_ADVANCE = """
UPDATE operation SET records_processed = records_processed + ?1,
                     units_processed = units_processed + ?1,
                     outcomes = json_object('rebuilt', units_processed + ?1),
                     checkpoint = json_object('collection', ?2, 'after', ?3)
WHERE id = ?4 AND status = 'running'
"""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as the copy has read it."""

    record_id: int
    repo_id: int
    did: str
    path: str
    cid: str
    value: str | None
    problem: str | None
    record: PreparedRecord | None = None  # None until prepared, and where there is no value


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one collection that follow each other."""

    collection: str
    after_id: int
    records: Sequence[StoredRecord]

    @property
    def unit(self) -> str:
        """What to call it: the same batch after a restart has the same name."""
        return f"{self.collection} after {self.after_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """How stored records are made ready, and by which lexicons."""

    prepare: PrepareStored
    prepare_trusted: PrepareStored  # of a value that these lexicons are known to allow
    judged_by: str


class Rebuilds:
    """Satisfies what `indexer.operations.full_reindex` needs of the store."""

    def __init__(
        self, database: Database, path: Path, projections: Projections, preparing: Preparing
    ) -> None:
        self._database = database
        self._path = path
        self._projections = projections
        self._preparing = preparing
        self._is_trusted = False  # whether all records were held against today's lexicons
        self._searchable = frozenset(
            kind.nsid for kind in projections.types.values() if kind.search is not None
        )

    async def begin(self, operation_id: str) -> Operation:
        """Make the new tables, unless the operation has them already; its row with the total."""

        def change(connection: sqlite3.Connection) -> tuple[Operation, bool]:
            current = current_generation(connection)
            is_trusted = current.judged_by == self._preparing.judged_by
            building = find_generation(connection, GenerationState.BUILDING)
            for each in (building, current):
                if each is not None and self._is_ours(each, operation_id):
                    return load_operation(connection, operation_id), is_trusted
            if building is not None:
                _retire(connection, building)
            newest = connection.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
            new = Generation(
                next_number(connection), GenerationState.BUILDING, self._projections.fingerprint,
                self._preparing.judged_by, False, operation_id, newest, "", 0,
            )  # fmt: skip
            add_generation(connection, new)
            self._projections.create_tables(connection, new)
            total = connection.execute(_TOTAL).fetchone()[0]
            connection.execute(_BEGIN, (total, operation_id))
            connection.execute("DELETE FROM operation_unit WHERE operation_id = ?", (operation_id,))
            return load_operation(connection, operation_id), is_trusted

        operation, self._is_trusted = await self._database.write(change)
        return operation

    def _is_ours(self, generation: Generation, operation_id: str) -> bool:
        """Whether the operation has made it, and would make it the same way today."""
        return (generation.operation_id, generation.fingerprint, generation.judged_by) == (
            operation_id, self._projections.fingerprint, self._preparing.judged_by,
        )  # fmt: skip

    async def load(self, operation_id: str, previous: Batch | None, limit: int) -> Batch | None:
        """The records that follow `previous`, or the place that was saved; None after the last."""
        generation = await self._building(operation_id)
        if generation is None:
            return None
        place = (generation.collection, generation.after_id)
        if previous is not None:
            place = (previous.collection, previous.records[-1].record_id)
        names = {row[0] for row in await self._database.read(_COLLECTIONS)} | self._searchable
        for collection in sorted(names, key=self._order):
            if place[0] and self._order(collection) < self._order(place[0]):
                continue
            if collection in self._searchable and not generation.has_search:
                generation = await self._begin_search(operation_id)
            after_id = place[1] if collection == place[0] else 0
            rows = await self._database.read(
                _NEXT, (collection, after_id, generation.upto_id, limit)
            )
            if rows:
                return Batch(collection, after_id, [StoredRecord(*row) for row in rows])
        return None

    def _order(self, collection: str) -> tuple[bool, str]:
        return collection in self._searchable, collection

    async def _building(self, operation_id: str) -> Generation | None:
        for row in await self._database.read(IN_USE):
            found = generation_from_row(row)
            is_building = found.state is GenerationState.BUILDING
            if is_building and found.operation_id == operation_id:
                return found
        return None

    async def _begin_search(self, operation_id: str) -> Generation:
        """From now on changes are written to the new search rows too, so the copy ends here."""

        def change(connection: sqlite3.Connection) -> Generation | None:
            connection.execute(
                "UPDATE generation SET has_search = 1,"
                " upto_id = (SELECT coalesce(max(id), 0) FROM record)"
                " WHERE state = 'building' AND operation_id = ?",
                (operation_id,),
            )
            return _of_operation(connection, operation_id)

        found = await self._database.write(change)
        if found is None:
            raise AssertionError("a rebuild that is at work has its generation")
        return found

    def prepare(self, batch: Batch) -> Batch:
        """Make the records of a batch ready: pure work, for a thread."""
        return replace(batch, records=[self._prepared(stored) for stored in batch.records])

    def _prepared(self, stored: StoredRecord) -> StoredRecord:
        if stored.value is None:
            return stored
        is_allowed = self._is_trusted and stored.problem is None
        prepare = self._preparing.prepare_trusted if is_allowed else self._preparing.prepare
        try:
            record = prepare(stored.did, stored.path, stored.cid, stored.value)
        except ValueError:  # a value that the file has spoilt: the check finds that its row lacks
            return stored
        return replace(stored, record=record)

    async def copy(self, operation_id: str, batch: Batch) -> tuple[Operation, Batch] | None:
        """Write the first records of a prepared batch; the operation's row, and what is left.

        None when the operation has ended or another rebuild has begun.
        """

        def change(connection: sqlite3.Connection) -> tuple[Operation, Batch] | None:
            generation = _of_operation(connection, operation_id)
            if generation is None:
                return None
            until, done = time.perf_counter() + STEP_S, 0
            while done < len(batch.records) and (done == 0 or time.perf_counter() < until):
                part = batch.records[done : done + PART_ROWS]
                self._write(connection, generation, batch.collection, part)
                done += len(part)
            last_id = batch.records[done - 1].record_id
            connection.execute(
                "UPDATE generation SET collection = ?, after_id = ? WHERE number = ?",
                (batch.collection, last_id, generation.number),
            )
            advanced = (done, batch.collection, last_id, operation_id)
            if connection.execute(_ADVANCE, advanced).rowcount == 0:
                return None
            left = batch.records[done:]
            unit = batch.unit if not left else f"{batch.unit}, up to {last_id}"
            connection.execute(
                "INSERT INTO operation_unit (operation_id, unit, outcome, records)"
                " VALUES (?, ?, 'rebuilt', ?) ON CONFLICT DO UPDATE SET records = records + ?",
                (operation_id, unit, done, done),
            )
            if not left:
                connection.execute(
                    "DELETE FROM operation_unit_begun WHERE operation_id = ? AND unit = ?",
                    (operation_id, unit),
                )
            return load_operation(connection, operation_id), replace(batch, records=left)

        return await self._database.write(change)

    def _write(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        collection: str,
        part: Sequence[StoredRecord],
    ) -> None:
        ids = json.dumps([stored.record_id for stored in part])
        as_they_are = set(connection.execute(_AS_THEY_ARE, (ids,)))
        kind = self._projections.types.get(collection)
        present: set[int] = set()
        if kind is not None:
            found = connection.execute(
                f'SELECT record_id FROM "{generation.table(kind.table)}"'  # noqa: S608 - declared names
                " WHERE record_id IN (SELECT value FROM json_each(?))",
                (ids,),
            )
            present = {row[0] for row in found}
        writes, judged = [], []
        for stored in part:
            as_read = (
                stored.record_id, stored.repo_id, stored.path, stored.cid, stored.problem
            )  # fmt: skip
            if stored.record is None or as_read not in as_they_are:
                continue
            is_new = stored.record_id not in present
            write = ProjectionWrite(
                stored.record_id, stored.repo_id, stored.did, stored.path, "", stored.record, is_new
            )
            if stored.record.problem == stored.problem:
                writes.append(write)
            else:
                judge_again(connection, stored.record_id, stored.did, stored.record)
                judged.append(replace(write, is_new=False))
        # What is valid only now, or no longer, shows at once in the tables that readers see.
        self._projections.write(connection, judged)
        if kind is not None:
            self._projections.write_to(connection, generation, writes)

    async def catch_up(self, operation_id: str) -> bool:
        """Do a part of what the new search rows still owe; False when nothing was left."""

        def change(connection: sqlite3.Connection) -> bool:
            generation = _of_operation(connection, operation_id)
            if generation is None:
                return False
            rows = SearchRows(self._projections.search, generation)
            return rows.work(connection, self._preparing.prepare, rows_max=SEARCH_ROWS)

        return await self._database.write(change)

    async def check(self, operation_id: str) -> str | None:
        """Hold the new tables against the records: all ids, and the content of many.

        What differs first; None where nothing does. A difference ends the trust in old verdicts.
        """
        generation = await self._building(operation_id)
        if generation is None:
            return None
        total = (await self._database.read(_TOTAL))[0][0]
        parity = Parity(
            self._path,
            self._projections,
            self._preparing.prepare,
            number=generation.number,
            total=total,
        )
        found = await parity.step()
        while found is None and not parity.is_done:
            found = await parity.step()
        if found is not None:
            self._is_trusted = False
            await self._database.write(_distrust)
        return found

    async def swap(self, operation_id: str) -> bool:
        """Let readers see the new generation; False when the operation has ended before.

        Done again, after a crash that came between it and the operation's end, it does nothing.
        """

        def change(connection: sqlite3.Connection) -> bool:
            current = current_generation(connection)
            if current.operation_id == operation_id:
                return True
            operation = load_operation(connection, operation_id)
            building = _of_operation(connection, operation_id)
            if building is None or operation.cancel_requested:
                return False
            swap_generations(connection, self._projections, current, building)
            connection.execute(
                "UPDATE operation SET total_records = records_processed,"
                " total_units = units_processed WHERE id = ?",
                (operation_id,),
            )
            return True

        return await self._database.write(change)


def _of_operation(connection: sqlite3.Connection, operation_id: str) -> Generation | None:
    found = find_generation(connection, GenerationState.BUILDING)
    return found if found is not None and found.operation_id == operation_id else None


def _retire(connection: sqlite3.Connection, generation: Generation) -> None:
    connection.execute(
        "UPDATE generation SET state = 'retired' WHERE number = ?", (generation.number,)
    )


def _distrust(connection: sqlite3.Connection) -> int:
    return connection.execute(
        "UPDATE generation SET judged_by = '' WHERE state = 'current'"
    ).rowcount
