"""A repo that keeps breaking is fetched more and more rarely, whatever is heard of it meanwhile."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from admin_api.handlers.repos import repo_json
from indexer.errors import Check, InvalidUpstream
from indexer.ingest.attempts import Result
from indexer.ingest.resync import LOOKS_MAX
from indexer.model import utc_text
from indexer.planning import AccountSeen, Event, EventBatch, IdentitySeen, SyncSeen
from storage.repo_listing import RepoListing
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(11)
STEP_S = 200.0
STEPS = 18
FETCHES = 6
"""Within that hour: at once, and after pauses of 1, 2, 4, 8 and 16 minutes."""


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=31) as net, open_rig(net, tmp_path) as opened:
        yield opened


def tag(rig: Rig, account: Account) -> None:
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def followed(rig: Rig) -> Account:
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    await rig.work()
    assert (await rig.repo(account))[0] == "active"
    return account


async def broken(rig: Rig, account: Account) -> None:
    """Its host leaves out a commit."""
    lost = rig.net.faults.schedule(FaultKind.SWALLOW_FRAME, did=account.did)
    tag(rig, account)
    assert lost.fired == 1
    tag(rig, account)
    await rig.hear()


async def fetches(rig: Rig) -> int:
    """How often its content is fetched in a step of time."""
    done = await rig.work(ahead_s=STEP_S)
    return [one.result for one in done].count(Result.FETCHED)


async def announce(rig: Rig, event: Event) -> None:
    await rig.live.apply(EventBatch(url="ws://relay", events=(event,), seq=None, event_at=None))


async def whisper(rig: Rig, account: Account, kind: str) -> None:
    """What anybody who sends on the stream may say, as often as he likes."""
    now = rig.clock.now()
    if kind == "identity":
        await announce(rig, IdentitySeen(did=account.did, seq=1, time=now))
    elif kind == "sync":
        forged = InvalidUpstream(Check.SIGNATURE, "forged")
        await announce(rig, SyncSeen(did=account.did, seq=1, rev="", error=forged))
    elif kind == "account":
        for n in range(2):
            word = AccountSeen(
                did=account.did, seq=1, time=now + n, active=n == 1, status="deactivated"
            )
            await announce(rig, word)


@pytest.mark.parametrize("kind", ["nothing", "identity", "sync", "account"])
async def test_nothing_that_is_heard_lifts_the_throttle(rig: Rig, kind: str):
    account = await followed(rig)
    fetched = 0
    for _ in range(STEPS):
        await broken(rig, account)
        await whisper(rig, account, kind)
        fetched += await fetches(rig)
    assert fetched == FETCHES
    assert await rig.rows("SELECT state, wanted <> 0 FROM repo") == [("desynchronized", 1)]


async def test_a_host_that_shows_another_state_at_every_look_is_throttled(rig: Rig):
    account = await followed(rig)
    fetched = 0
    for _ in range(STEPS):
        rig.net.import_records(account, 1, [TAG], announce=False)
        await whisper(rig, account, "sync")
        fetched += await fetches(rig)
    assert fetched == FETCHES
    await rig.work(ahead_s=86_400.0)
    assert_store_equals(rig.net, rig.path)


async def throttled(rig: Rig) -> Account:
    """A repo that is not fetched again for some minutes."""
    account = await followed(rig)
    for _ in range(5):
        await broken(rig, account)
        await fetches(rig)
    await broken(rig, account)
    ((wait_s,),) = await rig.rows("SELECT fetch_at FROM repo")
    assert float(str(wait_s)) > rig.clock.now() + STEP_S
    return account


async def test_an_operator_sees_why_a_repo_is_throttled_and_until_when(rig: Rig):
    account, calm = await throttled(rig), await followed(rig)
    ((fetch_at,),) = await rig.rows("SELECT fetch_at FROM repo ORDER BY id LIMIT 1")
    listing = RepoListing(rig.database)
    found = await listing.repo(account.did)
    assert found is not None
    shown = repo_json(found[0])
    assert (shown["state"], shown["reason"]) == ("desynchronized", "chain")
    assert shown["retryAt"] == utc_text(float(str(fetch_at)))
    listed = await listing.repos(
        state="desynchronized", status=None, pds_url=None, after="", limit=10
    )
    assert [repo_json(row) for row in listed] == [shown]
    calmly = await listing.repo(calm.did)
    assert calmly is not None and "retryAt" not in repo_json(calmly[0])


async def test_a_throttled_repo_is_hidden_at_once_and_that_is_confirmed_in_a_minute(rig: Rig):
    account = await throttled(rig)
    rig.net.set_account_status(account, "deactivated")
    await rig.hear()
    assert (await rig.repo(account))[1] == "deactivated"
    assert [done.result for done in await rig.work(ahead_s=61.0)] == [Result.HIDDEN]


async def test_a_throttled_repo_that_is_wrongly_called_inactive_is_shown_again_unfetched(rig: Rig):
    account = await throttled(rig)
    sent = rig.archives_sent()
    word = AccountSeen(
        did=account.did, seq=1, time=rig.clock.now(), active=False, status="takendown"
    )
    await announce(rig, word)
    assert (await rig.repo(account))[1] == "takendown"
    assert [done.result for done in await rig.work(ahead_s=61.0)] == [Result.PUT_OFF]
    assert (await rig.repo(account))[:2] == ("desynchronized", "active")
    assert rig.archives_sent() == sent
    await rig.work(ahead_s=3600.0)
    assert (await rig.repo(account))[0] == "active"
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def test_an_operator_need_not_wait_for_the_end_of_a_throttle(rig: Rig):
    account = await throttled(rig)
    before = await rig.rows("SELECT desyncs FROM repo")
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FETCHED
    assert_heads_equal(rig.net, rig.path)
    assert await rig.rows("SELECT desyncs FROM repo") == before
    await broken(rig, account)
    assert await fetches(rig) == 0


async def test_what_an_operator_fetches_throttles_nobody(rig: Rig):
    account = await followed(rig)
    for _ in range(3):
        rig.net.import_records(account, 1, [TAG], announce=False)
        assert (await rig.resyncer.sync_now(account.did)).result is Result.FETCHED
    await broken(rig, account)
    assert [one.result for one in await rig.work()] == [Result.FETCHED]
    assert_heads_equal(rig.net, rig.path)


async def test_hosts_that_were_away_lead_to_no_verdict(rig: Rig):
    account = await followed(rig)
    await broken(rig, account)
    away = rig.net.faults.schedule(FaultKind.HTTP_STATUS, times=None, service="pds", status=500)
    for _ in range(LOOKS_MAX + 1):
        rig.clock.monotonic_ahead_s += 5400.0
        await rig.work(ahead_s=5400.0)
    assert away.fired > LOOKS_MAX
    rig.net.faults.clear()
    rig.clock.monotonic_ahead_s += 5400.0
    rig.net.rotate_key(account)
    tag(rig, account)
    lag = rig.net.faults.schedule(FaultKind.PLC_STALE, times=1)
    assert [done.result for done in await rig.work(ahead_s=5400.0)] == [Result.FAILED]
    assert lag.fired == 1
    assert await rig.rows("SELECT refusals FROM repo") == [(1,)]
    await rig.hear()
    await rig.work(ahead_s=5400.0)
    assert await rig.rows("SELECT state, attempts, refusals FROM repo") == [("active", 0, 0)]
    assert_heads_equal(rig.net, rig.path)


async def test_a_host_that_must_not_be_contacted_now_says_nothing_of_its_repos(tmp_path: Path):
    """Its name may lead to a private address for a while."""
    async with Devnet(seed=31) as net:
        async with open_rig(net, tmp_path) as rig:
            account = await followed(rig)
            await broken(rig, account)
        async with open_rig(net, tmp_path, reaches_private=False) as rig:
            done = [await rig.work(ahead_s=5400.0) for _ in range(LOOKS_MAX + 1)]
            assert [[one.result for one in looks] for looks in done] == [[Result.FAILED]] * len(
                done
            )
            ((state, reason),) = await rig.rows("SELECT state, reason FROM repo")
            assert state == "error" and str(reason).startswith("host:")
            ahead_s = rig.clock.ahead_s
        async with open_rig(net, tmp_path) as rig:
            await rig.work(ahead_s=ahead_s + 5400.0)
            assert_heads_equal(rig.net, rig.path)
