"""Revs from the future, of a few accounts or of so many that our own clock must be slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.ingest.clock_doubt import DOUBT_S_MAX, SUSPECTS_MAX, WITNESSES_MAX, ClockDoubt
from indexer.ingest.endings import ReconnectReason
from indexer.protocol.frame import Frame
from tests.devnet import Account, FaultKind
from tests.devnet.clock import tid
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.live_stage import Stage, open_stage, tag

DAY_S = 86_400.0
STATES = "SELECT state, count(*) FROM repo GROUP BY state"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path) as opened:
        yield opened


async def followed(stage: Stage, count: int) -> list[Account]:
    accounts = [await stage.rig.net.create_account() for _ in range(count)]
    for account in accounts:
        tag(stage, account)
    await stage.send_all()
    await stage.rig.work()
    stage.store.calls.clear()
    return accounts


async def look(stage: Stage) -> None:
    """Wait until the end of the doubt has been noticed."""
    async with asyncio.timeout(10):
        while stage.doubt.is_raised:
            await asyncio.sleep(0.01)


def assert_equal(stage: Stage) -> None:
    assert_store_equals(stage.rig.net, stage.rig.path)
    assert_heads_equal(stage.rig.net, stage.rig.path)


async def test_a_slow_clock_holds_intake_and_desynchronises_nobody(stage: Stage):
    accounts = await followed(stage, SUSPECTS_MAX + 2)
    stage.rig.clock.ahead_s = -DAY_S
    for account in accounts:
        tag(stage, account)
    await stage.send_all()
    assert stage.doubt.is_raised
    assert "clock" in (stage.doubt.reason or "")
    assert stage.metrics.registry.get_sample_value("chive_clock_in_doubt") == 1
    assert await stage.rig.rows(STATES) == [("active", len(accounts))]
    assert await stage.rig.rows("SELECT count(*) FROM dead_letters") == [(0,)]
    cursor = await stage.cursor()
    assert cursor is not None and cursor < stage.rig.net.relay.stream.last_seq
    stage.store.calls.clear()
    for account in accounts:
        tag(stage, account)
    await stage.send_all()  # looked at only
    assert stage.store.calls == [] and stage.script.reconnects == []
    assert await stage.cursor() == cursor
    stage.rig.clock.ahead_s = 0.0
    await look(stage)
    assert stage.script.reconnects == [ReconnectReason.CLOCK]
    assert stage.metrics.registry.get_sample_value("chive_clock_in_doubt") == 0
    await stage.send_all()
    await stage.rig.work()
    assert_equal(stage)
    assert await stage.rig.rows("SELECT max(desyncs) FROM repo") == [(0,)]


async def test_a_clock_that_is_set_within_the_minute_has_cost_nobody_anything(stage: Stage):
    accounts = await followed(stage, SUSPECTS_MAX)
    stage.rig.clock.ahead_s = -DAY_S
    for account in accounts:
        tag(stage, account)
    await stage.send_all()
    assert not stage.doubt.is_raised
    assert await stage.rig.rows(STATES) == [("active", len(accounts))]
    stage.rig.clock.ahead_s = 61.0
    await stage.rig.work()
    assert_equal(stage)
    assert await stage.rig.rows("SELECT max(desyncs) FROM repo") == [(0,)]


async def test_a_rev_from_the_future_of_one_account_is_that_account_s_fault(stage: Stage):
    (account,) = await followed(stage, 1)
    early = stage.rig.net.faults.schedule(FaultKind.FUTURE_REV, did=account.did)
    tag(stage, account)
    await stage.send_all()
    assert early.fired == 1
    await stage.rig.work(ahead_s=61.0)
    assert await stage.rig.rows("SELECT reason FROM dead_letters") == [("future_rev",)]
    await stage.rig.work(ahead_s=61.0)
    assert_equal(stage)


async def test_a_few_accounts_that_lie_are_outvoted_and_raise_no_second_doubt(stage: Stage):
    accounts = await followed(stage, 2 * SUSPECTS_MAX + 2)
    liars, honest = accounts[: SUSPECTS_MAX + 1], accounts[SUSPECTS_MAX + 1 :]
    for account in liars:
        stage.rig.net.faults.schedule(FaultKind.FUTURE_REV, did=account.did, seconds=10 * DAY_S)
        tag(stage, account)
    await stage.send_all()
    assert stage.doubt.is_raised
    assert stage.rig.net.faults.fired[FaultKind.FUTURE_REV] == len(liars)
    held_from = stage.rig.net.relay.stream.last_seq
    for account in honest:
        tag(stage, account)
    entries = stage.rig.net.relay.stream.after(held_from, 1000)
    await stage.script.send(entry.frame for entry in entries)
    await stage.drained()
    await look(stage)
    assert stage.script.reconnects == [ReconnectReason.CLOCK]
    await stage.send_all()
    assert not stage.doubt.is_raised
    for _ in range(3):
        await stage.rig.work(ahead_s=61.0)
    assert_equal(stage)
    assert await stage.cursor() == stage.rig.net.relay.stream.last_seq


async def test_a_sync_from_the_future_waits_like_a_commit(stage: Stage):
    accounts = await followed(stage, SUSPECTS_MAX + 1)
    stage.rig.clock.ahead_s = -DAY_S
    for account in accounts:
        stage.rig.net.emit_sync(account, rev=account.tids.next())
    await stage.send_all()
    assert stage.doubt.is_raised
    assert await stage.rig.rows(STATES) == [("active", len(accounts))]


class StillClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> float:
        return 1_800_000_000.0 + self.passed_s

    def monotonic(self) -> float:
        return self.passed_s


class Doubted:
    """A doubt raised by as many liars as can be counted, at one host, and who else is heard."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.changes: list[int] = []
        self.doubt = ClockDoubt(self.clock, on_change=self.changes.append)
        self.groups: dict[str, str] = {}
        self.lie()
        assert self.doubt.is_raised

    def lie(self) -> None:
        """Everything that the liars can do: more of them than are counted."""
        ahead = self.clock.now() + 1e6
        dids = [f"did:plc:liar{n}" for n in range(2 * WITNESSES_MAX)]
        self.doubt.suspect((did, tid(int(ahead * 1e6))) for did in dids)
        self.commit(dids, "evil.example", ahead)

    def commit(self, dids: list[str], group: str, at: float) -> None:
        self.groups |= dict.fromkeys(dids, group)
        for did in dids:
            self.doubt.weigh(
                Frame(type="#commit", seq=1, did=did, body={"rev": tid(int(at * 1e6))})
            )

    def is_over(self) -> bool:
        return self.doubt.is_over({did: self.groups[did] for did in self.doubt.witnesses})


def accounts(name: str, count: int) -> list[str]:
    return [f"did:plc:{name}{n}" for n in range(count)]


def test_a_thousand_accounts_of_one_host_are_outvoted_by_a_few_at_two():
    world = Doubted()
    world.commit(accounts("a", SUSPECTS_MAX), "a.example", world.clock.now())
    assert not world.is_over()
    world.commit(accounts("b", 1), "b.example", world.clock.now())
    assert world.is_over()
    world.lie()
    assert not world.doubt.is_raised  # nor again within the hour
    assert world.changes == [1, 0]


def test_a_doubt_that_nothing_decides_ends_while_some_commit_at_our_present():
    world = Doubted()
    for passed_s in (0.0, DOUBT_S_MAX / 2.0, DOUBT_S_MAX - 1.0, DOUBT_S_MAX):
        world.clock.passed_s = passed_s
        world.lie()
        world.commit(accounts("a", SUSPECTS_MAX + 1), "evil.example", world.clock.now())
        assert world.is_over() == (passed_s == DOUBT_S_MAX)


def test_a_slow_clock_is_doubted_for_as_long_as_nobody_is_at_its_present():
    world = Doubted()
    for _ in range(100):
        world.clock.passed_s += 60.0
        for host in ("a", "b"):
            world.commit(accounts(host, 50), f"{host}.example", world.clock.now() + 1e6)
        world.commit(accounts("c", SUSPECTS_MAX), "c.example", world.clock.now())
        assert not world.is_over()
