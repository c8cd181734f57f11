"""Whether a new generation holds what the records demand, before readers see it.

Which records have rows is compared for all of them; what the rows say, for a sample of records
that is spread over the whole index, and all of it where there are few. Reads in snapshots of
`CHUNK_ROWS` records, so that a live index can be held against itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from storage.database import translated
from storage.generations import Generation, GenerationState, find_generation
from storage.projections import Projections
from storage.reading import snapshot
from storage.search_rows import REPO_TASK, PrepareStored
from storage.verification import Verification

CHUNK_ROWS = 1000
SAMPLE_RECORDS = 1000
SAMPLE_PER_CHUNK_MIN = 2
ID_MAX = 2**63 - 1

_RECORDS = """
SELECT record.id, record.collection, repo.did || '/' || path, problem IS NULL,
       repo.account_status = 'active', repo_id
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id > ? ORDER BY record.id LIMIT ?
"""


class Parity:
    """One comparison of a generation in the making; `steps` yields after each chunk."""

    def __init__(
        self, projections: Projections, prepare: PrepareStored, number: int, total: int
    ) -> None:
        self._projections = projections
        self._prepare = prepare
        self._number = number  # of the generation
        self._share = min(1.0, SAMPLE_RECORDS / max(total, 1))

    def steps(self, connection: sqlite3.Connection) -> Iterator[str | None]:
        """What differs first in each chunk of records, or None."""
        last = 0
        while True:
            with snapshot(connection):
                generation = find_generation(connection, GenerationState.BUILDING)
                if generation is None or generation.number != self._number:
                    return
                rows = connection.execute(_RECORDS, (last, CHUNK_ROWS)).fetchall()
                is_last = len(rows) < CHUNK_ROWS
                upto = ID_MAX if is_last else rows[-1][0]
                found = self._compare_ids(connection, generation, rows, (last, upto))
                if found is None:
                    found = self._compare_sample(connection, generation, [row[0] for row in rows])
            yield found
            if is_last:
                return
            last = upto

    def _compare_ids(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        rows: list[tuple[int, str, str, int, int, int]],
        between: tuple[int, int],
    ) -> str | None:
        queue = generation.table("search_queue")
        owed = {
            int(subject)
            for (subject,) in connection.execute(
                f"SELECT subject FROM {queue} WHERE kind = ?",  # noqa: S608 - declared names
                (REPO_TASK,),
            )
        }
        types, search = self._projections.types, self._projections.search
        search_table = generation.search_table(search)
        wanted: defaultdict[str, set[int]] = defaultdict(set)  # table -> records with a row
        names, undecided = {}, set()
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
                    wanted[search_table].add(record_id)
        columns = {generation.table(kind.table): "record_id" for kind in types.values()}
        for table, column in (columns | {search_table: "rowid"}).items():
            found = connection.execute(
                f'SELECT {column} FROM "{table}" WHERE {column} > ? AND {column} <= ?',  # noqa: S608 - declared names
                between,
            )
            differing = {row[0] for row in found} ^ wanted[table]
            if table == search_table:
                differing -= undecided
            if differing:
                record_id = min(differing)
                verb = "lacks" if record_id in wanted[table] else "should not have"
                return f"{table} {verb} {names.get(record_id, f'row {record_id} of no record')}"
        return None

    def _compare_sample(
        self, connection: sqlite3.Connection, generation: Generation, record_ids: list[int]
    ) -> str | None:
        if not record_ids:
            return None
        wanted = max(round(len(record_ids) * self._share), SAMPLE_PER_CHUNK_MIN)
        sample = record_ids[:: max(len(record_ids) // wanted, 1)]
        projections = self._projections
        verification = Verification(
            connection, projections.types, projections.search, self._prepare
        )
        for found in verification.differences_among(sample, generation):
            # A value that is not what its author signed is for a fetch to repair, not for a copy.
            if found.what not in {"cid", "value"}:
                return f"{found.what} of {found.subject}: {found.detail}"
        return None


async def checked(path: Path, parity: Parity) -> str | None:
    """What differs first, by a connection of its own, one chunk at a time in a thread."""
    with closing(_connected(path)) as connection:
        steps = parity.steps(connection)
        while True:
            step = asyncio.get_running_loop().run_in_executor(None, next, steps, "")
            try:
                found = await asyncio.shield(step)
            except asyncio.CancelledError:
                await asyncio.wait([step])  # or the connection would be closed under its feet
                raise
            except sqlite3.Error as error:
                raise translated(error) from error
            if found is not None:
                return found or None


def _connected(path: Path) -> sqlite3.Connection:
    """Read-only, and for use by one thread after another."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
