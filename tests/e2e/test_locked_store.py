"""Another program keeps the store locked for longer than a transaction waits for it."""

from __future__ import annotations

import asyncio
import fcntl
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from indexer.daemon import START_RETRY_S
from indexer.errors import LocalBusy
from indexer.records.projection import SEARCH
from storage.file_lock import file_lock
from storage.verification import check_search_index
from tests.devnet import Activity, Devnet, FaultKind, realistic_record
from tests.e2e.daemon import RunningDaemon, running_daemon, wait_until
from tests.e2e.test_operation_runs import metric
from tests.e2e.test_stream_gaps import TAG, settings
from tests.oracle import wait_until_equal

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
PATIENCE_S = 30.0
STOP_S = 20.0
"""Those promised, and some for the transaction that waits for the lock when the stop comes."""


@asynccontextmanager
async def locked(database: Path) -> AsyncIterator[None]:
    """A process of its own has the file locked for as long as the block runs."""
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCK, str(database),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    assert await other.stdout.readline() == b"locked\n"
    try:
        yield
    finally:
        other.stdin.close()
        await other.wait()


async def readiness(daemon: RunningDaemon) -> int:
    """The status of `/readyz`."""
    async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as answer:
        return answer.status


async def test_a_start_waits_for_a_command_that_checks_the_store(tmp_path: Path):
    """As while the service manager starts a daemon again and again: refused, it would stay down."""
    async with Devnet(seed=23) as net:
        async with running_daemon(tmp_path, settings(net)) as daemon:
            database = daemon.database
        async with asyncio.TaskGroup() as group:
            async with locked(database):  # so that the check takes long
                checking = group.create_task(
                    asyncio.to_thread(check_search_index, database, SEARCH)
                )
                lock = database.with_name("index.db.lock")
                await wait_until(lambda: is_held(lock), what="the check")
                starting = group.create_task(start(tmp_path, net))
                await asyncio.sleep(START_RETRY_S + 0.5)
                assert not checking.done() and not starting.done()
                assert database.with_name("index.db.reserve").exists()
            assert await checking is None
            await starting


def test_a_command_that_has_just_come_is_not_taken_for_a_daemon(tmp_path: Path):
    with (tmp_path / "index.db.lock").open("w") as command:
        fcntl.flock(command, fcntl.LOCK_EX)
        timer = threading.Timer(0.02, fcntl.flock, (command, fcntl.LOCK_SH))
        timer.start()
        with pytest.raises(LocalBusy, match="a command uses"):
            file_lock(tmp_path / "index.db").__enter__()
        timer.join()


def is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


async def start(folder: Path, net: Devnet) -> None:
    async with running_daemon(folder, settings(net)):
        pass


@pytest.mark.slow
async def test_a_store_that_another_program_keeps_locked_costs_time_and_no_event(tmp_path: Path):
    async with Devnet(seed=23) as net:
        activity = Activity(net, accounts_max=6, is_calm=True)
        await activity.steps(30)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, heads=True)

            async def busy() -> float:
                return await metric(daemon, "chive_sqlite_errors_total", code="busy")

            assert await busy() == 0
            before = daemon.rows("SELECT max(cursor) FROM firehose")
            async with locked(daemon.database):
                await activity.steps(30)
                async with asyncio.timeout(PATIENCE_S):
                    # The first to meet the lock may be a write that readiness does not depend on.
                    while not (await busy() and await readiness(daemon) == 503):
                        await asyncio.sleep(0.1)
                assert daemon.rows("SELECT max(cursor) FROM firehose") == before
                received = await metric(daemon, "chive_firehose_last_received_timestamp_seconds")
                saved = await metric(daemon, "chive_firehose_cursor_saved_timestamp_seconds")
                assert received > saved, "how far the cursor lags is not shown"
            await wait_until_equal(net, daemon.database, 30.0, heads=True)
            assert not daemon.task.done()


@pytest.mark.slow
async def test_a_stop_does_not_wait_for_who_keeps_the_store_locked(tmp_path: Path):
    """An operation is under way, and admins have called while the store was locked."""
    async with Devnet(seed=24) as net:
        account = await net.create_account()
        net.create(account, TAG, realistic_record(random.Random(24), TAG, did=account.did))
        async with AsyncExitStack() as stack:
            daemon = await stack.enter_async_context(running_daemon(tmp_path, settings(net)))
            await wait_until_equal(net, daemon.database, heads=True)
            hang = net.faults.schedule(
                FaultKind.HTTP_HANG, times=None, endpoint="com.atproto.sync.getRepoStatus"
            )
            await daemon.call("pub.chive.admin.triggerBackfill", type="didSync", did=account.did)
            await wait_until(lambda: hang.fired > 0, what="the host to be asked")
            async with locked(daemon.database), asyncio.TaskGroup() as group:

                async def denying(number: int) -> None:
                    with suppress(aiohttp.ClientError):
                        subject = f"did:plc:{number:024}"
                        await daemon.call("pub.chive.indexer.deny", subject=subject, reason="spam")

                for number in range(10):
                    group.create_task(denying(number))
                await asyncio.sleep(0.5)
                began = asyncio.get_running_loop().time()
                await stack.aclose()
                assert asyncio.get_running_loop().time() - began < STOP_S
