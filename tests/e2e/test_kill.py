"""The daemon process, killed and stopped at any moment, loses nothing and doubles nothing."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from indexer.cli import main
from tests.devnet import Activity, Devnet, Fault, FaultKind
from tests.e2e.daemon import to_toml, wait_until
from tests.oracle import wait_until_equal

SEED = 20_261_125
STORES = 2
KILLS_PER_STORE = 54
KILLS_BETWEEN_LOOKS = 18
LOSSES = 4  # repos that miss an event between looks, so that resyncs are under way at a kill
STARTED_S = 90.0
CONVERGED_S = 120.0  # a repo that missed two events waits a minute
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["indexer.cli", "indexer.daemon"])


def configure(folder: Path, net: Devnet) -> Path:
    """The settings file of a daemon on the devnet, with a store in `folder`."""
    folder.mkdir(exist_ok=True)
    password = folder / "password"
    password.write_text("correct horse battery staple")
    password.chmod(0o600)
    config = folder / "config.toml"
    config.write_text(
        to_toml(
            {
                "storage": {"path": str(folder / "index.db")},
                "admin": {"port": 0, "password_file": str(password)},
                "metrics": {"port": 0},
                "firehose": {"url": net.relay_url, "start": "oldest"},
                "identity": {
                    "plc_url": net.plc_url,
                    "handle_resolver_url": net.handle_resolver_url,
                    "refresh_interval_s": 0,
                },
                "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
                "backfill.interval_s": {"freshnessScan": 0, "governanceSync": 0},
                "backfill": {"bootstrap": False},  # scans have kills of their own
                "log": {"format": "json", "level": "info"},
            }
        )
    )
    return config


async def start(config: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "indexer", "run", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


class Output:
    """What a daemon says, read as it comes, so that no pipe fills up."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.text = ""
        self._process = process
        self._is_started = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.text += line.decode(errors="replace")
            if b"daemon.started" in line:
                self._is_started.set()

    async def started(self) -> None:
        """Wait for the line that says so."""
        waiter = asyncio.create_task(self._is_started.wait())
        await asyncio.wait(
            [waiter, self.task], timeout=STARTED_S, return_when=asyncio.FIRST_COMPLETED
        )
        waiter.cancel()
        assert self._is_started.is_set(), self.text[-3000:]


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Output]]:
    """A started daemon process; whatever is left of it at the end is killed."""
    process = await start(config)
    output = Output(process)
    try:
        yield process, output
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await output.task


def serve(config: Path, output: Path) -> None:
    """The body of a daemon process that was forked with everything imported."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    main(["run", "--config", str(config)])


async def kill_some(config: Path, rng: random.Random, kills: int) -> int:
    """Start and kill so many times; how many daemons had come up by then.

    No moment worth a kill lies in the start of an interpreter, so none is started.
    """
    came_up = 0
    output = config.with_name("output")
    for _ in range(kills):
        output.write_text("")
        process = FORKS.Process(target=serve, args=(config, output))
        process.start()
        try:
            if rng.random() < 0.7:
                await wait_until(
                    lambda: "daemon.started" in output.read_text(),
                    what=lambda: f"the start: {output.read_text()[-3000:]}",
                    deadline_s=STARTED_S, poll_s=0.01,
                )  # fmt: skip
                came_up += 1
                await asyncio.sleep(rng.uniform(0.0, 0.25))
            else:
                await asyncio.sleep(rng.uniform(0.0, 0.5))
            assert process.is_alive(), output.read_text()[-3000:]
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
            process.close()
    return came_up


def check_file(database: Path) -> None:
    """The file is sound, and what is counted by triggers is what is there."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tallies = db.execute(
            "SELECT name, total FROM tally WHERE kind = 'collection' AND total <> 0 ORDER BY name"
        ).fetchall()
        counted = db.execute(
            "SELECT collection, count(*) FROM record GROUP BY collection ORDER BY collection"
        ).fetchall()
        assert tallies == counted


async def converge(net: Devnet, database: Path) -> None:
    """Wait until the store equals the truth; a failure says what its repos wait for."""
    try:
        await wait_until_equal(net, database, CONVERGED_S, heads=True)
    except AssertionError as error:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
            repos = db.execute(
                "SELECT did, state, account_status, wanted, claimed, retry_at - unixepoch(),"
                " attempts, desyncs, reason FROM repo WHERE state <> 'active' OR wanted <> 0"
            ).fetchall()
        raise AssertionError(f"{error}\nrepos at work: {repos}") from error


def lose_events(net: Devnet, spared: set[str], count: int) -> list[Fault]:
    """Let so many repos miss a commit: each once, since a second time is made up for later."""
    chosen = [did for did in net.accounts if did not in spared][:count]
    spared.update(chosen)
    return [net.faults.schedule(FaultKind.SWALLOW_FRAME, did=did, type="#commit") for did in chosen]


async def run_store(number: int, tmp_path: Path) -> tuple[int, int]:
    """One store through its kills; (kills, kills of daemons that had come up)."""
    rng = random.Random(SEED + number)
    came_up = kills = 0
    spared: set[str] = set()
    async with Devnet(seed=SEED + number) as net:
        activity = Activity(net, rate=20.0, accounts_max=12, is_calm=True)
        await activity.steps(40)
        large = await net.create_account()
        net.import_records(large, 700)  # more than a chunk: merges are killed half-way
        config = configure(tmp_path / str(number), net)
        database = tmp_path / str(number) / "index.db"
        while kills < KILLS_PER_STORE:
            traffic = asyncio.create_task(activity.run())
            lost = lose_events(net, spared, LOSSES)
            came_up += await kill_some(config, rng, KILLS_BETWEEN_LOOKS)
            assert any(fault.fired for fault in lost), "nothing had to be fetched again"
            net.faults.clear()
            kills += KILLS_BETWEEN_LOOKS
            traffic.cancel()
            await asyncio.wait([traffic])
            for account in net.accounts.values():
                net.emit_sync(account)  # what was swallowed last is announced by nothing else
            async with running(config) as (process, output):
                await output.started()
                await converge(net, database)
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 10.0) == 0, output.text[-3000:]
            check_file(database)
    return kills, came_up


@pytest.mark.slow
async def test_a_hundred_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path):
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        stores = [group.create_task(run_store(number, tmp_path)) for number in range(STORES)]
    kills = sum(store.result()[0] for store in stores)
    came_up = sum(store.result()[1] for store in stores)
    print(f"seed {SEED}: {kills} kills, {came_up} of running daemons, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    assert kills >= 100
    assert came_up >= kills // 2


async def test_a_signal_under_full_load_ends_cleanly_in_time(tmp_path: Path):
    async with Devnet(seed=SEED) as net:
        activity = Activity(net, rate=2000.0, accounts_max=20)
        await activity.steps(600)
        config = configure(tmp_path / "store", net)
        traffic = asyncio.create_task(activity.run())
        async with running(config) as (process, output):
            await output.started()
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10.0) == 0, output.text[-3000:]
            print(f"stopped after {time.monotonic() - began:.2f} s")
        traffic.cancel()
        await asyncio.wait([traffic])
        wal = tmp_path / "store" / "index.db-wal"
        assert not wal.exists() or wal.stat().st_size == 0, "the log is not checkpointed"
        check_file(tmp_path / "store" / "index.db")


async def test_a_second_signal_exits_at_once_and_is_safe(tmp_path: Path):
    async with Devnet(seed=SEED) as net:
        activity = Activity(net, rate=2000.0, accounts_max=20)
        await activity.steps(600)
        config = configure(tmp_path / "store", net)
        database = tmp_path / "store" / "index.db"
        async with running(config) as (process, output):
            await output.started()
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert await asyncio.wait_for(process.wait(), 5.0) in {0, 130}, output.text[-3000:]
            assert time.monotonic() - began < 2.0
        async with running(config) as (process, output):
            await output.started()
            await converge(net, database)
        check_file(database)
