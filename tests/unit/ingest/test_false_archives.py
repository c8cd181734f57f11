"""Archives that a host should not have sent: nothing of them is shown."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from indexer.errors import Check, InvalidUpstream
from indexer.ingest.attempts import Result
from indexer.ingest.snapshot import open_snapshot
from indexer.protocol.car import parse_car
from indexer.protocol.cid import cid_text
from indexer.protocol.commit import EMPTY_TREE, decode_commit
from indexer.protocol.keys import VerifyingKey
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.car import car_header, varint
from tests.devnet.cbor import encode
from tests.devnet.clock import TidClock
from tests.devnet.keys import derive_key, multibase
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import SCOPE, Rig, open_rig

TAG = "pub.chive.eprint.userTag"
GET_REPO = "com.atproto.sync.getRepo"
RNG = random.Random(19)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=19) as net, open_rig(net, tmp_path) as opened:
        yield opened


async def written(rig: Rig) -> Account:
    account = await rig.net.create_account()
    for _ in range(3):
        rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    return account


@pytest.mark.parametrize("is_other_account", [True, False])
async def test_an_archive_of_another_account_or_of_another_key_brings_nothing(
    rig: Rig, is_other_account: bool
):
    account = await written(rig)
    if is_other_account:
        archive = rig.net.car(await written(rig))
    else:
        true, account.key = account.key, derive_key("k256", "forger")
        rig.net.repo(account).key = account.key
        rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
        archive = rig.net.car(account)
        rig.net.repo(account).key = account.key = true
        rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    false = rig.net.faults.schedule(
        FaultKind.HTTP_BODY, endpoint=GET_REPO, did=account.did, body=archive
    )
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FAILED
    assert false.fired == 1
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]
    await rig.hear()
    await rig.work(ahead_s=4000.0)
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def test_a_commit_by_another_key_counts_only_where_rev_and_tree_are_those_that_we_hold(
    rig: Rig,
):
    """Whoever has a key that was replaced could else give the rev that we hold another tree."""
    account = await written(rig)
    car = parse_car(rig.net.car(account))
    commit = decode_commit(car.blocks[car.root], car.root)
    held, tree = cid_text(commit.data), cid_text(EMPTY_TREE)
    opened = partial(
        open_snapshot, car.root, car.blocks.__getitem__, did=account.did,
        key=VerifyingKey.parse(multibase(derive_key("k256", "another"))), scope=SCOPE,
        now_s=rig.clock.now(),
    )  # fmt: skip
    assert opened(known=(commit.rev, held)).data_text == held
    for known in ((commit.rev, tree), ("3lbtqsrpyuk2a", held), (None, None)):
        with pytest.raises(InvalidUpstream) as refused:
            opened(known=known)
        assert refused.value.check is Check.SIGNATURE


async def test_an_archive_from_the_future_brings_nothing(rig: Rig):
    """What it says would outrank whatever the account writes until then."""
    account = await written(rig)
    await rig.resyncer.sync_now(account.did)
    before = await rig.rows("SELECT uri, cid FROM records ORDER BY uri")
    now, account.tids = rig.net.now, TidClock(lambda: now() + 86_400.0, 7)
    rig.net.repo(account).tids = account.tids
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FAILED
    assert await rig.rows("SELECT uri, cid FROM records ORDER BY uri") == before
    assert await rig.rows("SELECT state FROM repo") == [("error",)]
    rig.clock.ahead_s += 86_400.0
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FETCHED
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def test_an_archive_beyond_what_is_read_is_a_state_of_the_repo_and_not_fetched_again(
    rig: Rig,
):
    account = await written(rig)
    block_bytes = 3 << 20  # more than any block may have
    root = rig.net.repo(account).commit_cid
    rig.net.faults.schedule(
        FaultKind.HTTP_BODY, endpoint=GET_REPO, times=None,
        body=car_header([root]) + varint(block_bytes) + bytes(block_bytes),
    )  # fmt: skip
    await rig.hear()
    await rig.work()
    assert (await rig.repo(account))[0] == "too_large"
    sent = rig.archives_sent()
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    assert await rig.work(ahead_s=90_000.0) == []
    assert rig.archives_sent() == sent
    assert await rig.rows("SELECT count(*) FROM records") == [(0,)]


async def test_an_archive_for_which_there_is_no_space_is_fetched_later_and_holds_up_nothing_else(
    rig: Rig,
):
    followed = await written(rig)
    await rig.hear()
    await rig.work()
    budget, rig.hosts._folder._bytes_max = rig.hosts._folder._bytes_max, 100
    waiting = await written(rig)
    rig.net.create(followed, TAG, realistic_record(RNG, TAG, did=followed.did))
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FAILED]
    assert (await rig.repo(waiting))[0] == "error"
    assert "budget" in str((await rig.rows("SELECT reason FROM repo WHERE state = 'error'"))[0][0])
    assert (await rig.repo(followed))[0] == "active"
    assert await rig.rows("SELECT count(*) FROM records") == [(4,)]
    assert rig.hosts._folder.bytes_used == 0
    rig.hosts._folder._bytes_max = budget
    await rig.work(ahead_s=4000.0)
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


@pytest.mark.parametrize("rkey", ["no record key", "\u00e9"])
async def test_a_tree_with_a_key_that_is_no_path_is_a_state_of_its_repo_until_it_is_mended(
    rig: Rig, rkey: str
):
    account = await written(rig)
    await rig.hear()
    await rig.work()
    rig.net.create_raw(account, TAG, encode({"$type": TAG}), rkey)
    await rig.hear()
    assert (await rig.repo(account))[0] == "desynchronized"
    for _ in range(3):
        await rig.work(ahead_s=4000.0)
    assert (await rig.repo(account))[0] == "invalid"
    assert await rig.rows("SELECT count(*) FROM records") == [(3,)], "what was verified stays"
    rig.net.delete(account, TAG, rkey)
    await rig.hear()
    await rig.work(ahead_s=4000.0)
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)
