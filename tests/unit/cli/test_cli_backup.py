"""Copies of the local store, and one put back."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

from storage.file_lock import file_lock
from storage.schema import migrate, schema_version

RELAY = "wss://relay.example"
ROOT = Path(__file__).parents[3]

DYING_RESTORE = """
import os, sys
from pathlib import Path
from storage.restore import restore_store

left = int(sys.argv[1])

def die(event, _):
    global left
    left -= event in {"os.rename", "os.link", "os.remove"}
    if left < 0:
        os._exit(9)

sys.addaudithook(die)
restore_store(Path(sys.argv[2]), Path(sys.argv[3]))
"""
"""Ends before it changes a name in a folder once more than the first argument says."""

LINKLESS_RESTORE = """
import errno, sys
from pathlib import Path
from storage.restore import restore_store

def refuse(event, _):
    if event == "os.link":
        raise PermissionError(errno.EPERM, "as exFAT says")

sys.addaudithook(refuse)
restore_store(Path(sys.argv[1]), Path(sys.argv[2]))
"""

ROBBED_COPY = """
import os, sys
from pathlib import Path
from storage.backup import copy_store

def rob(event, arguments):
    if event == "sqlite3.connect" and ".partial" in str(arguments[0]):
        os.unlink(sys.argv[2] + ".partial")

sys.addaudithook(rob)
copy_store(Path(sys.argv[1]), Path(sys.argv[2]), place="there")
"""
"""Has its file removed by another program once it is written and before it is checked."""


@contextmanager
def store(path: Path) -> Iterator[sqlite3.Connection]:
    """A writer with a log beside it, as a daemon has."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        migrate(connection)
        yield connection


def put(connection: sqlite3.Connection, seq: int) -> None:
    connection.execute(
        "INSERT INTO firehose_cursor (url, seq, updated_at) VALUES (?, ?, '')"
        " ON CONFLICT DO UPDATE SET seq = excluded.seq",
        (RELAY, seq),
    )


def cursor(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT seq FROM firehose_cursor").fetchone()[0]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "index.db"


@pytest.fixture
def here(cli, tmp_path: Path, database: Path) -> Callable[..., tuple[int, str, str]]:
    """Run a command whose settings name the store."""
    database.parent.mkdir()
    config = tmp_path / "config.toml"
    config.write_text(f"[storage]\npath = {json.dumps(str(database))}\n")
    return lambda *arguments: cli(*arguments, "--config", config)


def test_a_copy_is_made_while_the_store_is_written_and_comes_back_with_its_cursor(
    here, database: Path, tmp_path: Path
):
    copy = tmp_path / "copies" / "first.db"
    with file_lock(database), store(database) as daemon:
        put(daemon, 7)
        code, out, err = here("backup", copy)
        assert (code, err) == (0, ""), err
        assert f"0 records, {RELAY} up to 7, checked." in out
        put(daemon, 8)
    assert copy.stat().st_mode & 0o077 == 0
    code, out, _ = here("restore", copy)
    assert code == 0 and "is restored" in out and "Start the daemon" in out
    assert cursor(database) == 7
    [aside] = database.parent.glob("index.db.before-*Z")
    assert cursor(aside) == 8
    assert sorted(each.name for each in database.parent.iterdir()) == sorted(
        ["index.db", "index.db.lock", aside.name]
    )


def test_a_copy_is_made_where_only_the_daemon_is_handed_the_password(
    cli, database: Path, tmp_path: Path
):
    config = tmp_path / "config.toml"
    text = f'storage = {{path = "{database}"}}\nadmin = {{bind = "0.0.0.0"}}'
    config.write_text(text)
    database.parent.mkdir()
    with store(database):
        assert cli("backup", tmp_path / "copy.db", "--config", config)[0] == 0


def test_a_copy_into_a_folder_is_named_by_its_date_and_told_in_json(
    here, database: Path, tmp_path: Path
):
    with store(database) as daemon:
        put(daemon, 7)
        code, out, _ = here("backup", tmp_path, "--json")
    told = json.loads(out)
    assert code == 0
    assert Path(told["path"]).name.startswith("index-2")
    assert told["sizeBytes"] == Path(told["path"]).stat().st_size
    assert told["schemaVersion"] == schema_version()
    assert told["cursors"] == [{"url": RELAY, "cursor": 7}]
    code, out, _ = here("restore", told["path"], "--json")
    assert json.loads(out)["path"] == str(database)


def test_a_copy_that_somebody_removes_while_it_is_made_is_absent(database: Path, tmp_path: Path):
    database.parent.mkdir()
    copy = tmp_path / "copies" / "x.db"
    copy.parent.mkdir()
    with store(database) as daemon:
        put(daemon, 7)
        result = subprocess.run(
            (sys.executable, "-c", ROBBED_COPY, str(database), str(copy)),
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert "LocalBusy" in result.stderr
    assert not list(copy.parent.iterdir())


def test_nothing_is_written_over_and_no_store_is_no_copy(here, database: Path, tmp_path: Path):
    code, _, err = here("backup", tmp_path / "x.db")
    assert code == os.EX_CONFIG and "no store" in err
    with store(database):
        (tmp_path / "x.db").write_text("something of somebody")
        code, _, err = here("backup", tmp_path / "x.db")
        assert code == os.EX_USAGE and "exists already" in err
        code, _, err = here("backup", "/proc/nowhere/x.db")
        assert code == os.EX_IOERR and "/proc" in err
    assert (tmp_path / "x.db").read_text() == "something of somebody"


def test_a_restore_is_refused_while_a_daemon_has_the_store(here, database: Path, tmp_path: Path):
    copy = tmp_path / "copy.db"
    with file_lock(database), store(database) as daemon:
        put(daemon, 7)
        assert here("backup", copy)[0] == 0
        put(daemon, 8)
        code, _, err = here("restore", copy)
        assert code == os.EX_CONFIG and "stop it first" in err
    assert cursor(database) == 8


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("is_fresh", [False, True], ids=["over a store", "on a new machine"])
def test_what_root_restores_belongs_to_the_account_of_the_daemon(
    here, database: Path, tmp_path: Path, *, is_fresh: bool
):
    copy = tmp_path / "copy.db"
    with store(database) as daemon:
        put(daemon, 7)
        assert here("backup", copy)[0] == 0
    os.chown(database.parent, 2580, 2581)
    os.chown(database, 2580, 2581)
    if is_fresh:
        database.unlink()
    assert here("restore", copy)[0] == 0
    owners = {each.name: each.stat().st_uid for each in database.parent.glob("index.db*")}
    assert set(owners) >= {"index.db", "index.db.lock"}
    assert set(owners.values()) == {2580}, owners
    assert database.stat().st_gid == 2581


def damaged(path: Path) -> None:
    with store(path) as connection:
        connection.execute("CREATE TABLE filler (x)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("a" * 500,)] * 200)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = b"\xff" * 20_000
    path.write_bytes(data)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE somebody (x)")


def too_new(path: Path) -> None:
    with store(path) as connection:
        connection.execute(f"PRAGMA user_version={schema_version() + 1}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damaged, "damaged|no sound"),
        (foreign, "another program"),
        (too_new, "newer version"),
        (lambda path: path.write_text("no database at all, but long enough" * 100), "no sound"),
        (lambda path: None, "no such file"),
    ],
    ids=["damaged", "foreign", "too new", "text", "absent"],
)
def test_a_copy_that_cannot_be_used_changes_nothing(
    here, database: Path, tmp_path: Path, make: Callable[[Path], None], message: str
):
    with store(database) as daemon:
        put(daemon, 7)
    make(tmp_path / "copy.db")
    code, _, err = here("restore", tmp_path / "copy.db")
    assert code == os.EX_CONFIG
    assert any(each in err for each in message.split("|")), err
    assert cursor(database) == 7
    assert not list(database.parent.glob("*.before-*")) + list(database.parent.glob("*.incoming*"))


@pytest.mark.parametrize("command", [("verify",), ("search", "x"), ("export",)])
def test_a_damaged_store_is_a_fault_of_the_disk_and_no_configuration(
    here, database: Path, command: tuple[str, ...]
):
    database.write_text("no database at all, but long enough" * 100)
    code, out, err = here(*command)
    assert (code, out) == (os.EX_IOERR, "")
    assert f"{database} is damaged" in err and "restore a backup" in err


def test_a_file_that_cannot_take_an_export_is_a_fault_of_the_disk(here, database: Path):
    with store(database):
        code, _, err = here("export", "--output", database.parent / "absent" / "records.jsonl")
    assert code == os.EX_IOERR and "No such file" in err


def test_a_copy_of_a_damaged_store_is_not_said_to_succeed_later(
    here, database: Path, tmp_path: Path
):
    damaged(database)
    code, _, err = here("backup", tmp_path / "copy.db")
    assert code == os.EX_IOERR
    assert "try again" not in err and "chive-indexer verify" in err


def test_a_store_behind_a_link_is_replaced_where_it_lies(here, database: Path, tmp_path: Path):
    disk = tmp_path / "another disk"
    disk.mkdir()
    database.symlink_to(disk / "index.db")
    with store(database) as daemon:
        put(daemon, 7)
        assert here("backup", tmp_path / "copy.db")[0] == 0
        put(daemon, 8)
    code, _, err = here("restore", tmp_path / "copy.db")
    assert code == 0, err
    assert database.is_symlink() and cursor(database) == 7
    [aside] = disk.glob("index.db.before-*Z")
    assert not aside.is_symlink() and cursor(aside) == 8


def test_the_store_is_no_copy_of_itself(here, database: Path):
    with store(database) as daemon:
        put(daemon, 7)
    code, _, err = here("restore", database)
    assert code == os.EX_CONFIG and "the store itself" in err


def test_a_store_that_is_gone_or_broken_is_replaced(here, database: Path, tmp_path: Path):
    copy = tmp_path / "copy.db"
    with store(database) as daemon:
        put(daemon, 7)
        assert here("backup", copy)[0] == 0
    database.write_bytes(b"\0" * 10_000)
    assert here("restore", copy)[0] == 0
    assert cursor(database) == 7
    database.unlink()
    database.with_name("index.db-wal").write_bytes(b"left behind")
    code, out, _ = here("restore", copy)
    assert code == 0 and "was there" not in out
    assert cursor(database) == 7


def test_a_store_whose_log_somebody_keeps_from_being_merged_is_not_replaced(
    here, database: Path, tmp_path: Path
):
    """Its log would be moved first, and a restore cut off then leave it without."""
    copy = tmp_path / "copy.db"
    with store(database) as daemon, closing(sqlite3.connect(database)) as shell:
        put(daemon, 7)
        assert here("backup", copy)[0] == 0
        shell.execute("BEGIN")
        shell.execute("SELECT * FROM firehose_cursor").fetchall()
        put(daemon, 8)
        daemon.close()
        code, _, err = here("restore", copy)
        assert code == os.EX_CONFIG and "another program reads" in err
        assert cursor(database) == 8
        assert not list(database.parent.glob("*.before-*"))
        assert not list(database.parent.glob("*.incoming*"))
    assert here("restore", copy)[0] == 0
    assert cursor(database) == 7


def test_a_store_is_replaced_where_no_file_has_two_names(database: Path, tmp_path: Path):
    copy = tmp_path / "copy.db"
    database.parent.mkdir()
    for path, seq in ((copy, 7), (database, 8)):
        with store(path) as writer:
            put(writer, seq)
    command = [sys.executable, "-c", LINKLESS_RESTORE, copy, database]
    subprocess.run(command, cwd=ROOT, check=True)
    (aside,) = database.parent.glob("*.before-*Z")
    assert (cursor(database), cursor(aside)) == (7, 8)
    assert not list(database.parent.glob("*.incoming*"))


def test_a_restore_that_dies_leaves_the_old_store_or_the_new_one(tmp_path: Path):
    copy, live = tmp_path / "copy.db", tmp_path / "live"
    live.mkdir()
    with store(copy) as writer:
        put(writer, 7)
    with store(live / "index.db") as daemon:
        put(daemon, 8)
        shutil.copytree(live, tmp_path / "killed")  # with its log
    found = []
    for changes in count():
        state = shutil.copytree(tmp_path / "killed", tmp_path / f"state-{changes}")
        command = [sys.executable, "-c", DYING_RESTORE, str(changes), copy, state / "index.db"]
        died = subprocess.run(command, cwd=ROOT, check=False).returncode
        found.append(cursor(state / "index.db"))
        if not died:
            break
        assert died == 9
    assert len(found) > 4
    assert found == sorted(found, reverse=True) and (found[0], found[-1]) == (8, 7)
    (aside,) = state.glob("index.db.before-*Z")
    assert cursor(aside) == 8
