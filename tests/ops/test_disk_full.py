"""A disk that is full, on a small file system of its own: nothing is lost, and all goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from indexer.daemon import run_daemon_until
from indexer.settings import load_settings
from tests.devnet import Account, Devnet, realistic_record
from tests.e2e.daemon import RunningDaemon, running_daemon, to_toml, wait_until
from tests.e2e.test_admin_kill import process, sections
from tests.e2e.test_operation_runs import metric
from tests.e2e.test_stream_gaps import settings
from tests.oracle import wait_until_equal

pytestmark = pytest.mark.ops

EPRINT = "pub.chive.eprint.submission"
DISK_BYTES = 160 * 1024 * 1024
LEFT_BYTES = 256 * 1024
PATIENCE_S = 60.0


@asynccontextmanager
async def small_disk(folder: Path) -> AsyncIterator[Path]:
    """A file system in memory, mounted for as long as the block runs."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, *, left_bytes: int = LEFT_BYTES) -> Path:
    """Take all the room but a little. The file that takes it."""
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    with ballast.open("ab") as file:
        os.posix_fallocate(file.fileno(), file.tell(), room.f_bavail * room.f_frsize - left_bytes)
    return ballast


def write(net: Devnet, account: Account, count: int) -> None:
    """Eprints with long abstracts of words that no other has: what weighs most in every table."""
    for _ in range(count):
        value = realistic_record(net.rng, EPRINT, did=account.did)
        words = " ".join(f"{net.rng.getrandbits(40):x}" for _ in range(500))
        value["abstract"] = [{"type": "text", "content": words}]
        value.pop("abstractPlainText", None)
        net.create(account, EPRINT, value)


async def full_errors(daemon: RunningDaemon) -> float:
    return await metric(daemon, "chive_sqlite_errors_total", code="full")


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return when the condition holds; fail, saying what was waited for, when it does not."""
    ends = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < ends, f"waited {PATIENCE_S} s for {what}"
        await asyncio.sleep(0.1)


async def readiness(daemon: RunningDaemon) -> tuple[int, str | None]:
    async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as response:
        return response.status, (await response.json())["components"]["store"]


async def test_live_events_wait_for_room_and_http_does_not(tmp_path: Path):
    async with small_disk(tmp_path / "disk") as disk, Devnet(seed=21) as net:
        account = await net.create_account()
        write(net, account, 5)
        values = settings(net)
        values["storage"] = {"path": str(disk / "index.db")}
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until_equal(net, disk / "index.db", PATIENCE_S, heads=True)
            ballast = fill(disk)
            write(net, account, 400)

            async def is_full() -> bool:
                return await full_errors(daemon) > 0 and (await readiness(daemon))[0] == 503

            await until(is_full, "the disk is full")
            status, reason = await readiness(daemon)
            assert (status, "FULL" in (reason or "")) == (503, True), reason
            assert (await daemon.query("pub.chive.admin.getSystemHealth"))[0] == 200
            ballast.unlink()
            await wait_until_equal(net, disk / "index.db", PATIENCE_S, heads=True)
            await until(lambda: _is_ready(daemon), "ready again")


async def _is_ready(daemon: RunningDaemon) -> bool:
    return (await readiness(daemon))[0] == 200


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped before", "killed before"])
async def test_a_start_on_a_full_disk_waits_for_room_and_can_be_stopped(
    tmp_path: Path, *, is_killed: bool
):
    async with small_disk(tmp_path / "disk") as disk, Devnet(seed=23) as net:
        account = await net.create_account()
        write(net, account, 5)
        values = sections(tmp_path, net)
        values["storage"] = {"path": str(disk / "index.db")}
        config = tmp_path / "config.toml"
        config.write_text(to_toml(values))
        async with process(config) as (daemon, _):
            await wait_until_equal(net, disk / "index.db", PATIENCE_S, heads=True)
            daemon.send_signal(signal.SIGKILL if is_killed else signal.SIGTERM)
            await daemon.wait()
        (disk / "index.db.reserve").unlink()  # as the disk was full before
        ballast = fill(disk, left_bytes=0)
        settings_, stop = load_settings(config, {}), asyncio.Event()
        with capture_logs() as logs:
            async with asyncio.TaskGroup() as group:
                group.create_task(run_daemon_until(stop, settings_))
                await wait_until(
                    lambda: [each["event"] for each in logs] == ["daemon.start_waits"],
                    what="a start that waits",
                )
                stop.set()
            async with asyncio.TaskGroup() as group:
                stop.clear()
                group.create_task(run_daemon_until(stop, settings_, on_ready=lambda _: stop.set()))
                await wait_until(lambda: len(logs) == 2, what="another that waits")
                ballast.unlink()
        assert [each["event"] for each in logs].count("daemon.started") == 1


async def test_a_reindex_that_runs_into_a_full_disk_goes_on_when_there_is_room(tmp_path: Path):
    async with small_disk(tmp_path / "disk") as disk, Devnet(seed=22) as net:
        account = await net.create_account()
        write(net, account, 800)
        values = settings(net)
        values["storage"] = {"path": str(disk / "index.db")}
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until_equal(net, disk / "index.db", PATIENCE_S, heads=True)
        # A stop brings the WAL into the file: nothing is left there to be written over.
        async with running_daemon(tmp_path, values) as daemon:
            ballast = fill(disk)
            status, answer = await daemon.call(
                "pub.chive.admin.triggerBackfill", type="fullReindex", batchSize=50
            )
            assert status in {200, 503}, answer

            async def is_full() -> bool:
                return await full_errors(daemon) > 0

            await until(is_full, "the disk is full")
            ballast.unlink()
            if status == 503:
                await until(lambda: _is_ready(daemon), "ready again")
                status, answer = await daemon.call(
                    "pub.chive.admin.triggerBackfill", type="fullReindex", batchSize=50
                )
            await wait_until(
                lambda: _statuses(disk) == {"completed"}, what="the end", deadline_s=PATIENCE_S
            )
            await wait_until_equal(net, disk / "index.db", PATIENCE_S, heads=True)


def _statuses(disk: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{disk}/index.db?mode=ro", uri=True)) as connection:
        return {row[0] for row in connection.execute("SELECT status FROM operations")}
