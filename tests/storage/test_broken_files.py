"""Files that were cut, emptied or spoilt, as a power loss or a failing disk leaves them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from indexer.errors import LocalBusy, LocalFault
from storage import database as database_module
from storage.database import open_database
from storage.export import exported_records
from storage.reading import open_reader
from tests.crash.damage import SpoiltLeaves
from tests.storage.conftest import SteppedClock, World, commit, gone, put
from tests.storage.test_live_store import activate

STEPS = 12
CUTS = 60
LONG_READ = """WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n)
SELECT count(*) FROM n"""


def state(path: Path) -> tuple[int, str, list[tuple[str, str]], int]:
    """(cursor, rev, records, what is counted of them), of a store that nobody has open."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (cursor,) = db.execute("SELECT cursor FROM firehose").fetchone()
        (rev,) = db.execute("SELECT rev FROM repo").fetchone()
        rows = db.execute("SELECT rkey, cid FROM records ORDER BY rkey").fetchall()
        (total,) = db.execute("SELECT total FROM tally WHERE kind = 'collection'").fetchone()
        return cursor, rev, rows, total


async def test_of_a_log_that_was_cut_anywhere_whole_transactions_are_left(tmp_path: Path):
    """Writes after the last fsync may be lost in part: the log then ends anywhere, or is gone."""
    path, lost = tmp_path / "index.db", tmp_path / "lost.db"
    async with open_database(path) as database:
        world = World(database, path, SteppedClock())
        await activate(world, "r01", ("a", "c1"))
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        shutil.copy(path, lost)
        await database.write(lambda c: c.execute("PRAGMA wal_autocheckpoint=0").fetchall())
        after = [(100, "r01", [("a", "c1")], 1)]
        for number in range(1, STEPS + 1):
            writes = [put(f"k{number:02}", f"c{number}"), put("a", f"a{number}")]
            if number > 3:
                writes.append(gone(f"k{number - 3:02}"))
            await world.apply(commit(f"r{number + 1:02}", f"r{number:02}", *writes))
            rows = await world.rows("SELECT rkey, cid FROM records ORDER BY rkey")
            after.append((world.seq, f"r{number + 1:02}", rows, len(rows)))
        log = path.with_name("index.db-wal").read_bytes()
    assert len(log) > 100_000
    seen = set()
    for length in [*range(0, len(log), len(log) // CUTS), len(log)]:
        shutil.copy(lost, tmp_path / "cut.db")
        (tmp_path / "cut.db-wal").write_bytes(log[:length])
        found = state(tmp_path / "cut.db")
        assert found in after
        seen.add(found[0])
    assert len(seen) == STEPS + 1, "every prefix was met"


async def test_a_page_that_is_spoilt_is_a_fault_and_nothing_is_repaired_in_silence(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        world = World(database, path, SteppedClock())
        await activate(world, "r1", *((f"k{n:03}", f"c{n}") for n in range(300)))
    spoilt = SpoiltLeaves(path, "record")
    async with open_database(path) as database:
        with pytest.raises(LocalFault, match="SQLITE_CORRUPT"):
            await database.read("SELECT * FROM record")
        with pytest.raises(LocalFault, match="SQLITE_CORRUPT"):
            await database.write(lambda c: c.execute("UPDATE record SET cid = 'x'") and None)
    assert spoilt.are_left()


async def test_damage_that_a_command_meets_while_it_reads_is_told_in_one_line(tmp_path: Path):
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        await activate(World(database, path, SteppedClock()), "r01", ("a", "c1"))
    with closing(sqlite3.connect(path)) as other:
        (root,) = other.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'record'"
        ).fetchone()
        (size,) = other.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 64)
    said = r"storage\.path: .* is damaged .*malformed.* restore a backup"
    with pytest.raises(LocalFault, match=said), open_reader(path) as reader:
        list(exported_records(reader))


async def test_an_empty_file_is_a_store_to_be_made(tmp_path: Path):
    """As a process leaves it that is killed before its first transaction."""
    path = tmp_path / "index.db"
    path.touch()
    async with open_database(path) as database:
        assert await database.read("SELECT count(*) FROM records") == [(0,)]


async def test_a_read_that_takes_too_long_is_cut_off(tmp_path: Path):
    async with open_database(tmp_path / "index.db") as database:
        with pytest.raises(LocalBusy, match=f"more than {database_module.READ_S_MAX}"):
            await database.read(LONG_READ)
        assert await database.read("SELECT count(*) FROM records") == [(0,)]
