"""The daemon process, killed and stopped at any moment, loses nothing and doubles nothing."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.crash.kills import run_store
from tests.crash.points import MARKER, stop_at
from tests.crash.process import Life, check_file, configure, converge, running
from tests.devnet import Activity, Devnet, realistic_record
from tests.e2e.daemon import wait_until

SEED = 20_261_125
STORES = 2
KILLS_PER_STORE = 54
TAG = "pub.chive.eprint.userTag"


@pytest.mark.slow
async def test_a_hundred_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path):
    async with asyncio.TaskGroup() as group:
        stores = [
            group.create_task(
                run_store(SEED + number, KILLS_PER_STORE, tmp_path, per_round=KILLS_PER_STORE)
            )
            for number in range(STORES)
        ]
    tolls = [store.result() for store in stores]
    print(f"seed {SEED}: {tolls}")
    kills = sum(toll.kills for toll in tolls)
    assert kills >= 100
    assert sum(toll.started for toll in tolls) >= kills // 2
    assert all(toll.repos_compared > 0 for toll in tolls)


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


@pytest.mark.parametrize(
    "point",
    [
        "after-tables-before-their-version",
        "after-claims-given-back-before-commit",
        "after-portion-before-commit",
    ],
)
async def test_a_signal_at_a_named_moment_ends_cleanly_in_time(tmp_path: Path, point: str):
    async with Devnet(seed=SEED) as net:
        activity = Activity(net, accounts_max=5, is_calm=True)
        await activity.steps(40)
        newcomer = await net.create_account()
        net.import_records(newcomer, 80, [TAG])
        net.create(newcomer, TAG, realistic_record(net.rng, TAG, did=newcomer.did))
        config = configure(tmp_path / "store", net)
        async with Life(config, stop_at, point) as life:
            await wait_until(lambda: MARKER in life.text, what=lambda: life.text, poll_s=0.01)
            began = time.monotonic()
            assert await life.ended(10.0) == 0, life.text[-3000:]
            print(f"stopped after {time.monotonic() - began:.2f} s")
        async with Life(config) as life:
            await converge(net, tmp_path / "store" / "index.db")


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
