"""A new generation of the derived tables, made from `record` beside the one that readers see.

`storage.rebuild` does the work from its beginning to the check; here is what frames it: the new
tables, the processes and files that are there for as long as it takes, and the swap.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from indexer.model import Operation, OperationMode
from indexer.ports import insist_on
from storage.database import Database
from storage.generation_swap import swap_generations
from storage.generations import (
    Generation,
    GenerationState,
    SearchState,
    add_generation,
    current_generation,
    find_generation,
    next_number,
)
from storage.operations import load_operation
from storage.projections import Projections
from storage.rebuild import PART_RECORDS, Rebuild, generation_of
from storage.rebuild_parts import PART, Preparing
from storage.rebuild_progress import Progress, Stage
from storage.rebuild_work import failure
from storage.rebuild_worker import WorkerSettings
from storage.rebuild_workers import Here, Worker, made, started, wait
from storage.search_build import INDEX

WORKERS_MAX = 4
"""Processes at once while the stream is held, of no more than there are processors."""

_TOTAL = "SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'collection'"

_OF_COLLECTIONS = """
SELECT coalesce(sum(total), 0) FROM tally
WHERE kind = 'collection' AND name IN (SELECT value FROM json_each(?))
"""

_BEGIN = """
UPDATE operation SET total_records = ?1, total_units = ?1, records_processed = 0,
                     units_processed = 0, units_before = 0, units_failed = 0, outcomes = '{}',
                     checkpoint = NULL
WHERE id = ?2 AND status = 'running'
"""

_GO_ON = """
UPDATE operation SET units_processed = ?1, units_before = ?1 WHERE id = ?2 AND status = 'running'
"""

_COUNT = """
UPDATE operation SET units_processed = ?1
WHERE id = ?2 AND status = 'running' AND units_processed < ?1
"""


class Rebuilds:
    """Satisfies what `indexer.operations.full_reindex` needs of the store."""

    def __init__(
        self,
        database: Database,
        path: Path,
        projections: Projections,
        preparing: Preparing,
        worker_settings: WorkerSettings,
    ) -> None:
        self._database = database
        self._path = path
        self._folder = path.with_name(f"{path.name}.rebuild")
        self._projections = projections
        self._preparing = preparing
        self._worker_settings = worker_settings
        self._progress = Progress(0, 0)  # of the operation that has begun
        self._counted = 0  # what its row says of that

    async def begin(self, operation_id: str) -> Operation:
        """Make the new tables, unless the operation has them already; its row with the total.

        Of units the row has those that have not to be worked through again.
        """

        def change(connection: sqlite3.Connection) -> tuple[Operation, Progress]:
            eprints = self._eprints(connection)
            building = find_generation(connection, GenerationState.BUILDING)
            for each in (building, current_generation(connection)):
                if each is not None and self._is_ours(each, operation_id):
                    row = load_operation(connection, operation_id)
                    progress = _resumed(row, each, eprints)
                    connection.execute(_GO_ON, (progress.units, operation_id))
                    return load_operation(connection, operation_id), progress
            if building is not None:
                _retire(connection, building)
            newest = connection.execute("SELECT coalesce(max(id), 0) FROM record").fetchone()[0]
            new = Generation(
                next_number(connection), GenerationState.BUILDING, self._projections.fingerprint,
                self._preparing.judged_by, SearchState.ABSENT, operation_id, newest, "", 0,
            )  # fmt: skip
            add_generation(connection, new)
            self._projections.create_tables(connection, new)
            total = connection.execute(_TOTAL).fetchone()[0]
            connection.execute(_BEGIN, (total, operation_id))
            connection.execute("DELETE FROM operation_unit WHERE operation_id = ?", (operation_id,))
            return load_operation(connection, operation_id), Progress(total, eprints)

        row, self._progress = await self._database.write(change)
        self._counted = row.units_processed
        return row

    def _eprints(self, connection: sqlite3.Connection) -> int:
        """Records that have a search row."""
        names = [nsid for nsid, kind in self._projections.types.items() if kind.search is not None]
        found = connection.execute(_OF_COLLECTIONS, (json.dumps(names),))
        return int(found.fetchone()[0])

    async def count(self, operation_id: str) -> Operation | None:
        """Save how much of the work is done; the row then. None when there is nothing new."""
        units = self._progress.units
        if units <= self._counted:
            return None

        def change(connection: sqlite3.Connection) -> Operation | None:
            is_new = connection.execute(_COUNT, (units, operation_id)).rowcount > 0
            return load_operation(connection, operation_id) if is_new else None

        row = await self._database.write(change)
        self._counted = units
        return row

    def _is_ours(self, generation: Generation, operation_id: str) -> bool:
        """Whether the operation has made it, and would make it the same way today."""
        return (generation.operation_id, generation.fingerprint, generation.judged_by) == (
            operation_id, self._projections.fingerprint, self._preparing.judged_by,
        )  # fmt: skip

    @asynccontextmanager
    async def open(self, operation: Operation) -> AsyncIterator[Rebuild]:
        """Go to work on an operation that has begun; processes and files are gone with the block.

        Raises `WorkFailed` where they cannot be had.
        """
        await self.clear_away()
        current = await insist_on(partial(self._database.write, current_generation), wait)
        folder = await insist_on(partial(asyncio.to_thread, self._make_folder), wait)
        rebuild = Rebuild(
            operation.id, folder, self._database, self._projections, self._preparing,
            progress=self._progress, is_trusted=current.judged_by == self._preparing.judged_by,
        )  # fmt: skip
        tell = partial(self._progress.add, Stage.MADE)
        try:
            async with (
                self._workers(operation) as workers,
                made(workers, rebuild.plan, tell) as parts,
            ):
                rebuild.parts = parts
                yield rebuild
        finally:
            for name in (PART, INDEX):
                await self._database.detach(name)
            await self.clear_away()

    def _make_folder(self) -> Path:
        """One that no process of an earlier rebuild knows of."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self._folder))
        except OSError as error:
            raise failure(error, f"cannot make {self._folder}") from error

    async def clear_away(self) -> None:
        """Remove the files of a rebuild, and what a process has left of one that is no more."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @asynccontextmanager
    async def _workers(self, operation: Operation) -> AsyncIterator[Sequence[Worker]]:
        if (operation.total_records or 0) <= PART_RECORDS:
            yield [Here(self._path, self._preparing)]
            return
        is_held = operation.mode is OperationMode.PAUSE
        count = min(os.cpu_count() or 1, WORKERS_MAX) if is_held else 1
        async with started(count, self._worker_settings) as workers:
            yield workers

    async def swap(self, operation_id: str) -> bool:
        """Let readers see the new generation; False when the operation has ended before.

        Done again, after a crash that came between it and the operation's end, it does nothing.
        """

        def change(connection: sqlite3.Connection) -> bool:
            current = current_generation(connection)
            operation = load_operation(connection, operation_id)
            # Not the current one first: a start by other declarations has it made once more.
            building = generation_of(connection, operation_id)
            if building is None:
                return current.operation_id == operation_id
            if operation.cancel_requested:
                return False
            swap_generations(connection, self._projections, current, building)
            connection.execute(
                "UPDATE operation SET total_records = records_processed,"
                " units_processed = max(units_processed, records_processed),"
                " total_units = max(units_processed, records_processed)"
                " WHERE id = ?",
                (operation_id,),
            )
            return True

        return await self._database.write(change)


def _resumed(operation: Operation, generation: Generation, eprints: int) -> Progress:
    """What a process that is no more has done for good."""
    records = operation.total_units or 0
    progress = Progress(records, eprints)
    if generation.state is GenerationState.CURRENT:
        progress.come_to(Stage.HELD, records)
        progress.reach(Stage.HELD)
        return progress
    made = operation.records_processed
    progress.come_to(Stage.COPIED, made)
    if generation.search is SearchState.KEPT:
        progress.reach(Stage.CAUGHT_UP)
    elif generation.search is SearchState.OWED:
        # Of the search index nothing is left, and all eprints are made ready again.
        made = max(made - eprints, 0)
    progress.come_to(Stage.MADE, made)
    return progress


def _retire(connection: sqlite3.Connection, generation: Generation) -> None:
    connection.execute(
        "UPDATE generation SET state = 'retired' WHERE number = ?", (generation.number,)
    )
