"""A stop at any moment, the start included, is a clean end."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from indexer.daemon import EXIT_CLEAN, run_daemon_until
from indexer.settings import load_settings
from tests.devnet import Devnet, realistic_record
from tests.e2e.daemon import running_daemon, to_toml
from tests.e2e.test_stream_gaps import EQUAL_S, TAG
from tests.e2e.test_stream_gaps import settings as following
from tests.oracle import wait_until_equal

STOP_S = 10.0


def settings_in(folder: Path):
    config = folder / "config.toml"
    config.write_text(
        to_toml(
            {
                "storage": {"path": str(folder / "index.db")},
                "firehose": {"url": "ws://127.0.0.1:9"},
                "network": {"allow_private_hosts": True},
                "admin": {"port": 0},
                "metrics": {"port": 0},
            }
        )
    )
    return load_settings(config, {})


async def test_a_stop_that_comes_first_ends_the_start(tmp_path: Path):
    stop, started = asyncio.Event(), []
    stop.set()
    async with asyncio.timeout(STOP_S):
        await run_daemon_until(stop, settings_in(tmp_path), on_ready=started.append)
    assert started == []
    with closing(sqlite3.connect(tmp_path / "index.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_daemon_whose_relay_is_away_starts_and_stops(tmp_path: Path):
    stop, started = asyncio.Event(), []

    def on_ready(addresses: object) -> None:
        started.append(addresses)
        stop.set()

    async with asyncio.timeout(STOP_S):
        await run_daemon_until(stop, settings_in(tmp_path), on_ready=on_ready)
    assert len(started) == 1


HANGING_NAMES = """
import os, socket, sys, time

def getaddrinfo(*arguments, **keywords):
    os.write(1, b"asked\\n")
    time.sleep(60)

socket.getaddrinfo = getaddrinfo
from indexer.cli import main
main(["run", "--config", sys.argv[1]])
"""


@asynccontextmanager
async def changed_daemon(script: str, config: Path, says: bytes) -> AsyncIterator[Process]:
    """A daemon that `script` has changed, from when it says so; it must end cleanly within time."""
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(config), stdout=PIPE, stderr=DEVNULL
    )
    try:
        assert daemon.stdout is not None
        async with asyncio.timeout(30.0):
            assert await daemon.stdout.readline() == says
        yield daemon
        async with asyncio.timeout(STOP_S):
            assert await daemon.wait() == EXIT_CLEAN
    finally:
        if daemon.returncode is None:
            daemon.kill()
            await daemon.wait()


async def test_a_stop_does_not_wait_for_a_name_server_that_hangs(tmp_path: Path):
    settings_in(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().replace("127.0.0.1:9", "relay.example"))
    async with changed_daemon(HANGING_NAMES, config, b"asked\n") as daemon:
        daemon.send_signal(signal.SIGTERM)


BUSY_LOOP = """
import asyncio, os, signal, sys
import indexer.daemon

def ready(addresses):
    wakes = asyncio.get_running_loop()._csock
    wakes.setblocking(False)
    try:
        while True:
            wakes.send(b"\\0")
    except BlockingIOError:
        os.write(1, b"full\\n")
    os.kill(os.getpid(), signal.SIGTERM)

indexer.daemon._keep_what_is_loaded = ready
from indexer.cli import main
main(["run", "--config", sys.argv[1]])
"""


async def test_a_signal_counts_though_the_loop_has_been_woken_more_often_than_its_pipe_holds(
    tmp_path: Path,
):
    settings_in(tmp_path)
    async with changed_daemon(BUSY_LOOP, tmp_path / "config.toml", b"full\n"):
        pass  # it sends itself the signal


async def test_a_scope_set_narrower_and_back_leaves_no_repo_behind(tmp_path: Path):
    comment, rng = "pub.chive.review.comment", random.Random(5)
    async with Devnet(seed=5) as net:
        account = await net.create_account()
        wide = following(net)
        narrow = wide | {"scope": {"collections": [TAG]}}
        for values, collection in ((wide, TAG), (narrow, comment), (wide, comment)):
            record = realistic_record(rng, collection, did=account.did)
            net.create(account, collection, record)
            scope = ("pub.chive.*",) if values is wide else (TAG,)
            async with running_daemon(tmp_path, values) as daemon:
                await wait_until_equal(net, daemon.database, EQUAL_S, scope, heads=True)
