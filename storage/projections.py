"""Typed tables and search, kept in step with record rows in the same transaction.

Derived data is disposable: everything here is made again from `record` by `rebuild`, which also
runs by itself when the declared tables are no longer those in the file.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence

from indexer.model import PreparedRecord
from indexer.records.projection import (
    LABEL_MARK,
    Mark,
    Projection,
    RecordType,
    SearchIndex,
)
from storage.records import ProjectionWrite
from storage.typed_schema import GENERATION, create_tables, create_views, drop_tables

REBUILD_ROWS = 500

PrepareStored = Callable[[str, str, str, str], PreparedRecord]
"""(did, path, CID text, stored JSON) -> the record made ready, as on every other path."""


class Projections:
    """Writes the derived rows that record types declare. Satisfies `storage.records.Projector`."""

    def __init__(self, types: Mapping[str, RecordType], search: SearchIndex) -> None:
        self._types = types
        self._search = search
        self._inserts = {
            nsid: _insert_sql(f"{kind.table}{GENERATION}", len(kind.columns) + 1)
            for nsid, kind in types.items()
        }

    def install(self, connection: sqlite3.Connection, prepare: PrepareStored) -> bool:
        """Make tables and views as declared; whether the tables had to be built from `record`."""
        kinds = tuple(self._types.values())
        wanted = tuple(create_tables(kinds, self._search))
        fingerprint = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
        found = connection.execute("SELECT fingerprint FROM projection").fetchone()
        is_stale = found is None or found[0] != fingerprint
        if is_stale:
            for statement in (*drop_tables(kinds, self._search), *wanted):
                connection.execute(statement)
            connection.execute("DELETE FROM projection")
            connection.execute("INSERT INTO projection (fingerprint) VALUES (?)", (fingerprint,))
        for statement in create_views(kinds):
            connection.execute(statement)
        if is_stale:
            self.rebuild(connection, prepare)
        return is_stale

    def rebuild(self, connection: sqlite3.Connection, prepare: PrepareStored) -> int:
        """Fill empty derived tables from `record`; the number of records read."""
        last, total = 0, 0
        while True:
            rows = connection.execute(
                "SELECT record.id, repo.id, repo.did, path, cid, value, indexed_at"
                " FROM record JOIN repo ON repo.id = record.repo_id"
                " WHERE record.id > ? AND value IS NOT NULL ORDER BY record.id LIMIT ?",
                (last, REBUILD_ROWS),
            ).fetchall()
            if not rows:
                return total
            writes = [
                ProjectionWrite(
                    record_id, repo_id, did, path, at, prepare(did, path, cid, value), is_new=True
                )
                for record_id, repo_id, did, path, cid, value, at in rows
            ]
            connection.executemany(
                "UPDATE record SET problem = ? WHERE id = ? AND problem IS NOT ?",
                [
                    (write.record.problem, write.record_id, write.record.problem)
                    for write in writes
                    if write.record is not None
                ],
            )
            self.write(connection, writes)
            last, total = rows[-1][0], total + len(rows)

    def write(self, connection: sqlite3.Connection, writes: Sequence[ProjectionWrite]) -> None:
        """Replace the derived rows of every given record."""
        reached = _Reached()
        self._delete(connection, [write for write in writes if not write.is_new], reached)
        for write in writes:
            kind = self._types.get(write.path[: write.path.index("/")])
            projection = None if write.record is None else write.record.projection
            if kind is not None and isinstance(projection, Projection):
                self._insert(connection, kind, write, projection, reached)
        self._refresh_search(connection, reached)

    def _insert(
        self,
        connection: sqlite3.Connection,
        kind: RecordType,
        write: ProjectionWrite,
        projection: Projection,
        reached: _Reached,
    ) -> None:
        record_id = write.record_id
        connection.execute(self._inserts[kind.nsid], (record_id, *projection.row))
        for name, rows in projection.side_rows.items():
            for position, row in enumerate(rows):
                connection.execute(
                    _insert_sql(f"{name}{GENERATION}", len(row) + 2), (record_id, position, *row)
                )
        if projection.marks:
            connection.executemany(
                f"INSERT INTO mark{GENERATION} (record_id, name, subject, text)"  # noqa: S608 - constants
                " VALUES (?, ?, ?, ?)",
                [(record_id, mark.name, mark.subject, mark.text) for mark in projection.marks],
            )
            reached.note(projection.marks, self._search)
        if projection.search is not None:
            connection.execute(_search_insert(self._search), (record_id, *projection.search))
            reached.records.add(record_id)

    def _delete(
        self,
        connection: sqlite3.Connection,
        writes: Sequence[ProjectionWrite],
        reached: _Reached,
    ) -> None:
        if not writes:
            return
        marks = connection.execute(
            f"SELECT name, subject FROM mark{GENERATION}"  # noqa: S608 - constants
            " WHERE record_id IN (SELECT value FROM json_each(?))",
            (json.dumps([write.record_id for write in writes]),),
        )
        reached.note((Mark(name, subject) for name, subject in marks), self._search)
        for write in writes:
            kind = self._types.get(write.path[: write.path.index("/")])
            if kind is None:
                continue
            tables = [kind.table, "mark", *(side.name for side in kind.side_tables)]
            for table in tables:
                connection.execute(
                    f'DELETE FROM "{table}{GENERATION}" WHERE record_id = ?',  # noqa: S608 - declared names
                    (write.record_id,),
                )
            if kind.search is not None:
                connection.execute(
                    f'DELETE FROM "{self._search.table}" WHERE rowid = ?',  # noqa: S608 - a declared name
                    (write.record_id,),
                )

    def _refresh_search(self, connection: sqlite3.Connection, reached: _Reached) -> None:
        """Write again the columns of search rows that hold other records' texts."""
        for uri in reached.received:
            found = connection.execute(
                "SELECT record.id FROM record JOIN repo ON repo.id = record.repo_id"
                " WHERE repo.did = ? AND record.path = ?",
                _split(uri),
            ).fetchone()
            if found is not None:
                reached.records.add(found[0])
        for uri in reached.labelled:
            for name in self._search.labels.values():
                rows = connection.execute(
                    f"SELECT record_id FROM mark{GENERATION} WHERE name = ? AND subject = ?",  # noqa: S608 - constants
                    (name, uri),
                )
                reached.records.update(row[0] for row in rows)
        for record_id in reached.records:
            self._refresh_row(connection, record_id)

    def _refresh_row(self, connection: sqlite3.Connection, record_id: int) -> None:
        values: dict[str, str] = {}
        for column, name in self._search.labels.items():
            rows = connection.execute(
                f"SELECT named.text FROM mark{GENERATION} AS own"  # noqa: S608 - constants
                f" JOIN mark{GENERATION} AS named ON named.name = ? AND named.subject = own.subject"
                " WHERE own.record_id = ? AND own.name = ? ORDER BY own.text",
                (LABEL_MARK, record_id, name),
            )
            values[column] = " ".join(row[0] for row in rows if row[0])
        for column, name in self._search.received.items():
            rows = connection.execute(
                f"SELECT DISTINCT mark.text FROM mark{GENERATION} AS mark"  # noqa: S608 - constants
                " WHERE mark.name = ? AND mark.subject = (SELECT 'at://' || repo.did || '/' || path"
                " FROM record JOIN repo ON repo.id = record.repo_id WHERE record.id = ?)"
                " ORDER BY mark.text",
                (name, record_id),
            )
            values[column] = " ".join(row[0] for row in rows if row[0])
        assignments = ", ".join(f'"{column}" = ?' for column in values)
        connection.execute(
            f'UPDATE "{self._search.table}" SET {assignments} WHERE rowid = ?',  # noqa: S608 - declared names
            (*values.values(), record_id),
        )


class _Reached:
    """What the marks of a transaction reach beyond their own record."""

    def __init__(self) -> None:
        self.records: set[int] = set()
        self.received: set[str] = set()  # URIs whose received texts have changed
        self.labelled: set[str] = set()  # URIs whose label has changed

    def note(self, marks: Iterable[Mark], search: SearchIndex) -> None:
        for mark in marks:
            if mark.name in search.received.values():
                self.received.add(mark.subject)
            if mark.name == LABEL_MARK:
                self.labelled.add(mark.subject)


def _insert_sql(table: str, columns: int) -> str:
    return f'INSERT INTO "{table}" VALUES ({", ".join("?" * columns)})'  # noqa: S608 - declared names


def _search_insert(search: SearchIndex) -> str:
    names = ", ".join(f'"{column}"' for column in search.own)
    return (
        f'INSERT INTO "{search.table}" (rowid, {names})'  # noqa: S608 - declared names
        f" VALUES (?{', ?' * len(search.own)})"
    )


def _split(uri: str) -> tuple[str, str]:
    """(DID, path) of an AT-URI; of anything else something that no row has."""
    did, _, path = uri.removeprefix("at://").partition("/")
    return did, path
