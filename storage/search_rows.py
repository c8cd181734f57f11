"""Rows of the full-text index: written with their record, and with what others say of it.

A row holds texts of its own record, the labels of the nodes that it names and the tags that others
put on it. All of that counts only from visible accounts, and only records of visible accounts have
a row. What one change of another record or account reaches is brought up to date in the same
transaction up to `INLINE_ROWS` and `INLINE_CHARS`; what lies beyond waits in the table
`search_queue` for `SearchRows.work`, because no transaction may hold the writer for as long as a
popular field takes. Nor for as long as many long texts take: records of the transaction itself wait
there too beyond `OWN_CHARS`, and until then the index holds what they were.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from indexer.derived import Mark, Projection
from indexer.model import PreparedRecord
from indexer.records.projection import LABEL_MARK, SearchIndex
from storage.generations import GENERATION, Generation, SearchState
from storage.rows import delete_rows, insert_at_once
from storage.search_queue import (
    AMONG,
    DONE,
    QUEUE,
    RECEIVED_TASK,
    RECORD_TASK,
    REPO_TASK,
    SAME,
    Turns,
    next_task,
)
from storage.search_texts import Received, TextsOfOthers, one_list

INLINE_ROWS = 25
"""Rows of other records rewritten in the transaction that reaches them: some 10 ms."""

INLINE_CHARS = 20_000
"""Of those rows, whichever comes first: some 20 ms. Only rows of unusual length reach it.

Both are for all labels that a transaction changes together, and once more for all received texts.
"""

OWN_CHARS = 300_000
"""Of the rows that a transaction writes, or takes out, for records of its own: some 150 ms. Only
commits of many long texts reach it, and those of records that others have tagged without end."""

AT_ONCE_ROWS_MIN = 64
"""From so many rows on one statement writes all of them. The index writes out what it has gathered
whenever a statement of several rows ends, and each time that is another part for it to merge, so
fewer rows are written one by one: see `storage.rows` for what that costs."""

AT_ONCE_ROWS_MAX = 1000
"""Of one statement: 7,000 parameters."""

PrepareStored = Callable[[str, str, str, str], PreparedRecord]
"""(did, path, CID text, stored JSON) -> the record made ready, as on every other path."""

_VISIBLE = """
SELECT json_group_array(id) FROM repo
WHERE account_status = 'active' AND id IN (SELECT value FROM json_each(?))
"""

_NAMING = f"""
SELECT record_id FROM mark{GENERATION}
WHERE name = ? AND subject = ? AND record_id > ? ORDER BY record_id LIMIT ?
"""  # noqa: S608 - constants

_FIND = """
SELECT json_group_array(json_array(record.id, wanted.value))
FROM json_each(?) AS wanted
JOIN repo ON substr(wanted.value, 1, 5) = 'at://'
         AND repo.did = substr(wanted.value, 6, instr(substr(wanted.value, 6), '/') - 1)
JOIN record ON record.repo_id = repo.id
           AND record.path = substr(wanted.value, 7 + length(repo.did))
"""

_MARKS = f"""
SELECT name, subject FROM mark{GENERATION}
WHERE record_id IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - constants

_OF_REPO = """
SELECT record.id, repo_id, repo.did, path, cid, value, repo.account_status = 'active'
FROM record JOIN repo ON repo.id = record.repo_id
WHERE repo_id = ? AND path > ? ORDER BY path LIMIT ?
"""

_BY_ID = """
SELECT record.id, repo_id, repo.did, path, cid, value, repo.account_status = 'active'
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id IN (SELECT value FROM json_each(?)) ORDER BY record.id
"""


_StoredRow = tuple[int, int, str, str, str, str | None, int]
"""As `_OF_REPO` and `_BY_ID` give it."""


@dataclass(frozen=True, slots=True)
class SearchRow:
    """A record's own part of its row."""

    record_id: int
    repo_id: int
    uri: str
    projection: Projection


@dataclass(slots=True)
class Reached:
    """What the marks of a transaction reach beyond their own record."""

    search: SearchIndex
    received: set[str] = field(default_factory=set)  # URIs whose received texts have changed
    labelled: set[str] = field(default_factory=set)  # URIs whose label has changed

    def note(self, marks: Iterable[Mark]) -> None:
        """Take in marks that came, went or changed."""
        for mark in marks:
            if mark.name == LABEL_MARK:
                self.labelled.add(mark.subject)
            elif mark.name in self.search.received.values():
                self.received.add(mark.subject)

    def note_stored(
        self, connection: sqlite3.Connection, record_ids: Iterable[int], generation: Generation
    ) -> None:
        """The same of the marks of these records, as a generation has them."""
        rows = connection.execute(generation.sql(_MARKS), (json.dumps(list(record_ids)),))
        self.note(Mark(name, subject) for name, subject in rows)


@dataclass(slots=True)
class _Room:
    """What may still be rewritten in a transaction."""

    rows: int = INLINE_ROWS
    chars: int = INLINE_CHARS


class SearchRows:
    """Keeps the rows of one generation's index. All methods run inside the caller's transaction."""

    def __init__(self, search: SearchIndex, generation: Generation) -> None:
        self._search = search
        self._generation = generation
        self._sql = generation.sql
        self._others = TextsOfOthers(search, generation)
        names = (*search.own, *search.labels, *search.received)
        chars = " + ".join(f'length("{name}")' for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        self._table = generation.search_table(search)
        self._into = f'"{self._table}" (rowid, {columns})'
        self._chars = f'SELECT {chars} FROM "{self._table}" WHERE rowid = ?'  # noqa: S608 - declared names
        self._lengths = (
            f'SELECT json_group_array(json_array(rowid, {chars})) FROM "{self._table}"'  # noqa: S608 - declared names
            " WHERE rowid IN (SELECT value FROM json_each(?))"
        )
        self._delete = f'DELETE FROM "{self._table}" WHERE rowid = ?'  # noqa: S608 - declared names

    def insert(
        self, connection: sqlite3.Connection, rows: Sequence[SearchRow], reached: Reached
    ) -> None:
        """Add the rows of these records, which have none, and rewrite those that are reached."""
        if rows:
            wanted = json.dumps([row.repo_id for row in rows])
            visible = set(one_list(connection, _VISIBLE, (wanted,)))
            received, unread = self._others.received_within(connection, [row.uri for row in rows])
            self._queue(connection, [(RECEIVED_TASK, uri, "") for uri in unread])
            self._add(
                connection,
                [
                    (row.record_id, *self._texts(connection, row, received))
                    for row in rows
                    if row.repo_id in visible
                ],
            )
        others = sorted(reached.received - {row.uri for row in rows})
        done = self._rewrite_all_received(connection, others[:INLINE_ROWS])
        self._queue(connection, [(RECEIVED_TASK, uri, "") for uri in others[done:]])
        room = _Room()
        for uri in reached.labelled:
            for name in self._search.labels.values():
                self._rewrite_labels(connection, name, uri, after=0, room=room)

    def _add(self, connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
        at_once = 1 if len(rows) < AT_ONCE_ROWS_MIN else AT_ONCE_ROWS_MAX
        for at in range(0, len(rows), at_once):
            insert_at_once(connection, self._into, rows[at : at + at_once])

    def delete(self, connection: sqlite3.Connection, record_ids: Iterable[int]) -> None:
        """Remove the rows of these records, where they have one."""
        listed = list(record_ids)
        if len(listed) < AT_ONCE_ROWS_MIN:
            connection.executemany(self._delete, [(record_id,) for record_id in listed])
        else:
            delete_rows(connection, f'"{self._table}"', "rowid", listed)

    def remove(self, connection: sqlite3.Connection, record_ids: Iterable[int]) -> None:
        """The same up to `OWN_CHARS`; rows beyond are owed: the index reads what it takes out."""
        listed = json.dumps(list(record_ids))
        taken, left = [], OWN_CHARS
        owed: list[tuple[str, str, str]] = []
        for record_id, chars in one_list(connection, self._lengths, (listed,)):
            if left > 0:
                taken.append(record_id)
            else:
                owed.append((RECORD_TASK, str(record_id), ""))
            left -= chars
        self.delete(connection, taken)
        self._queue(connection, owed)

    def follow(
        self,
        connection: sqlite3.Connection,
        changed: Iterable[int],
        rows: Sequence[SearchRow],
        reached: Reached,
    ) -> None:
        """Do, or owe, what the change of these records asks for, whose old rows are gone."""
        if self._generation.search is SearchState.KEPT:
            self.insert(connection, self._at_once(connection, rows), reached)
        elif self._generation.search is SearchState.OWED:
            self.owe(connection, changed, reached)

    def _at_once(
        self, connection: sqlite3.Connection, rows: Sequence[SearchRow]
    ) -> Sequence[SearchRow]:
        """Rows up to `OWN_CHARS`, without those that are owed: of these an old one may be there."""
        listed = json.dumps([row.record_id for row in rows])
        known = set(one_list(connection, self._sql(AMONG), (listed,)))
        taken, left = [], OWN_CHARS
        owed: list[tuple[str, str, str]] = []
        for row in rows:
            if row.record_id in known:
                continue
            if left > 0:
                taken.append(row)
            else:
                owed.append((RECORD_TASK, str(row.record_id), ""))
            left -= sum(map(len, row.projection.search or ()))
        self._queue(connection, owed)
        return taken

    def owe(
        self, connection: sqlite3.Connection, record_ids: Iterable[int], reached: Reached
    ) -> None:
        """Put down what `insert` and `delete` would do: the index is not there yet."""
        owed = [(RECORD_TASK, str(record_id), "") for record_id in record_ids]
        owed += [(RECEIVED_TASK, uri, "") for uri in reached.received]
        owed += [
            (name, uri, "0") for uri in reached.labelled for name in self._search.labels.values()
        ]
        self._queue(connection, owed)

    def _queue(self, connection: sqlite3.Connection, tasks: Sequence[tuple[str, str, str]]) -> None:
        """Put down (kind, subject, after), each in place of the same kind and subject."""
        if tasks:
            connection.execute(self._sql(QUEUE), (json.dumps(tasks),))

    def texts(self, connection: sqlite3.Connection, row: SearchRow) -> tuple[str, ...]:
        """The whole row of a record, as it must be: own texts, labels, received texts."""
        return self._texts(connection, row, self._others.received(connection, [row.uri])[0])

    def _texts(
        self, connection: sqlite3.Connection, row: SearchRow, received: Received
    ) -> tuple[str, ...]:
        own = row.projection.search
        if own is None:
            raise AssertionError("only searchable records have a row")
        named = {mark.name for mark in row.projection.marks}
        return (
            *own,
            *(
                self._others.labels(connection, row.record_id, name) if name in named else ""
                for name in self._search.labels.values()
            ),
            *(received[name].get(row.uri, "") for name in self._search.received.values()),
        )

    def work(
        self,
        connection: sqlite3.Connection,
        prepare: PrepareStored,
        turns: Turns,
        *,
        rows_max: int,
    ) -> bool:
        """Do the next part of what is queued, about `rows_max` rows; whether there was any."""
        task = next_task(connection, self._generation, turns)
        if task is None:
            return False
        kind, subject, after = task
        if kind == REPO_TASK:
            self._turn_repo(connection, int(subject), after, prepare, rows_max)
        elif kind == RECORD_TASK:
            self._rewrite_owed(connection, prepare, subject, rows_max)
        elif kind == RECEIVED_TASK:
            found = connection.execute(self._sql(SAME), (kind, subject, rows_max))
            uris = [row[0] for row in found]
            done = self._rewrite_all_received(connection, uris)
            connection.executemany(self._sql(DONE), [(kind, uri) for uri in uris[:done]])
        else:
            connection.execute(self._sql(DONE), (kind, subject))
            room = _Room(rows=rows_max)
            self._rewrite_labels(connection, kind, subject, after=int(after), room=room)
        return True

    def _turn_repo(
        self,
        connection: sqlite3.Connection,
        repo_id: int,
        after: str,
        prepare: PrepareStored,
        rows_max: int,
    ) -> None:
        """Take records of a hidden account out of the index, those of a visible one in again."""
        found = connection.execute(_OF_REPO, (repo_id, after, rows_max)).fetchall()
        taken = _bounded(found)
        self._rewrite(connection, taken, prepare)
        is_last = len(found) < rows_max and len(taken) == len(found)
        if is_last:
            connection.execute(self._sql(DONE), (REPO_TASK, str(repo_id)))
        else:
            self._queue(connection, [(REPO_TASK, str(repo_id), taken[-1][3])])

    def _rewrite_owed(
        self, connection: sqlite3.Connection, prepare: PrepareStored, first: str, rows_max: int
    ) -> None:
        """Rows that were left for later, and of records that changed while the index was made."""
        owed = connection.execute(self._sql(SAME), (RECORD_TASK, first, rows_max)).fetchall()
        ids = json.dumps([int(subject) for (subject,) in owed])
        found = connection.execute(_BY_ID, (ids,)).fetchall()
        taken = _bounded(found)
        left = {row[0] for row in found[len(taken) :]}
        done, chars = [], 0
        lengths = dict(one_list(connection, self._lengths, (ids,)))
        for (subject,) in owed:
            if int(subject) not in left and chars < INLINE_CHARS:
                done.append(int(subject))
                chars += lengths.get(int(subject), 0)
        taken = [row for row in taken if row[0] in set(done)]
        self.delete(connection, done)
        self._rewrite(connection, taken, prepare)
        connection.executemany(
            self._sql(DONE), [(RECORD_TASK, str(record_id)) for record_id in done]
        )

    def _rewrite(
        self, connection: sqlite3.Connection, found: Sequence[_StoredRow], prepare: PrepareStored
    ) -> None:
        """Rows of visible records made anew, those of hidden ones taken out."""
        record_ids = [row[0] for row in found]
        reached = Reached(self._search)
        reached.note_stored(connection, record_ids, self._generation)
        self.delete(connection, record_ids)
        rows = []
        for record_id, repo_id, did, path, cid, value, is_visible in found:
            projection = prepare(did, path, cid, value).projection if is_visible and value else None
            if projection is not None and projection.search is not None:
                rows.append(SearchRow(record_id, repo_id, f"at://{did}/{path}", projection))
        self.insert(connection, rows, reached)

    def _rewrite_all_received(self, connection: sqlite3.Connection, uris: Sequence[str]) -> int:
        """Rows of these records, as far as there is room; how many records are done."""
        record_ids = {
            uri: record_id for record_id, uri in one_list(connection, _FIND, (json.dumps(uris),))
        }
        received, unread = self._others.received_within(
            connection, [u for u in uris if u in record_ids]
        )
        left, chars = set(unread), 0
        for done, uri in enumerate(uris):
            if uri in left or chars >= INLINE_CHARS:
                return done
            if (record_id := record_ids.get(uri)) is None:
                continue
            values = {
                column: received[name].get(uri, "")
                for column, name in self._search.received.items()
            }
            chars += self._update(connection, record_id, values)
        return len(uris)

    def _rewrite_labels(
        self, connection: sqlite3.Connection, name: str, uri: str, *, after: int, room: _Room
    ) -> None:
        """Rows that name `uri` by a mark `name`: now while there is room, the rest by the queue."""
        has_room = room.rows > 0 and room.chars > 0
        rows_max = room.rows if has_room else 1
        found = connection.execute(self._sql(_NAMING), (name, uri, after, rows_max)).fetchall()
        if not has_room:
            # Most nodes are named by nobody, and each that is queued is a transaction.
            self._queue(connection, [(name, uri, str(after)) for _ in found])
            return
        is_last = len(found) < rows_max
        for count, (record_id,) in enumerate(found, start=1):
            values = {
                column: self._others.labels(connection, record_id, each)
                for column, each in self._search.labels.items()
                if each == name
            }
            room.rows -= 1
            room.chars -= self._update(connection, record_id, values)
            if room.chars <= 0 and count < len(found):
                found, is_last = found[:count], False
                break
        if not is_last:
            self._queue(connection, [(name, uri, str(found[-1][0]))])

    def _update(
        self, connection: sqlite3.Connection, record_id: int, values: Mapping[str, str]
    ) -> int:
        """Write only what differs: the index takes a whole row out and in for any change.

        Gives the length of the row in characters, 0 where nothing was written.
        """
        changed = 0
        for column, value in values.items():
            changed += connection.execute(
                f'UPDATE "{self._table}" SET "{column}" = ?'  # noqa: S608 - declared names
                f' WHERE rowid = ? AND "{column}" IS NOT ?',
                (value, record_id, value),
            ).rowcount
        found = connection.execute(self._chars, (record_id,)).fetchone() if changed else None
        return 0 if found is None else int(found[0])


def _bounded(found: Sequence[_StoredRow]) -> Sequence[_StoredRow]:
    """The first of them, of `INLINE_CHARS` together; at least one of any."""
    chars = 0
    for count, row in enumerate(found, start=1):
        chars += len(row[5] or "")
        if chars >= INLINE_CHARS:
            return found[:count]
    return found
