"""Typed tables and search, kept in step with record rows in the same transaction.

Derived data is disposable: everything here can be made again from `record`. `storage.rebuilds`
does that, into a generation of its own; here is what every change of a record writes to each
generation in use.

Tables that other declarations have made than today's are served until they have been replaced. A
record that changes in the meantime leaves those among them whose columns are others now, because
no row at all is better than a wrong one; everything else in them is kept true.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.records.projection import PROJECTION_REVISION, RecordType, SearchIndex
from storage.generations import (
    Generation,
    GenerationState,
    SearchState,
    add_generation,
    current_generation,
    find_generation,
    generations_in_use,
)
from storage.records import ProjectionWrite
from storage.relation_views import create_relation_views
from storage.rows import delete_rows, insert_rows
from storage.search_rows import Reached, SearchRow, SearchRows
from storage.typed_schema import SEARCH_TUNING, create_tables, create_views

_TABLES_OF_RECORDS = """
SELECT listed.name FROM sqlite_schema AS listed
JOIN pragma_table_info(listed.name) AS info ON info.name = 'record_id'
WHERE listed.type = 'table' AND listed.name LIKE '%\\_\\_' || ? ESCAPE '\\'
"""

_STATEMENTS_OF_TABLES = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"
_TABLE = re.compile(r'CREATE (?:VIRTUAL )?TABLE "?(\w+)')


@dataclass(frozen=True, slots=True)
class _Layout:
    """What today's declarations can do with the tables of one generation."""

    written: frozenset[str]  # declared tables that are there and as declared
    cleared: tuple[str, ...]  # tables that lose the rows of every record that changes
    has_search: bool  # whether its search rows can be kept true


class Projections:
    """Writes the derived rows that record types declare. Satisfies `storage.records.Projector`."""

    def __init__(
        self, types: Mapping[str, RecordType], search: SearchIndex, *, basis: str = ""
    ) -> None:
        """`basis` is what the derived rows depend on besides code: the governance account."""
        self.types = types
        self.search = search
        self.fingerprint = _fingerprint(types, search, basis)
        self._layouts: dict[int, _Layout] = {}  # by number of the generation

    def install(self, connection: sqlite3.Connection, *, judged_by: str) -> bool:
        """Make sure of tables and views for readers; whether they still have to be rebuilt.

        `judged_by` names the lexicons that records are held against from now on: while some of
        those that are stored were held against others, their verdicts have to be made anew.
        """
        found = find_generation(connection, GenerationState.CURRENT)
        if found is None:
            has_records = connection.execute("SELECT EXISTS (SELECT 1 FROM record)").fetchone()[0]
            made_from = "" if has_records else self.fingerprint
            found = Generation(
                1, GenerationState.CURRENT, made_from, judged_by, SearchState.KEPT, None, 0, "", 0
            )
            add_generation(connection, found)
            self.create_tables(connection, found)
            self.create_views(connection, found)
        else:
            if found.fingerprint == self.fingerprint:
                self.create_views(connection, found)
            self._tune_search(connection, found)
        if found.judged_by not in {judged_by, ""}:
            connection.execute(
                "UPDATE generation SET judged_by = '' WHERE number = ?", (found.number,)
            )
        return (found.fingerprint, found.judged_by) != (self.fingerprint, judged_by)

    def is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether what readers see was made from today's declarations."""
        found = find_generation(connection, GenerationState.CURRENT)
        return found is not None and found.fingerprint == self.fingerprint

    def create_tables(self, connection: sqlite3.Connection, generation: Generation) -> None:
        """Make the tables of a generation, empty."""
        for statement in create_tables(self.types.values(), self.search, generation):
            connection.execute(statement)
        self._tune_search(connection, generation)

    def _tune_search(self, connection: sqlite3.Connection, generation: Generation) -> None:
        """Let the index merge its parts in many small pieces: a transaction waits for each.

        Tables of earlier versions are tuned too; it says nothing about what is in them.
        """
        table = generation.search_table(self.search)
        connection.executemany(
            f'INSERT INTO "{table}" ("{table}", rank) VALUES (?, ?)',  # noqa: S608 - a declared name
            SEARCH_TUNING.items(),
        )

    def create_views(self, connection: sqlite3.Connection, generation: Generation) -> None:
        """Make the views for readers anew, upon the tables of a generation."""
        for statement in create_views(self.types.values(), generation):
            connection.execute(statement)
        for statement in create_relation_views(generation):
            connection.execute(statement)

    def current_search_rows(self, connection: sqlite3.Connection) -> SearchRows | None:
        """The search rows that readers see; None while they cannot be kept true."""
        generation = current_generation(connection)
        if not self._layout(connection, generation).has_search:
            return None
        return SearchRows(self.search, generation)

    def write(self, connection: sqlite3.Connection, writes: Sequence[ProjectionWrite]) -> None:
        """Replace the derived rows of every given record, in every generation in use."""
        if writes:
            for generation in generations_in_use(connection):
                self.write_to(connection, generation, writes)

    def last_id(self, connection: sqlite3.Connection) -> int:
        """The last record with a search row: of one that is gone it may still be owed."""
        last = 0
        for generation in generations_in_use(connection):
            if generation.search is SearchState.KEPT:
                table = f"{generation.search_table(self.search)}_docsize"
                found = connection.execute(f'SELECT max(id) FROM "{table}"').fetchone()[0]  # noqa: S608 - a declared name
                last = max(last, found or 0)
        return last

    def write_to(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        writes: Sequence[ProjectionWrite],
    ) -> None:
        """Replace the derived rows of every given record in one generation."""
        layout = self._layout(connection, generation)
        search_rows = SearchRows(self.search, generation)
        reached = Reached(self.search)
        replaced = [write for write in writes if not write.is_new]
        if replaced:
            if layout.has_search:
                ids = (write.record_id for write in replaced)
                reached.note_stored(connection, ids, generation)
            self._delete(connection, generation, layout, replaced)
        rows: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)  # table -> rows
        searchable: list[SearchRow] = []
        for write in writes:
            kind = self.types.get(write.path[: write.path.index("/")])
            projection = None if write.record is None else write.record.projection
            if kind is None or projection is None:
                continue
            record_id = write.record_id
            if kind.table not in layout.written:
                continue
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
            insert_rows(connection, f'"{generation.table(table)}"', of_table)
        if layout.has_search:
            changed = [write.record_id for write in writes if self._is_searchable(write)]
            search_rows.follow(connection, changed, searchable, reached)

    def _is_searchable(self, write: ProjectionWrite) -> bool:
        kind = self.types.get(write.path[: write.path.index("/")])
        return kind is not None and kind.search is not None

    def _delete(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        layout: _Layout,
        writes: Sequence[ProjectionWrite],
    ) -> None:
        by_table: defaultdict[str, list[int]] = defaultdict(list)
        for table in layout.cleared:
            by_table[table] += (write.record_id for write in writes)
        searchable: list[int] = []
        for write in writes:
            kind = self.types.get(write.path[: write.path.index("/")])
            if kind is None:
                continue
            if not layout.cleared:
                for name in (kind.table, "mark", *(side.name for side in kind.side_tables)):
                    by_table[generation.table(name)].append(write.record_id)
            if kind.search is not None:
                searchable.append(write.record_id)
        for table, record_ids in by_table.items():
            delete_rows(connection, f'"{table}"', "record_id", record_ids)
        if generation.search is SearchState.KEPT:
            rows = SearchRows(self.search, generation)
            remove = rows.remove if layout.has_search else rows.delete
            remove(connection, searchable)

    def _layout(self, connection: sqlite3.Connection, generation: Generation) -> _Layout:
        found = self._layouts.get(generation.number)
        if found is None:
            found = self._layouts[generation.number] = self._look(connection, generation)
        return found

    def _look(self, connection: sqlite3.Connection, generation: Generation) -> _Layout:
        kinds = self.types.values()
        tables = {kind.table: (kind.table, *(side.name for side in kind.side_tables))
                  for kind in kinds}  # fmt: skip
        if generation.fingerprint == self.fingerprint:
            return _Layout(frozenset(tables), (), has_search=True)
        stored = {row[0].strip() for row in connection.execute(_STATEMENTS_OF_TABLES)}
        declared = (each.strip() for each in create_tables(kinds, self.search, generation))
        kept = {found[1] for each in declared if each in stored and (found := _TABLE.match(each))}
        shared = (generation.table("mark"), generation.table("search_queue"))
        has_search = {*shared, generation.search_table(self.search)} <= kept
        written = {
            table
            for table, names in tables.items()
            if has_search and {generation.table(name) for name in names} <= kept
        }
        cleared = connection.execute(_TABLES_OF_RECORDS, (str(generation.number),)).fetchall()
        return _Layout(frozenset(written), tuple(row[0] for row in cleared), has_search)


def _fingerprint(types: Mapping[str, RecordType], search: SearchIndex, basis: str) -> str:
    first = Generation(1, GenerationState.CURRENT, "", "", SearchState.KEPT, None, 0, "", 0)
    tables = create_tables(types.values(), search, first)
    text = "\n".join((str(PROJECTION_REVISION), basis, *tables))
    return hashlib.sha256(text.encode()).hexdigest()
