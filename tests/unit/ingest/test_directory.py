"""The directory's log, read from a devnet that hides changes from the stream and lies."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from indexer.ingest.directory import NOT_OFFERED_S
from indexer.model import GapReason, GapSeen
from indexer.planning import EventBatch, Policy
from storage.directory import DirectoryStore
from storage.due_times import DueTimeUpkeep
from storage.tracked import TrackedRepos
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.keys import derive_key, multibase
from tests.devnet.plc import audit_entry
from tests.oracle import assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(9)
EXPORT = "plc.export"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=12) as net, open_rig(net, tmp_path) as opened:
        yield opened


async def followed(rig: Rig) -> Account:
    account = await rig.net.create_account()
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    await rig.work()
    await rig.directory.go_on()
    return account


def requests(rig: Rig) -> int:
    return rig.net.plc_server.requests[EXPORT]


async def read_again(rig: Rig, *, after_s: float = 61.0) -> None:
    rig.clock.monotonic_ahead_s += after_s
    rig.clock.ahead_s += after_s
    await rig.directory.go_on()


async def is_stale(rig: Rig, account: Account) -> bool:
    return bool((await rig.repo(account))[3] & 1)


def new_key(rig: Rig, account: Account) -> str:
    """Another signing key in the directory, of which the stream says nothing."""
    key = derive_key("k256", "another", account.did)
    rig.net.plc.change(account.did, key=key)
    return multibase(key)


async def test_a_key_that_changed_without_an_event_becomes_stale_and_is_resolved(rig: Rig):
    account = await followed(rig)
    assert not await is_stale(rig, account)
    key = new_key(rig, account)
    await read_again(rig)
    assert await is_stale(rig, account)
    await rig.work(ahead_s=61.0)
    assert await rig.rows("SELECT signing_key FROM repo") == [(key,)]
    await read_again(rig)
    assert not await is_stale(rig, account)  # the same operation is no news a second time


async def test_what_changes_while_a_handle_is_verified_is_news_to_the_document_from_before(
    rig: Rig,
):
    account = await rig.net.create_account()
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    changed = []

    def verified_slowly(handle: str) -> str | None:
        if not changed:
            changed.append(new_key(rig, account))
            rig.clock.ahead_s += 10.0
            rig.clock.monotonic_ahead_s += 10.0
        return rig.net.resolve_handle(handle)

    for pds in rig.net.pds:
        pds._resolve = verified_slowly
    await rig.work()
    assert changed
    await rig.directory.go_on()
    assert await is_stale(rig, account)


async def test_a_tombstone_in_the_log_ends_in_a_purge_once_the_directory_confirms_it(rig: Rig):
    account = await followed(rig)
    rig.net.plc.tombstone(account.did)
    await read_again(rig)
    await rig.work(ahead_s=61.0)
    assert (await rig.repo(account))[:2] == ("deleted", "deleted")
    assert await rig.rows("SELECT count(*) FROM record") == [(0,)]


async def test_changes_of_strangers_and_of_what_is_known_cost_nothing(rig: Rig):
    account = await followed(rig)
    await rig.net.create_account()
    rig.net.plc.publish(rig.net.plc.identity(account.did))
    await read_again(rig)
    assert await rig.rows("SELECT count(*) FROM repo WHERE wanted <> 0") == [(0,)]


async def test_the_log_is_read_at_most_once_an_interval_from_a_durable_position(rig: Rig):
    await followed(rig)
    asked = requests(rig)
    await rig.directory.go_on()
    assert requests(rig) == asked
    (before,) = await rig.rows("SELECT since_ms, after_ms FROM directory_cursor")
    await rig.net.create_account()
    await read_again(rig)
    (after,) = await rig.rows("SELECT since_ms, after_ms FROM directory_cursor")
    assert requests(rig) == asked + 1
    assert before[0] == after[0] and after[1] >= before[1]


async def test_more_than_a_page_is_read_page_by_page_and_nothing_is_left_out(rig: Rig):
    account = await followed(rig)
    stranger = rig.net.plc.identity((await rig.net.create_account()).did)
    for _ in range(2100):
        rig.net.plc.publish(stranger)
    new_key(rig, account)
    asked = requests(rig)
    await read_again(rig)
    for _ in range(3):
        await rig.directory.go_on()
    assert await is_stale(rig, account)
    assert requests(rig) - asked <= 4


def lines(rig: Rig, account: Account) -> list[bytes]:
    return [json.dumps(audit_entry(entry)).encode() for entry in rig.net.plc.logs[account.did]]


@pytest.mark.parametrize("where", ["first", "middle"])
async def test_a_garbage_line_does_not_hide_the_lines_behind_it(rig: Rig, where: str):
    account = await followed(rig)
    logs = rig.net.plc.logs
    other = await rig.net.create_account()
    stranger = lines(rig, other)
    new_key(rig, account)
    # What was made in the very millisecond of the last line before the garbage is passed over.
    while logs[account.did][-1].created_at == logs[other.did][-1].created_at:
        new_key(rig, account)
    garbage = [b'{"did": 7}']
    body = garbage + stranger if where == "first" else stranger + garbage
    lie = rig.net.faults.schedule(
        FaultKind.HTTP_BODY,
        times=4,
        endpoint=EXPORT,
        body=b"\n".join(body + lines(rig, account)[-1:]),
    )
    for _ in range(5):
        await read_again(rig, after_s=3700.0)
    assert lie.fired == 4
    assert await is_stale(rig, account)


async def test_an_operation_at_the_end_of_time_does_not_end_the_reading(rig: Rig):
    account = await followed(rig)
    last = json.loads(lines(rig, account)[-1]) | {"createdAt": "9999-12-31T23:59:59.9999Z"}
    lie = rig.net.faults.schedule(
        FaultKind.HTTP_BODY, endpoint=EXPORT, body=json.dumps(last).encode() + b"\n{"
    )
    await read_again(rig)
    assert lie.fired == 1
    asked = requests(rig)
    await rig.directory.go_on()  # the page was cut off, so it is read on from exactly there
    assert requests(rig) == asked + 1


HOUR_S = 3600.0
YEARS_S = 20 * 365 * 86_400.0


@contextmanager
def fast_directory(rig: Rig, ahead_s: float) -> Iterator[None]:
    """The directory's clock is fast, and is set right afterwards."""
    rig.net.plc.now = lambda: time.time() + ahead_s
    yield
    rig.net.plc.now = time.time


@pytest.mark.parametrize("ahead_s", [HOUR_S, YEARS_S])
async def test_lines_of_the_future_do_not_hide_those_that_are_written_after_them(
    rig: Rig, ahead_s: float
):
    account, other = await followed(rig), await followed(rig)
    with fast_directory(rig, ahead_s):
        new_key(rig, other)
    await read_again(rig)
    assert await is_stale(rig, other), "it may be true"
    new_key(rig, account)
    await read_again(rig)
    assert await is_stale(rig, account)
    await rig.work(ahead_s=61.0)
    assert_store_equals(rig.net, rig.path)


async def test_a_line_of_the_future_is_news_once_and_hides_no_other_of_its_did(rig: Rig):
    account = await followed(rig)
    held = rig.net.plc.identity(account.did)
    with fast_directory(rig, HOUR_S):
        rig.net.plc.publish(held)  # what we know already
    key = new_key(rig, account)
    await read_again(rig)
    assert await is_stale(rig, account)
    await rig.work(ahead_s=61.0)
    assert await rig.rows("SELECT signing_key FROM repo") == [(key,)]
    for _ in range(3):
        await read_again(rig)
        assert not await is_stale(rig, account)


async def test_pages_full_of_the_future_are_read_to_their_end_at_each_reading(rig: Rig):
    account = await followed(rig)
    stranger = rig.net.plc.identity((await rig.net.create_account()).did)
    with fast_directory(rig, HOUR_S):
        for _ in range(2100):
            rig.net.plc.publish(stranger)
    for _ in range(2):
        asked = requests(rig)
        await rig.database.write(lambda c: c.execute("UPDATE directory_cursor SET read_at = 0"))
        await read_again(rig)
        for _ in range(4):
            await rig.directory.go_on()
        assert requests(rig) - asked <= 4
        assert await rig.rows("SELECT read_at > 0 FROM directory_cursor") == [(1,)]
    new_key(rig, account)
    await read_again(rig)
    assert await is_stale(rig, account)


async def test_a_slow_clock_of_ours_does_not_hold_up_the_reading(rig: Rig):
    account = await followed(rig)
    rig.clock.ahead_s -= HOUR_S
    new_key(rig, account)
    await read_again(rig)
    ((after_ms,),) = await rig.rows("SELECT after_ms FROM directory_cursor")
    assert after_ms > (time.time() - 60.0) * 1000


async def test_a_fast_clock_of_ours_does_not_make_a_change_older_than_our_document(rig: Rig):
    rig.clock.ahead_s += 600.0
    account = await followed(rig)
    new_key(rig, account)
    await read_again(rig)
    assert await is_stale(rig, account)


@pytest.mark.parametrize("failures", [0, 2])  # a clock is set by a network that comes up late
@pytest.mark.parametrize("ahead_s", [YEARS_S, -YEARS_S])
async def test_a_reading_that_a_wrong_clock_of_ours_began_begins_again(
    rig: Rig, ahead_s: float, failures: int
):
    rig.clock.ahead_s += ahead_s
    away = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, times=failures, endpoint=EXPORT, status=503, error="Away"
    )
    for _ in range(failures + 1):
        await read_again(rig)
    assert away.fired == failures
    rig.clock.ahead_s -= ahead_s
    account = await followed(rig)
    new_key(rig, account)
    await read_again(rig)
    assert await is_stale(rig, account)
    ((since_ms,),) = await rig.rows("SELECT since_ms FROM directory_cursor")
    assert abs(since_ms / 1000 - time.time()) < HOUR_S


async def test_a_page_of_nullified_lines_is_read_past(rig: Rig):
    account = await followed(rig)
    stranger = await rig.net.create_account()
    for _ in range(1100):
        rig.net.plc.publish(rig.net.plc.identity(stranger.did))
    for entry in rig.net.plc.logs[stranger.did]:
        entry.nullified = True
    await asyncio.sleep(0.002)
    new_key(rig, account)
    await read_again(rig)
    for _ in range(3):
        await rig.directory.go_on()
    assert await is_stale(rig, account)


@pytest.mark.parametrize("is_last", [False, True])
async def test_a_line_that_stays_unreadable_is_passed_over_where_it_stands(rig: Rig, is_last: bool):
    account = await followed(rig)
    rig.net.plc.publish(rig.net.plc.identity(account.did))
    await asyncio.sleep(0.002)
    rig.net.plc.tombstone("did:plc:A?")
    await asyncio.sleep(0.002)
    if not is_last:
        new_key(rig, account)
    await rig.database.write(lambda c: c.execute("UPDATE directory_cursor SET read_at = 0"))
    for _ in range(8):
        await read_again(rig, after_s=300.0)
    assert await is_stale(rig, account) is not is_last
    assert await rig.rows("SELECT read_at > 0 FROM directory_cursor") == [(1,)]


async def test_a_page_that_was_cut_off_is_read_on_from_its_last_whole_line(rig: Rig):
    account = await followed(rig)
    new_key(rig, account)
    cut = rig.net.faults.schedule(FaultKind.HTTP_TRUNCATE, endpoint=EXPORT, fraction=0.7)
    await read_again(rig)
    for _ in range(3):
        await read_again(rig, after_s=3700.0)
    assert cut.fired
    assert await is_stale(rig, account)


async def test_a_directory_that_sends_us_away_is_left_alone_for_so_long(rig: Rig):
    await followed(rig)
    away = rig.net.faults.schedule(FaultKind.HTTP_429, endpoint=EXPORT, retry_after_s=300)
    await read_again(rig)
    asked = requests(rig)
    await read_again(rig)
    assert away.fired == 1 and requests(rig) == asked
    await read_again(rig, after_s=300.0)
    assert requests(rig) == asked + 1


async def lose(rig: Rig) -> None:
    gap = GapSeen(reason=GapReason.OUTDATED_CURSOR, before_seq=rig.heard + 1)
    await rig.live.apply(
        EventBatch(url="ws://relay", events=(), seq=rig.heard, event_at=None, gaps=(gap,))
    )


async def test_a_directory_without_a_log_is_asked_once_a_day_and_no_gap_waits_for_it(rig: Rig):
    none = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, times=None, endpoint=EXPORT, status=404, error="NotFound"
    )
    await followed(rig)
    for _ in range(3):
        await read_again(rig)
    assert none.fired == 1
    await lose(rig)
    await rig.repair.go_on()
    assert await rig.rows("SELECT repaired_at IS NULL FROM gap") == [(0,)]
    await read_again(rig, after_s=NOT_OFFERED_S)
    assert none.fired == 2


async def put_aside(rig: Rig) -> None:
    """Read the log to its end, and find then that it is not offered any more."""
    await read_again(rig)
    away = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, times=4, endpoint=EXPORT, status=404, error="NotFound"
    )
    for _ in range(4):
        await read_again(rig, after_s=600.0)
    assert away.fired == 4


async def is_repaired(rig: Rig) -> bool:
    return await rig.rows("SELECT repaired_at IS NULL FROM gap") == [(0,)]


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_log_that_was_away_for_a_day_is_read_on_from_where_it_was_left(
    rig: Rig, is_restarted: bool
):
    account = await followed(rig)
    await put_aside(rig)
    await lose(rig)
    await rig.repair.go_on()
    assert await is_repaired(rig), "it waits for the log"
    if is_restarted:
        rig.directory = rig.start_directory()
    new_key(rig, account)
    real = rig.net.plc.now
    rig.net.plc.now = lambda: real() + NOT_OFFERED_S
    await read_again(rig, after_s=NOT_OFFERED_S)
    await rig.directory.go_on()
    assert await is_stale(rig, account)


async def test_no_gap_waits_for_a_log_that_is_away_though_a_clock_is_set_back(rig: Rig):
    await followed(rig)
    upkeep = DueTimeUpkeep(rig.database, clock=rig.clock)
    await put_aside(rig)
    assert await upkeep.step() == 0
    rig.clock.ahead_s -= 3600.0
    while await upkeep.step():
        pass
    await lose(rig)
    await rig.repair.go_on()
    assert await is_repaired(rig)


async def test_no_gap_from_before_a_log_was_followed_waits_for_one_that_is_away(rig: Rig):
    await followed(rig)
    await put_aside(rig)
    now = rig.clock.now()

    def change(connection: sqlite3.Connection) -> None:
        later_ms = int((now + 30) * 1000)
        connection.execute("UPDATE directory_cursor SET since_ms = ?1, after_ms = ?1", (later_ms,))
        connection.execute("UPDATE firehose_cursor SET event_at = ?", (now - 120,))

    await rig.database.write(change)
    await lose(rig)
    await rig.repair.go_on()
    assert await rig.rows("SELECT since_ms / 1000 FROM directory_cursor") == [(int(now - 120),)]
    assert await is_repaired(rig)


async def test_a_gap_waits_for_a_log_that_is_offered_again_and_not_read_to_its_end(rig: Rig):
    await followed(rig)
    await put_aside(rig)
    rows = DirectoryStore(
        rig.database,
        TrackedRepos(rig.database),
        Policy(),
        plc_url=rig.net.plc_url,
        clock=rig.clock,
    )
    reading = await rows.reading()
    assert reading is not None
    await rows.take((), reading, reading.after_ms, ended_at=None)
    await lose(rig)
    await rig.repair.go_on()
    assert not await is_repaired(rig)


async def test_a_gap_waits_until_the_log_was_read_behind_it_and_asks_for_that_at_once(rig: Rig):
    account = await followed(rig)
    new_key(rig, account)
    await lose(rig)
    await rig.repair.go_on()
    assert await rig.rows("SELECT repaired_at IS NULL FROM gap") == [(1,)]
    await rig.directory.go_on()  # long before the interval has passed
    assert await is_stale(rig, account)
    await rig.repair.go_on()
    assert await rig.rows("SELECT repaired_at IS NULL FROM gap") == [(0,)]


async def test_a_gap_from_before_the_log_was_followed_has_it_read_from_there(rig: Rig):
    account = await followed(rig)
    await rig.rows("SELECT 1")
    new_key(rig, account)
    later_ms = int((rig.clock.now() + 30) * 1000)
    await rig.database.write(
        lambda connection: connection.execute(
            "UPDATE directory_cursor SET since_ms = ?1, after_ms = ?1", (later_ms,)
        )
    )
    await read_again(rig)
    assert not await is_stale(rig, account)
    await rig.database.write(
        lambda connection: connection.execute(
            "UPDATE firehose_cursor SET event_at = ?", (rig.clock.now() - 120,)
        )
    )
    await lose(rig)
    await rig.repair.go_on()
    await rig.directory.go_on()
    assert await is_stale(rig, account)
    await rig.work(ahead_s=61.0)
    assert_store_equals(rig.net, rig.path)
