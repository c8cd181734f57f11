"""Lies about a commit: none is applied, each is said, and a fetch puts the repo right."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.errors import Check
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(17)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=17) as net, open_rig(net, tmp_path) as opened:
        yield opened


def tag(rig: Rig, account: Account) -> None:
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def followed(rig: Rig) -> Account:
    account = await rig.net.create_account()
    for _ in range(4):
        tag(rig, account)
    await rig.hear()
    await rig.work()
    assert (await rig.repo(account))[0] == "active"
    return account


@pytest.mark.parametrize(
    ("kind", "params", "check"),
    [
        (FaultKind.BAD_SIGNATURE, {}, Check.SIGNATURE),
        (FaultKind.HIGH_S, {}, Check.SIGNATURE),
        (FaultKind.WRONG_KEY, {}, Check.SIGNATURE),
        (FaultKind.WRONG_PREV_DATA, {}, Check.INVERSION),
        (FaultKind.MISSING_PREV_DATA, {}, None),
        (FaultKind.WRONG_SINCE, {}, Check.CHAIN),
        (FaultKind.OMITTED_OP, {"action": None}, Check.INVERSION),
        (FaultKind.PHANTOM_OP, {}, Check.OPS),
        (FaultKind.MISSING_PREV, {}, None),
        (FaultKind.WRONG_REV, {}, Check.COMMIT),
        (FaultKind.WRONG_ROOT, {}, Check.CAR),
        (FaultKind.WRONG_BLOCK_HASH, {}, Check.BLOCK_HASH),
        (FaultKind.MISSING_BLOCK, {"block": "record"}, None),
        (FaultKind.MISSING_BLOCK, {"block": "node"}, None),
        (FaultKind.MISSING_BLOCK, {"block": "commit"}, None),
        (FaultKind.TOO_BIG, {}, Check.FIELDS),
    ],
)
async def test_a_false_commit_is_not_applied_and_its_repo_is_fetched(
    rig: Rig, kind: FaultKind, params: dict[str, object], check: Check | None
):
    """Without a check: what honest hosts send too, which is repaired without a complaint."""
    account = await followed(rig)
    sent = rig.archives_sent() + rig.asked("getRecord")
    shown = "SELECT uri, cid FROM records ORDER BY uri"
    before = await rig.rows(shown)
    lie = rig.net.faults.schedule(kind, did=account.did, type="#commit", **params)
    path = rig.net.repo(account).paths[0]
    rig.net.update(account, *path.split("/"), realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    assert lie.fired == 1
    assert await rig.rows(shown) == before
    await rig.work()
    assert rig.archives_sent() + rig.asked("getRecord") > sent
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)
    letters = await rig.rows("SELECT reason FROM dead_letters")
    if kind is FaultKind.PHANTOM_OP and not letters:
        check = None  # the way to where the record would be was not among the blocks
    assert letters == ([] if check is None else [(check,)])
    tag(rig, account)
    await rig.hear()
    assert_store_equals(rig.net, rig.path)


async def test_however_many_forgeries_come_the_directory_is_asked_once_for_each_account(rig: Rig):
    accounts = [await followed(rig) for _ in range(4)]
    asked = rig.net.plc_server.requests["plc.document"]
    for account in accounts:
        forged = rig.net.faults.schedule(FaultKind.BAD_SIGNATURE, did=account.did, times=20)
        for _ in range(20):
            tag(rig, account)
        await rig.hear()
        assert forged.fired == 20
    assert rig.net.plc_server.requests["plc.document"] == asked, "hearing asks nobody"
    await rig.work()
    # Once for the key, and once more when its repo is fetched.
    assert rig.net.plc_server.requests["plc.document"] <= asked + 2 * len(accounts)
    assert_store_equals(rig.net, rig.path)
