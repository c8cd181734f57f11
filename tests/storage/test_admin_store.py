"""What admins read and change, on a real file."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from indexer.audit import AuditDraft
from indexer.errors import LocalBusy, LocalFault, RequestRefused
from storage.accepted_tokens import AcceptedTokens
from storage.audit import ENTRIES_MAX, AuditStore
from storage.backup import WAL_BYTES_MAX, BackupFolder, copy_store
from storage.database import open_database
from storage.dead_letter_queue import LETTERS_MAX, DeadLetterStore
from tests.storage.conftest import DID, SteppedClock, World, commit, put

CALL = AuditDraft(actor="did:web:a.example", action="pub.chive.x", target=None, details="{}")


def letters(world: World, woken: list[bool]) -> DeadLetterStore:
    return DeadLetterStore(
        world.database, world.tracked, on_work=lambda: woken.append(True), clock=world.clock
    )


async def add_letters(world: World, count: int, *, did: str = "'did:plc:x' || value") -> None:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute(
            "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT ?)"
            f" INSERT INTO dead_letter (reason, did, message, retry_count, created_at)"
            f" SELECT 'chain', {did}, 'm', 0, ? FROM n",
            (count, world.clock.now()),
        )

    await world.database.write(change)


async def test_a_call_that_was_cut_off_is_marked_at_the_next_start(
    tmp_path: Path, clock: SteppedClock
):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        audit = AuditStore(database, clock=clock)
        await audit.begin(CALL)
        await audit.end(await audit.begin(CALL), "ok")
    async with open_database(path) as database:
        audit = AuditStore(database, clock=clock)
        await audit.end_interrupted()
        entries, total = await audit.entries(actor=None, before=None, limit=10)
        assert [entry.outcome for entry in entries] == ["ok", "interrupted"]
        assert total == 2


async def test_the_audit_log_keeps_its_newest_rows(world: World):
    audit = AuditStore(world.database, clock=world.clock)
    first = await audit.begin(CALL)
    await world.database.write(
        lambda connection: (
            connection.execute(
                "UPDATE sqlite_sequence SET seq = ? WHERE name = 'audit_entry'",
                (first + ENTRIES_MAX - 2,),
            ).rowcount
        )
    )
    await audit.begin(CALL)
    assert (await audit.entries(actor=CALL.actor, before=None, limit=10))[1] == 2
    newest = await audit.begin(CALL)
    entries, total = await audit.entries(actor=CALL.actor, before=None, limit=10)
    assert ([entry.id for entry in entries], total) == ([newest, newest - 1], 2)


async def test_the_newest_accepted_token_is_durable_and_never_moves_back(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        tokens = AcceptedTokens(database)
        assert await tokens.load() == 0
        await tokens.raise_to(7)
        await tokens.raise_to(5)
    async with open_database(path) as database:
        assert await AcceptedTokens(database).load() == 7


async def test_many_letters_are_retried_in_short_transactions(world: World):
    count, woken, took = 3 * LETTERS_MAX + 7, [], []
    await add_letters(world, count)
    await add_letters(world, 2, did="NULL")
    world.database._observe_s = took.append
    assert await letters(world, woken).retry_all(None) == count
    assert woken
    assert len(took) == 4  # transactions
    rows = await world.rows(
        "SELECT count(*) FROM repo WHERE wanted <> 0 AND retry_at <= ?", world.clock.at
    )
    assert rows == [(count,)]
    rows = await world.rows("SELECT retry_count, count(*) FROM dead_letter GROUP BY 1 ORDER BY 1")
    assert rows == [(0, 2), (1, count)]
    assert "did:plc:x1" in world.tracked


async def test_a_retry_of_all_letters_makes_way_for_live_batches_and_ends_where_it_is_cancelled(
    world: World,
):
    done: list[float] = []  # of all transactions; the writer's thread adds to it
    count = 20 * LETTERS_MAX
    await add_letters(world, count)
    world.database._observe_s = done.append
    retrying = asyncio.create_task(letters(world, []).retry_all(None))
    while not done:
        await asyncio.sleep(0)  # until it is under way
    for _ in range(6):
        asked = len(done)
        before = await world.database.write(lambda _: len(done), urgent=True)
        # One was running, and one may have begun between the look and the asking.
        assert before - asked <= 2
        await asyncio.sleep(0)
    assert not retrying.done()
    retrying.cancel()
    await asyncio.wait([retrying])
    assert retrying.cancelled()
    ended = await world.database.write(lambda _: len(done))  # behind what was begun
    [(retried,)] = await world.rows("SELECT count(*) FROM dead_letter WHERE retry_count = 1")
    assert 0 < retried < count
    assert retried % LETTERS_MAX == 0, "a transaction was torn"
    assert await world.rows("SELECT count(*) FROM repo WHERE wanted <> 0") == [(retried,)]
    assert await world.database.write(lambda _: len(done)) == ended + 1, "it has gone on"
    dids = await world.rows("SELECT did FROM dead_letter WHERE retry_count = 1")
    assert all(did in world.tracked for (did,) in dids)
    assert await letters(world, []).retry_all(None) == count
    assert await world.rows("SELECT count(*) FROM dead_letter WHERE retry_count = 0") == [(0,)]


async def test_a_letter_without_an_account_cannot_be_retried(world: World):
    await add_letters(world, 1, did="NULL")
    store = letters(world, [])
    assert await store.retry(1) is None
    assert await world.rows("SELECT retry_count FROM dead_letter") == [(0,)]
    for unknown in (2, 0, -5, 2**63, -(2**63) - 1):
        with pytest.raises(RequestRefused, match=f"no dead letter has id {unknown}"):
            await store.retry(unknown)
        with pytest.raises(RequestRefused, match=f"no dead letter has id {unknown}"):
            await store.dismiss(unknown)


async def test_a_retry_while_the_repo_is_fetched_asks_for_another_look(world: World):
    await world.apply(commit("3ka", None, put("a", "c1"), prev_data=None))
    claim = await world.resyncs.claim_next()
    assert claim is not None
    await add_letters(world, 1, did=f"'{DID}'")
    assert await letters(world, []).retry(1) == DID
    rows = await world.rows("SELECT wanted <> 0, claimed <> 0, claim FROM repo")
    assert rows == [(1, 1, claim.repo.claim)]


async def test_old_letters_are_purged_and_new_ones_stay(world: World):
    await add_letters(world, 2 * LETTERS_MAX + 1)
    world.clock.at += 86_400
    await add_letters(world, 3)
    store = letters(world, [])
    assert await store.purge(86_401) == 0
    assert await store.purge(86_399) == 2 * LETTERS_MAX + 1
    assert await world.rows("SELECT total FROM tally WHERE kind = 'dead_letter'") == [(3,)]


async def test_a_backup_that_cannot_be_written_leaves_nothing_and_harms_nothing(
    world: World, tmp_path: Path
):
    folder = tmp_path / "a file"
    folder.write_text("in the way")
    with pytest.raises(LocalBusy, match=r"storage\.backup_dir: "):
        await BackupFolder(world.path, folder, clock=world.clock).create()
    assert folder.read_text() == "in the way"


async def test_a_file_system_that_takes_no_file_of_that_size_ends_no_daemon(
    world: World, tmp_path: Path
):
    """As vfat does at 4 GiB, and a quota at what it allows: for SQLite an error of the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (world.path.stat().st_size // 2, before[1]))
    try:
        with pytest.raises(LocalBusy, match=r"storage\.backup_dir: SQLITE_IOERR"):
            await BackupFolder(world.path, tmp_path / "copies", clock=world.clock).create()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "copies").iterdir())


@pytest.mark.parametrize(("share", "is_refused"), [(0.75, True), (0.25, False)])
def test_a_backup_needs_more_than_twice_the_store_in_free_space(
    tmp_path: Path, share: float, is_refused: bool
):
    """By a file that takes no space, and is no store once it is looked into."""
    path = tmp_path / "index.db"
    path.touch()
    os.truncate(path, int(share * shutil.disk_usage(tmp_path).free))
    with pytest.raises(RequestRefused if is_refused else LocalFault) as error:
        copy_store(path, tmp_path / "copy.db", place="there")
    assert ("InsufficientSpace" if is_refused else "SQLITE_NOTADB") in str(error.value)
    assert [each.name for each in tmp_path.iterdir()] == ["index.db"]


async def test_a_backup_beside_a_log_that_has_grown_too_large_is_given_up(
    world: World, tmp_path: Path
):
    for _ in range(40):
        await add_letters(world, 5_000)
    path, folder = tmp_path / "grown.db", tmp_path / "copies"
    await BackupFolder(world.path, tmp_path, clock=world.clock).create()
    next(tmp_path.glob("index-*.db")).rename(path)
    wal = path.with_name(path.name + "-wal")
    wal.touch()
    os.truncate(wal, WAL_BYTES_MAX + 1)
    with pytest.raises(LocalBusy, match="the WAL has grown too large"):
        await BackupFolder(path, folder, clock=world.clock).create()
    assert not list(folder.iterdir())


async def test_a_backup_of_a_damaged_store_blames_the_store(world: World, tmp_path: Path):
    await add_letters(world, 200)
    damaged = tmp_path / "damaged.db"
    with closing(sqlite3.connect(world.path)) as reader, closing(sqlite3.connect(damaged)) as copy:
        reader.backup(copy)
    data = damaged.read_bytes()
    damaged.write_bytes(data[:8192] + b"\xff" * (len(data) - 8192))
    with pytest.raises(LocalFault, match="SQLITE_CORRUPT"):
        await BackupFolder(damaged, tmp_path / "copies", clock=world.clock).create()


async def test_a_backup_that_nobody_waits_for_any_more_is_given_up(world: World, tmp_path: Path):
    """A stop would wait for the thread that writes it, which may take minutes."""
    for _ in range(40):
        await add_letters(world, 5_000)
    folder = tmp_path / "copies"
    copying = asyncio.create_task(BackupFolder(world.path, folder, clock=world.clock).create())
    async with asyncio.timeout(10.0):
        while not list(folder.glob("*.partial")):
            await asyncio.sleep(0.001)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    async with asyncio.timeout(10.0):
        while list(folder.glob("*.partial")):
            await asyncio.sleep(0.001)
    assert not list(folder.iterdir()), "it was finished all the same"


def test_the_check_of_a_copy_is_given_up_in_the_midst_of_its_pages(tmp_path: Path):
    """Those of a large store take a minute, and are one step of SQLite's machine."""
    path, copy = tmp_path / "index.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(path)) as store:
        store.executescript("""
            CREATE TABLE text (id INTEGER PRIMARY KEY, word TEXT);
            WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 300000)
            INSERT INTO text (word) SELECT printf('%500d', value) FROM n;
        """)
    before = 0  # bytes that this process has read as long as the store was

    def is_over() -> bool:
        """From when the store has been read: its copy is checked then."""
        nonlocal before
        if any(os.path.realpath(each) == str(path) for each in Path("/proc/self/fd").iterdir()):
            before = bytes_read()
            return False
        return True

    with pytest.raises(LocalFault, match="SQLITE_INTERRUPT"):
        copy_store(path, copy, place="there", is_over=is_over)
    assert bytes_read() - before < path.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == ["index.db"]


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


async def test_a_backup_leaves_alone_what_the_command_is_writing_in_its_folder(
    world: World, tmp_path: Path
):
    written = tmp_path / "index-20260101T000000Z.db.partial"
    written.write_text("by chive-indexer backup")
    await BackupFolder(world.path, tmp_path, clock=world.clock).create()
    assert written.exists()


async def test_a_backup_has_all_that_was_committed_before_it(world: World, tmp_path: Path):
    await add_letters(world, 5)
    folder = tmp_path / "deep" / "copies"
    folder.mkdir(parents=True)
    (folder / "index-20260101T000000-000Z.db.partial").write_text("of a process that was killed")
    name, size_bytes = await BackupFolder(world.path, folder, clock=world.clock).create()
    assert name == "index-20270115T080000-000Z.db"
    assert [(each.name, each.stat().st_size) for each in folder.iterdir()] == [(name, size_bytes)]
    with closing(sqlite3.connect(folder / name)) as copy:
        assert copy.execute("SELECT count(*) FROM dead_letters").fetchone() == (5,)
    async with open_database(folder / name):
        pass  # it is a store
