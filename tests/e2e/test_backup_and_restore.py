"""A copy taken under load, put back after the loss of everything, is caught up with the network."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.devnet import Activity, Devnet
from tests.e2e.daemon import running_daemon, wait_until
from tests.e2e.test_stream_gaps import settings
from tests.oracle import wait_until_equal

RATE = 200.0  # steps a second: as many as this machine manages
EQUAL_S = 180.0  # a repo that was fetched a moment ago is compared twice, a minute apart each
COMMAND_S = 60.0


def lose(folder: Path) -> None:
    """All that the daemon has written, but the copies."""
    for file in folder.glob("index.db*"):
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()


async def restored(folder: Path, copy: Path) -> None:
    """`chive-indexer restore`, as an operator calls it."""
    command = (
        str(Path(sys.executable).with_name("chive-indexer")), "restore", str(copy),
        "--config", str(folder / "config.toml"),
    )  # fmt: skip
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    assert result.returncode == 0, result.stderr


async def test_a_copy_taken_under_load_is_put_back_and_caught_up(tmp_path: Path):
    copies = tmp_path / "copies"
    copies.mkdir()
    async with Devnet(seed=11) as net:
        values = settings(net)
        values["storage"] = {"backup_dir": str(copies)}
        activity = Activity(net, RATE, accounts_max=12)
        await activity.steps(100)
        async with running_daemon(tmp_path, values) as daemon, asyncio.TaskGroup() as load:
            traffic = load.create_task(activity.run())
            before = daemon.rows("SELECT cursor FROM firehose")
            await wait_until(
                lambda: daemon.rows("SELECT cursor FROM firehose") != before, what="live events"
            )
            status, answer = await daemon.call("pub.chive.indexer.createBackup")
            assert status == 200, answer
            taken_at = daemon.rows("SELECT cursor FROM firehose")
            await wait_until(
                lambda: daemon.rows("SELECT cursor FROM firehose") != taken_at,
                what="events after the copy",
            )
            traffic.cancel()
        lose(tmp_path)
        await restored(tmp_path, copies / answer["name"])
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            assert daemon.rows("SELECT * FROM gaps") == []  # the relay still had what was missed


async def test_a_copy_older_than_the_relay_remembers_is_repaired_by_asking_the_hosts(
    tmp_path: Path,
):
    copies = tmp_path / "copies"
    copies.mkdir()
    async with Devnet(seed=12) as net:
        values = settings(net)
        values["storage"] = {"backup_dir": str(copies)}
        activity = Activity(net, RATE, accounts_max=8)
        await activity.steps(60)
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            status, answer = await daemon.call("pub.chive.indexer.createBackup")
            assert status == 200, answer
        await activity.steps(60)
        net.relay.stream.trim(0)
        lose(tmp_path)
        await restored(tmp_path, copies / answer["name"])
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            assert daemon.rows("SELECT reason FROM gaps") == [("outdated_cursor",)]


@pytest.mark.parametrize("is_first_start", [True, False])
async def test_a_store_whose_log_was_deleted_goes_on_from_what_its_file_held(
    tmp_path: Path, is_first_start: bool
):
    """With it goes what was committed since the last checkpoint: at a first start, everything."""
    async with Devnet(seed=13) as net:
        activity = Activity(net, RATE, accounts_max=5, is_calm=True)
        await activity.steps(40)
        if not is_first_start:
            async with running_daemon(tmp_path, settings(net)) as daemon:
                await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            await activity.steps(20)
        kept = tmp_path / "kept.db"
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            reached = daemon.rows("SELECT cursor FROM firehose")
            shutil.copy(daemon.database, kept)
        lose(tmp_path)
        kept.replace(daemon.database)
        with closing(sqlite3.connect(daemon.database)) as left:
            has_tables = left.execute("SELECT count(*) FROM sqlite_schema").fetchone() > (0,)
            held = left.execute("SELECT cursor FROM firehose").fetchall() if has_tables else []
        assert held < reached and has_tables is not is_first_start, "nothing was lost"
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            assert daemon.rows("SELECT * FROM gaps") == []  # the relay still had what was lost
