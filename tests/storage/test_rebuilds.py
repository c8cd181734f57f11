"""A rebuild beside live changes, crashes and trouble ends in the tables that the records demand."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.errors import LocalBusy, LocalFault
from indexer.model import Operation, OperationMode, OperationStatus
from indexer.operations.full_reindex import FullReindex
from indexer.operations.operation import OperationFailed
from indexer.records.prepare import PreparedRecord, prepare_stored
from indexer.records.projection import SEARCH, text
from indexer.records.registry import Registry
from storage.database import BUSY_TIMEOUT_S, Database, open_database
from storage.denials import DenialStore
from storage.generations import SearchState
from storage.parity import SLICE_CHARS, SLICE_RECORDS, Span, difference, share_of_sample
from storage.rebuild import PART_RECORDS, Rebuild
from storage.rebuild_check import find_difference
from storage.rebuild_parts import PART_CHARS, PORTION_CHARS, Part, Preparing, Tell, piece_upto
from storage.rebuild_work import Check, Outcome, Work, WorkFailed
from storage.rebuild_workers import Here, made
from storage.rebuilds import Rebuilds
from storage.records import RecordTable
from storage.search_build import APPENDED_ROWS, Source, append, begin_index
from storage.verification import Verification
from tests.storage.conftest import SteppedClock
from tests.storage.test_record_paths import CHOICES, COMMENT, EPRINT, NODE, TAG
from tests.storage.typed_world import (
    ALICE,
    BOB,
    CAROL,
    GOVERNANCE,
    REGISTRY,
    Crashed,
    CrashPoint,
    TypedWorld,
    typed_world,
)
from tests.unit.records.record_examples import minimal

LONG = int(os.environ.get("REINDEX_EXAMPLES", "0"))  # how many; none: the short form
PAPER = f"at://{ALICE}/{EPRINT}/3kpaper222222"
SEARCHED = "SELECT count(*) FROM eprint_search WHERE eprint_search MATCH ?"


class Meanwhile:
    """A store, or a rebuild of one, with something else that happens before every step of it."""

    def __init__(
        self,
        inner: Rebuilds | Rebuild,
        act: Callable[[str], Awaitable[None]],
        turn: asyncio.Lock | asyncio.Semaphore | None = None,
    ) -> None:
        self.inner, self.act = inner, act
        self.turn = turn or asyncio.Lock()  # steps overlap, what happens meanwhile does not

    def __getattr__(self, name: str):
        if name in {"count", "can_complete"}:  # no steps; one comes as often as the clock says
            return getattr(self.inner, name)

        async def step(*arguments: object):
            async with self.turn:
                await self.act(name)
            return await getattr(self.inner, name)(*arguments)

        return step

    @asynccontextmanager
    async def open(self, operation: Operation) -> AsyncIterator[Meanwhile]:
        async with self.inner.open(operation) as rebuild:
            yield Meanwhile(rebuild, self.act, self.turn)


async def populate(world: TypedWorld) -> None:
    """Two visible eprints that others label, tag and comment, an invalid record, a hidden one."""
    field = f"at://{GOVERNANCE}/{NODE}/field"
    paper = minimal(EPRINT) | {"title": "Alpine mosses", "fieldUris": [field]}
    await world.commit(
        ALICE, {f"{EPRINT}/3kpaper222222": paper, f"{EPRINT}/3kother222222": minimal(EPRINT)}
    )
    await world.commit(GOVERNANCE, {f"{NODE}/field": minimal(NODE) | {"label": "Bryology"}})
    await world.commit(
        BOB,
        {
            f"{TAG}/3ktag22222222": minimal(TAG) | {"eprintUri": PAPER, "tag": "fieldwork"},
            f"{TAG}/3kinvalid2222": {"$type": TAG},
            f"{COMMENT}/3kcomment2222": minimal(COMMENT) | {"eprintUri": PAPER},
            "app.bsky.feed.post/3kpost2222222": {"$type": "app.bsky.feed.post", "n": 1},
        },
    )
    await world.settle()


RECORDS, BATCHES = 7, 5
POINTS = ("before-commit", "after-commit")
COPIED = "SELECT collection FROM generation WHERE state = 'building'"


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("populated")

    async def make() -> Path:
        async with typed_world(folder) as world:
            await populate(world)
            return world.path

    return asyncio.run(make())


@pytest.fixture
def folder(populated: Path, tmp_path: Path) -> Path:
    shutil.copy(populated, tmp_path / "index.db")
    return tmp_path


def differences(world: TypedWorld, registry: Registry = REGISTRY) -> list[object]:
    prepare = partial(prepare_stored, registry=registry)
    with closing(sqlite3.connect(f"file:{world.path}?mode=ro", uri=True)) as reader:
        return list(Verification(reader, registry.types, SEARCH, prepare).differences())


async def tables(world: TypedWorld) -> set[str]:
    """Suffixes of the derived tables in the file."""
    rows = await world.rows("SELECT name FROM sqlite_schema WHERE name GLOB '*__[0-9]*'")
    return {name.rpartition("__")[2].partition("_")[0] for (name,) in rows}


EVENTS = st.lists(
    st.one_of(
        st.sampled_from(sorted(CHOICES)).flatmap(
            lambda place: st.tuples(st.just(place), st.sampled_from(range(len(CHOICES[place]))))
        ),
        st.tuples(st.sampled_from([ALICE, BOB, GOVERNANCE]), st.sampled_from(["hide", "show", "lose"])),
    ),
    max_size=24,
)  # fmt: skip


async def happen(world: TypedWorld, event: tuple) -> None:
    subject, change = event
    if isinstance(subject, tuple):
        did, path = subject
        await world.commit(did, {path: CHOICES[subject][change]})
    elif change == "lose":
        if subject in world.revs:
            await world.fetch(subject, {})
    elif subject in world.revs:
        await world.set_account(subject, active=change == "show")


@settings(
    max_examples=LONG or 4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=EVENTS, before=st.integers(0, 12), size=st.sampled_from([1, 2, 500]))
def test_live_events_in_any_order_amid_a_rebuild_end_in_the_tables_of_a_rebuild_after_them(
    tmp_path_factory, events, before, size
):
    async def run() -> None:
        async with typed_world(tmp_path_factory.mktemp("amid")) as world:
            for event in events[:before]:
                await happen(world, event)
            left = iter(events[before:])

            async def act(_: str) -> None:
                for event in itertools.islice(left, 2):
                    await happen(world, event)

            context = await world.begin_reindex(size=size)
            await FullReindex(Meanwhile(world.rebuilds, act)).run(context)
            await world.operations.end("one", OperationStatus.COMPLETED, None)
            for event in left:
                await happen(world, event)
            await world.settle()
            assert differences(world) == []
            found = await world.derived()
            await world.reindex("two")
            await world.settle()
            assert await world.derived() == found

    asyncio.run(run())


async def test_all_is_rebuilt_orphans_vanish_and_the_old_tables_go(folder: Path):
    async with typed_world(folder) as world:
        found = await world.derived()

        def spoil(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE eprint_submission__1 SET title = 'Spoilt'")
            connection.execute("INSERT INTO graph_vote__1 (record_id) VALUES (999)")
            connection.execute("DELETE FROM eprint_search")
            connection.execute("CREATE VIEW mine AS SELECT count(*) AS found FROM eprint_search")

        await world.database.write(spoil)
        operation = await world.reindex()
        assert await world.derived() == found
        assert differences(world) == []
        assert (operation.records_processed, operation.total_records) == (RECORDS, RECORDS)
        assert (operation.units_processed, operation.total_units) == (RECORDS, RECORDS)
        assert operation.outcomes == {"rebuilt": RECORDS}
        units = "SELECT sum(records) FROM operation_unit WHERE operation_id = 'one'"
        assert await world.one(units) == RECORDS
        assert await tables(world) == {"2"}
        with closing(sqlite3.connect(f"file:{world.path}?mode=ro", uri=True)) as reader:
            assert reader.execute("SELECT found FROM mine").fetchall() == [(2,)]
        assert await world.one(SEARCHED, "mosses bryology fieldwork") == 1


async def test_a_crash_at_any_transaction_is_made_good_by_the_next_start(folder: Path):
    original = (folder / "index.db").read_bytes()
    async with typed_world(folder) as world:
        found = await world.derived()
    crashes = 0
    for at in itertools.count(1, 2):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "index.db").write_bytes(original)
        crash, passed = CrashPoint(POINTS[at // 2 % 2]), 0

        def reach(name: str, crash: CrashPoint = crash, at: int = at) -> None:
            nonlocal passed
            if crash.is_armed and name == crash.name:
                passed += 1
                if passed == at:
                    raise Crashed

        try:
            async with typed_world(folder, reach=reach) as world:
                crash.is_armed = True
                await world.reindex()
                break
        except Crashed:
            crashes += 1
        finally:
            crash.is_armed = False
        async with typed_world(folder) as world:
            operation = await world.operations.load("one")
            if operation is None or operation.status is OperationStatus.RUNNING:
                operation = await world.reindex()
            while await world.generations.step():
                pass
            assert await world.derived() == found
            assert differences(world) == []
            assert operation.records_processed == RECORDS
            assert len(await tables(world)) == 1
    assert crashes >= 8


async def test_a_rebuild_fails_with_its_own_error_where_its_counter_fails_too(folder: Path):
    counting = asyncio.Event()

    async def fail(name: str) -> None:
        if name == "complete":
            await counting.wait()
            raise ValueError("of the work")

    class Uncounted(Meanwhile):
        async def count(self, _: str) -> None:
            counting.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise KeyError("of the counter")

    async with typed_world(folder) as world:
        context = await world.begin_reindex()
        async with asyncio.timeout(30):
            with pytest.raises(ValueError, match="of the work"):
                await FullReindex(Uncounted(world.rebuilds, fail)).run(context)


async def test_a_cancelled_rebuild_leaves_the_old_tables_whole_and_none_of_the_new(folder: Path):
    async with typed_world(folder) as world:
        found = await world.derived()
        context = await world.begin_reindex(size=1)

        async def cancel(name: str) -> None:
            if name == "complete":
                await world.operations.request_cancel("one")

        with pytest.raises(OperationFailed):
            await FullReindex(Meanwhile(world.rebuilds, cancel)).run(context)
        assert await tables(world) == {"1", "2"}
        ended = await world.operations.end("one", OperationStatus.FAILED, "given up")
        assert ended.status is OperationStatus.CANCELLED
    async with typed_world(folder) as world:  # the process may end before it has cleared away
        while await world.generations.step():
            pass
        assert await tables(world) == {"1"}
        assert await world.derived() == found
        await world.commit(BOB, {f"{TAG}/3ktag22222222": None})
        assert differences(world) == []


@pytest.mark.parametrize(
    ("subject", "step"), [(PAPER, "copy"), (PAPER, "check"), (ALICE, "copy"), (ALICE, "swap")]
)
async def test_what_is_denied_amid_a_rebuild_is_in_none_of_its_tables(
    folder: Path, subject: str, step: str
):
    async with typed_world(folder) as world:
        records = RecordTable(world.projections)
        denials = DenialStore(world.database, world.tracked, records, clock=world.clock)
        is_denied = False

        async def deny(name: str) -> None:
            nonlocal is_denied
            if name != step or is_denied:
                return
            # The eprints come after the nodes, and have been read when those are written.
            if step != "copy" or await world.one(COPIED) == NODE:
                assert await denials.deny(subject, "spam", purge=False, by="did:web:a.example")
                is_denied = True

        context = await world.begin_reindex()
        await FullReindex(Meanwhile(world.rebuilds, deny)).run(context)
        await world.settle()
        assert await world.one("SELECT count(*) FROM denials") == 1
        assert await world.one(SEARCHED, "mosses") == 0
        left = 0 if subject == ALICE else 1
        assert await world.one("SELECT count(*) FROM eprint_submission") == left
        assert differences(world) == []


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE eprint_submission__2 SET doi = '10.1/x'", "eprint_submission of at://"),
        ("DELETE FROM graph_node__2", f"graph_node__2 lacks {GOVERNANCE}/{NODE}/field"),
        ("INSERT INTO graph_vote__2 (record_id) VALUES (999)", "graph_vote__2 should not have row 999"),
        ("UPDATE mark__2 SET subject = 'at://nobody' WHERE name = 'tag'", "mark of at://"),
        ("DELETE FROM eprint_search__2 WHERE title LIKE 'Alpine%'", "eprint_search__2 lacks"),
        ("UPDATE eprint_search__2 SET tags = 'other'", "eprint_search of at://"),
        ("DELETE FROM eprint_search__2_docsize WHERE id = 1", "eprint_search__2_docsize lacks"),
        ("DELETE FROM eprint_search__2_data WHERE id > 10", "search index is damaged"),
        # No segments: the rows are there, and no word finds them.
        ("UPDATE eprint_search__2_data SET block = x'00000000000000' WHERE id = 10",
         "eprint_search__2 does not find row"),
    ],
)  # fmt: skip
async def test_what_differs_from_the_records_never_reaches_readers(
    folder: Path, sql: str, told: str
):
    async with typed_world(folder) as world:
        found = await world.derived()

        async def spoil(name: str) -> None:
            if name == "check":
                with closing(sqlite3.connect(world.path)) as second, second:
                    assert second.execute(sql).rowcount > 0

        context = await world.begin_reindex()
        with pytest.raises(OperationFailed) as failure:
            await FullReindex(Meanwhile(world.rebuilds, spoil)).run(context)
        assert told in str(failure.value)
        judged_by = "SELECT judged_by FROM generation WHERE state = 'current'"
        assert await world.one(judged_by) == ""  # not to be trusted the next time
        await world.operations.end("one", OperationStatus.FAILED, str(failure.value))
        while await world.generations.step():
            pass
        assert await world.derived() == found
        assert await tables(world) == {"1"}
        assert (await world.reindex("two")).status is OperationStatus.COMPLETED
        assert await world.derived() == found


@pytest.mark.parametrize("span_records", [1, 3, 1000])
async def test_spans_of_records_leave_no_id_between_them_nor_beyond(
    folder: Path, span_records: int
):
    async with typed_world(folder) as world:
        await world.commit(BOB, {f"{TAG}/3klater222222": minimal(TAG)})
        newest = await world.one("SELECT max(id) FROM record")
        await world.commit(BOB, {f"{COMMENT}/3klater222222": minimal(COMMENT)})
        await world.commit(BOB, {f"{TAG}/3klater222222": None})
        assert await world.one(f"SELECT count(*) FROM record WHERE id = {newest}") == 0
        await world.settle()
        await world.begin_reindex()
        operation = await world.rebuilds.begin("one")
        async with world.rebuilds.open(operation) as rebuild:
            while (part := await rebuild.next()) is not None:
                await rebuild.index(await copied(rebuild, part))
            while await rebuild.complete():
                pass
            held: list[int] = []
            for orphan in (None, newest, newest + 1000):
                if orphan is not None:
                    with closing(sqlite3.connect(world.path)) as second, second:
                        second.execute("DELETE FROM graph_vote__2")
                        second.execute(f"INSERT INTO graph_vote__2 (record_id) VALUES ({orphan})")
                found = await find_difference(
                    world.database, rebuild.parts, 2, RECORDS, held.append,
                    span_records=span_records,
                )  # fmt: skip
                told = f"graph_vote__2 should not have row {orphan} of no record"
                assert found == (None if orphan is None else told)
                if orphan is None:
                    assert sum(held) == RECORDS + 1


async def test_an_index_that_a_comparison_finds_damaged_ends_the_process(folder: Path):
    """Once the operation failed, and the daemon went on writing to what it could not trust."""

    async def spoil(name: str) -> None:
        if name == "check":
            with closing(sqlite3.connect(world.path)) as second, second:
                schema = "SELECT rootpage FROM sqlite_schema WHERE name = 'eprint_submission__2'"
                root = second.execute(schema).fetchone()[0]
                size = second.execute("PRAGMA page_size").fetchone()[0]
                second.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with world.path.open("r+b") as file:
                file.seek((root - 1) * size)
                file.write(b"\xff" * size)

    async with typed_world(folder) as world:
        context = await world.begin_reindex()
        with pytest.raises(LocalFault, match="SQLITE_CORRUPT"):
            await FullReindex(Meanwhile(world.rebuilds, spoil)).run(context)


async def test_an_eprint_that_comes_before_the_index_is_begun_is_in_it(folder: Path):
    async with typed_world(folder) as world:
        steps = 0

        async def commit(name: str) -> None:
            nonlocal steps
            steps += 1
            if steps == 2:  # the tables are there, and nothing is copied
                value = minimal(EPRINT) | {"title": "Newcomer"}
                await world.commit(ALICE, {f"{EPRINT}/3knew22222222": value})

        context = await world.begin_reindex()
        await FullReindex(Meanwhile(world.rebuilds, commit)).run(context)
        assert await world.one(SEARCHED, "newcomer") == 1
        assert differences(world) == []


async def test_a_full_disk_is_waited_for(folder: Path):
    errors: list[str] = []
    async with open_database(folder / "index.db", on_error=errors.append) as database:
        world = TypedWorld(database, folder / "index.db", SteppedClock(), REGISTRY)

        def limit(connection: sqlite3.Connection, *, more: int) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + more}")

        await database.write(partial(limit, more=3))
        running = asyncio.get_running_loop().create_task(world.reindex())
        async with asyncio.timeout(5):
            while not errors:
                await asyncio.sleep(0.01)
        await database.write(partial(limit, more=100_000))
        assert (await running).records_processed == RECORDS
        assert set(errors) == {"SQLITE_FULL"}
        assert differences(world) == []


async def test_the_search_index_is_put_in_place_while_what_it_does_not_hold_is_copied(folder: Path):
    copied = 0

    async def wait_for_the_index(name: str) -> None:
        nonlocal copied
        copied += name == "copy"
        if name == "copy" and copied == BATCHES:  # of records that nobody searches for
            found = "SELECT has_search FROM generation WHERE state = 'building'"
            async with asyncio.timeout(30):
                while await world.one(found) != SearchState.KEPT:
                    await asyncio.sleep(0.01)

    async with typed_world(folder) as world:
        context = await world.begin_reindex()
        overlapping = asyncio.Semaphore(2)
        await FullReindex(Meanwhile(world.rebuilds, wait_for_the_index, overlapping)).run(context)
        assert copied == BATCHES
        assert context.operation.records_processed == RECORDS
        await world.operations.end("one", OperationStatus.COMPLETED, None)
        await world.settle()
        assert differences(world) == []
        assert await world.one(SEARCHED, "mosses bryology fieldwork") == 1


async def test_a_batch_that_ends_the_process_twice_fails_the_rebuild(folder: Path):
    async with typed_world(folder) as world:
        context = await world.begin_reindex()
        part = None
        for _ in range(2):
            context.operation = await world.rebuilds.begin("one")
            async with world.rebuilds.open(context.operation) as rebuild:
                part = await rebuild.next()
                assert part is not None
                assert await context.begin(part.unit)
            await world.units.take_over()
        with pytest.raises(OperationFailed, match=part.unit):
            await FullReindex(world.rebuilds).run(context)


def changed(registry: Registry, nsid: str) -> Registry:
    """Declarations of which one type has another column."""
    kind = registry.types[nsid]
    wider = dataclasses.replace(kind, own_columns=(*kind.own_columns, text("extra", "extra")))
    return dataclasses.replace(registry, types={**registry.types, nsid: wider})


async def test_tables_of_other_declarations_are_served_but_never_a_wrong_row(folder: Path):
    registry = changed(REGISTRY, TAG)
    async with typed_world(folder, registry) as world:
        assert world.is_outdated
        assert await world.one("SELECT count(*) FROM eprint_user_tag") == 1
        await world.commit(BOB, {f"{TAG}/3ktag22222222": minimal(TAG) | {"tag": "other"}})
        await world.commit(ALICE, {f"{EPRINT}/3kother222222": minimal(EPRINT) | {"title": "New"}})
        # The tag's columns are others now: no row would be right. The eprint's are the same.
        assert await world.one("SELECT count(*) FROM eprint_user_tag") == 0
        assert await world.one("SELECT count(*) FROM eprint_submission WHERE title = 'New'") == 1
        assert await world.one(SEARCHED, "fieldwork") == 0
        assert await world.one(SEARCHED, "mosses bryology") == 1
        await world.reindex()
        assert await world.rows("SELECT tag, extra FROM eprint_user_tag") == [("other", None)]
        assert differences(world, registry) == []
    async with typed_world(folder, registry) as world:
        assert not world.is_outdated


async def test_a_rebuild_by_other_declarations_than_it_began_with_begins_again(folder: Path):
    async with typed_world(folder) as world:
        context = await world.begin_reindex(size=1)
        context.operation = await world.rebuilds.begin("one")
        async with world.rebuilds.open(context.operation) as rebuild:
            part = await rebuild.next()
            assert part is not None
            assert await rebuild.copy(part, 1) is not None
    registry = changed(REGISTRY, TAG)
    async with typed_world(folder, registry) as world:
        operation = await world.reindex()
        assert operation.records_processed == RECORDS
        assert differences(world, registry) == []
        assert await tables(world) == {"3"}


async def test_a_rebuild_that_was_swapped_in_and_not_ended_is_made_again_by_other_declarations(
    folder: Path,
):
    async with typed_world(folder) as world:
        await FullReindex(world.rebuilds).run(await world.begin_reindex())
    registry = changed(REGISTRY, TAG)
    async with typed_world(folder, registry) as world:
        await world.reindex()
        assert differences(world, registry) == []
        assert await tables(world) == {"3"}
    async with typed_world(folder, registry) as world:
        assert not world.is_outdated


MANY = PART_RECORDS + 100


async def fill(world: TypedWorld, count: int) -> None:
    """More eprints than one part holds, tagged and labelled here and there."""
    await populate(world)
    keys = [f"3l{number:011}".replace("0", "a").replace("1", "b").replace("8", "c").replace("9", "d")
            for number in range(count)]  # fmt: skip
    paper = minimal(EPRINT) | {"title": "Lowland mosses", "fieldUris": []}
    await world.fetch(CAROL, {f"{EPRINT}/{key}": paper for key in keys})
    await world.settle()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")

    async def make() -> Path:
        async with typed_world(folder) as world:
            await fill(world, MANY)
            return world.path

    return asyncio.run(make())


def workers_of_this_process() -> list[int]:
    """Processes of a rebuild that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"storage.rebuild_worker" in words and parent == os.getpid():
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("mode", OperationMode)
async def test_processes_make_the_same_rows_while_records_change(
    filled: Path, tmp_path: Path, mode: OperationMode
):
    shutil.copy(filled, tmp_path / "index.db")
    async with typed_world(tmp_path) as world:
        seen: set[int] = set()
        rkeys = iter(range(100))

        async def act(name: str) -> None:
            seen.update(workers_of_this_process())
            if name in {"copy", "index", "complete"} and (number := next(rkeys, None)) is not None:
                tag = minimal(TAG) | {"eprintUri": PAPER, "tag": f"meanwhile{number}"}
                await world.commit(BOB, {f"{TAG}/3kmeanwhile{number:02}": tag})
                title = minimal(EPRINT) | {"title": f"Changed {number}"}
                await world.commit(ALICE, {f"{EPRINT}/3kother222222": title})

        context = await world.begin_reindex()
        context.operation = dataclasses.replace(context.operation, mode=mode)
        await world.database.write(
            lambda connection: connection.execute("UPDATE operation SET mode = ?", (mode,)).rowcount
        )
        await FullReindex(Meanwhile(world.rebuilds, act)).run(context)
        await world.settle()
        assert seen
        assert not workers_of_this_process()
        assert not list(tmp_path.glob("*.rebuild"))
        assert context.operation.records_processed >= MANY
        assert await world.one(SEARCHED, "lowland") == MANY
        last = next(rkeys, 100) - 1
        assert await world.one(SEARCHED, f"mosses meanwhile0 meanwhile{last}") == 1
        assert await world.one(SEARCHED, f"changed {last}") == 1
        assert differences(world) == []


async def test_a_process_that_dies_fails_the_rebuild_and_nothing_else(filled: Path, tmp_path: Path):
    shutil.copy(filled, tmp_path / "index.db")
    async with typed_world(tmp_path) as world:

        async def kill(_: str) -> None:
            for process in workers_of_this_process():
                os.kill(process, signal.SIGKILL)

        context = await world.begin_reindex()
        with pytest.raises(WorkFailed, match=r"ended with exit code -9|is gone"):
            await FullReindex(Meanwhile(world.rebuilds, kill)).run(context)
        await world.operations.end("one", OperationStatus.FAILED, "a process is gone")
        while await world.generations.step():
            pass
        assert not list(tmp_path.glob("*.rebuild"))
        assert await tables(world) == {"1"}
        assert (await world.reindex("two")).status is OperationStatus.COMPLETED
        assert differences(world) == []


async def test_lexicons_that_have_changed_under_the_daemon_fail_the_rebuild(
    filled: Path, tmp_path: Path
):
    shutil.copy(filled, tmp_path / "index.db")
    registry = dataclasses.replace(REGISTRY, lexicon_id="of another folder")
    async with typed_world(tmp_path, registry) as world:
        context = await world.begin_reindex()
        with pytest.raises(WorkFailed, match="lexicon files have changed"):
            await FullReindex(world.rebuilds).run(context)


async def copied(rebuild: Rebuild, part: Part) -> Part:
    """A part, all of which the writer has taken over."""
    left = part
    while left.record_ids:
        done = await rebuild.copy(left, 500)
        assert done is not None
        left = done[1]
    return part


async def test_an_index_whose_copying_fails_again_and_again_is_whole_in_the_end(
    filled: Path, tmp_path: Path
):
    """Over what a process that was killed amid the copying has left."""
    shutil.copy(filled, tmp_path / "index.db")
    failures, attempts, is_armed = 0, 0, False

    def reach(point: str) -> None:
        nonlocal failures, attempts
        if is_armed and point == "before-commit":
            attempts += 1
            if attempts % 3:
                failures += 1
                raise LocalBusy("SQLITE_FULL")

    async with typed_world(tmp_path, reach=reach) as world:
        await world.begin_reindex()
        for failures_wanted in (5, 1_000_000):
            operation = await world.rebuilds.begin("one")
            async with world.rebuilds.open(operation) as rebuild:
                while (part := await rebuild.next()) is not None:
                    await rebuild.index(await copied(rebuild, part))
                is_armed, is_more = True, True
                while is_more and failures < failures_wanted:
                    with suppress(LocalBusy):
                        is_more = await rebuild.complete()
                is_armed = False
                if not is_more:
                    assert await rebuild.check() is None
        assert not is_more
        assert failures >= 9

        def check(connection: sqlite3.Connection) -> None:
            name = "eprint_search__2"
            connection.execute(f'INSERT INTO "{name}" ("{name}") VALUES (\'integrity-check\')')

        await world.database.write(check)
        assert await world.rebuilds.swap("one")
        assert await world.one(SEARCHED, "lowland") == MANY
        assert differences(world) == []


LARGE, LARGE_CHARS = 20, 900_000  # records; together more than two parts hold


async def test_a_part_of_large_records_ends_early_and_what_is_left_of_it_follows(folder: Path):
    """Once a part of 2,000 records of a megabyte took longer than any piece of work may."""
    large = minimal(EPRINT) | {"title": "Large mosses", "note": "x" * LARGE_CHARS}
    async with typed_world(folder) as world:
        await world.fetch(CAROL, {f"{EPRINT}/3klarge{at:06}": large for at in range(LARGE)})
        await world.settle()
        found = await world.derived()
        context = await world.begin_reindex()
        operation = await world.rebuilds.begin("one")
        async with world.rebuilds.open(operation) as rebuild:
            part = await rebuild.next()
            while part is not None and part.collection != EPRINT:
                await copied(rebuild, part)
                part = await rebuild.next()
            assert part is not None
            assert len(part.record_ids) * LARGE_CHARS < PART_CHARS + 3 * LARGE_CHARS
            assert part.upto_id == part.record_ids[-1]
            with closing(sqlite3.connect(part.file)) as reader:
                reader.execute("ATTACH DATABASE ? AS part", (part.file,))
                # The two small ones that came first, and one large one: a megabyte is a piece.
                assert piece_upto(reader, part.record_ids[0]) == part.record_ids[2]
                assert piece_upto(reader, part.record_ids[3]) == part.record_ids[3]
            await copied(rebuild, part)
        await FullReindex(world.rebuilds).run(context)
        units = "SELECT count(*) FROM operation_unit WHERE unit LIKE ?"
        assert await world.one(units, f"{EPRINT} after %") == 3
        assert context.operation.records_processed == RECORDS + LARGE
        assert await world.derived() == found
        assert await world.one(SEARCHED, "large") == LARGE
        assert differences(world) == []


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_part_is_added_to_the_search_index_in_as_many_steps_and_segments_as_it_takes(
    filled: Path, tmp_path: Path, is_over: bool
):
    shutil.copy(filled, tmp_path / "index.db")
    file, table = str(tmp_path / "mine.db"), "eprint_search__2"
    begin_index(file, table, SEARCH)
    async with typed_world(tmp_path) as world:
        await world.begin_reindex()
        operation = await world.rebuilds.begin("one")
        async with world.rebuilds.open(operation) as rebuild:
            part = await rebuild.next()
            while part is not None and part.collection != EPRINT:
                await copied(rebuild, part)
                part = await rebuild.next()
            assert part is not None
            await copied(rebuild, part)
            steps, after_id = 0, 0
            while after_id is not None:
                source = Source(world.path, Path(part.file), after_id)
                after_id = append(file, table, SEARCH, source, lambda _: is_over)
                steps += 1
    assert steps == (1 + PART_RECORDS // APPENDED_ROWS if is_over else 1)
    with closing(sqlite3.connect(file)) as reader:
        (segments,) = reader.execute(f"SELECT count(DISTINCT segid) FROM {table}_idx").fetchone()
        assert segments <= steps
        (rows,) = reader.execute(f"SELECT count(*) FROM {table}_docsize").fetchone()
        assert rows == PART_RECORDS
        reader.execute(f"INSERT INTO {table} ({table}) VALUES ('integrity-check')")


def remove_scratch(folder: Path) -> None:
    """In one step: whoever is at work there goes on making files, which no `rmtree` keeps up with."""
    (scratch,) = folder.glob("*.rebuild")
    shutil.rmtree(scratch.rename(folder / "removed"), ignore_errors=True)


@pytest.mark.parametrize("step", ["next", "copy", "index", "complete"])
async def test_a_rebuild_whose_files_somebody_removes_fails_and_says_so(folder: Path, step: str):
    """Once it tried again for ever."""
    async with typed_world(folder) as world:

        async def remove(name: str) -> None:
            if name == step:
                remove_scratch(folder)

        context = await world.begin_reindex()
        async with asyncio.timeout(20):
            with pytest.raises(WorkFailed, match="is gone"):
                await FullReindex(Meanwhile(world.rebuilds, remove)).run(context)
        await world.operations.end("one", OperationStatus.FAILED, "gone")
        assert (await world.reindex("two")).status is OperationStatus.COMPLETED
        assert differences(world) == []


async def test_processes_whose_files_somebody_removes_fail_the_rebuild(
    filled: Path, tmp_path: Path
):
    shutil.copy(filled, tmp_path / "index.db")
    async with typed_world(tmp_path) as world:

        async def remove(name: str) -> None:
            if name == "next":
                remove_scratch(tmp_path)

        context = await world.begin_reindex()
        async with asyncio.timeout(20):
            with pytest.raises(WorkFailed, match="is gone"):
                await FullReindex(Meanwhile(world.rebuilds, remove)).run(context)


async def test_a_cancelled_rebuild_waits_for_its_thread_which_does_one_piece_more(folder: Path):
    """It writes into a folder that is removed; once it made all of the part, 8 MB, before."""
    entered, released, prepared = threading.Event(), threading.Event(), []

    def prepare(did: str, path: str, cid: str, value: str) -> PreparedRecord:
        entered.set()
        assert released.wait(20)
        prepared.append(path)
        return prepare_stored(did, path, cid, value, registry=REGISTRY)

    preparing = Preparing(
        prepare=prepare, prepare_trusted=prepare, types=REGISTRY.types, search=SEARCH,
        judged_by=REGISTRY.lexicon_id,
    )  # fmt: skip
    large = minimal(EPRINT) | {"note": "x" * (PORTION_CHARS // 2)}
    async with typed_world(folder) as world:
        await world.fetch(CAROL, {f"{EPRINT}/3klarge{at:06}": large for at in range(6)})
    file = folder / "1.part"
    part = Part(EPRINT, 0, 1_000_000, is_trusted=False, file=str(file))
    here, told = Here(folder / "index.db", preparing), []
    working = asyncio.get_running_loop().create_task(here.do(part, told.append))
    try:
        assert await asyncio.to_thread(entered.wait, 20)
        working.cancel()
        await asyncio.wait([working], timeout=0.1)
        assert not working.done()
    finally:
        released.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert len(prepared) == 4  # two small ones and two large ones are a piece
    prepared.clear()
    assert len((await here.do(part, told.append)).record_ids) == len(prepared) == 8
    assert told == [4, 2, 2]


async def test_an_index_that_does_not_find_its_rows_fails_the_rebuild(
    folder: Path,
):
    """Once only a test ran FTS5's own check, and nobody read the whole index."""
    async with typed_world(folder) as world:
        spoilt: list[Path] = []

        async def spoil(name: str) -> None:
            if name != "complete" or spoilt:
                return
            for file in folder.glob("*.rebuild/*/search.db"):
                with closing(sqlite3.connect(file)) as second, second:
                    table = "eprint_search__2_content"
                    last = f"id = (SELECT max(id) FROM {table})"
                    assert second.execute(f"DELETE FROM {table} WHERE {last}").rowcount == 1
                spoilt.append(file)

        context = await world.begin_reindex()
        with pytest.raises(WorkFailed, match="the new search index is damaged"):
            await FullReindex(Meanwhile(world.rebuilds, spoil)).run(context)
        assert len(spoilt) == 1
        await world.operations.end("one", OperationStatus.FAILED, "damaged")
        assert (await world.reindex("two")).status is OperationStatus.COMPLETED
        assert differences(world) == []


async def test_changes_are_owed_to_an_index_that_is_in_place_until_its_check_has_ended(
    folder: Path,
):
    """After a crash it would be taken for one that was checked."""
    released = asyncio.Event()

    class Waiting(Here):
        async def do(self, work: Work, tell: Tell) -> Outcome:
            if isinstance(work, Check):
                await released.wait()
            return await super().do(work, tell)

    state = "SELECT has_search FROM generation WHERE number = 2"
    async with typed_world(folder) as world:
        await world.begin_reindex()
        operation = await world.rebuilds.begin("one")
        waiting = Waiting(world.path, world.preparing)
        async with (
            world.rebuilds.open(operation) as rebuild,
            made([waiting], rebuild.plan, lambda _: None) as rebuild.parts,
        ):
            while (part := await rebuild.next()) is not None:
                await rebuild.index(await copied(rebuild, part))
            rows = 'SELECT count(*) FROM "eprint_search__2_content"'
            while await world.one(rows) == 0:
                assert await rebuild.complete()
            keeping = asyncio.create_task(rebuild.complete())
            await asyncio.wait([keeping], timeout=0.2)
            assert not keeping.done()
            assert await world.one(state) == SearchState.OWED
            released.set()
            assert await keeping
            assert await world.one(state) == SearchState.KEPT


async def test_a_live_transaction_does_not_wait_for_whoever_reads_a_part_that_was_taken_over(
    folder: Path,
):
    """Once each waited 5 s: a commit locks readers out of every file that is attached."""
    async with typed_world(folder) as world:
        await world.begin_reindex()
        operation = await world.rebuilds.begin("one")
        async with world.rebuilds.open(operation) as rebuild:
            # The second, because the statement that begins transactions was prepared before there
            # was a first, and does not know of files that come later until one is let go of.
            for _ in range(2):
                part = await rebuild.next()
                assert part is not None
                await copied(rebuild, part)
            with closing(sqlite3.connect(part.file, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                assert reader.execute("SELECT count(*) FROM read").fetchone() != (0,)
                async with asyncio.timeout(BUSY_TIMEOUT_S / 2):
                    await world.commit(BOB, {f"{TAG}/3ktag22222222": None})
                with (
                    closing(sqlite3.connect(part.file, timeout=0)) as other,
                    pytest.raises(sqlite3.OperationalError, match="locked"),
                ):
                    other.execute("BEGIN EXCLUSIVE")  # it was read all the while


async def test_a_sample_is_held_against_its_rows_in_slices_that_are_bounded_by_its_text(
    folder: Path,
):
    """Once all of a chunk was one step: 4 s for 1,000 records of 10 kB."""
    large = minimal(EPRINT) | {"title": "Large mosses", "note": "x" * (SLICE_CHARS * 3 // 4)}
    async with typed_world(folder) as world:
        await world.fetch(CAROL, {f"{EPRINT}/3klarge{at:06}": large for at in range(6)})
        await world.settle()
        held: list[int] = []

        async def hold(name: str) -> None:
            if name == "check":
                span = Span(0, 2**63 - 1, share_of_sample(RECORDS + 6))
                assert difference(world.path, 2, span, world.preparing, held.append) is None

        context = await world.begin_reindex()
        await FullReindex(Meanwhile(world.rebuilds, hold)).run(context)
    # The ids of all; then small ones and two large ones, and two large ones each time.
    assert held == [0, RECORDS + 2, 2, 2]
    assert RECORDS + 2 < SLICE_RECORDS


class CountingDatabase:
    """A store that counts the rows that are read from it."""

    def __init__(self, inner: Database) -> None:
        self.inner, self.rows = inner, 0

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    async def read(self, sql: str, parameters: tuple[object, ...] = ()):
        found = await self.inner.read(sql, parameters)
        self.rows += len(found)
        return found


async def test_many_collections_that_somebody_made_up_are_copied_without_a_list_of_them(
    tmp_path: Path,
):
    made_up = [f"pub.chive.{'aez'[number % 3]}{number:03}.one" for number in range(120)]
    async with typed_world(tmp_path) as world:
        await world.commit(ALICE, {f"{EPRINT}/3kpaper222222": minimal(EPRINT)})
        await world.commit(BOB, {f"{nsid}/a": {"$type": nsid} for nsid in made_up})
        counting = CountingDatabase(world.database)
        preparing = Preparing(
            prepare=partial(prepare_stored, registry=REGISTRY),
            prepare_trusted=partial(prepare_stored, registry=REGISTRY),
            types=REGISTRY.types, search=SEARCH, judged_by=REGISTRY.lexicon_id,
        )  # fmt: skip
        world.rebuilds = Rebuilds(
            counting, world.path, world.projections, preparing, world.worker_settings
        )
        operation = await world.reindex()
        assert operation.outcomes == {"rebuilt": len(made_up) + 1}
        assert 0 < counting.rows < 10 * len(made_up)
        assert differences(world) == []
