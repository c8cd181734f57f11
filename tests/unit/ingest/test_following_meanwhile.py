"""An active repo goes on following the stream while, and after, its host is asked in vain."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.ingest.attempts import Result
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
STATUS = "com.atproto.sync.getRepoStatus"
RNG = random.Random(9)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=6) as net, open_rig(net, tmp_path) as opened:
        yield opened


def tag(rig: Rig, account: Account) -> None:
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def followed(rig: Rig) -> Account:
    """An account that has been discovered and fetched."""
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    return account


def assert_equal(rig: Rig) -> None:
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def test_an_active_repo_follows_the_stream_while_its_host_says_nothing(rig: Rig):
    account = await followed(rig)
    silent = rig.net.faults.schedule(FaultKind.HTTP_HANG, endpoint=STATUS, times=9)
    slow = rig.net.faults.schedule(FaultKind.HTTP_DELAY, endpoint="plc.document", seconds=0.3)
    attempt = asyncio.create_task(rig.resyncer.sync_now(account.did))
    await rig.net.faults.wait_fired(slow)
    tag(rig, account)
    await rig.hear()
    assert await rig.rows("SELECT count(*) FROM pending_commit") == [(1,)]
    await rig.net.faults.wait_fired(silent)
    tag(rig, account)
    await rig.hear()
    assert_equal(rig)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    tag(rig, account)
    await rig.hear()
    assert (await rig.repo(account))[0] == "active"
    assert_equal(rig)


@pytest.mark.parametrize("is_operator", [True, False])
async def test_an_active_repo_follows_the_stream_after_its_host_has_failed(
    rig: Rig, is_operator: bool
):
    account = await followed(rig)
    broken = rig.net.faults.schedule(FaultKind.HTTP_STATUS, endpoint=STATUS, status=500, times=9)
    sync = rig.resyncer.sync_now if is_operator else rig.resyncer.sync_listed
    assert (await sync(account.did)).result is Result.FAILED
    assert broken.fired
    for _ in range(3):
        tag(rig, account)
        await rig.hear()
    assert (await rig.repo(account))[0] == "active"
    assert_equal(rig)


async def test_a_forged_sync_does_not_stop_a_repo_whose_host_fails(rig: Rig):
    account = await followed(rig)
    forged = rig.net.faults.schedule(FaultKind.BAD_SIGNATURE, did=account.did, type="#sync")
    broken = rig.net.faults.schedule(FaultKind.HTTP_STATUS, endpoint=STATUS, status=500, times=9)
    rig.net.emit_sync(account, rev=account.tids.next())
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FAILED]
    assert (forged.fired, broken.fired > 0) == (1, True)
    tag(rig, account)
    await rig.hear()
    assert (await rig.repo(account))[0] == "active"
    assert_equal(rig)


async def test_what_follows_a_commit_that_only_a_sync_has_shown_is_followed(rig: Rig):
    """A host that makes a tree anew, as the real one's `rebuild-repo` does, sends no #commit."""
    account = await followed(rig)
    shown = rig.net.repo(account).commit()
    rig.net.emit_sync(account)
    await rig.hear()
    assert await rig.rows("SELECT rev, host_rev FROM repo") == [(shown.rev, shown.rev)]
    tag(rig, account)
    await rig.hear()
    assert (await rig.repo(account))[0] == "active"
    assert await rig.rows("SELECT reason FROM dead_letters") == []
    assert_equal(rig)
