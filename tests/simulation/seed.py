"""One seed: a network, a daemon, traffic with faults, and the comparison at the end."""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import structlog

from tests.devnet import Activity, Devnet
from tests.devnet.faults import Fault, FaultKind
from tests.e2e.daemon import RunningDaemon, running_daemon, wait_until
from tests.oracle import wait_until_equal
from tests.simulation.clock import ScaledClock
from tests.simulation.faults import LOUD_KINDS, schedule_faults

ACCOUNTS = 12
SETTLING_RATE = 60.0
SETTLE_S = 40.0
TOLD_OF_A_LOSS = 0.5
"""Share of the seeds in which most accounts stay silent at the end: the relay says that something
was lost, and the repair of that gap must find all of it."""

EXTRA_DEEDS_MAX = 4000
TRACEBACK_LINES = 30


@dataclass(frozen=True, slots=True)
class Report:
    """What a seed did."""

    seed: int
    fired: Counter[FaultKind]
    events: int
    settled_s: float


def run_seed(seed: int, events: int, is_quiet: bool) -> Report | str:
    """The report, or what went wrong."""
    if is_quiet:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as folder:
        try:
            return asyncio.run(simulate(seed, events, Path(folder)))
        except BaseException as error:
            lines = "".join(traceback.format_exception(error)).splitlines()
            return f"seed {seed}: {lines[-1]}\n" + "\n".join(lines[-TRACEBACK_LINES:])


async def simulate(seed: int, events: int, folder: Path) -> Report:
    """Run one seed in `folder`. Fails where the store differs, or a fault never happened."""
    clock = ScaledClock()
    rng = random.Random(seed)
    async with Devnet(seed=seed, now=clock.now) as net:
        faults = schedule_faults(net.faults, rng, events)
        activity = Activity(net, accounts_max=ACCOUNTS)
        await activity.steps(events // 10)
        settings = {
            "firehose": {"url": net.relay_url, "start": "oldest"},
            "identity": {
                "plc_url": net.plc_url,
                "handle_resolver_url": net.handle_resolver_url,
                "refresh_interval_s": 5,
            },
            "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
            "resync": {"idle_s": 0.5, "total_s": 5},
        }
        async with running_daemon(folder, settings, clock=clock, rng=rng) as daemon:
            await _traffic(activity, net, events, rng)
            await _until_fired(activity, net, daemon, clock)
            unfired = [fault.kind.value for fault in net.faults.unfired()]
            assert not unfired, f"seed {seed}: never happened: {unfired}"
            net.faults.clear()
            is_told = rng.random() < TOLD_OF_A_LOSS and any(
                map(net.is_visible, net.accounts.values())
            )
            told = net.faults.schedule(FaultKind.INFO_FRAME, times=None) if is_told else None
            settled_s = await _settle(net, daemon, clock, deeds_max=1 if is_told else None)
            if told is not None:
                # A resync may have brought the last deed before the stream did.
                await net.faults.wait_fired(told, timeout_s=SETTLE_S)
                gap = "SELECT 1 FROM gaps WHERE reason = 'outdated_cursor'"
                await wait_until(lambda: bool(daemon.rows(gap)), what="the gap")
            assert not daemon.task.done(), f"seed {seed}: the daemon has ended"
    assert {fault.kind for fault in faults} <= set(net.faults.fired)
    return Report(seed, Counter(net.faults.fired), net.relay.stream.last_seq, settled_s)


async def _traffic(activity: Activity, net: Devnet, events: int, rng: random.Random) -> None:
    """Deeds in bursts, with pauses in which the daemon may come between."""
    while net.relay.stream.last_seq < events:
        await activity.steps(rng.randrange(1, 12))
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.002, 0.01)))


async def _until_fired(
    activity: Activity, net: Devnet, daemon: RunningDaemon, clock: ScaledClock
) -> None:
    """Go on until the last fault has happened; fetches are asked for where those are awaited."""
    clock.set_rate(SETTLING_RATE / 3)
    for number in range(EXTRA_DEEDS_MAX):
        unfired = net.faults.unfired()
        if not unfired:
            return
        if number % 20 == 10:
            _bring_on(net, unfired)
            account = activity.net.rng.choice(list(net.accounts.values()))
            await daemon.backfill("didSync", did=account.did)
        await activity.step()
        await asyncio.sleep(0.01)


def _bring_on(net: Devnet, unfired: list[Fault]) -> None:
    """Move faults whose moment went by unseen to one that comes."""
    newest = net.relay.stream.last_seq
    needs_connection = False
    for fault in unfired:
        seq = fault.where.get("seq")
        if isinstance(seq, int) and seq <= newest:
            fault.where["seq"] = newest + 2
        if "at" in fault.where:
            fault.where["at"] = 1
        needs_connection |= "at" in fault.where or fault.kind in LOUD_KINDS
    is_on_its_way = any(not f.where and f.kind is FaultKind.DROP_CONNECTION for f in unfired)
    if needs_connection and not is_on_its_way:
        net.faults.schedule(FaultKind.DROP_CONNECTION, skip=30)


async def _settle(
    net: Devnet, daemon: RunningDaemon, clock: ScaledClock, *, deeds_max: int | None
) -> float:
    """Honest last deeds, one an account and at most `deeds_max`, then equality."""
    clock.set_rate(SETTLING_RATE)
    visible = [account for account in net.accounts.values() if net.is_visible(account)]
    for number, account in enumerate(visible[:deeds_max]):
        net.create(
            account,
            "pub.chive.eprint.userTag",
            {
                "$type": "pub.chive.eprint.userTag",
                "eprintUri": f"at://{account.did}/pub.chive.eprint.submission/x",
                "tag": f"last {number}",
                "createdAt": "2026-01-01T00:00:00Z",
            },
        )
        await asyncio.sleep(0)
    try:
        return await wait_until_equal(net, daemon.database, SETTLE_S, heads=True)
    except AssertionError as error:
        error.add_note("\n".join(_unsettled(daemon, clock)))
        raise


def _unsettled(daemon: RunningDaemon, clock: ScaledClock) -> list[str]:
    """Every repo that is not simply active: for the reader of a failure."""
    rows = daemon.rows(
        "SELECT did, state, account_status, wanted, claimed, attempts, desyncs,"
        " round(retry_at - ?), rev, reason FROM repo"
        " WHERE state <> 'active' OR account_status <> 'active' OR wanted OR claimed",
        clock.now(),
    )
    return [
        "did, state, status, wanted, claimed, attempts, desyncs, due in, rev, reason",
        *map(str, rows),
    ]
