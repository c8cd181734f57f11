"""A daemon whose machine has a slow clock says so, waits, and goes on by itself."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from tests.devnet import Devnet, FaultKind, realistic_record
from tests.e2e.daemon import RunningDaemon, ShiftedClock, running_daemon, wait_until
from tests.e2e.test_operation_runs import metric
from tests.e2e.test_stream_gaps import settings, tag
from tests.oracle import is_equal, wait_until_equal
from tests.simulation.clock import SimulatedLoop
from tests.simulation.subject import WrongClock

DAY_S = 86_400.0
LOOK_S = 30.0
"""A clock that is wrong for less may be set before the daemon has looked at it (simulated time)."""

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


async def test_a_clock_a_day_fast_is_shown_as_a_stream_that_lags_by_a_day(tmp_path: Path):
    """What the alert ChiveFirehoseLag compares: the hosts say when their events were made."""
    clock = ShiftedClock(time.time())
    async with Devnet(seed=17) as net:
        account = await net.create_account()
        tag(net, account)
        async with running_daemon(tmp_path, settings(net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, 20.0, heads=True)
            for ahead_s in (0.0, DAY_S):
                clock.advance(ahead_s)
                tag(net, account)
                await wait_until_equal(net, daemon.database, 20.0, heads=True)
                received = await metric(daemon, "chive_firehose_last_received_timestamp_seconds")
                claimed = await metric(daemon, "chive_firehose_last_event_timestamp_seconds")
                assert abs(received - claimed - ahead_s) < 60.0
            assert daemon.rows("SELECT count(*) FROM dead_letters") == [(0,)]


def test_a_clock_a_year_fast_costs_nothing_once_it_is_set(tmp_path: Path):
    """A repo that misses something meanwhile is fetched within minutes, and not in a year."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(live_through_a_fast_clock(tmp_path))


async def live_through_a_fast_clock(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    clock = WrongClock(loop.clock)
    async with Devnet(seed=18, now=loop.clock.now) as net:
        account = await net.create_account()
        tag(net, account)
        async with running_daemon(folder, settings(net), clock=clock) as daemon:

            async def caught_up() -> None:
                await wait_until(
                    lambda: is_equal(net, daemon.database, heads=True),
                    what="the records", deadline_s=600.0, poll_s=5.0,
                )  # fmt: skip

            def miss_one() -> None:
                lost = net.faults.schedule(FaultKind.SWALLOW_FRAME, type="#commit")
                tag(net, account)
                assert lost.fired
                tag(net, account)

            await caught_up()
            clock.off_s = 365 * DAY_S
            await asyncio.sleep(LOOK_S)
            query = "SELECT 1 FROM repo WHERE wanted AND retry_at > ?"
            late = loop.clock.now() + DAY_S
            while not daemon.rows(query, late):  # the first times a repo is fetched at once
                miss_one()
                await wait_until(
                    lambda: (
                        bool(daemon.rows(query, late)) or is_equal(net, daemon.database, heads=True)
                    ),
                    what="a fetch",
                )
            clock.off_s = 0.0
            await caught_up()
