"""Fetches of repos with little in scope, against the devnet: what was asked for and what came."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.ingest.attempts import Result
from indexer.ingest.sparse import RESTARTS_MAX
from tests.devnet import Account, Change, Devnet, FaultKind, realistic_record
from tests.devnet.car import write_car
from tests.devnet.mst import build
from tests.devnet.records import FOREIGN
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
PROOF = "com.atproto.sync.getRecord"
BLOCKS = "com.atproto.sync.getBlocks"
FOREIGN_RECORDS = 4000
IN_SCOPE = 20


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=5, pds_count=1) as net, open_rig(net, tmp_path) as opened:
        yield opened


def foreign(count: int):
    """Posts on both sides of the scope, always under the same keys."""
    for number in range(count):
        collection = FOREIGN if number % 4 else "site.standard.document"
        yield f"{collection}/r{number:06}", {"$type": collection, "text": f"post {number}"}


def in_scope(count: int):
    rng = random.Random(3)
    for number in range(count):
        yield f"{TAG}/r{number:06}", realistic_record(rng, TAG)


async def large(rig: Rig, tags: int = IN_SCOPE, others: int = FOREIGN_RECORDS) -> Account:
    """An account whose large repo nobody has fetched yet."""
    account = await rig.net.create_account()
    records = [*foreign(others), *in_scope(tags)]
    rig.net.import_records(account, records=records, announce=False)
    return account


def write(rig: Rig, account: Account, rkey: str | None = None) -> str:
    value = realistic_record(random.Random(rkey), TAG, did=account.did)
    return rig.net.create(account, TAG, value, rkey).rkey


def rewrite(rig: Rig, account: Account) -> None:
    """Change every record in scope, so that no node or record of before is left there."""
    rng = random.Random(rig.net.repo(account).rev)
    paths = [path for path in rig.net.repo(account).paths if path.startswith(TAG)]
    changes = [
        Change("update", TAG, path.partition("/")[2], realistic_record(rng, TAG)) for path in paths
    ]
    rig.net.apply_writes(account, changes)


async def discover(rig: Rig, account: Account) -> list[Result]:
    write(rig, account)
    await rig.hear()
    return [done.result for done in await rig.work()]


def assert_equal(rig: Rig) -> None:
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


def counted(rig: Rig, name: str, **labels: str) -> float:
    found = rig.metrics.registry.get_sample_value(name, labels)
    assert found is not None, (name, labels)
    return found


def resyncs(rig: Rig, method: str) -> float:
    return counted(rig, "chive_resyncs_total", result="fetched", method=method)


async def test_a_large_repo_with_little_in_scope_is_walked(rig: Rig):
    account = await large(rig)
    assert await discover(rig, account) == [Result.FETCHED]
    assert_equal(rig)
    assert await rig.rows("SELECT count(*) FROM record") == [(IN_SCOPE + 1,)]
    assert rig.archives_sent() == rig.bytes_fetched("car") == 0
    assert rig.asked("getRecord") == 1
    assert rig.asked("getBlocks") < 8
    assert 0 < rig.bytes_fetched("sparse") < len(rig.net.car(account)) / 20
    assert (resyncs(rig, "sparse"), resyncs(rig, "car")) == (1, 0)


async def test_a_repo_with_nothing_in_scope_is_proved_to_have_nothing(rig: Rig):
    account = await large(rig, tags=0)
    rkey = write(rig, account)
    rig.net.delete(account, TAG, rkey)
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]
    assert rig.archives_sent() == 0
    assert_equal(rig)


async def test_a_small_repo_is_fetched_whole_after_one_proof(rig: Rig):
    account = await large(rig, others=50)
    assert await discover(rig, account) == [Result.FETCHED]
    assert [rig.asked(name) for name in ("getRecord", "getBlocks", "getRepo")] == [1, 0, 1]
    assert (resyncs(rig, "sparse"), resyncs(rig, "car")) == (0, 1)
    assert_equal(rig)


async def test_a_repo_with_much_in_scope_is_fetched_whole_before_much_was_walked(rig: Rig):
    account = await large(rig, tags=4000, others=2000)
    assert await discover(rig, account) == [Result.FETCHED]
    assert rig.archives_sent() == 1
    assert rig.asked("getBlocks") <= 4
    assert rig.bytes_fetched("sparse") < rig.bytes_fetched("car") / 20
    assert await rig.rows("SELECT count(*) FROM record") == [(4001,)]


async def test_a_walk_brings_only_records_that_we_do_not_hold(rig: Rig):
    account = await large(rig)
    wide = {**realistic_record(random.Random(1), TAG), "note": "x" * 100_000}
    rig.net.create(account, TAG, wide, "wide")
    await discover(rig, account)
    first = rig.bytes_fetched("sparse")
    assert first > 100_000
    lost = rig.net.faults.schedule(FaultKind.SWALLOW_FRAME, did=account.did, times=2)
    rig.net.delete(account, TAG, "r000003")
    write(rig, account, "new")
    write(rig, account, "newer")
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert lost.fired == 2
    assert rig.bytes_fetched("sparse") - first < 50_000
    assert (rig.archives_sent(), resyncs(rig, "sparse")) == (0, 2)
    assert_equal(rig)


async def moved_during_walk(rig: Rig, account: Account, times: int) -> list[Result]:
    """Discover it while all that is in scope changes at so many of the requests for blocks."""
    write(rig, account)
    await rig.hear()
    slow = rig.net.faults.schedule(FaultKind.HTTP_DELAY, endpoint=BLOCKS, seconds=0.3, times=times)
    attempt = asyncio.create_task(rig.work())
    for number in range(times):
        await rig.net.faults.wait_fired(slow, number + 1)
        rewrite(rig, account)
        await rig.hear()
    return [done.result for done in await attempt]


async def test_a_repo_that_moves_on_is_walked_again_from_its_new_commit(rig: Rig):
    account = await large(rig)
    assert await moved_during_walk(rig, account, 1) == [Result.FETCHED]
    assert (rig.asked("getRecord"), rig.archives_sent()) == (2, 0)
    assert await rig.rows("SELECT count(*) FROM pending_commit") == [(0,)]
    assert_equal(rig)


async def test_a_repo_that_keeps_moving_is_fetched_whole_in_the_same_attempt(rig: Rig):
    account = await large(rig)
    assert await moved_during_walk(rig, account, RESTARTS_MAX + 1) == [Result.FETCHED]
    assert (rig.asked("getRecord"), rig.archives_sent()) == (RESTARTS_MAX + 1, 1)
    assert_equal(rig)


async def test_a_record_that_is_gone_when_its_turn_comes_starts_the_walk_anew(rig: Rig):
    account = await large(rig)
    # A key decides where in the tree its record hangs: the same one twice, for as many rounds.
    write(rig, account, "r900000")
    await rig.hear()
    proof = rig.net.faults.schedule(FaultKind.HTTP_DELAY, endpoint=PROOF, seconds=0.0)
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert proof.fired == 1
    rounds = rig.asked("getBlocks")
    other = await large(rig)
    write(rig, other, "r900000")
    await rig.hear()
    last = rig.net.faults.schedule(
        FaultKind.HTTP_DELAY, endpoint=BLOCKS, did=other.did, skip=rounds - 1, seconds=0.3
    )
    attempt = asyncio.create_task(rig.work())
    await rig.net.faults.wait_fired(last)
    rig.net.delete(other, TAG, "r000000")
    await rig.hear()
    assert [done.result for done in await attempt] == [Result.FETCHED]
    assert (rig.asked("getRecord"), rig.archives_sent()) == (3, 0)
    assert_equal(rig)


@pytest.mark.parametrize(
    ("endpoint", "kind", "params", "failure"),
    [
        (BLOCKS, FaultKind.CAR_WRONG_HASH, {}, "block_hash"),
        (PROOF, FaultKind.CAR_WRONG_HASH, {}, "block_hash"),
        (BLOCKS, FaultKind.CAR_MISSING_BLOCK, {}, None),
        (PROOF, FaultKind.CAR_MISSING_BLOCK, {"index": 1}, "not_invertible"),
        (BLOCKS, FaultKind.HTTP_TRUNCATE, {}, "car"),
        (PROOF, FaultKind.HTTP_HTML, {}, "car"),
        (BLOCKS, FaultKind.ENDLESS_BODY, {"size_max": 20_000_000}, "limits"),
        (BLOCKS, FaultKind.HTTP_STATUS, {"status": 500}, None),
        (PROOF, FaultKind.HTTP_RESET, {"at": 20}, None),
    ],
)
async def test_a_walk_that_is_answered_wrongly_gives_way_to_the_archive(
    rig: Rig, endpoint: str, kind: FaultKind, params: dict[str, object], failure: str | None
):
    account = await large(rig)
    fault = rig.net.faults.schedule(kind, endpoint=endpoint, **params)
    assert await discover(rig, account) == [Result.FETCHED]
    assert (fault.fired, rig.archives_sent(), resyncs(rig, "car")) == (1, 1, 1)
    if failure is not None:
        assert counted(rig, "chive_verify_failures_total", check=failure) == 1
    assert_equal(rig)
    # One bad answer says nothing of what the host offers.
    assert await discover(rig, await large(rig)) == [Result.FETCHED]
    assert (rig.archives_sent(), resyncs(rig, "sparse")) == (1, 1)


async def test_a_proof_of_another_repo_is_refused(rig: Rig):
    other = await large(rig, tags=3)
    assert await discover(rig, other) == [Result.FETCHED]
    account = await large(rig)
    repo = rig.net.repo(other)
    body = write_car([repo.commit_cid], repo.record_proof(f"{TAG}/r000000"))
    lie = rig.net.faults.schedule(FaultKind.HTTP_BODY, endpoint=PROOF, body=body)
    assert await discover(rig, account) == [Result.FETCHED]
    assert (lie.fired, rig.archives_sent()) == (1, 1)
    assert counted(rig, "chive_verify_failures_total", check="commit") == 1
    assert_equal(rig)


async def test_a_proof_of_an_older_commit_starts_the_walk_anew(rig: Rig):
    account = await large(rig)
    repo = rig.net.repo(account)
    body = write_car([repo.commit_cid], list(repo.record_proof(f"{TAG}/r000000")))
    rewrite(rig, account)
    stale = rig.net.faults.schedule(FaultKind.HTTP_BODY, endpoint=PROOF, body=body)
    assert await discover(rig, account) == [Result.FETCHED]
    assert (stale.fired, rig.asked("getRecord"), rig.archives_sent()) == (1, 2, 0)
    assert_equal(rig)


async def test_nodes_that_hide_a_record_or_show_another_neighbour_are_not_what_was_asked_for(
    rig: Rig,
):
    """Sound blocks of a tree without the record: their hashes are not those of the true nodes."""
    account = await large(rig)
    write(rig, account, "last")
    repo = rig.net.repo(account)
    pairs = [(path.encode(), cid) for path, cid in repo.records.items() if path != f"{TAG}/r000007"]
    false = build(pairs)
    false.seal()
    nodes = [(node.cid, node.block) for node in false.nodes()]
    commit = (repo.commit_cid, repo.commit_block)
    lies = [
        rig.net.faults.schedule(FaultKind.HTTP_BODY, endpoint=PROOF, body=body)
        for body in [write_car([commit[0]], [commit, *nodes])]
    ]
    lies.append(
        rig.net.faults.schedule(FaultKind.HTTP_BODY, endpoint=BLOCKS, body=write_car([], nodes))
    )
    await rig.hear()
    assert [done.result for done in await rig.work()] == [Result.FETCHED]
    assert [lie.fired for lie in lies] == [1, 0]  # without a true path there is nothing to judge by
    assert rig.archives_sent() == 1
    assert_equal(rig)
    again = await large(rig)
    assert await discover(rig, again) == [Result.FETCHED]
    assert [lie.fired for lie in lies] == [1, 1]
    assert rig.archives_sent() == 2
    assert_equal(rig)


@pytest.mark.parametrize("endpoint", [PROOF, BLOCKS])
@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, "InvalidRequest", f"No service configured for {BLOCKS}"),
        (404, "NotFound", "Not Found"),
        (501, "MethodNotImplemented", "Method Not Implemented"),
        (401, "AuthMissing", "Authentication Required"),
    ],
)
async def test_a_host_that_does_not_offer_the_methods_is_remembered(
    rig: Rig, endpoint: str, status: int, error: str, message: str
):
    refusal = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, endpoint=endpoint, status=status, error=error, message=message,
        times=None,
    )  # fmt: skip
    for number in (1, 2, 3):
        assert await discover(rig, await large(rig, tags=3, others=2000)) == [Result.FETCHED]
        assert rig.archives_sent() == number
        assert refusal.fired == 1
    assert rig.asked("getRecord") == (1 if endpoint == PROOF else 2)
    assert_equal(rig)


async def test_a_host_that_asks_to_be_left_alone_is_not_asked_for_the_archive(rig: Rig):
    account = await large(rig)
    limit = rig.net.faults.schedule(FaultKind.HTTP_429, endpoint=BLOCKS, retry_after_s=100)
    assert await discover(rig, account) == [Result.FAILED]
    assert (limit.fired, rig.archives_sent()) == (1, 0)
    assert counted(rig, "chive_resyncs_total", result="failed", method="sparse") == 1


async def test_a_migrated_repo_is_walked_by_the_key_it_had(tmp_path: Path):
    async with Devnet(seed=5, pds_count=2) as net, open_rig(net, tmp_path) as rig:
        account = await large(rig)
        write(rig, account)
        net.migrate(account, 1)
        await rig.hear()
        assert [done.result for done in await rig.work()][-1] in {Result.FETCHED, Result.CURRENT}
        assert (rig.archives_sent(), resyncs(rig, "sparse")) == (0, 1)
        assert net.plc_server.requests["plc.audit"] == 1
        assert_equal(rig)


@pytest.mark.slow
async def test_twenty_records_among_a_hundred_thousand_cost_a_thousandth_of_the_archive(rig: Rig):
    account = await large(rig, others=100_000)
    assert await discover(rig, account) == [Result.FETCHED]
    assert_equal(rig)
    assert await rig.rows("SELECT count(*) FROM record") == [(IN_SCOPE + 1,)]
    archive_bytes = sum(len(block) + 38 for _, block in rig.net.repo(account).snapshot())
    share = rig.bytes_fetched("sparse") / archive_bytes
    requests = sum(rig.asked(name) for name in ("getRepoStatus", "getRecord", "getBlocks"))
    print(f"{rig.bytes_fetched('sparse'):.0f} of {archive_bytes} bytes, {requests} requests")
    assert share < 0.002
    assert requests < 10
    assert rig.archives_sent() == 0
