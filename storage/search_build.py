"""The full-text index of a new generation, made in a file of its own and put in place whole.

An FTS5 index is cheap to make in large transactions and dear in small ones: each commit writes a
segment, and segments are merged over and over, for as long as that takes. The writer of the daemon
has no large transactions. So the index grows in a scratch file, by the same processes that make
parts, and its tables are then copied as they are, in small steps. What changes in the meantime is
put down in `search_queue`, and done when the index is in place.

The scratch file is worth nothing after a crash: the index is begun again, from the first record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from indexer.records.projection import LABEL_MARK, SEARCH_TEXT_CHARS_MAX, SearchIndex
from storage.database import IsOver
from storage.generation_swap import SHADOW_TABLES, empty_some
from storage.rebuild_parts import SCRATCH_PAGE_BYTES
from storage.search_texts import RECEIVED_MAX
from storage.typed_schema import SEARCH_TUNING, create_search_table

_Row = tuple[Any, ...]
_Key = tuple[object, ...]  # of a row in one of the tables that an index is made of
_Place = tuple[int, _Key | None]  # number of the table, and the last row of it that is there

ALL_AT_THE_END = {"automerge": 0, "crisismerge": 256, "hashsize": 16 * 1024 * 1024}
"""One segment for each part, and few of them merged before all are there.

FTS5 itself would make 256 of them one amid an append, which takes 4 s for 80 MB of text. It holds
no more than 2,000.
"""

SEGMENTS_MAX = 200
"""So many, of parts, are made one by steps of merging, before FTS5 does it at once."""

MERGE_PAGES = 4000
"""Pages of 1 kB that one step of merging writes: some tenths of a second."""

MERGED_CHANGES = 2
"""FTS5 has changed fewer rows than this where nothing was left to merge (its documentation)."""

APPENDED_ROWS = 250
APPENDED_CHARS = 1_000_000
"""Of one piece of appending, whichever comes first: a tenth of a second. A piece ends with the row
that brings it to so much."""

CHECK_TELLS = 1000
"""Shares of a check: the largest index is at each for some tenths of a second."""

CHECK_STEPS_PER_ROW, CHECK_STEPS_PER_KB = 16, 10
"""What a check has SQLite's virtual machine do, with the size of all that is in the file: more than
there turns out to be, but less than three times as much (measured)."""

INDEX = "search"
"""What the writer calls the file of a finished index while it copies it."""

COPIED_ROWS = 256
COPIED_BYTES = 400_000
"""Of one piece of copying, whichever comes first: most rows are pages of 1 kB, but some are all
that an eprint is found by. A piece ends with the row that brings it to so much."""

# As in `storage.search_texts`, the marks of the record come first.
_LABELS = """
coalesce((SELECT substr(group_concat(text, ' '), 1, {chars}) FROM (
    SELECT named.text AS text FROM store."{mark}" AS named_by
    CROSS JOIN store."{mark}" AS named
        ON named.name = '{label}' AND named.subject = named_by.subject AND named.text <> ''
    JOIN store.record AS node ON node.id = named.record_id
    JOIN store.repo AS holder ON holder.id = node.repo_id AND holder.account_status = 'active'
    WHERE named_by.record_id = own.record_id AND named_by.name = '{name}'
    ORDER BY named_by.text)), '')
"""

_RECEIVED = """
coalesce((SELECT substr(group_concat(text, ' '), 1, {chars}) FROM (
    SELECT DISTINCT given.text AS text
    FROM (SELECT record_id, text FROM store."{mark}"
          WHERE name = '{name}' AND subject = 'at://' || repo.did || '/' || record.path
          ORDER BY record_id LIMIT {received_max}) AS given
    JOIN store.record AS giver ON giver.id = given.record_id
    JOIN store.repo AS holder ON holder.id = giver.repo_id AND holder.account_status = 'active'
    WHERE given.text <> ''
    ORDER BY given.text)), '')
"""

_ROWS = """
SELECT own.record_id, {own}, {others}
FROM part.own AS own
JOIN store.record AS record ON record.id = own.record_id
JOIN store.repo AS repo ON repo.id = record.repo_id
WHERE repo.account_status = 'active' AND own.record_id > ? ORDER BY own.record_id LIMIT ?
"""


def begin_index(file: str, table: str, search: SearchIndex) -> None:
    """Make an empty index; what there is of another is thrown away."""
    Path(file).unlink(missing_ok=True)
    with closing(_opened(file)) as connection:
        connection.execute(f"PRAGMA page_size={SCRATCH_PAGE_BYTES}")
        connection.execute(create_search_table(table, search))
        _tell(connection, table, "pgsz", SEARCH_TUNING["pgsz"])  # pages are copied as they are
        for command, value in ALL_AT_THE_END.items():
            _tell(connection, table, command, value)


@dataclass(frozen=True, slots=True)
class Source:
    """What an index takes its rows from."""

    index: Path  # the file of the daemon's index
    part: Path  # that of a part which has been taken over
    after_id: int  # the last record of the part that is there already


def append(
    file: str, table: str, search: SearchIndex, source: Source, added: Callable[[int], bool]
) -> int | None:
    """Add the records of a part, with what others say of them now, until it is over.

    `added` is told of the rows of each piece, and says whether it is. The last record that was
    added; None after the last of the part. `table` is named after its generation, and so are the
    marks. Raises `sqlite3.Error`.
    """
    rows = select_rows(table, search)
    names = (*search.own, *search.labels, *search.received)
    with closing(_opened(file)) as connection:
        for name, path in (("store", source.index), ("part", source.part)):
            uri = f"{path.absolute().as_uri()}?mode=ro"
            connection.execute(f"ATTACH DATABASE ? AS {name}", (uri,))
        columns = ", ".join(("rowid", *(f'"{name}"' for name in names)))
        insert = f'INSERT INTO "{table}" ({columns}) VALUES (?{", ?" * len(names)})'  # noqa: S608 - declared names
        upto: int | None = source.after_id
        connection.execute("BEGIN")  # all of a step, or nothing
        is_over = False
        while not is_over:
            with closing(connection.execute(rows, (upto, APPENDED_ROWS))) as found:
                piece = _piece(found, APPENDED_ROWS, APPENDED_CHARS, _chars)
            if not piece:
                upto = None
                break
            # By statements of one row: FTS5 makes a segment for each that may have to be undone.
            connection.executemany(insert, piece)
            upto = piece[-1][0]
            is_over = added(len(piece))
        connection.execute("COMMIT")
        return upto


def select_rows(table: str, search: SearchIndex) -> str:
    """The query for whole rows, of records above the first parameter; at most the second."""
    mark = f"mark__{table.rpartition('__')[2]}"
    values = {"chars": SEARCH_TEXT_CHARS_MAX, "mark": mark, "label": LABEL_MARK}
    others = [_LABELS.format(name=name, **values) for name in search.labels.values()]
    others += [
        _RECEIVED.format(name=name, received_max=RECEIVED_MAX, **values)
        for name in search.received.values()
    ]
    own = ", ".join(f'own."{name}"' for name in search.own)
    return _ROWS.format(own=own, others=", ".join(others))


def merge_some(file: str, table: str, *, is_first: bool) -> bool:
    """Make the segments fewer; False when there is but one, as in an index that was optimised."""
    with closing(_opened(file)) as connection:
        before = connection.total_changes
        _tell(connection, table, "merge", -MERGE_PAGES if is_first else MERGE_PAGES)
        return connection.total_changes - before >= MERGED_CHANGES


def index_kb(file: str) -> int:
    """The size of what there is in the file of an index, which may have free pages as well."""
    with closing(_opened(file)) as connection:
        return _size_kb(connection)


def _size_kb(connection: sqlite3.Connection) -> int:
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return int((pages - free) * size // 1000)


def check_index(file: str, table: str, tell: Callable[[int], None]) -> None:
    """Hold all that a finished index finds by against its rows; raises `sqlite3.Error`.

    One statement, amid which `tell` is told of each of `CHECK_TELLS` shares that are done.
    """
    with closing(_opened(file)) as connection:
        (rows,) = connection.execute(f'SELECT count(*) FROM "{table}_docsize"').fetchone()  # noqa: S608 - declared names
        steps = CHECK_STEPS_PER_ROW * rows + CHECK_STEPS_PER_KB * _size_kb(connection)
        # What is raised in there ends the statement.
        connection.set_progress_handler(partial(tell, 1), max(steps // CHECK_TELLS, 1))
        # A commit would wait for whoever reads the file, though nothing is to be kept.
        connection.execute("BEGIN")
        connection.execute(f'INSERT INTO "{table}" ("{table}") VALUES (?)', ("integrity-check",))  # noqa: S608 - declared names
        connection.execute("ROLLBACK")


def _opened(file: str) -> sqlite3.Connection:
    uri = Path(file).absolute().as_uri()
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    # Nobody wants the file after a crash; a statement that fails must be undone all the same.
    for pragma in ("journal_mode=MEMORY", "synchronous=OFF", "cache_size=-16384"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _tell(connection: sqlite3.Connection, table: str, command: str, value: int) -> None:
    connection.execute(f'INSERT INTO "{table}" ("{table}", rank) VALUES (?, ?)', (command, value))  # noqa: S608 - declared names


class IndexCopy:
    """Puts a finished index in the place of a generation's empty one, a step a transaction.

    The writer has the file before it as `INDEX` by then. A step that is undone is done again.
    """

    def __init__(self, file: str, table: str) -> None:
        """`table` is what the index is called in both files."""
        self.file = file
        self.uri = f"{Path(file).absolute().as_uri()}?mode=ro&immutable=1"
        """To attach: not made where it is gone, and locked by whoever checks it meanwhile."""
        self._table = table
        self._tables: list[_ShadowTable] = []
        self.is_emptied = False
        self._place: _Place = (0, None)
        self._if_settled: tuple[bool, _Place, float] = (False, self._place, 0.0)

    def step(self, connection: sqlite3.Connection, is_over: IsOver) -> bool:
        """Copy some more; False when all is there. `settle` follows once that is committed."""
        if not self.is_emptied:
            before = connection.total_changes
            is_emptied = empty_some(connection, self._table, is_over=is_over)
            removed = connection.total_changes - before
            self._if_settled = (is_emptied, self._place, float(removed))
            return True
        place, copied = self._place, 0
        while not copied or not is_over():
            place, size = self._copy_piece(connection, place)
            copied += size
            self._if_settled = (True, place, copied / 1000)
            if place[0] == len(SHADOW_TABLES):
                # FTS5 has what it knows of its own table by heart, which is no longer so.
                connection.execute("PRAGMA writable_schema=RESET")
                return False
        return True

    def settle(self) -> float:
        """What the last step has done is committed: kilobytes of it, each row that went for one."""
        self.is_emptied, self._place, done_kb = self._if_settled
        self._if_settled = (self.is_emptied, self._place, 0.0)
        return done_kb

    def _copy_piece(self, connection: sqlite3.Connection, place: _Place) -> tuple[_Place, int]:
        """The place behind the next piece, and its bytes."""
        number, after = place
        if not self._tables:
            names = (self._table + part for part in SHADOW_TABLES)
            self._tables = [_ShadowTable.of(connection, name) for name in names]
        piece = self._tables[number].piece(connection, after)
        if not piece:
            return (number + 1, None), 0
        *upto, _ = piece[-1]
        self._tables[number].copy(connection, after, tuple(upto))
        return (number, tuple(upto)), sum(row[-1] for row in piece)


@dataclass(frozen=True, slots=True)
class _ShadowTable:
    """One of the tables that FTS5 makes an index of."""

    name: str
    key: str  # its columns
    size: str  # of a row

    @classmethod
    def of(cls, connection: sqlite3.Connection, name: str) -> _ShadowTable:
        found = connection.execute(
            "SELECT name, pk FROM pragma_table_info(?) ORDER BY pk", (name,)
        ).fetchall()
        key = ", ".join(f'"{column}"' for column, pk in found if pk)
        size = " + ".join(f'coalesce(length("{column}"), 0)' for column, _ in found)
        return cls(name, key, size)

    def piece(self, connection: sqlite3.Connection, after: _Key | None) -> list[_Row]:
        """Keys and sizes of the next rows."""
        found = connection.execute(
            f'SELECT {self.key}, {self.size} FROM {INDEX}."{self.name}"'  # noqa: S608 - names of the schema
            f" WHERE {self._behind(after)} ORDER BY {self.key}",
            after or (),
        )
        with closing(found):
            return _piece(found, COPIED_ROWS, COPIED_BYTES, itemgetter(-1))

    def copy(self, connection: sqlite3.Connection, after: _Key | None, upto: _Key) -> None:
        places = ", ".join("?" * len(upto))
        connection.execute(
            f'INSERT OR REPLACE INTO main."{self.name}" SELECT * FROM {INDEX}."{self.name}"'  # noqa: S608 - names of the schema
            f" WHERE {self._behind(after)} AND ({self.key}) <= ({places})",
            (*(after or ()), *upto),
        )

    def _behind(self, after: _Key | None) -> str:
        return "TRUE" if after is None else f"({self.key}) > ({', '.join('?' * len(after))})"


def _piece(
    found: Iterator[_Row], rows_max: int, size_max: int, size: Callable[[_Row], int]
) -> list[_Row]:
    """The next rows, up to the one that brings their size to the most that there may be."""
    rows: list[_Row] = []
    total = 0
    for row in islice(found, rows_max):
        rows.append(row)
        total += size(row)
        if total >= size_max:
            break
    return rows


def _chars(row: _Row) -> int:
    return sum(len(value) for value in row if isinstance(value, str))
