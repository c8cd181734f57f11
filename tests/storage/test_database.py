"""The file: who may open it, and that every transaction is whole whatever happens."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from indexer.errors import ConfigurationError, LocalBusy, LocalFault
from storage import database as database_module
from storage.database import (
    LONG_STEP_S,
    REST_S_MAX,
    STEP_S,
    Database,
    IsOver,
    open_database,
)
from storage.schema import APPLICATION_ID, migrate
from storage.sqlite_errors import translated
from tests.crash.failing import SQLITE_CANTOPEN
from tests.crash.vfs import Layer

INSERT = "INSERT INTO firehose_cursor VALUES (?, 1, NULL, 'now')"


def insert(url: str):
    return lambda connection: connection.execute(INSERT, (url,)) and None


def stored(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT url FROM firehose")}


async def test_a_store_opens_again_as_it_was_left(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        await database.write(insert("a"))
    async with open_database(path) as database:
        assert await database.read("SELECT url FROM firehose") == [("a",)]
    assert not path.with_name("index.db-wal").exists()


async def test_what_is_committed_is_on_disk_and_what_is_deleted_is_not_overwritten(tmp_path: Path):
    """Debian's SQLite overwrites it, which makes a drop of a large table fifteen times as long."""

    def pragmas(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    async with open_database(tmp_path / "index.db") as database:
        assert await database.write(pragmas) == ["wal", 2, 0, 1]


async def test_a_reader_that_cannot_be_opened_is_a_shortage_that_a_start_waits_out(
    tmp_path: Path,
):
    """Without descriptors SQLite cannot open a file that is there: once as such, it is no bug."""
    path = tmp_path / "index.db"
    async with open_database(path):
        pass
    opened: list[str] = []

    def refuse_the_second(call: str, name: str, *_: object) -> int | None:
        if call == "open" and name == str(path):
            opened.append(name)
            return SQLITE_CANTOPEN if len(opened) == 2 else None
        return None

    with Layer(refuse_the_second).installed():
        with pytest.raises(LocalBusy, match="SQLITE_CANTOPEN"):
            async with open_database(path):
                pass
        assert len(opened) == 2
        async with open_database(path) as database:
            assert await database.read("SELECT url FROM firehose") == []


async def test_a_live_batch_does_not_wait_for_the_disk_and_what_follows_it_does(tmp_path: Path):
    """What was promised to somebody is on the disk, with all that came before it."""
    synced: list[str] = []

    def note(call: str, path: str, at: int, data: bytes) -> None:
        if call == "sync" and path.endswith("-wal"):
            synced.append(path)

    with Layer(note).installed():
        async with open_database(tmp_path / "index.db") as database:
            await database.write(insert("a"))
            before = len(synced)
            await database.write(insert("b"), urgent=True, is_synced=False)
            assert len(synced) == before
            await database.write(insert("c"))
            assert len(synced) == before + 1
            await database.write_some(lambda connection, _: insert("d")(connection))
            assert len(synced) == before + 1


async def test_a_store_that_is_open_needs_no_further_descriptor(tmp_path: Path):
    """Others may take the last one at any moment: the stream goes on all the same."""
    async with open_database(tmp_path / "index.db") as database:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            await database.write(insert("a"))
            reading = [database.read("SELECT url FROM firehose") for _ in range(2)]
            urgent = database.read("SELECT url FROM firehose", urgent=True)
            assert await asyncio.gather(urgent, *reading) == [[("a",)]] * 3
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=999")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="schema version 999"):
        async with open_database(path):
            pass
    assert path.read_bytes() == before


async def test_a_file_of_another_program_is_refused(tmp_path: Path):
    path = tmp_path / "index.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    with pytest.raises(ConfigurationError, match="another program"):
        async with open_database(path):
            pass
    assert stored_tables(path) == {"theirs"}


def stored_tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}


async def test_a_file_that_is_no_database_is_a_fault_with_a_remedy(tmp_path: Path):
    path = tmp_path / "index.db"
    path.write_text("not a database, but long enough to look like one. " * 200)
    with pytest.raises(LocalFault, match="restore a backup"):
        async with open_database(path):
            pass


async def test_a_second_daemon_on_the_file_is_refused(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        with pytest.raises(ConfigurationError, match="another process"):
            async with open_database(path):
                pass
        await database.write(insert("still usable"))
    async with open_database(path):
        pass


async def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"storage\.path"):
        async with open_database(tmp_path / "file" / "index.db"):
            pass


@pytest.mark.parametrize("killed_after", [1, 2, 5, 12, 20])
def test_a_migration_that_is_cut_off_is_made_again_whole(tmp_path: Path, killed_after: int):
    path = tmp_path / "index.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        left = killed_after

        def authorize(action: int, *_: object) -> int:
            nonlocal left
            is_creating = action == sqlite3.SQLITE_CREATE_TABLE
            left -= is_creating
            return sqlite3.SQLITE_DENY if is_creating and left < 0 else sqlite3.SQLITE_OK

        connection.set_authorizer(authorize)
        with suppress(sqlite3.DatabaseError):
            migrate(connection)
        assert not connection.in_transaction
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        marked = connection.execute("PRAGMA application_id").fetchone()[0]
        assert (tables == 0) == (marked == 0)
        migrate(connection)
        migrate(connection)
        assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (0,)


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(("point", "remains"), [("before-commit", set()), ("after-commit", {"a"})])
async def test_a_crash_leaves_whole_transactions(tmp_path: Path, point: str, remains: set[str]):
    reached: list[str] = []

    def reach(name: str) -> None:
        reached.append(name)
        if name == point:
            raise Crash

    path = tmp_path / "index.db"
    async with open_database(path, reach=reach) as database:
        with pytest.raises(Crash):
            await database.write(insert("a"))
    assert point in reached
    assert stored(path) == remains


async def test_a_cancelled_caller_leaves_a_whole_transaction_and_memory_hears_of_it(
    tmp_path: Path,
):
    may_go_on, is_inside = threading.Event(), threading.Event()
    told: list[str] = []

    def slow(connection: sqlite3.Connection) -> str:
        connection.execute(INSERT, ("a",))
        is_inside.set()
        assert may_go_on.wait(5.0)
        connection.execute(INSERT, ("b",))
        return "done"

    path = tmp_path / "index.db"
    async with open_database(path) as database:
        task = asyncio.create_task(database.write(slow, committed=told.append))
        await asyncio.to_thread(is_inside.wait, 5.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_go_on.set()
        await database.write(insert("c"))
        assert told == ["done"]
    assert stored(path) == {"a", "b", "c"}


async def test_what_is_queued_when_the_store_closes_is_written(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        tasks = [asyncio.create_task(database.write(insert(str(n)))) for n in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert len(stored(path)) == 20
    with pytest.raises(LocalFault, match="closed"):
        await database.write(insert("late"))


async def test_urgent_writes_overtake_those_that_wait(tmp_path: Path):
    may_go_on = threading.Event()
    order: list[str] = []
    async with open_database(tmp_path / "index.db") as database:
        first = asyncio.create_task(database.write(lambda _: may_go_on.wait(5.0)))
        await asyncio.sleep(0)
        waiting = [
            asyncio.create_task(database.write(lambda _, n=n: order.append(n))) for n in ("1", "2")
        ]
        await asyncio.sleep(0)
        urgent = asyncio.create_task(database.write(lambda _: order.append("live"), urgent=True))
        await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.gather(first, *waiting, urgent)
    assert order == ["live", "1", "2"]


HELD_S = 0.05


async def spans_of_writes(database: Database) -> list[tuple[float, float]]:
    """When each of five ordinary transactions of `HELD_S`, asked for at once, began and ended."""
    spans: list[tuple[float, float]] = []

    def hold(_: sqlite3.Connection) -> None:
        began = time.monotonic()
        threading.Event().wait(HELD_S)
        spans.append((began, time.monotonic()))

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(database.write(hold))
    return spans


async def test_other_writes_are_followed_by_rests_of_their_length_while_live_ones_come(
    tmp_path: Path,
):
    async with open_database(tmp_path / "index.db") as database:
        await database.write(lambda _: None, urgent=True)
        spans = await spans_of_writes(database)
    for (began, ended), (next_began, _) in pairwise(spans):
        assert next_began - ended >= min(ended - began, REST_S_MAX)


async def test_other_writes_follow_each_other_at_once_while_no_live_ones_come(tmp_path: Path):
    async with open_database(tmp_path / "index.db") as database:
        spans = await spans_of_writes(database)
    assert min(after[0] - before[1] for before, after in pairwise(spans)) < HELD_S


async def test_a_live_write_waits_for_no_rest(tmp_path: Path):
    order: list[str] = []
    async with open_database(tmp_path / "index.db") as database:
        await database.write(lambda _: None, urgent=True)
        first = asyncio.create_task(database.write(lambda _: threading.Event().wait(HELD_S)))
        await asyncio.sleep(0)
        second = asyncio.create_task(database.write(lambda _: order.append("other")))
        await first
        await database.write(lambda _: order.append("live"), urgent=True)
        await second
    assert order == ["live", "other"]


async def test_work_that_can_be_ended_anywhere_ends_when_a_live_write_comes(tmp_path: Path):
    ended_after_s: list[float] = []
    was_over: list[bool] = []
    order: list[str] = []

    async def attempt() -> None:
        has_begun, is_asked = threading.Event(), threading.Event()

        def work(_: sqlite3.Connection, is_over: IsOver) -> None:
            began = time.perf_counter()
            was_over.append(is_over())
            has_begun.set()
            is_asked.wait()
            assert is_over()
            ended_after_s.append(time.perf_counter() - began)
            order.append("some")

        some = asyncio.create_task(database.write_some(work))
        await asyncio.to_thread(has_begun.wait)
        live = asyncio.create_task(database.write(lambda _: order.append("live"), urgent=True))
        await asyncio.sleep(0)
        is_asked.set()
        await asyncio.gather(some, live)

    async with open_database(tmp_path / "index.db") as database:
        for _ in range(20):
            await attempt()
    assert order == ["some", "live"] * 20
    assert not all(was_over)
    assert min(ended_after_s) < STEP_S  # it was not for the time that it had taken


async def test_work_that_can_be_ended_anywhere_is_over_after_a_step_and_followed_by_half_a_rest(
    tmp_path: Path,
):
    ended: list[float] = []

    def work(_: sqlite3.Connection, is_over: IsOver) -> None:
        while not is_over():
            threading.Event().wait(0.001)
        ended.append(time.monotonic())

    async with open_database(tmp_path / "index.db") as database:
        await database.write(lambda _: None, urgent=True)
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(database.write_some(work))
    # Each has taken STEP_S, and so would each whole rest. A busy machine makes single ones longer,
    # or those before them shorter.
    steps = [after - before for before, after in pairwise(ended)]
    assert median(steps) > 1.45 * STEP_S
    assert min(steps) < 2 * STEP_S


async def test_without_a_stream_that_is_alive_a_step_is_longer(tmp_path: Path):
    taken_s: list[float] = []

    def work(_: sqlite3.Connection, is_over: IsOver) -> None:
        began = time.monotonic()
        while not is_over():
            threading.Event().wait(0.001)
        taken_s.append(time.monotonic() - began)

    async with open_database(tmp_path / "index.db") as database:
        for _ in range(5):
            await database.write_some(work)
    assert median(taken_s) > 0.9 * LONG_STEP_S > STEP_S


@pytest.mark.parametrize("failure", [None, ValueError("no")])
async def test_a_thread_that_computes_waits_while_a_transaction_makes_its_statements(
    tmp_path: Path, failure: Exception | None
):
    order: list[str] = []
    is_under_way, may_end = threading.Event(), threading.Event()

    def change(_: sqlite3.Connection) -> None:
        is_under_way.set()
        assert may_end.wait(60.0)
        order.append("statements")
        if failure is not None:
            raise failure

    async with open_database(tmp_path / "index.db") as database:
        database.give_way()  # for nothing

        def compute() -> None:
            database.give_way()
            order.append("computed")

        writing = asyncio.create_task(database.write(change))
        await asyncio.to_thread(is_under_way.wait)
        computing = asyncio.create_task(asyncio.to_thread(compute))
        done, _ = await asyncio.wait({computing}, timeout=0.1)
        assert not done
        may_end.set()
        results = await asyncio.gather(writing, computing, return_exceptions=True)
        assert results == [failure, None]
        database.give_way()
    assert order == ["statements", "computed"]


def fill(connection: sqlite3.Connection) -> None:
    connection.executemany(INSERT, ((f"{n:0400}",) for n in range(500)))


async def test_a_full_disk_is_busy_and_passes(tmp_path: Path):
    path, errors = tmp_path / "index.db", []
    async with open_database(path, on_error=errors.append) as database:
        await database.write(insert("before"))
        pages = (await database.read("PRAGMA page_count"))[0][0]
        await limit_pages(database, pages + 2)
        with pytest.raises(LocalBusy, match="SQLITE_FULL"):
            await database.write(fill)
        assert errors == ["SQLITE_FULL"]
        assert await database.read("SELECT url FROM firehose") == [("before",)]
        await limit_pages(database, 1_000_000)
        await database.write(fill)
        assert (await database.read("SELECT count(*) FROM firehose"))[0][0] == 501
    assert len(stored(path)) == 501


async def limit_pages(database: Database, pages: int) -> None:
    await database.write(lambda c: c.execute(f"PRAGMA max_page_count={pages}").fetchall())


async def test_another_writer_on_the_file_is_waited_for(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            task = asyncio.create_task(database.write(insert("a")))
            done, _ = await asyncio.wait([task], timeout=0.3)
            assert not done
            other.execute("ROLLBACK")
            await task
    assert stored(path) == {"a"}


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("SQLITE_FULL", LocalBusy), ("SQLITE_BUSY", LocalBusy), ("SQLITE_BUSY_SNAPSHOT", LocalBusy),
        ("SQLITE_LOCKED_SHAREDCACHE", LocalBusy), ("SQLITE_CANTOPEN", LocalBusy),
        ("SQLITE_IOERR_WRITE", LocalFault), ("SQLITE_CORRUPT", LocalFault),
        ("SQLITE_CONSTRAINT_UNIQUE", LocalFault),
    ],
)  # fmt: skip
def test_the_code_of_an_error_decides_its_family(code: str, family: type):
    error = sqlite3.OperationalError("text")
    error.sqlite_errorname = code
    assert type(translated(error)) is family


SLOW = """WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT 500000000)
SELECT count(*) FROM n"""


async def test_a_slow_read_delays_neither_live_reads_nor_writes_and_can_be_given_up(
    tmp_path: Path,
):
    async with open_database(tmp_path / "index.db") as database:
        slow = [
            asyncio.create_task(database.read(SLOW))
            for _ in range(database_module.ORDINARY_READERS)
        ]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await database.read("SELECT 1", urgent=True)
        await database.write(insert("a"))
        assert time.monotonic() - began < 1.0
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
        # The readers are usable again: what was given up no longer runs.
        began = time.monotonic()
        assert await database.read("SELECT url FROM firehose") == [("a",)]
        assert time.monotonic() - began < 1.0


@contextmanager
def wall_clock_set(by_s: float) -> Iterator[None]:
    """As if somebody set the machine's clock: whatever asks for wall time is told another one."""
    real = time.time
    time.time = lambda: real() + by_s
    try:
        yield
    finally:
        time.time = real


async def test_for_how_long_the_writer_is_stuck_does_not_depend_on_the_wall_clock(tmp_path: Path):
    """The watchdog goes by it, which ends the process."""
    is_stuck, may_go_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> bool:
        is_stuck.set()
        return may_go_on.wait(10.0)

    async with open_database(tmp_path / "index.db") as database:
        held = asyncio.create_task(database.write(hold))
        assert await asyncio.to_thread(is_stuck.wait, 10.0)
        for jump_s in (86_400.0, -86_400.0):
            before_s = database.writer_stuck_s()
            with wall_clock_set(jump_s):
                assert before_s <= database.writer_stuck_s() < before_s + 60.0
        with wall_clock_set(-86_400.0):
            may_go_on.set()
            assert await held
            assert 0.0 <= database.writer_stuck_s() < 60.0


FILL_AND_CLOSE = """
import asyncio, sys
from pathlib import Path
from indexer.errors import LocalBusy
from storage.database import open_database

async def main():
    async with open_database(Path(sys.argv[1])) as database:
        await database.write(lambda c: c.execute("CREATE TABLE filling (bytes BLOB)") and None)
        for number in range(1000):
            try:
                await database.write(
                    lambda c: c.execute("INSERT INTO filling VALUES (randomblob(200000))") and None
                )
            except LocalBusy:
                print("full after", number)
                return

asyncio.run(main())
"""


def test_a_store_on_a_full_disk_closes_cleanly_and_keeps_what_was_committed(tmp_path: Path):
    """A mount of 8 MiB, in a mount namespace of its own; the database is looked at from within."""
    look = (
        "import sqlite3, sys;"
        "print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM filling').fetchone()[0])"
    )
    # Twice the WAL would not fit: the closing checkpoint fails, too.
    script = (
        'mount -t tmpfs -o size=8m tmpfs "$1" || exit 77;'
        ' "$2" -c "$3" "$1/index.db" || exit 1;'
        ' mount -o remount,size=32m "$1" || exit 77; "$2" -c "$4" "$1/index.db"'
    )
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", script, "sh", tmp_path, sys.executable, FILL_AND_CLOSE, look],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
    filled, kept = done.stdout.split("\n")[:2]
    assert filled == f"full after {kept}"
