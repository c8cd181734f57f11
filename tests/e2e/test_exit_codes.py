"""What a process that cannot go on ends with, so that its manager knows whether to try again."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from indexer.clock import SystemClock
from indexer.daemon import (
    EXIT_CONFIGURATION,
    EXIT_STORAGE,
    run_daemon,
    run_daemon_until,
)
from indexer.errors import LocalFault
from indexer.world import World
from tests.crash.damage import SpoiltLeaves
from tests.devnet import Account, Devnet
from tests.e2e.daemon import running_daemon
from tests.e2e.test_start_and_stop import STOP_S, settings_in
from tests.e2e.test_stream_gaps import TAG, tag
from tests.e2e.test_stream_gaps import settings as following
from tests.oracle import wait_until_equal


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look like one. " * 200)


def spoilt_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE one (x)")
        db.execute("PRAGMA application_id = 1128810838")
        db.commit()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(content)


def newer_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {0x43484956}")
        db.execute("PRAGMA user_version = 999")
        db.execute("CREATE TABLE later (x)")
        db.commit()


def another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
        db.commit()


def folder_in_the_way(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (no_database, EXIT_STORAGE),
        (spoilt_schema, EXIT_STORAGE),
        (newer_version, EXIT_CONFIGURATION),
        (another_program, EXIT_CONFIGURATION),
        (folder_in_the_way, EXIT_CONFIGURATION),
    ],
)
def test_a_start_that_cannot_succeed_ends_with_the_code_of_its_cause(
    tmp_path: Path, prepare: Callable[[Path], None], code: int
):
    prepare(tmp_path / "index.db")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run_daemon(settings_in(tmp_path)) == code
    left = {path.name for path in tmp_path.iterdir()} - {"config.toml", "index.db.lock"}
    assert left <= {*before, "index.db-wal", "index.db-shm"}


def test_where_nothing_can_be_written_is_a_matter_of_configuration(tmp_path: Path):
    settings = settings_in(tmp_path)
    nowhere = settings.storage.model_copy(update={"path": Path("/proc/index.db")})
    assert run_daemon(settings.model_copy(update={"storage": nowhere})) == EXIT_CONFIGURATION


class FailingClock(SystemClock):
    """A clock whose next question, once it is to fail, ends the component that asks it."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.is_failing = False

    def monotonic(self) -> float:
        if self.is_failing:
            self.is_failing = False
            raise self.error
        return super().monotonic()


@pytest.mark.parametrize("error", [LocalFault("SQLITE_IOERR: a test"), KeyError("a bug")])
async def test_a_failure_in_any_component_ends_the_process(tmp_path: Path, error: Exception):
    clock = FailingClock(error)

    def on_ready(_: object) -> None:
        clock.is_failing = True

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(STOP_S):
            await run_daemon_until(
                asyncio.Event(), settings_in(tmp_path), world=World(clock=clock), on_ready=on_ready
            )
    assert caught.group_contains(type(error), match="a test" if "test" in str(error) else "bug")


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_store_that_is_removed_or_replaced_ends_the_process(
    tmp_path: Path, is_replaced: bool
):
    path, copy = tmp_path / "index.db", tmp_path / "copy.db"

    def on_ready(_: object) -> None:
        if is_replaced:
            shutil.copy(path, copy)
            copy.replace(path)
        else:
            path.unlink()

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(STOP_S):
            await run_daemon_until(asyncio.Event(), settings_in(tmp_path), on_ready=on_ready)
    # SQLite looks for the file too when it opens a log, and may notice first.
    assert caught.group_contains(LocalFault, match="removed or replaced|SQLITE_IOERR_FSTAT")


async def meet(net: Devnet, account: Account, folder: Path) -> None:
    """A daemon on a spoilt file hears of records that lie there; its end is raised."""
    async with running_daemon(folder, following(net)) as daemon:
        for path in net.repo(account).paths[:3]:
            net.delete(account, *path.split("/"))
        async with asyncio.timeout(STOP_S):
            await asyncio.wait([daemon.task])


async def test_a_page_that_is_spoilt_ends_the_process_as_soon_as_it_is_read_and_stays_so(
    tmp_path: Path,
):
    async with Devnet(seed=31) as net:
        account = await net.create_account()
        net.import_records(account, 400, [TAG], announce=False)
        tag(net, account)
        async with running_daemon(tmp_path, following(net)) as daemon:
            await wait_until_equal(net, daemon.database, 20.0, heads=True)
        path = daemon.database
        spoilt = SpoiltLeaves(path, "record")
        with pytest.raises(ExceptionGroup) as caught:
            await meet(net, account, tmp_path)
        assert caught.group_contains(LocalFault, match="SQLITE_CORRUPT")
        assert spoilt.are_left()
