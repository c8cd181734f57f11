"""Attempts of a resync worker against the devnet: what each ends in, in the store."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.claims import CHUNK_ROWS, GIVE_BACK_S
from indexer.ingest.attempts import Result
from indexer.ingest.merging import commit_portions
from indexer.ingest.verification import RawFrame
from indexer.model import RepoState, Wanted
from indexer.planning import CommitSeen, EventBatch, RecordWrite
from indexer.records.projection import RecordContext, SqlType, Value, computed
from tests.devnet import Account, Change, Devnet, FaultKind, realistic_record
from tests.oracle import assert_heads_equal, assert_no_bugs, assert_store_equals
from tests.unit.ingest.resync_rig import REGISTRY, AdvancedClock, Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(7)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=5) as net, open_rig(net, tmp_path) as opened:
        yield opened


def tag(rig: Rig, account: Account):
    return rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def followed(rig: Rig, records: int = 3) -> Account:
    """An account that has been discovered and fetched."""
    account = await rig.net.create_account()
    for _ in range(records):
        tag(rig, account)
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert_equal(rig)
    return account


def assert_equal(rig: Rig) -> None:
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def test_a_discovered_repo_is_fetched_whole_and_followed_from_then_on(rig: Rig):
    account = await followed(rig)
    written = tag(rig, account)
    rig.net.delete(account, TAG, written.rkey)
    tag(rig, account)
    await rig.hear()
    assert await rig.work() == []
    assert_equal(rig)


async def test_records_deleted_unheard_are_deleted_by_the_fetch(rig: Rig):
    account = await followed(rig, 5)
    lost = rig.net.faults.schedule(FaultKind.SWALLOW_FRAME, did=account.did, times=2)
    for path in rig.net.repo(account).paths[:2]:
        rig.net.delete(account, *path.split("/"))
    tag(rig, account)
    await rig.hear()
    assert (await rig.repo(account))[0] == "desynchronized"
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert lost.fired == 2
    assert_equal(rig)


async def test_a_repo_whose_rows_all_went_is_emptied_in_short_transactions(rig: Rig):
    account = await rig.net.create_account()
    rig.net.import_records(account, 900, [TAG], announce=False)
    tag(rig, account)
    await rig.hear()
    await rig.work()
    assert_equal(rig)
    lost = rig.net.faults.schedule(FaultKind.SWALLOW_FRAME, did=account.did, times=None)
    doomed = [Change("delete", *path.split("/")) for path in rig.net.repo(account).paths]
    for start in range(0, len(doomed), 200):
        rig.net.apply_writes(account, doomed[start : start + 200])
    rig.net.faults.clear()
    rig.net.emit_sync(account)
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert lost.fired == 5
    assert_equal(rig)
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]


async def test_commits_during_the_fetch_are_on_top_of_the_snapshot_at_the_first_attempt(rig: Rig):
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    slow = rig.net.faults.schedule(
        FaultKind.HTTP_DELAY, endpoint="com.atproto.sync.getRepo", seconds=0.6
    )
    attempt = asyncio.create_task(rig.work())
    await rig.net.faults.wait_fired(slow)
    for _ in range(8):
        tag(rig, account)
        await rig.hear()
        await asyncio.sleep(0.02)
    stored = await rig.rows("SELECT count(*) FROM pending_commit")
    assert stored == [(8,)]
    assert [done.result for done in await attempt] == [Result.FETCHED]
    assert (await rig.repo(account))[0] == "active"
    assert await rig.rows("SELECT count(*) FROM pending_commit") == [(0,)]
    assert_equal(rig)


async def test_an_attempt_tells_how_many_records_it_has_compared(rig: Rig):
    account = await rig.net.create_account()
    rig.net.import_records(account, 3 * CHUNK_ROWS, [TAG], announce=False)
    told: list[int] = []

    async def tell(records: int) -> None:
        told.append(records)

    done = await rig.resyncer.sync_now(account.did, on_compared=tell)
    assert (done.result, done.records) == (Result.FETCHED, 3 * CHUNK_ROWS)
    assert told == sorted(set(told)) and len(told) >= 2
    assert told[-1] == 2 * CHUNK_ROWS  # the last of them end with the attempt


async def test_operations_at_one_repo_take_turns_and_cost_one_fetch(rig: Rig):
    """As governanceSync, didSync and a scan: none voids the claim of another."""
    account = await rig.net.create_account()
    tag(rig, account)
    sent = rig.archives_sent()
    async with asyncio.TaskGroup() as group:
        attempts = [
            group.create_task(step(account.did))
            for step in (rig.resyncer.sync_now, rig.resyncer.sync_now, rig.resyncer.sync_listed)
        ]
    assert [attempt.result().result for attempt in attempts] == [
        Result.FETCHED, Result.CURRENT, Result.CURRENT,
    ]  # fmt: skip
    assert rig.archives_sent() == sent + 1
    assert await rig.rows("SELECT max(claim) FROM repo") == [(3,)]


async def test_equal_revs_cost_no_archive(rig: Rig):
    account = await followed(rig)
    sent = rig.archives_sent()
    assert (await rig.resyncer.sync_now(account.did)).result is Result.CURRENT
    assert rig.archives_sent() == sent


@pytest.mark.parametrize("status", ["deactivated", "takendown", "suspended"])
async def test_an_inactive_account_is_hidden_and_current_when_it_returns(rig: Rig, status: str):
    account = await followed(rig)
    rig.net.set_account_status(account, status)
    await rig.hear()
    assert (await rig.repo(account))[1] == status
    assert (await rig.work())[0].result is Result.HIDDEN
    assert_store_equals(rig.net, rig.path)
    rig.net.set_account_status(account, "active")
    tag(rig, account)
    await rig.hear()
    await rig.work(ahead_s=120.0)
    assert_equal(rig)


async def test_an_old_hosts_word_does_not_keep_a_migrated_account_hidden(rig: Rig):
    account = await followed(rig)
    rig.net.migrate(account, 1)
    await rig.hear()
    assert (await rig.repo(account))[1] == "deactivated"
    await rig.work()
    assert (await rig.repo(account))[:2] == ("active", "active")
    tag(rig, account)
    await rig.hear()
    await rig.work()
    assert_equal(rig)


async def test_a_migrated_repo_that_was_never_seen_is_read_by_the_key_it_had(rig: Rig):
    account = await rig.net.create_account()
    tag(rig, account)
    rig.net.migrate(account, 1)
    await rig.hear()
    assert [done.result for done in await rig.work()][-1] in {Result.FETCHED, Result.CURRENT}
    assert_equal(rig)
    assert rig.net.plc_server.requests["plc.audit"] == 1


async def test_a_commit_by_a_replaced_key_made_after_the_rotation_is_refused(rig: Rig):
    account = await rig.net.create_account()
    tag(rig, account)
    stolen = account.key
    rig.net.rotate_key(account)
    rig.net.repo(account).key = stolen
    await asyncio.sleep(0.003)  # the log counts in milliseconds
    tag(rig, account)
    await rig.hear()
    assert (await rig.work())[0].result is Result.FAILED
    await rig.work(ahead_s=4000.0)
    await rig.work(ahead_s=4000.0)
    assert (await rig.repo(account))[0] == RepoState.INVALID
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]


async def test_a_directory_that_lags_behind_a_rotation_makes_no_repo_invalid(rig: Rig):
    account = await followed(rig)
    stale = rig.net.faults.schedule(FaultKind.PLC_STALE, times=2)
    rig.net.rotate_key(account)
    tag(rig, account)
    await rig.hear()
    await rig.work()
    await rig.work(ahead_s=4000.0)
    assert stale.fired == 2
    assert_equal(rig)


async def test_a_deleted_account_is_purged_after_its_host_confirms_and_may_come_back(rig: Rig):
    account = await followed(rig)
    hosting = rig.net.hosting(account)
    rig.net.set_account_status(account, "deleted")
    await rig.hear()
    assert await rig.rows("SELECT count(*) FROM records") == [(0,)]
    assert await rig.rows("SELECT count(*) > 0 FROM record") == [(1,)]
    assert [done.result for done in await rig.work()] == [Result.DELETED]
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]
    assert (await rig.repo(account))[:3] == ("deleted", "deleted", None)
    hosting.is_deactivated = True  # as whoever is brought in from a copy begins
    rig.net.pds[account.pds].hosted[account.did], account.is_deleted = hosting, False
    rig.net.set_account_status(account, "active")
    await rig.hear()
    assert [done.result for done in await rig.work(ahead_s=61.0)] == [Result.FETCHED]
    assert_equal(rig)
    assert await rig.rows("SELECT count(*) FROM records") == [(3,)]


async def test_a_repo_unknown_to_its_host_is_hidden_and_purged_only_the_second_time(rig: Rig):
    account = await followed(rig)
    unknown = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, endpoint="com.atproto.sync.getRepoStatus", status=400,
        error="RepoNotFound", times=None,
    )  # fmt: skip
    rig.net.set_account_status(account, "deactivated")
    await rig.hear()
    assert (await rig.work())[-1].result is Result.NOT_FOUND
    assert await rig.rows("SELECT count(*) > 0 FROM record") == [(1,)]
    assert (await rig.work(ahead_s=4000.0))[-1].result is Result.DELETED
    assert unknown.fired == 2
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]


async def test_an_unknown_did_hides_nothing_at_first(rig: Rig):
    account = await followed(rig)
    missing = rig.net.faults.schedule(FaultKind.PLC_NOT_FOUND, times=1)
    rig.net.change_handle(account, "renamed.test")
    await rig.hear()
    assert (await rig.work())[0].result is Result.NOT_FOUND
    assert missing.fired == 1
    assert await rig.rows("SELECT count(*) FROM records") == [(3,)]
    await rig.work(ahead_s=4000.0)
    assert_equal(rig)


async def test_a_directory_that_forgot_an_account_loses_it_nothing_however_often_it_is_asked(
    rig: Rig,
):
    account = await followed(rig)
    forgotten = rig.net.faults.schedule(FaultKind.PLC_NOT_FOUND, times=None)
    for _ in range(4):
        assert (await rig.resyncer.sync_now(account.did)).result is Result.NOT_FOUND
    # Asking often is one look, however it is answered.
    assert await rig.rows("SELECT count(*) FROM records") == [(3,)]
    for hours in range(1, 5):
        results = {done.result for done in await rig.work(ahead_s=3601.0 * hours)}
        assert results == {Result.NOT_FOUND}
        assert (await rig.resyncer.sync_now(account.did)).result is Result.NOT_FOUND
        assert await rig.rows("SELECT count(*) FROM records") == [(0,)]
    assert forgotten.fired > 8
    assert await rig.rows("SELECT count(*) FROM record") == [(3,)]
    rig.net.faults.clear()
    await rig.work(ahead_s=90_000.0)
    assert_equal(rig)


async def test_a_deletion_that_is_announced_is_not_confirmed_by_a_directory_that_forgot(rig: Rig):
    account = await followed(rig)
    forgotten = rig.net.faults.schedule(FaultKind.PLC_NOT_FOUND, times=None)
    rig.net.set_account_status(account, "deleted")
    await rig.hear()
    await rig.work()
    await rig.work(ahead_s=4000.0)
    assert forgotten.fired >= 2
    assert await rig.rows("SELECT count(*) FROM record") == [(3,)]
    assert await rig.rows("SELECT count(*) FROM records") == [(0,)]
    rig.net.faults.clear()
    assert (await rig.work(ahead_s=8000.0))[-1].result is Result.DELETED
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]


async def test_a_did_that_nobody_knows_is_not_found_each_time_and_not_tracked(rig: Rig):
    mistyped = "did:plc:" + "z" * 24
    unusable = "did:web:localhost%3A1"
    for _ in range(4):
        assert (await rig.resyncer.sync_now(mistyped)).result is Result.NOT_FOUND
        assert (await rig.resyncer.sync_now(unusable)).result is Result.FAILED
        assert await rig.rows("SELECT did FROM repo") == []


async def test_an_account_without_a_repo_is_not_found_each_time_and_not_tracked(rig: Rig):
    account = await rig.net.create_account(announce=False)
    unknown = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, endpoint="com.atproto.sync.getRepoStatus", status=400,
        error="RepoNotFound", times=4,
    )  # fmt: skip
    for _ in range(4):
        assert (await rig.resyncer.sync_now(account.did)).result is Result.NOT_FOUND
        assert await rig.rows("SELECT did FROM repo") == []
    assert unknown.fired == 4
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FETCHED


async def test_what_a_host_refuses_for_a_while_stays_tracked(rig: Rig):
    account = await rig.net.create_account(announce=False)
    refusal = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, endpoint="com.atproto.sync.getRepoStatus", status=503
    )
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FAILED
    assert refusal.fired == 1
    assert [done.result for done in await rig.work(ahead_s=4000.0)] == [Result.FETCHED]


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (FaultKind.HTTP_STATUS, {"status": 503}),
        (FaultKind.HTTP_TRUNCATE, {}),
        (FaultKind.HTTP_RESET, {}),
        (FaultKind.HTTP_HTML, {}),
        (FaultKind.CAR_WRONG_HASH, {}),
        (FaultKind.CAR_MISSING_BLOCK, {}),
    ],
)
async def test_a_broken_transfer_is_tried_again_and_no_verdict_on_the_repo(
    rig: Rig, kind: FaultKind, params: dict[str, object]
):
    account = await rig.net.create_account()
    for _ in range(5):
        tag(rig, account)
    fault = rig.net.faults.schedule(kind, endpoint="com.atproto.sync.getRepo", **params)
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FAILED]
    assert (await rig.repo(account))[0] == "error"
    await rig.work(ahead_s=4000.0)
    assert fault.fired == 1
    assert_equal(rig)


async def test_an_older_archive_than_our_rows_is_refused(rig: Rig):
    account = await followed(rig)
    old = rig.net.car(account)
    lost = rig.net.faults.schedule(FaultKind.SWALLOW_FRAME, did=account.did)
    tag(rig, account)
    tag(rig, account)
    await rig.hear()
    await rig.work()
    assert lost.fired == 1
    assert_equal(rig)
    stale = rig.net.faults.schedule(
        FaultKind.HTTP_BODY, endpoint="com.atproto.sync.getRepo", body=old
    )
    lost = rig.net.faults.schedule(FaultKind.SWALLOW_FRAME, did=account.did)
    tag(rig, account)
    tag(rig, account)
    await rig.hear()
    results = [done.result for done in await rig.work(ahead_s=90_000.0)]
    assert (results[0], stale.fired, lost.fired) == (Result.FAILED, 1, 1)
    await rig.work(ahead_s=4000.0)
    assert_equal(rig)


@pytest.mark.parametrize(
    ("status", "ends"),
    [("deactivated", Result.HIDDEN), ("takendown", Result.HIDDEN), ("deleted", Result.NOT_FOUND)],
)
async def test_an_account_that_goes_between_its_status_and_its_archive_is_asked_about_again(
    rig: Rig, status: str, ends: Result
):
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    slow = rig.net.faults.schedule(
        FaultKind.HTTP_DELAY, endpoint="com.atproto.sync.getRepo", seconds=0.3
    )
    attempt = asyncio.create_task(rig.resyncer.sync_now(account.did))
    await rig.net.faults.wait_fired(slow)
    rig.net.set_account_status(account, status)
    done = await attempt
    assert rig.asked("getRepoStatus") == 2
    assert done.result is ends, done.reason


async def test_an_operator_takes_a_repo_over_from_a_worker(rig: Rig):
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    slow = rig.net.faults.schedule(
        FaultKind.HTTP_DELAY, endpoint="com.atproto.sync.getRepo", seconds=0.5
    )
    worker = asyncio.create_task(rig.work())
    await rig.net.faults.wait_fired(slow)
    assert (await rig.resyncer.sync_now(account.did)).result is Result.FETCHED
    assert [done.result for done in await worker] == [Result.STALE]
    assert_equal(rig)
    assert (await rig.repo(account))[3:] == (0, 0)


async def test_a_cancelled_attempt_leaves_its_work_to_others(rig: Rig):
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    hang = rig.net.faults.schedule(FaultKind.HTTP_HANG, endpoint="com.atproto.sync.getRepo")
    attempt = asyncio.create_task(rig.resyncer.sync_now(account.did))
    await rig.net.faults.wait_fired(hang)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    state, _, _, wanted, claimed = await rig.repo(account)
    assert (state, claimed) == ("desynchronized", 0)
    assert wanted == Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT
    await rig.work()
    assert_equal(rig)


async def test_a_cancelled_attempt_does_not_wait_for_a_store_that_stays_busy(
    rig: Rig, tmp_path: Path
):
    account = await rig.net.create_account()
    tag(rig, account)
    await rig.hear()
    hang = rig.net.faults.schedule(FaultKind.HTTP_HANG, endpoint="com.atproto.sync.getRepo")
    attempt = asyncio.create_task(rig.resyncer.sync_now(account.did))
    await rig.net.faults.wait_fired(hang)
    (database,) = tmp_path.glob("*.db")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        attempt.cancel()
        async with asyncio.timeout(GIVE_BACK_S + 1.0):
            with pytest.raises(asyncio.CancelledError):
                await attempt


@pytest.mark.parametrize("method", ["sync_now", "sync_listed"])
async def test_an_operation_that_is_cancelled_over_its_claim_leaves_its_work_to_others(
    rig: Rig, method: str
):
    """Else the repo would be nobody's, and stay as it is until the next start."""
    account = await followed(rig)
    goes_on = threading.Event()
    busy = asyncio.create_task(rig.database.write(lambda _: goes_on.wait(10.0)))
    attempt = asyncio.create_task(getattr(rig.resyncer, method)(account.did))
    await asyncio.sleep(0.05)
    attempt.cancel()
    await asyncio.sleep(0.05)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    await busy
    rig.net.faults.schedule(FaultKind.SWALLOW_FRAME, did=account.did)
    for _ in range(2):
        tag(rig, account)
    await rig.hear()
    for _ in range(2):
        await rig.work(ahead_s=4000.0)
    assert_equal(rig)
    assert (await rig.repo(account))[3:] == (0, 0)


def test_buffered_commits_come_in_portions_of_one_transaction():
    def commit(writes: int) -> CommitSeen:
        row = RecordWrite("c/x", None)
        return CommitSeen(did="d", seq=1, rev="r", since=None, frame=b"", writes=(row,) * writes)

    sizes = [200, 200, 30, 10, 0, 200, 200]
    found = list(commit_portions([(n + 1, commit(size)) for n, size in enumerate(sizes)]))
    assert [last for last, _ in found] == [1, 2, 5, 6, 7]
    assert sum(len(part) for _, part in found) == len(sizes)
    assert list(commit_portions([])) == [(0, [])]


async def test_a_bug_over_one_repo_costs_that_repo_and_no_other(tmp_path: Path):
    """Its author could bring it about again and again, and end the process at each start."""
    culprits: set[str] = set()

    def fails(_: Value, context: RecordContext) -> None:
        if context.did in culprits:
            raise IndexError("beyond the end")

    kind = REGISTRY.types[TAG]
    kind = replace(kind, own_columns=(*kind.own_columns, computed("bug", SqlType.TEXT, fails)))
    registry = replace(REGISTRY, types={**REGISTRY.types, TAG: kind})
    async with Devnet(seed=5) as net, open_rig(net, tmp_path, registry) as rig:
        one, other = await net.create_account(), await net.create_account()
        culprits.add(one.did)
        for account in (one, other):
            tag(rig, account)
        await rig.hear()
        done = await rig.work()
        assert sorted(each.result for each in done) == [Result.FAILED, Result.FETCHED]
        assert any("bug: IndexError at test_resync.py" in str(each.reason) for each in done)
        assert (await rig.repo(other))[0] == "active"

        culprits.add(other.did)
        tag(rig, other)
        await rig.hear()
        assert (await rig.repo(other))[0] == "desynchronized"
        assert await rig.rows("SELECT reason FROM dead_letter") == [("bug",)]
        with pytest.raises(AssertionError, match="beyond the end"):
            assert_no_bugs(rig.path)

        culprits.clear()
        assert {each.result for each in await rig.work(ahead_s=86_400)} == {Result.FETCHED}
        assert_equal(rig)


async def test_a_bug_over_a_sync_costs_its_repo_and_not_the_process(tmp_path: Path):
    class BrokenClock(AdvancedClock):
        def now(self) -> float:
            raise IndexError("beyond the end")

    async with Devnet(seed=5) as net, open_rig(net, tmp_path) as rig:
        account = await net.create_account()
        tag(rig, account)
        await rig.hear()
        await rig.work()
        net.import_records(account, 1, [TAG])
        raws = [RawFrame.decoded(each.frame) for each in net.relay.stream.after(rig.heard, 10)]
        keys = await rig.live.signing_keys([account.did])
        syncs = [raw for raw in raws if raw.frame.type == "#sync"]
        events = replace(rig.verifier, clock=BrokenClock()).events(syncs, keys)
        await rig.live.apply(EventBatch(url="ws://relay", events=events, seq=None, event_at=None))
        assert (await rig.repo(account))[0] == "desynchronized"
        assert await rig.rows("SELECT reason FROM dead_letter") == [("bug",)]
