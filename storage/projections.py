"""Typed tables and search, kept in step with record rows in the same transaction.

Derived data is disposable: everything here is made again from `record` by `rebuild`, which also
runs by itself when the declared tables are no longer those in the file.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence

from indexer.records.projection import (
    PROJECTION_REVISION,
    Projection,
    RecordType,
    SearchIndex,
)
from storage.records import ProjectionWrite, judge_again
from storage.relation_views import create_relation_views
from storage.rows import insert_rows
from storage.search_rows import PrepareStored, Reached, SearchRow, SearchRows
from storage.typed_schema import GENERATION, create_tables, create_views, drop_tables

REBUILD_ROWS = 500


class Projections:
    """Writes the derived rows that record types declare. Satisfies `storage.records.Projector`."""

    def __init__(
        self, types: Mapping[str, RecordType], search: SearchIndex, *, basis: str = ""
    ) -> None:
        """`basis` is what the derived rows depend on besides code: the governance account."""
        self._types = types
        self._basis = basis
        self._search = search
        self._search_rows = SearchRows(search)

    def install(self, connection: sqlite3.Connection, prepare: PrepareStored) -> bool:
        """Make tables and views as declared; whether the tables had to be built from `record`."""
        kinds = tuple(self._types.values())
        wanted = tuple(create_tables(kinds, self._search))
        is_stale = not self.is_current(connection)
        if is_stale:
            for statement in (*drop_tables(kinds, self._search), *wanted):
                connection.execute(statement)
            connection.execute("DELETE FROM projection")
            connection.execute(
                "INSERT INTO projection (fingerprint) VALUES (?)", (self._fingerprint(),)
            )
        for statement in (*create_views(kinds), *create_relation_views()):
            connection.execute(statement)
        if is_stale:
            self.rebuild(connection, prepare)
        return is_stale

    def is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether the file's derived tables are those that are declared here."""
        found = connection.execute("SELECT fingerprint FROM projection").fetchone()
        return found is not None and found[0] == self._fingerprint()

    def _fingerprint(self) -> str:
        tables = create_tables(self._types.values(), self._search)
        text = "\n".join((str(PROJECTION_REVISION), self._basis, *tables))
        return hashlib.sha256(text.encode()).hexdigest()

    def rebuild(self, connection: sqlite3.Connection, prepare: PrepareStored) -> int:
        """Fill empty derived tables from `record`; the number of records read."""
        last, total = 0, 0
        while True:
            rows = connection.execute(
                "SELECT record.id, repo.id, repo.did, path, cid, value, indexed_at, problem"
                " FROM record JOIN repo ON repo.id = record.repo_id"
                " WHERE record.id > ? AND value IS NOT NULL ORDER BY record.id LIMIT ?",
                (last, REBUILD_ROWS),
            ).fetchall()
            if not rows:
                return total
            writes = []
            for record_id, repo_id, did, path, cid, value, at, problem in rows:
                record = prepare(did, path, cid, value)
                writes.append(
                    ProjectionWrite(record_id, repo_id, did, path, at, record, is_new=True)
                )
                if record.problem != problem:
                    judge_again(connection, record_id, did, record)
            self.write(connection, writes)
            last, total = rows[-1][0], total + len(rows)

    def write(self, connection: sqlite3.Connection, writes: Sequence[ProjectionWrite]) -> None:
        """Replace the derived rows of every given record."""
        reached = Reached(self._search)
        self._delete(connection, [write for write in writes if not write.is_new], reached)
        rows: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)  # table -> rows
        searchable: list[SearchRow] = []
        for write in writes:
            kind = self._types.get(write.path[: write.path.index("/")])
            projection = None if write.record is None else write.record.projection
            if kind is None or not isinstance(projection, Projection):
                continue
            record_id = write.record_id
            rows[kind.table].append((record_id, *projection.row))
            for name, side_rows in projection.side_rows.items():
                rows[name] += ((record_id, at, *row) for at, row in enumerate(side_rows))
            rows["mark"] += (
                (record_id, mark.name, mark.subject, mark.text) for mark in projection.marks
            )
            reached.note(projection.marks)
            if projection.search is not None:
                uri = f"at://{write.did}/{write.path}"
                searchable.append(SearchRow(record_id, write.repo_id, uri, projection))
        for table, of_table in rows.items():
            insert_rows(connection, f'"{table}{GENERATION}"', of_table)
        self._search_rows.insert(connection, searchable, reached)

    def _delete(
        self,
        connection: sqlite3.Connection,
        writes: Sequence[ProjectionWrite],
        reached: Reached,
    ) -> None:
        if not writes:
            return
        reached.note_stored(connection, (write.record_id for write in writes))
        by_table: defaultdict[str, list[tuple[int]]] = defaultdict(list)
        searchable: list[int] = []
        for write in writes:
            kind = self._types.get(write.path[: write.path.index("/")])
            if kind is None:
                continue
            for table in (kind.table, "mark", *(side.name for side in kind.side_tables)):
                by_table[table].append((write.record_id,))
            if kind.search is not None:
                searchable.append(write.record_id)
        for table, record_ids in by_table.items():
            connection.executemany(
                f'DELETE FROM "{table}{GENERATION}" WHERE record_id = ?',  # noqa: S608 - declared names
                record_ids,
            )
        self._search_rows.delete(connection, searchable)
