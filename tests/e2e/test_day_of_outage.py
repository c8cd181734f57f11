"""A relay that is away for a day: dialled once a minute, found at once, and nothing is missing.

The daemon and its network live in simulated time. The relay keeps nothing of that day, so that
only the repair of the gap can tell what happened meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.e2e.daemon import RunningDaemon, running_daemon
from tests.oracle import differences, expected_heads, expected_records, read_heads, read_records
from tests.simulation.clock import SimulatedLoop

STEP_S = float(os.environ.get("OUTAGE_STEP_S", "1800"))
"""So much of the day is jumped over at once; with 0 every minute of it is lived through."""

TAG = "pub.chive.eprint.userTag"
DAY_S = 86_400.0
HOUR_S = 3_600.0
MINUTE_S = 60.0 - 5.0  # dials are noticed within the five seconds
GROWING = 10  # dials until the waits have grown to a minute
ACCOUNTS = 40
CHANGED = 4
METHODS = ("getRepo", "getRecord", "getBlocks", "getRepoStatus", "listRepos")


def test_a_day_without_the_relay_costs_a_dial_a_minute_and_loses_nothing(tmp_path: Path):
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(a_day_without_the_relay(tmp_path))


async def a_day_without_the_relay(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    rng = random.Random(21)
    async with Devnet(seed=21, now=loop.clock.now) as net:
        accounts = [await net.create_account(pds=number % 2) for number in range(ACCOUNTS)]
        for account in accounts:
            tag(net, account, rng)
        async with running_daemon(folder, settings(net), clock=loop.clock, rng=rng) as daemon:
            await becomes_equal(net, daemon)
            dials = await outage(net, loop, accounts, rng)
            assert not daemon.task.done()
            assert len(dials) >= DAY_S / max(STEP_S + 65.0, 65.0)
            settled = dials[GROWING:]
            assert all(later - one >= MINUTE_S for one, later in pairwise(settled))
            before = asked(net)
            came_back = loop.time()
            net.faults.clear()
            await net.relay.subscriptions.wait_open(1, timeout_s=60.0)
            assert loop.time() - came_back <= 60.0
            await becomes_equal(net, daemon)
            await gap_is_closed(daemon)
            spent = asked(net) - before
            assert daemon.rows("SELECT reason FROM gaps") == [("outdated_cursor",)]
            differing = CHANGED + 4  # and those deactivated, deleted, new, with another key
            assert spent["getRepo"] + spent["getRecord"] + spent["getBlocks"] <= 2 * differing
            assert spent["getRepoStatus"] <= 3 * differing
            assert spent["listRepos"] <= 2 * len(net.pds)


async def outage(
    net: Devnet, loop: SimulatedLoop, accounts: list[Account], rng: random.Random
) -> list[float]:
    """A day in which the relay refuses everybody, and forgets; when it was dialled."""
    away = net.faults.schedule(FaultKind.HANDSHAKE_STATUS, times=None, service="relay", status=500)
    net.relay.server.drop_connections()
    dials: list[float] = []
    ends = loop.time() + DAY_S
    changes = [
        *(lambda account=account: tag(net, account, rng) for account in accounts[:CHANGED]),
        lambda: net.set_account_status(accounts[10], "deactivated"),
        lambda: net.set_account_status(accounts[11], "deleted"),
        lambda: (net.rotate_key(accounts[12]), tag(net, accounts[12], rng)),
    ]
    newcomer = None
    while loop.time() < ends:
        if away.fired > len(dials):
            dials.append(loop.time())
            if len(dials) % 4 == 0 and changes:
                changes.pop()()
            if len(dials) == 33:
                newcomer = await net.create_account()
                tag(net, newcomer, rng)
            loop.clock.jump_to(loop.time() + STEP_S)
        await asyncio.sleep(5.0)
    assert newcomer is not None and not changes
    net.relay.stream.trim(0)
    return dials


def tag(net: Devnet, account: Account, rng: random.Random) -> None:
    net.create(account, TAG, realistic_record(rng, TAG, did=account.did))


def settings(net: Devnet) -> dict[str, dict[str, object]]:
    return {
        "firehose": {"url": net.relay_url, "start": "oldest"},
        "identity": {"plc_url": net.plc_url, "handle_resolver_url": net.handle_resolver_url},
        "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
    }


def asked(net: Devnet) -> Counter[str]:
    return Counter(
        {
            method: sum(pds.server.requests[f"com.atproto.sync.{method}"] for pds in net.pds)
            for method in METHODS
        }
    )


async def becomes_equal(net: Devnet, daemon: RunningDaemon) -> None:
    async with asyncio.timeout(2 * HOUR_S):
        while lines := [
            *differences(expected_records(net), read_records(daemon.database)),
            *differences(expected_heads(net), read_heads(daemon.database)),
        ]:
            assert not daemon.task.done(), lines
            await asyncio.sleep(5.0)


async def gap_is_closed(daemon: RunningDaemon) -> None:
    async with asyncio.timeout(HOUR_S):
        while daemon.rows("SELECT 1 FROM gaps WHERE repaired_at IS NULL"):
            await asyncio.sleep(5.0)
