"""A daemon whose machine has a slow clock says so, waits, and goes on by itself."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tests.devnet import Devnet, realistic_record
from tests.e2e.daemon import RunningDaemon, ShiftedClock, running_daemon, wait_until
from tests.e2e.test_stream_gaps import settings, tag
from tests.oracle import wait_until_equal

DAY_S = 86_400.0
TAG = "pub.chive.eprint.userTag"
RNG = random.Random(4)


async def unready(daemon: RunningDaemon) -> dict[str, str | None]:
    async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as response:
        body = await response.json()
        return {name: why for name, why in body["components"].items() if why}


async def gauge(daemon: RunningDaemon) -> str:
    async with daemon.session.get(daemon.addresses.metrics_url) as response:
        text = await response.text()
    return next(line for line in text.splitlines() if line.startswith("chive_clock_in_doubt "))


async def test_a_clock_a_day_slow_is_alarmed_and_costs_nothing_once_it_is_set(tmp_path: Path):
    clock = ShiftedClock(time.time())
    async with Devnet(seed=17) as net:
        accounts = [await net.create_account() for _ in range(5)]
        for account in accounts:
            tag(net, account)
        async with running_daemon(tmp_path, settings(net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, 20.0, heads=True)
            (cursor,) = daemon.rows("SELECT cursor FROM firehose")
            clock.advance(-DAY_S)
            for account in accounts:
                tag(net, account)
            async with asyncio.timeout(15.0):
                while "clock" not in await unready(daemon):
                    await asyncio.sleep(0.05)
            assert await gauge(daemon) == "chive_clock_in_doubt 1.0"
            states = daemon.rows("SELECT state, count(*) FROM accounts GROUP BY state")
            assert states == [("active", 5)]
            net.create(accounts[0], TAG, realistic_record(RNG, TAG, did=accounts[0].did))
            clock.advance(DAY_S)
            await wait_until_equal(net, daemon.database, 20.0, heads=True)
            await wait_until(
                lambda: daemon.rows("SELECT cursor FROM firehose") > [cursor], what="the cursor"
            )
            assert await unready(daemon) == {}
            assert await gauge(daemon) == "chive_clock_in_doubt 0.0"
            assert daemon.rows("SELECT count(*) FROM dead_letters") == [(0,)]
