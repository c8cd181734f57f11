"""The whole index held against its own records: what `verify` does.

Every CID is computed again from the stored JSON, every derived row from its record, every tally
from the rows it counts. Nothing is repaired and nothing fetched. Reads in short transactions of
`CHUNK_ROWS` records each, so memory is bounded and a daemon may go on meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from indexer.derived import Projection
from indexer.protocol.cbor import json_to_dag_cbor
from indexer.protocol.cid import cid_text, dag_cbor_cid
from indexer.records.projection import RecordType, SearchIndex
from storage.file_lock import file_lock
from storage.generations import GENERATION, Generation, current_generation
from storage.reading import snapshot
from storage.relation_views import did_of, path_of
from storage.search_queue import RECORD_TASK, REPO_TASK
from storage.search_rows import PrepareStored, SearchRow, SearchRows

CHUNK_ROWS = 500
ID_MAX = 2**63 - 1

_RECORDS = """
SELECT record.id, repo.id, repo.did, path, cid, value, problem, repo.account_status = 'active'
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id > ? ORDER BY record.id LIMIT ?
"""

_RECORDS_OF_REPO = """
SELECT record.id, repo.id, repo.did, path, cid, value, problem, repo.account_status = 'active'
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id > ? AND repo.did = ? ORDER BY record.id LIMIT ?
"""

_RECORDS_BY_ID = """
SELECT record.id, repo.id, repo.did, path, cid, value, problem, repo.account_status = 'active'
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id IN (SELECT value FROM json_each(?)) ORDER BY record.id
"""

_AMONG = "{0} IN (SELECT value FROM json_each(?))"

_IS_OWING = f"SELECT EXISTS (SELECT 1 FROM search_queue{GENERATION})"  # noqa: S608 - a constant
_OWED = f"SELECT subject FROM search_queue{GENERATION} WHERE kind = ?"  # noqa: S608 - a constant

_TALLIES = """
SELECT kind, name, sum(counted), sum(kept) FROM (
    SELECT 'repo_state' AS kind, state AS name, count(*) AS counted, 0 AS kept FROM repo GROUP BY 2
    UNION ALL SELECT 'account_status', account_status, count(*), 0 FROM repo GROUP BY 2
    UNION ALL SELECT 'collection', collection, count(*), 0 FROM record GROUP BY 2
    UNION ALL SELECT 'dead_letter', reason, count(*), 0 FROM dead_letter GROUP BY 2
    UNION ALL SELECT kind, name, 0, total FROM tally
        WHERE kind IN ('repo_state', 'account_status', 'collection', 'dead_letter'))
GROUP BY kind, name HAVING sum(counted) <> sum(kept)
"""


_DENIALS = f"""
SELECT subject, 'is not hidden' FROM denial JOIN repo ON repo.did = subject
WHERE kind = 'account' AND account_status <> 'denied'
UNION ALL SELECT subject, 'has content' FROM denial
JOIN repo ON repo.did = {did_of("subject")}
JOIN record ON record.repo_id = repo.id AND record.path = {path_of("subject")}
WHERE kind = 'record' AND (record.problem IS NOT 'denied' OR record.value IS NOT NULL)
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as `record` demands."""

    what: str  # cid | value | valid | the table whose row differs | tally | denial | search index
    subject: str  # URI, id of a row without a record, or name of a tally
    detail: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """One record row."""

    record_id: int
    repo_id: int
    did: str
    path: str
    cid: str
    value: str | None
    problem: str | None
    is_visible: int

    @property
    def uri(self) -> str:
        return f"at://{self.did}/{self.path}"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Records, and the SQL condition on a record id that finds all their derived rows."""

    records: Mapping[int, _Stored]
    condition: str
    parameters: Sequence[object]
    projections: Mapping[int, Projection]
    generation: Generation

    def name(self, record_id: int) -> str:
        found = self.records.get(record_id)
        return f"row {record_id} of no record" if found is None else found.uri


class Verification:
    """One pass over the index; `records` tells how far it has come."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        types: Mapping[str, RecordType],
        search: SearchIndex,
        prepare: PrepareStored,
    ) -> None:
        self._connection = connection
        self._types = types
        self._search = search
        self._prepare = prepare
        self.records = 0

    def differences(
        self, did: str | None = None, *, on_chunk: Callable[[int], None] = lambda _: None
    ) -> Iterator[Difference]:
        """All that is found, as it is found; of one account only its records and their rows.

        `on_chunk` is told after every chunk how many records have been verified.
        """
        last = 0
        while True:
            with snapshot(self._connection):
                rows = self._load(last, did)
                generation = current_generation(self._connection)
                found = list(self._check_chunk(rows, last, did, generation))
            yield from found
            self.records += len(rows)
            on_chunk(self.records)
            if len(rows) < CHUNK_ROWS:
                break
            last = rows[-1].record_id
        if did is None:
            rows_of_tallies = self._connection.execute(_TALLIES).fetchall()
            for kind, name, counted, kept in rows_of_tallies:
                yield Difference("tally", f"{kind} {name}", f"is {kept}, there are {counted}")
            for subject, detail in self._connection.execute(_DENIALS).fetchall():
                yield Difference("denial", subject, detail)

    def differences_among(
        self, record_ids: Sequence[int], generation: Generation
    ) -> list[Difference]:
        """What is not as it must be of these records and their rows in one generation."""
        ids = json.dumps(record_ids)
        rows = [_Stored(*row) for row in self._connection.execute(_RECORDS_BY_ID, (ids,))]
        return list(self._check(rows, _AMONG, [ids], generation))

    def _load(self, after: int, did: str | None) -> list[_Stored]:
        if did is None:
            rows = self._connection.execute(_RECORDS, (after, CHUNK_ROWS))
        else:
            rows = self._connection.execute(_RECORDS_OF_REPO, (after, did, CHUNK_ROWS))
        return [_Stored(*row) for row in rows]

    def _check_chunk(
        self, rows: Sequence[_Stored], after: int, did: str | None, generation: Generation
    ) -> Iterator[Difference]:
        if did is not None:
            ids = json.dumps([row.record_id for row in rows])
            return self._check(rows, _AMONG, [ids], generation)
        # The range, not the ids: rows of records that are gone lie in it too.
        upto = rows[-1].record_id if len(rows) == CHUNK_ROWS else ID_MAX
        return self._check(rows, "{0} > ? AND {0} <= ?", [after, upto], generation)

    def _check(
        self,
        rows: Sequence[_Stored],
        condition: str,
        parameters: Sequence[object],
        generation: Generation,
    ) -> Iterator[Difference]:
        projections: dict[int, Projection] = {}
        for row in rows:
            yield from self._check_record(row, projections)
        by_id = {row.record_id: row for row in rows}
        chunk = _Chunk(by_id, condition, parameters, projections, generation)
        yield from self._check_tables(chunk)
        yield from self._check_search(chunk)

    def _check_record(
        self, row: _Stored, projections: dict[int, Projection]
    ) -> Iterator[Difference]:
        if row.value is None:
            if row.problem is None:
                yield Difference("value", row.uri, "is absent, and no reason is given")
            return
        try:
            cid = cid_text(dag_cbor_cid(json_to_dag_cbor(row.value)))
            prepared = self._prepare(row.did, row.path, row.cid, row.value)
        except ValueError as error:
            yield Difference("value", row.uri, f"cannot be a record's: {error}")
            return
        if cid != row.cid:
            yield Difference("cid", row.uri, f"is {row.cid}, the value gives {cid}")
        if prepared.problem != row.problem:
            yield Difference("valid", row.uri, f"{row.problem!r}, should be {prepared.problem!r}")
        if prepared.projection is not None:
            projections[row.record_id] = prepared.projection

    def _check_tables(self, chunk: _Chunk) -> Iterator[Difference]:
        for kind in self._types.values():
            mine = {
                record_id: projection
                for record_id, projection in chunk.projections.items()
                if chunk.records[record_id].path.startswith(f"{kind.nsid}/")
            }
            rows = {record_id: [projection.row] for record_id, projection in mine.items()}
            yield from self._compare(chunk, kind.table, rows)
            for side in kind.side_tables:
                side_rows = {
                    record_id: [
                        (at, *row) for at, row in enumerate(projection.side_rows[side.name])
                    ]
                    for record_id, projection in mine.items()
                }
                yield from self._compare(chunk, side.name, side_rows)
        marks = {
            record_id: [(mark.name, mark.subject, mark.text) for mark in projection.marks]
            for record_id, projection in chunk.projections.items()
        }
        yield from self._compare(chunk, "mark", marks)

    def _compare(
        self,
        chunk: _Chunk,
        table: str,
        wanted: Mapping[int, Iterable[tuple[object, ...]]],
    ) -> Iterator[Difference]:
        stored: defaultdict[int, list[tuple[object, ...]]] = defaultdict(list)
        rows = self._connection.execute(
            f'SELECT * FROM "{chunk.generation.table(table)}"'  # noqa: S608 - declared names
            f" WHERE {chunk.condition.format('record_id')}",
            chunk.parameters,
        )
        for row in rows:
            stored[row[0]].append(tuple(row[1:]))
        for record_id in stored.keys() | wanted.keys():
            ours, theirs = stored.get(record_id, []), list(wanted.get(record_id, ()))
            if ours != theirs and sorted(ours, key=repr) != sorted(theirs, key=repr):
                yield Difference(table, chunk.name(record_id), _change(ours, theirs))

    def _check_search(self, chunk: _Chunk) -> Iterator[Difference]:
        """Rows that the queue still owes are not held against it."""
        generation = chunk.generation
        is_owing = self._connection.execute(generation.sql(_IS_OWING)).fetchone()[0]
        owed, owed_records = (
            {int(row[0]) for row in self._connection.execute(generation.sql(_OWED), (task,))}
            for task in (REPO_TASK, RECORD_TASK)
        )
        columns = (*self._search.own, *self._search.labels, *self._search.received)
        compared = len(self._search.own) if is_owing else len(columns)
        names = ", ".join(f'"{column}"' for column in columns)
        stored = {
            row[0]: tuple(row[1 : 1 + compared])
            for row in self._connection.execute(
                f'SELECT rowid, {names} FROM "{generation.search_table(self._search)}"'  # noqa: S608 - declared names
                f" WHERE {chunk.condition.format('rowid')}",
                chunk.parameters,
            )
        }
        wanted = {}
        search_rows = SearchRows(self._search, generation)
        for record_id, projection in chunk.projections.items():
            row = chunk.records[record_id]
            if projection.search is not None and row.is_visible:
                own = SearchRow(record_id, row.repo_id, row.uri, projection)
                wanted[record_id] = search_rows.texts(self._connection, own)[:compared]
        for record_id in stored.keys() | wanted.keys():
            row_of = chunk.records.get(record_id)
            is_owed = record_id in owed_records or (row_of is not None and row_of.repo_id in owed)
            ours, theirs = stored.get(record_id), wanted.get(record_id)
            if ours != theirs and not is_owed:
                detail = _change([ours] if ours else [], [theirs] if theirs else [])
                yield Difference(self._search.table, chunk.name(record_id), detail)


def is_known(connection: sqlite3.Connection, did: str) -> bool:
    """Whether the index has the account, with records or without."""
    found = connection.execute("SELECT EXISTS (SELECT 1 FROM repo WHERE did = ?)", (did,))
    return bool(found.fetchone()[0])


def check_search_index(path: Path, search: SearchIndex) -> Difference | None:
    """Whether the index of words agrees with the texts beside it, by FTS5's own check.

    It needs the file for itself. Raises `ConfigurationError` while a daemon has it, `LocalBusy`
    while another command has.
    """
    with (
        file_lock(path, is_command=True),
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
    ):
        try:
            connection.execute(
                f'INSERT INTO "{search.table}" ("{search.table}") VALUES (\'integrity-check\')'  # noqa: S608 - a declared name
            )
        except sqlite3.DatabaseError as error:
            return Difference("search index", search.table, str(error))
    return None


def _change(ours: Sequence[tuple[object, ...]], theirs: Sequence[tuple[object, ...]]) -> str:
    if not theirs:
        return "has a row, and should have none"
    if not ours:
        return "has no row"
    if len(ours) != len(theirs):
        return f"has {len(ours)} rows, should have {len(theirs)}"
    for one, other in zip(ours, theirs, strict=True):
        for at, (is_there, wanted) in enumerate(zip(one, other, strict=True)):
            if is_there != wanted:
                return f"column {at} is {str(is_there)[:80]!r}, should be {str(wanted)[:80]!r}"
    return "has its rows in another order"
