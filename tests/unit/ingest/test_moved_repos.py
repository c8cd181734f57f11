"""What waits for a host: no repo that may have left it, and none of those that wait has failed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from indexer.ingest.attempts import Result
from indexer.model import Wanted
from indexer.network.pacing import FAILURES_MAX
from tests.devnet import Account, Devnet, Fault, FaultKind, realistic_record
from tests.unit.ingest.resync_rig import Rig, open_rig
from tests.unit.ingest.test_resync_workers import followed, until_active, working

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(12)
DEADLINE_S = 6.0
"""Less than any host is left alone for in these tests."""

WINDOW_S = 3600
STATUS = "com.atproto.sync.getRepoStatus"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=8, pds_count=2) as net, open_rig(net, tmp_path) as opened:
        yield opened


def asked(rig: Rig, host: int) -> int:
    """Questions about repos that a host has had."""
    seen = rig.net.pds[host].server.seen
    return sum(request.endpoint.startswith("com.atproto.sync.") for request in seen)


@asynccontextmanager
async def working_without(
    rig: Rig, host: int, kind: FaultKind, **how: object
) -> AsyncIterator[Fault]:
    """Workers who have learnt that a host is to be left alone."""
    bystanders = [each for each in await followed(rig.net, rig, 2, 1) if each.pds == host]
    async with working(rig):
        await until_active(rig, bystanders)
        fault = rig.net.faults.schedule(kind, service="pds", host=host, times=None, **how)
        for each in bystanders:
            rig.net.import_records(each, 1, [TAG])
        await rig.hear()
        rig.resyncer.wake()
        await rig.net.faults.wait_fired(fault)
        await settled(rig, "SELECT count(*) = 0 FROM repo WHERE claimed <> 0")
        yield fault


async def settled(rig: Rig, condition: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not (await rig.rows(condition))[0][0]:
            await asyncio.sleep(0.02)


async def closed(rig: Rig, host: int) -> None:
    """Wait until the queue has learnt that nothing can be asked of a host for long."""
    url, late = rig.net.pds[host].server.url, rig.clock.now() + WINDOW_S - 60
    await settled(rig, f"SELECT min(due_at) > {late} FROM turn WHERE host = '{url}'")
    await settled(rig, "SELECT count(*) = 0 FROM repo WHERE claimed <> 0")


async def active_account(rig: Rig, host: int) -> Account:
    account = await rig.net.create_account(host)
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    async with working(rig):
        await until_active(rig, [account])
    return account


@pytest.mark.parametrize(
    ("kind", "how"),
    [(FaultKind.HTTP_429, {"retry_after_s": WINDOW_S}), (FaultKind.HTTP_STATUS, {"status": 500})],
)
async def test_a_repo_that_left_a_host_which_is_left_alone_is_read_at_its_new_one(
    rig: Rig, kind: FaultKind, how: dict[str, object]
):
    account = await active_account(rig, 0)
    async with working_without(rig, 0, kind, **how):
        before = asked(rig, 0)
        rig.net.migrate(account, 1)
        rig.net.import_records(account, 3, [TAG])
        await rig.hear()
        rig.resyncer.wake()
        async with asyncio.timeout(DEADLINE_S):
            await until_active(rig, [account])
        assert asked(rig, 0) == before
    rows = await rig.rows(
        f"SELECT count(*) FROM record JOIN repo ON repo.id = repo_id WHERE did = '{account.did}'"
    )
    assert rows == [(4,)]


async def test_a_repo_that_waits_for_a_closed_host_is_found_where_it_has_gone_meanwhile(rig: Rig):
    account = await active_account(rig, 0)
    of_account = f"FROM repo WHERE did = '{account.did}'"
    async with working_without(rig, 0, FaultKind.HTTP_429, retry_after_s=WINDOW_S):
        rig.net.import_records(account, 1, [TAG])
        await rig.hear()
        rig.resyncer.wake()
        await closed(rig, 0)
        assert await rig.rows(f"SELECT state, claimed {of_account}") == [("desynchronized", 0)]
        before = asked(rig, 0)
        rig.net.migrate(account, 1)
        await rig.hear()
        rig.resyncer.wake()
        async with asyncio.timeout(DEADLINE_S):
            await until_active(rig, [account])
        assert asked(rig, 0) == before


async def test_what_is_left_to_ask_of_a_host_waits_for_its_window_once_the_identity_is_known(
    rig: Rig,
):
    account = await active_account(rig, 0)
    of_account = f"FROM repo WHERE did = '{account.did}'"
    url = rig.net.pds[1].server.url
    async with working_without(rig, 1, FaultKind.HTTP_429, retry_after_s=WINDOW_S):
        before = asked(rig, 1)
        rig.net.migrate(account, 1)
        await rig.hear()
        rig.resyncer.wake()
        await settled(rig, f"SELECT pds_url = '{url}' AND claimed = 0 {of_account}")
        await closed(rig, 1)
        assert asked(rig, 1) == before
    rows = await rig.rows(f"SELECT wanted, attempts, handle {of_account}")
    assert rows == [(Wanted.ACCOUNT, 0, account.handle)]


@pytest.mark.parametrize(
    ("kind", "how", "times"),
    [
        (FaultKind.HTTP_429, {"retry_after_s": WINDOW_S}, 1),
        (FaultKind.HTTP_STATUS, {"status": 500}, FAILURES_MAX),
    ],
)
async def test_a_repo_whose_host_was_not_asked_has_not_failed(
    rig: Rig, kind: FaultKind, how: dict[str, object], times: int
):
    """An operation asks for it again and again, while the host is closed for what others did."""
    account = await active_account(rig, 1)
    others = [await rig.net.create_account(1) for _ in range(times)]
    fault = rig.net.faults.schedule(kind, endpoint=STATUS, times=times, **how)
    for each in others:
        assert (await rig.resyncer.sync_now(each.did)).result is Result.FAILED
    assert fault.fired == times
    before, closed_s = asked(rig, 1), rig.hosts.closed_s(rig.net.pds[1].server.url)
    assert closed_s > 30
    for _ in range(4):
        assert (await rig.resyncer.sync_listed(account.did)).result is Result.QUEUED
    assert asked(rig, 1) == before
    wait = f"retry_at - {rig.clock.now()}"
    rows = await rig.rows(f"SELECT state, attempts, {wait} FROM repo WHERE did = '{account.did}'")
    assert rows[0][:2] == ("active", 0)
    assert isinstance(rows[0][2], float) and abs(rows[0][2] - closed_s) < 5.0


async def test_a_repo_whose_directory_was_not_asked_has_not_failed(rig: Rig):
    account = await active_account(rig, 0)
    fault = rig.net.faults.schedule(
        FaultKind.HTTP_429, endpoint="plc.document", retry_after_s=WINDOW_S
    )
    results = [(await rig.resyncer.sync_now(account.did)).result for _ in range(3)]
    assert fault.fired == 1
    assert results == [Result.FAILED, Result.QUEUED, Result.QUEUED]
    rows = await rig.rows(f"SELECT attempts, wanted FROM repo WHERE did = '{account.did}'")
    assert rows == [(1, Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT)]


async def test_repos_that_wait_for_an_open_circuit_breaker_have_not_failed(rig: Rig):
    accounts = await followed(rig.net, rig, 2, FAILURES_MAX + 4)
    fault = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, endpoint=STATUS, host=1, times=None, status=500
    )
    async with working(rig):
        await until_active(rig, [each for each in accounts if each.pds == 0])
        await settled(rig, "SELECT count(*) = 0 FROM repo WHERE claimed <> 0 OR state = 'pending'")
    assert fault.fired == FAILURES_MAX
    failed, waiting = FAILURES_MAX, 4
    rows = await rig.rows("SELECT attempts, count(*) FROM repo WHERE rev IS NULL GROUP BY 1")
    assert rows == [(0, waiting), (1, failed)]
