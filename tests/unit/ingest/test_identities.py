"""Keys, hosts and handles that change: what is believed, of whom, and after how many looks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.ingest.attempts import Result
from indexer.ingest.verification import RawFrame
from indexer.planning import EventBatch
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.cbor import Value, decode_at, encode
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(3)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=29) as net, open_rig(net, tmp_path) as opened:
        yield opened


def tag(rig: Rig, account: Account) -> None:
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def followed(rig: Rig, method: str = "plc") -> Account:
    account = await rig.net.create_account(method=method)
    tag(rig, account)
    await rig.hear()
    await rig.work()
    assert (await rig.repo(account))[0] == "active"
    return account


def assert_equal(rig: Rig) -> None:
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def records(rig: Rig) -> int:
    ((count,),) = await rig.rows("SELECT count(*) FROM records")
    return int(str(count))


async def test_commits_behind_a_rotation_wait_for_the_new_key_and_no_archive_is_fetched(rig: Rig):
    account = await followed(rig)
    sent = rig.archives_sent()
    rig.net.rotate_key(account)
    tag(rig, account)
    tag(rig, account)
    await rig.hear()  # one batch: the key is stale for what follows in it
    assert await rig.rows("SELECT count(*) FROM pending_commit") == [(2,)]
    assert await records(rig) == 1
    assert [done.result for done in await rig.work()] == [Result.CURRENT]
    assert_equal(rig)
    assert rig.archives_sent() == sent


async def test_commits_wait_for_a_directory_that_fails_and_none_is_dropped(rig: Rig):
    account = await followed(rig)
    away = rig.net.faults.schedule(FaultKind.HTTP_STATUS, service="plc", status=503, times=None)
    rig.net.rotate_key(account)
    tag(rig, account)
    await rig.hear()
    await rig.work()
    tag(rig, account)
    await rig.hear()
    await rig.work(ahead_s=120.0)
    assert away.fired >= 2
    assert await records(rig) == 1, "what was there stays, and nothing unproven is shown"
    assert await rig.rows("SELECT count(*) FROM pending_commit") == [(2,)]
    assert await rig.rows("SELECT count(*) FROM dead_letters") == [(0,)]
    rig.net.faults.clear()
    await rig.work(ahead_s=4000.0)
    assert_equal(rig)


@pytest.mark.parametrize(
    ("change", "is_hidden_at_once"),
    [
        ({"time": "soon"}, True),
        ({"time": "0001-01-01T00:00:00Z"}, True),
        ({"time": "1999-12-31T23:59:59Z"}, True),
        ({"active": None}, False),
        ({"status": 5}, False),
        ({"time": None}, False),
    ],
)
async def test_an_account_event_that_cannot_be_read_has_the_account_s_host_asked(
    rig: Rig, change: dict[str, Value], is_hidden_at_once: bool
):
    account = await followed(rig)
    rig.net.set_account_status(account, "takendown")
    (event,) = rig.net.relay.stream.after(rig.heard, 10)
    header, start = decode_at(event.frame, 0)
    body, _ = decode_at(event.frame, start)
    raw = RawFrame.decoded(encode(header) + encode({**body, **change}))
    events = rig.verifier.events([raw], {account.did: None})
    await rig.live.apply(EventBatch(url="ws://relay", events=events, seq=None, event_at=None))
    assert await records(rig) == (0 if is_hidden_at_once else 1)
    letters = [] if is_hidden_at_once else [("fields", account.did)]
    assert await rig.rows("SELECT reason, did FROM dead_letters") == letters
    assert (await rig.work(ahead_s=61.0))[0].result is Result.HIDDEN
    assert (await rig.repo(account))[1] == "takendown"
    assert await records(rig) == 0


async def test_a_revoked_key_never_verifies_a_live_commit(rig: Rig):
    account = await followed(rig)
    revoked = account.key
    rig.net.rotate_key(account)
    await rig.hear()
    await rig.work()
    rig.net.repo(account).key = revoked
    tag(rig, account)
    await rig.hear()
    await rig.work()
    assert await records(rig) == 1
    assert await rig.rows("SELECT DISTINCT reason FROM dead_letters") == [("signature",)]
    for _ in range(4):
        await rig.work(ahead_s=4000.0)
    assert await records(rig) == 1


async def test_a_replica_that_lags_is_asked_a_second_time_without_holding_up_commits(rig: Rig):
    account = await followed(rig)
    stale = rig.net.faults.schedule(FaultKind.PLC_STALE)
    rig.net.change_handle(account, f"renamed.{rig.net.pds[0].handle_domain}")
    await rig.hear()
    await rig.work()
    assert stale.fired == 1
    (before,) = await rig.rows("SELECT handle FROM repo")
    tag(rig, account)
    await rig.hear()
    assert await records(rig) == 2
    await rig.work(ahead_s=61.0)
    (after,) = await rig.rows("SELECT handle FROM repo")
    assert after != before and after == (account.handle,)
    assert await rig.work(ahead_s=3600.0) == []


async def test_an_event_without_news_costs_two_looks_and_no_more(rig: Rig):
    account = await followed(rig)
    asked = rig.net.plc_server.requests["plc.document"]
    rig.net.change_handle(account, account.handle)
    await rig.hear()
    for _ in range(4):
        await rig.work(ahead_s=61.0)
    assert rig.net.plc_server.requests["plc.document"] == asked + 2


async def test_a_hidden_account_that_is_found_at_another_host_is_asked_about_there(tmp_path: Path):
    async with Devnet(seed=29, pds_count=2) as net, open_rig(net, tmp_path) as rig:
        account = await net.create_account(0)
        tag(rig, account)
        net.set_account_status(account, "deactivated")
        await rig.hear()
        await rig.work()
        await rig.work(ahead_s=61.0)
        assert (await rig.repo(account))[1] == "deactivated"
        await rig.directory.go_on()
        long_ago = "UPDATE repo SET identity_at = 0"  # our clock is ahead of the directory's
        await rig.database.write(lambda connection: connection.execute(long_ago).rowcount)
        net.migrate(account, 1)  # of which only the directory tells
        rig.clock.monotonic_ahead_s += 61.0
        await rig.directory.go_on()
        await rig.work()
        assert_equal(rig)
        assert await rig.work(ahead_s=3600.0) == []


async def test_a_did_web_s_commit_by_an_earlier_key_counts_only_where_we_hold_it(rig: Rig):
    known = await followed(rig, "web")
    rig.net.rotate_key(known)
    await rig.hear()
    await rig.work()
    await rig.database.write(
        lambda connection: connection.execute(
            "UPDATE repo SET wanted = 4, host_rev = NULL, scope_id = NULL, state = 'desynchronized'"
        )
    )
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert_equal(rig)

    unseen = await rig.net.create_account(method="web")
    tag(rig, unseen)
    rig.net.rotate_key(unseen)
    await rig.hear()
    assert (await rig.work())[0].result is Result.FAILED
    assert await records(rig) == 1
    tag(rig, unseen)  # signed with the key of today
    await rig.hear()
    for _ in range(2):
        await rig.work(ahead_s=4000.0)
    assert_equal(rig)


async def test_a_host_that_the_document_does_not_name_has_no_say(rig: Rig):
    """The former host still serves the repo, with a newer commit; nobody asks it."""
    account = await followed(rig)
    former = rig.net.pds[0]
    rig.net.migrate(account, 1)
    await rig.hear()
    await rig.work()
    asked = former.server.requests["com.atproto.sync.getRepo"]
    await rig.resyncer.sync_now(account.did)
    tag(rig, account)
    await rig.hear()
    await rig.work()
    assert former.server.requests["com.atproto.sync.getRepo"] == asked
    assert_equal(rig)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_handle_is_not_lost_because_its_resolver_does_not_answer(rig: Rig, status: int):
    account = await followed(rig)
    assert await rig.rows("SELECT handle FROM accounts") == [(account.handle,)]
    away = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS,
        times=None,
        endpoint="com.atproto.identity.resolveHandle",
        status=status,
        error="Away",
    )
    rig.net.rotate_key(account)
    await rig.hear()
    await rig.work()
    assert away.fired
    assert await rig.rows("SELECT handle FROM accounts") == [(account.handle,)]
    rig.net.change_handle(account, "another.pds1.test")
    await rig.hear()
    await rig.work()
    assert await rig.rows("SELECT handle FROM accounts") == [(None,)], (
        "the former one is not theirs"
    )
