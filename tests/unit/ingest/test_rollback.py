"""A host that was set back to an older state of a repo than the one we hold."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.claims import ROLLED_BACK
from indexer.ingest.attempts import Result, Resync
from storage.status import StatusStore
from tests.devnet import Account, Devnet, realistic_record
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(3)
HOUR_S = 3_600.0
YEAR_S = 365 * 24 * HOUR_S


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=23) as net, open_rig(net, tmp_path) as opened:
        yield opened


def tag(rig: Rig, account: Account) -> None:
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def set_back(rig: Rig) -> Account:
    """A followed account whose host has lost its last two records, which we hold."""
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    await rig.work()
    old = rig.net.repo(account).copy()
    tag(rig, account)
    tag(rig, account)
    await rig.hear()
    rig.net.hosting(account).repo = old
    return account


async def reason(rig: Rig) -> tuple[object, ...]:
    (found,) = await rig.rows("SELECT state, reason FROM repo")
    return found


async def refused_for_a_day(rig: Rig, account: Account) -> Resync:
    """Look once and then every two hours; the last look, after a day."""
    rows = await rig.rows("SELECT uri FROM records ORDER BY uri")
    done = await rig.resyncer.sync_now(account.did)
    for _ in range(12):
        assert done.result is Result.FAILED
        assert (await reason(rig))[1] != ROLLED_BACK
        (done,) = await rig.work(ahead_s=2 * HOUR_S)
    assert await rig.rows("SELECT uri FROM records ORDER BY uri") == rows
    return done


def assert_equal(rig: Rig) -> None:
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def test_after_a_day_of_the_same_answer_it_is_an_error_of_its_own_and_rows_stay(rig: Rig):
    account = await set_back(rig)
    done = await refused_for_a_day(rig, account)
    assert done.result is Result.ROLLED_BACK
    assert await reason(rig) == ("error", ROLLED_BACK)
    assert (
        await StatusStore(rig.database, clock=rig.clock, collections=()).counts()
    ).rolled_back == 1
    assert await rig.rows("SELECT count(*) FROM records") == [(3,)]
    assert await rig.work(ahead_s=HOUR_S) == []
    assert (await rig.resyncer.sync_now(account.did)).result is Result.ROLLED_BACK


async def test_a_scan_that_comes_upon_it_meanwhile_does_not_end_the_alarm(rig: Rig):
    account = await set_back(rig)
    await refused_for_a_day(rig, account)
    assert (await rig.resyncer.sync_listed(account.did)).result is Result.PUT_OFF
    assert await reason(rig) == ("error", ROLLED_BACK)
    (done,) = await rig.work(ahead_s=7 * HOUR_S)
    assert done.result is Result.ROLLED_BACK


async def test_the_day_begins_anew_where_a_clock_that_was_a_year_fast_has_begun_it(rig: Rig):
    account = await set_back(rig)
    rig.clock.ahead_s += YEAR_S
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FAILED
    rig.clock.ahead_s -= YEAR_S
    done = await refused_for_a_day(rig, account)
    assert done.result is Result.ROLLED_BACK


async def test_an_operator_who_consents_has_the_older_state_taken_and_the_chain_goes_on(rig: Rig):
    account = await set_back(rig)
    await refused_for_a_day(rig, account)
    done = await rig.resyncer.sync_now(account.did, accepts_rollback=True)
    assert done.result is Result.FETCHED
    assert_equal(rig)
    assert await rig.rows("SELECT count(*) FROM rollback") == [(0,)]
    assert (
        await StatusStore(rig.database, clock=rig.clock, collections=()).counts()
    ).rolled_back == 0
    tag(rig, account)
    await rig.hear()
    assert_equal(rig)
    assert await reason(rig) == ("active", None)


async def test_a_host_that_finds_its_state_again_within_the_day_ends_the_count(rig: Rig):
    account = await set_back(rig)
    await rig.resyncer.sync_now(account.did)
    await rig.work(ahead_s=20 * HOUR_S)
    tag(rig, account)  # today's commit outranks what was lost
    await rig.hear()
    await rig.work(ahead_s=2 * HOUR_S)
    assert_equal(rig)
    assert await rig.rows("SELECT count(*) FROM rollback") == [(0,)]


async def test_a_commit_made_after_the_day_is_found_without_an_operator(rig: Rig):
    account = await set_back(rig)
    await refused_for_a_day(rig, account)
    tag(rig, account)
    await rig.hear()
    await rig.work(ahead_s=7 * HOUR_S)
    assert_equal(rig)


async def test_another_host_begins_a_count_of_its_own(rig: Rig):
    account = await set_back(rig)
    await rig.resyncer.sync_now(account.did)
    await rig.database.write(
        lambda connection: connection.execute("UPDATE rollback SET pds_url = 'https://old.example'")
    )
    (done,) = await rig.work(ahead_s=25 * HOUR_S)
    assert done.result is Result.FAILED
    (since,) = (await rig.rows("SELECT since FROM rollback"))[0]
    assert since > rig.clock.now() - HOUR_S
