"""One rebuild at work: the records copied into a new generation, and its search index made.

Changes of records are written to the generation from the first moment on, whatever their place in
the copy, which therefore ends: it goes up to the newest record that was there when it began. What
was made ready outside of the writer is compared, when it is taken over, with the record as it is
then, and what has changed is left alone, because whoever changed it has written its new rows.
What eprints are found by comes first, the labels and tags of others, then they: so each search row
is written once. The search index, made elsewhere, is put in place while the rest is copied; until
it is there and was checked, changes of it are owed.

Every step is one short transaction, in which the place it has come to and the records that are done
are saved with it. What else is done is told to a `Progress`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path

import msgspec

from indexer.model import Operation
from storage.database import Database, IsOver
from storage.generations import IN_USE, Generation, GenerationState, SearchState, find_generation
from storage.generations import generation_from_row as from_row
from storage.operations import load_operation
from storage.projections import Projections
from storage.rebuild_check import find_difference
from storage.rebuild_parts import PART, Part, Preparing, first_judged, piece_upto, take_over
from storage.rebuild_progress import Progress, Stage
from storage.rebuild_work import Append, BeginIndex, Check, Merge, Outcome, insist_on_file
from storage.rebuild_workers import Parts
from storage.records import ProjectionWrite, judge_again
from storage.search_build import CHECK_TELLS, INDEX, MERGE_PAGES, SEGMENTS_MAX, IndexCopy
from storage.search_queue import Turns
from storage.search_rows import SearchRows

PART_RECORDS = 2000
"""Of one part, or fewer of large ones: some tenths of a second of a process."""

SEARCH_ROWS = 50


class _Turn(IntEnum):
    """When collections are copied."""

    FEEDING = 0
    SEARCHABLE = 1
    REST = 2


_LAST = """
SELECT max(id) FROM (
    SELECT id FROM record WHERE collection = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?)
"""

# By itself: strangers make up as many as they like, and each part would read the list of all.
_NEXT_COLLECTION = "SELECT min(collection) FROM record WHERE collection > ?"

_STORED = """
SELECT record.id, repo_id, repo.did, path, cid, value, problem
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id IN (SELECT value FROM json_each(?))
"""

_ADVANCE = """
UPDATE operation SET records_processed = records_processed + ?1,
                     outcomes = json_object('rebuilt', records_processed + ?1),
                     checkpoint = json_object('collection', ?2, 'after', ?3)
WHERE id = ?4 AND status = 'running'
"""


class Rebuild:
    """What an operation has under way in this process. `Rebuilds.open` makes it."""

    def __init__(
        self,
        operation_id: str,
        folder: Path,
        database: Database,
        projections: Projections,
        preparing: Preparing,
        *,
        progress: Progress,
        is_trusted: bool,
    ) -> None:
        self._operation_id = operation_id
        self._folder = folder
        self._database = database
        self._projections = projections
        self._preparing = preparing
        self._progress = progress
        self._is_trusted = is_trusted  # whether all records were held against today's lexicons
        self._searchable = frozenset(
            kind.nsid for kind in projections.types.values() if kind.search is not None
        )
        feeding = (kind.nsid for kind in projections.types.values() if kind.feeds_search)
        self._turns = dict.fromkeys(feeding, _Turn.FEEDING)
        self._turns |= dict.fromkeys(self._searchable, _Turn.SEARCHABLE)
        self._planned = 0  # parts
        self._attached: str | None = None  # file of the part that the writer has before it
        self._index: BeginIndex | None = None
        self._is_merging = False
        self._appended: dict[str, int] = {}  # file of a part -> its last record in the index
        self._is_past_search = False  # whether all parts that can be searched were made
        self._is_whole = False  # whether all of them are in the index
        self.segments, self._gathering = 0, 0  # of the index, not made one yet; records in them
        self._finished: tuple[IndexCopy, asyncio.Task[Outcome]] | None = None  # and its check
        self._is_placed = False
        self._index_kb = 0
        self.parts: Parts  # made by its `plan`

    async def next(self) -> Part | None:
        """The next part of what is left to be copied, made ready; None after the last."""
        part = await self.parts.next()
        self._is_past_search = part is None or self._turn(part.collection) is _Turn.REST
        return part

    async def plan(self, previous: Part | None) -> Part | None:
        """The part that follows `previous`, or the place that was saved; None after the last."""
        generation = await self._generation()
        if generation is None:
            return None
        saved = place = (generation.collection, generation.after_id)
        if previous is not None:
            place = (previous.collection, previous.upto_id)
        elif generation.search is SearchState.OWED:
            # The process that had made some of the search index is no more, nor is that.
            place = min(place, (min(self._searchable), 0), key=self._order)
        async for collection in self._collections(place[0]):
            after_id = place[1] if collection == place[0] else 0
            if self._turn(collection) is _Turn.SEARCHABLE:
                generation = await self._with_index(generation)
            elif self._order(saved) > self._order((collection, after_id)):
                if saved[0] != collection:
                    continue  # it was copied before a restart
                after_id = saved[1]
            found = await self._database.read(
                _LAST, (collection, after_id, generation.upto_id, PART_RECORDS)
            )
            if (upto_id := found[0][0]) is not None:
                self._planned += 1
                file = str(self._folder / f"{self._planned}.part")
                return Part(collection, after_id, upto_id, self._is_trusted, file)
        return None

    async def _collections(self, first: str) -> AsyncIterator[str]:
        """Those that are copied from `first` on, in the order of the copy."""
        for each in sorted(self._turns, key=lambda name: self._order((name, 0))):
            if self._order((each, 0)) >= self._order((first, 0)):
                yield each
        name: str | None = first if self._turn(first) is _Turn.REST else ""
        while name is not None:
            if name and self._turn(name) is _Turn.REST:
                yield name
            name = (await self._database.read(_NEXT_COLLECTION, (name,)))[0][0]

    def _turn(self, collection: str) -> _Turn:
        is_none = collection == ""  # before the first
        return _Turn.FEEDING if is_none else self._turns.get(collection, _Turn.REST)

    def _order(self, place: tuple[str, int]) -> tuple[_Turn, str, int]:
        """Of two places in the copy, that of the later one is greater."""
        return self._turn(place[0]), *place

    async def _generation(self) -> Generation | None:
        for row in await self._database.read(IN_USE):
            found = from_row(row)
            is_building = found.state is GenerationState.BUILDING
            if is_building and found.operation_id == self._operation_id:
                return found
        return None

    async def _with_index(self, generation: Generation) -> Generation:
        """From now on changes of search rows are owed, so the copy ends with today's records."""
        if self._index is not None or generation.search is SearchState.KEPT:
            return generation
        file = str(self._folder / "search.db")
        index = BeginIndex(file, generation.search_table(self._projections.search))
        await self.parts.do(index)

        def change(connection: sqlite3.Connection) -> Generation | None:
            connection.execute(
                "UPDATE generation SET has_search = ?,"
                " upto_id = (SELECT coalesce(max(id), 0) FROM record)"
                " WHERE number = ? AND state = 'building' AND has_search = ?",
                (SearchState.OWED, generation.number, SearchState.ABSENT),
            )
            return generation_of(connection, self._operation_id)

        found = await self._database.write(change)
        if found is None:
            raise AssertionError("a rebuild that is at work has its generation")
        self._index = index
        return found

    async def copy(self, part: Part, records_max: int) -> tuple[Operation, Part] | None:
        """Take over the first records of a part; the operation's row, and what is left.

        At most `records_max` of them, in one transaction. None when the operation has ended or
        another rebuild has begun.
        """
        if self._attached != part.file:
            await asyncio.to_thread(insist_on_file, part.file)
            await self._database.attach(part.file, PART)
            self._attached = part.file

        def change(
            connection: sqlite3.Connection, is_over: IsOver
        ) -> tuple[Operation, Part] | None:
            generation = generation_of(connection, self._operation_id)
            if generation is None:
                return None
            first = self._first_left(generation, part)
            between = (first, first + records_max)
            done = self._take_over(connection, generation, part, between, is_over)
            left = part.record_ids[done:]
            is_running = self._save(connection, generation, part, (first, done))
            if not is_running:
                return None
            row = load_operation(connection, self._operation_id)
            return row, msgspec.structs.replace(part, record_ids=left)

        copied = await self._database.write_some(change)
        if copied is not None:
            self._progress.come_to(Stage.COPIED, copied[0].records_processed)
        if copied is None or not copied[1].record_ids:
            # A transaction locks what is attached, and would wait for whoever reads the part next.
            await self._database.detach(PART)
            self._attached = None
        return copied

    def _first_left(self, generation: Generation, part: Part) -> int:
        """How many records of a part had been taken over before a restart."""
        saved = (generation.collection, generation.after_id)
        return bisect_right(
            part.record_ids,
            self._order(saved),
            key=lambda record_id: self._order((part.collection, record_id)),
        )

    def _take_over(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        part: Part,
        between: tuple[int, int],
        is_over: IsOver,
    ) -> int:
        """Those at some of these places in the part, until it is over; where it ends."""
        kind = self._projections.types.get(part.collection)
        at, end = between[0], min(between[1], len(part.record_ids))
        while at < end:
            after_id = part.record_ids[at - 1] if at else part.after_id
            at = min(
                bisect_right(part.record_ids, piece_upto(connection, part.record_ids[at])), end
            )
            judged_id = first_judged(connection, (after_id, part.record_ids[at - 1]))
            if judged_id is not None:  # which takes long: it is the last of a piece
                at = bisect_right(part.record_ids, judged_id)
            judged = take_over(connection, generation, kind, (after_id, part.record_ids[at - 1]))
            self._judge_again(connection, judged)
            if is_over():
                break
        return at

    def _judge_again(self, connection: sqlite3.Connection, record_ids: Sequence[int]) -> None:
        """What is valid only now, or no longer, shows at once in the tables that readers see."""
        if not record_ids:
            return
        writes = []
        for row in connection.execute(_STORED, (json.dumps(record_ids),)).fetchall():
            record_id, repo_id, did, path, cid, value, problem = row
            record = self._preparing.prepare(did, path, cid, value)
            if record.problem != problem:
                judge_again(connection, record_id, did, record)
            writes.append(ProjectionWrite(record_id, repo_id, did, path, "", record, is_new=False))
        self._projections.write(connection, writes)

    def _save(
        self,
        connection: sqlite3.Connection,
        generation: Generation,
        part: Part,
        between: tuple[int, int],
    ) -> bool:
        """The place and the progress; whether the operation is still running."""
        first, end = between
        is_last = end == len(part.record_ids)
        if end > first:
            last_id = part.record_ids[end - 1]
            connection.execute(
                "UPDATE generation SET collection = ?, after_id = ? WHERE number = ?",
                (part.collection, last_id, generation.number),
            )
            advanced = (end - first, part.collection, last_id, self._operation_id)
            if connection.execute(_ADVANCE, advanced).rowcount == 0:
                return False
            unit = part.unit if is_last else f"{part.unit}, up to {last_id}"
            connection.execute(
                "INSERT INTO operation_unit (operation_id, unit, outcome, records)"
                " VALUES (?, ?, 'rebuilt', ?) ON CONFLICT DO UPDATE SET records = records + ?",
                (self._operation_id, unit, end - first, end - first),
            )
        if is_last:
            connection.execute(
                "DELETE FROM operation_unit_begun WHERE operation_id = ? AND unit = ?",
                (self._operation_id, part.unit),
            )
        return True

    async def index(self, part: Part) -> None:
        """Add a part that has been taken over to the search index; its file is not needed more.

        A part that has been begun is gone on with.
        """
        if self._turn(part.collection) is _Turn.SEARCHABLE and self._index is not None:
            index, is_more = self._index, True
            while is_more:
                if self.segments >= SEGMENTS_MAX:
                    await self._gather(index)
                after_id = self._appended.get(part.file, 0)
                work = Append(index.file, index.table, part.file, after_id)
                outcome = await self.parts.do(work, self._tell_appended)
                self.segments += 1
                self._appended[part.file] = outcome.upto_id
                is_more = outcome.is_more
            del self._appended[part.file]
        self._is_whole = self._is_past_search
        await asyncio.to_thread(Path(part.file).unlink, missing_ok=True)

    @property
    def can_complete(self) -> bool:
        """Whether the search index is whole, and `complete` has it to put in place."""
        return self._is_whole and self._index is not None

    def _tell_appended(self, records: int) -> None:
        self._gathering += records
        self._progress.add(Stage.APPENDED, records)

    async def _gather(self, index: BeginIndex) -> None:
        """Make the segments one, which FTS5 would do in one step that nobody could look into."""
        is_more = True
        while is_more:
            outcome = await self.parts.do(Merge(index.file, index.table, is_first=False))
            share = min(MERGE_PAGES / outcome.size_kb, 1.0)
            self._progress.add(Stage.GATHERED, share * self._gathering)
            is_more = outcome.is_more
        self.segments, self._gathering = 0, 0

    async def complete(self) -> bool:
        """Do a part of what the new search rows still owe; False when nothing was left."""
        if self._index is None:
            return await self._catch_up()
        if self._finished is None:
            await self._merge(self._index)
            return True
        copy, checking = self._finished
        if not self._is_placed:
            self._is_placed = await self._put_in_place(copy)
        else:
            await self._keep(checking)
            self._index = None
        return True

    async def _merge(self, index: BeginIndex) -> None:
        outcome = await self.parts.do(Merge(index.file, index.table, is_first=not self._is_merging))
        self._is_merging = True
        self._index_kb = outcome.size_kb
        self._progress.reach(Stage.MERGED)
        self._progress.measure(Stage.MERGED, self._index_kb)
        self._progress.add(Stage.MERGED, MERGE_PAGES)
        if not outcome.is_more:
            # Neither the check nor the copying changes the file: they need not wait for each other.
            self._progress.reach(Stage.EMPTIED)
            self._progress.measure(Stage.CHECKED, CHECK_TELLS)
            tell = partial(self._progress.add, Stage.CHECKED)
            copy = IndexCopy(index.file, index.table)
            await self._database.attach(copy.uri, INDEX)
            self._finished = copy, self.parts.begin(Check(index.file, index.table), tell)

    async def _put_in_place(self, copy: IndexCopy) -> bool:
        """Whether all of the index is there now; changes are still owed to it."""

        def change(connection: sqlite3.Connection, is_over: IsOver) -> bool:
            if generation_of(connection, self._operation_id) is None:
                return True
            insist_on_file(copy.file)
            return not copy.step(connection, is_over)

        stage = Stage.PLACED if copy.is_emptied else Stage.EMPTIED
        is_there = await self._database.write_some(change)
        self._progress.measure(stage, self._index_kb)
        self._progress.add(stage, copy.settle())
        if copy.is_emptied:
            self._progress.reach(Stage.PLACED)
        return is_there

    async def _keep(self, checking: asyncio.Task[Outcome]) -> None:
        """Once the check has found nothing: from now on changes are written to the index."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE generation SET has_search = ?"
                " WHERE operation_id = ? AND state = 'building' AND has_search = ?",
                (SearchState.KEPT, self._operation_id, SearchState.OWED),
            )

        self._progress.reach(Stage.CHECKED)
        await checking
        await self._database.write(change)
        self._progress.reach(Stage.CAUGHT_UP)

    async def _catch_up(self) -> bool:
        turns = Turns()  # what is owed here is done before anybody reads it, in any order

        def change(connection: sqlite3.Connection) -> bool:
            generation = generation_of(connection, self._operation_id)
            if generation is None:
                return False
            rows = SearchRows(self._projections.search, generation)
            return rows.work(connection, self._preparing.prepare, turns, rows_max=SEARCH_ROWS)

        was_any = await self._database.write(change)
        self._progress.add(Stage.CAUGHT_UP, SEARCH_ROWS)
        return was_any

    async def check(self) -> str | None:
        """Hold the new tables against the records; see `find_difference`."""
        generation = await self._generation()
        if generation is None:
            return None
        self._progress.reach(Stage.HELD)
        tell = partial(self._progress.add, Stage.HELD)
        return await find_difference(
            self._database, self.parts, generation.number, self._progress.records, tell
        )


def generation_of(connection: sqlite3.Connection, operation_id: str) -> Generation | None:
    """What the operation is making, unless it was given up."""
    found = find_generation(connection, GenerationState.BUILDING)
    return found if found is not None and found.operation_id == operation_id else None
