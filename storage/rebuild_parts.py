"""Parts of a rebuild: derived rows of records that follow each other, in a file of their own.

What costs time is making the rows ready, and that needs nothing but the records: it is done outside
of the writer, by other processes where there is much of it. The writer takes a part over with one
`INSERT ... SELECT` a table, without a look at any single row, so that neither the interpreter nor
the writer is taken from the live stream for longer than the copying of bytes.

A part holds what was read, for the writer to compare: a record that has changed since, or that has
rows already, is left out, because whoever changed it has written its new rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from indexer.records.projection import RecordType, SearchIndex
from storage.generations import Generation
from storage.search_rows import PrepareStored

PART = "part"
"""What the writer calls the file of a part while it takes it over."""

SCRATCH_PAGE_BYTES = 32_768
"""Of files that are written once, mostly from their beginning to their end: fewer calls of the
system than with smaller ones, for a tenth of all that a rebuild costs (measured)."""

PORTION_ROWS = 250
PORTION_CHARS = 500_000
"""Of the records that are made ready at once, whichever comes first: some tenths of a second."""

_RECORDS = """
SELECT record.id, repo_id, repo.did, path, cid, value, problem
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.collection = ? AND record.id > ? AND record.id <= ? ORDER BY record.id LIMIT ?
"""

PART_CHARS = 8_000_000
"""A part that has come to so much of values ends, whatever it was to hold: about a second."""

TAKEN_ROWS = 256
TAKEN_CHARS = 500_000
"""Of the records that are taken over as one piece, whichever comes first: some milliseconds."""

_READ = """
CREATE TABLE read (record_id INTEGER PRIMARY KEY, repo_id, path, cid, problem, is_judged, chars)
"""
"""Each record as it was read; `is_judged` where today's lexicons come to another verdict."""

_MARK = """
CREATE TABLE mark (record_id, name, subject, text, PRIMARY KEY (record_id, name, subject))
WITHOUT ROWID
"""

_CHANGED = f"""
SELECT old.record_id FROM {PART}.read AS old
LEFT JOIN record ON record.id = old.record_id AND record.repo_id = old.repo_id
    AND record.path = old.path AND record.cid = old.cid AND record.problem IS old.problem
WHERE old.record_id > ?1 AND old.record_id <= ?2 AND record.id IS NULL
"""  # noqa: S608 - a constant

_JUDGED = f"""
SELECT record_id FROM {PART}.read WHERE record_id > ? AND record_id <= ? AND is_judged
"""  # noqa: S608 - a constant


_PIECE = f"""
SELECT max(record_id) FROM (
    SELECT record_id,
           sum(chars) OVER (ORDER BY record_id ROWS UNBOUNDED PRECEDING) - chars AS before
    FROM (SELECT record_id, chars FROM {PART}.read
          WHERE record_id >= ? ORDER BY record_id LIMIT {TAKEN_ROWS}))
WHERE before < {TAKEN_CHARS}
"""  # noqa: S608 - constants


Tell = Callable[[int], None]
"""Is told, after each piece of some work, how much more is done; how much of what, the work says.

Raises where nobody waits for the work any more, which then is to end."""


class Part(msgspec.Struct, frozen=True, tag=True):
    """Records of one collection that follow each other, and where their derived rows are."""

    collection: str
    after_id: int  # the record before the first of them
    upto_id: int  # the last of them
    is_trusted: bool  # whether the verdict on a valid record is that of today's lexicons
    file: str
    record_ids: list[int] = []  # those that are still to be taken over; none until made

    @property
    def unit(self) -> str:
        """What to call it: the same part after a restart has the same name."""
        return f"{self.collection} after {self.after_id}"

    def made(self, record_ids: list[int], *, is_more: bool) -> tuple[Part, Part | None]:
        """Itself with these records in its file, and what is still to be made of it."""
        if not is_more:
            return msgspec.structs.replace(self, record_ids=record_ids), None
        last_id = record_ids[-1]
        file = f"{self.file.partition('+')[0]}+{last_id}"
        return (
            msgspec.structs.replace(self, upto_id=last_id, record_ids=record_ids),
            msgspec.structs.replace(self, after_id=last_id, file=file),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """How stored records are made ready, and by which lexicons."""

    prepare: PrepareStored
    prepare_trusted: PrepareStored  # of a value that these lexicons are known to allow
    types: Mapping[str, RecordType]
    search: SearchIndex
    judged_by: str


def make_part(
    index: sqlite3.Connection, part: Part, preparing: Preparing, tell: Tell
) -> tuple[list[int], bool]:
    """Read the records of a part and write its file; their ids, and whether it has more of them.

    It has where it came to `PART_CHARS` of values before its last record. `index` is a connection
    that reads the index; `tell` is told of records. Raises `sqlite3.Error` as either file gives it.
    """
    Path(part.file).unlink(missing_ok=True)
    kind = preparing.types.get(part.collection)
    record_ids: list[int] = []
    chars = 0
    with closing(sqlite3.connect(part.file, isolation_level=None)) as connection:
        # Nobody wants the file after a crash: it is made again from the records.
        connection.execute(f"PRAGMA page_size={SCRATCH_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        for statement in _tables(kind, preparing.search):
            connection.execute(statement)
        for stored in _portions(index, part):
            rows = _rows_of(stored, part, preparing, kind)
            for table, of_table in rows.items():
                places = ", ".join("?" * len(of_table[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({places})", of_table)  # noqa: S608 - declared names
            tell(len(stored))
            record_ids += (row[0] for row in stored)
            chars += sum(len(row[5] or "") for row in stored)
            if chars >= PART_CHARS:
                break
        connection.execute("COMMIT")
    return record_ids, chars >= PART_CHARS and record_ids[-1] < part.upto_id


def _tables(kind: RecordType | None, search: SearchIndex) -> Iterator[str]:
    yield _READ
    if kind is None:
        return
    columns = "".join(f', "{column.name}"' for column in kind.columns)
    yield f'CREATE TABLE "{kind.table}" (record_id INTEGER PRIMARY KEY{columns})'
    for side in kind.side_tables:
        columns = "".join(f', "{column.name}"' for column in side.columns)
        yield (
            f'CREATE TABLE "{side.name}" (record_id, position{columns},'
            " PRIMARY KEY (record_id, position)) WITHOUT ROWID"
        )
    yield _MARK
    if kind.search is not None:
        columns = "".join(f', "{name}"' for name in search.own)
        yield f"CREATE TABLE own (record_id INTEGER PRIMARY KEY{columns})"


_StoredRow = tuple[int, int, str, str, str, str | None, str | None]
_Rows = Mapping[str, Sequence[Sequence[object]]]  # quoted table -> its rows


def _portions(index: sqlite3.Connection, part: Part) -> Iterator[list[_StoredRow]]:
    """Each read by itself: a long read would keep the writer from resetting its log."""
    after_id = part.after_id
    while portion := _read(index, (part.collection, after_id, part.upto_id, PORTION_ROWS)):
        yield portion
        after_id = portion[-1][0]


def _read(index: sqlite3.Connection, parameters: tuple[str, int, int, int]) -> list[_StoredRow]:
    portion: list[_StoredRow] = []
    chars = 0
    with closing(index.execute(_RECORDS, parameters)) as rows:
        for row in rows:
            portion.append(row)
            chars += len(row[5] or "")
            if chars >= PORTION_CHARS:
                break
    return portion


def _rows_of(
    stored: Sequence[_StoredRow], part: Part, preparing: Preparing, kind: RecordType | None
) -> _Rows:
    rows: defaultdict[str, list[Sequence[object]]] = defaultdict(list)
    for record_id, repo_id, did, path, cid, value, problem in stored:
        record = None
        if value is not None:
            is_allowed = part.is_trusted and problem is None
            prepare = preparing.prepare_trusted if is_allowed else preparing.prepare
            try:
                record = prepare(did, path, cid, value)
            except ValueError:  # a value that the file has spoilt: the check finds that rows lack
                record = None
        is_judged = record is not None and record.problem != problem
        chars = len(value or "")
        rows["read"].append((record_id, repo_id, path, cid, problem, is_judged, chars))
        projection = None if record is None or is_judged else record.projection
        if kind is None or projection is None:
            continue
        rows[f'"{kind.table}"'].append((record_id, *projection.row))
        for name, side_rows in projection.side_rows.items():
            if side_rows:
                rows[f'"{name}"'] += ((record_id, at, *row) for at, row in enumerate(side_rows))
        if projection.marks:
            rows["mark"] += (
                (record_id, mark.name, mark.subject, mark.text) for mark in projection.marks
            )
        if projection.search is not None:
            rows["own"].append((record_id, *projection.search))
    return rows


def piece_upto(connection: sqlite3.Connection, first_id: int) -> int:
    """The last record of the piece that begins with this record of a part; see `take_over`."""
    return int(connection.execute(_PIECE, (first_id,)).fetchone()[0])


def first_judged(connection: sqlite3.Connection, between: tuple[int, int]) -> int | None:
    """The first of these records that has to be judged again; see `take_over`."""
    found = connection.execute(_JUDGED + " ORDER BY record_id LIMIT 1", between).fetchone()
    return None if found is None else int(found[0])


def take_over(
    connection: sqlite3.Connection,
    generation: Generation,
    kind: RecordType | None,
    between: tuple[int, int],
) -> list[int]:
    """Write the rows of records above the first and up to the second id into a generation.

    The file of their part is attached as `PART`. Returns the records that have to be judged again,
    of which nothing has been written.
    """
    left_out = {row[0] for row in connection.execute(_CHANGED, between)}
    judged = [row[0] for row in connection.execute(_JUDGED, between) if row[0] not in left_out]
    if kind is None:
        return judged
    table = generation.table(kind.table)
    present = connection.execute(
        f'SELECT record_id FROM "{table}" WHERE record_id > ? AND record_id <= ?',  # noqa: S608 - declared names
        between,
    )
    left_out.update(row[0] for row in present)
    condition, parameters = "record_id > ? AND record_id <= ?", list[object](between)
    if left_out:
        condition += " AND record_id NOT IN (SELECT value FROM json_each(?))"
        parameters.append(json.dumps(sorted(left_out)))
    for name in (kind.table, *(side.name for side in kind.side_tables), "mark"):
        connection.execute(
            f'INSERT INTO "{generation.table(name)}"'  # noqa: S608 - declared names
            f' SELECT * FROM {PART}."{name}" WHERE {condition}',
            parameters,
        )
    return judged
