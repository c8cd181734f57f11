"""Gap rows on a real file."""

from __future__ import annotations

import pytest

from indexer.model import FROM_NOW_ON, GapReason, GapSeen
from indexer.planning import EventBatch
from storage.gap_repair import GapRepairStore
from storage.gaps import OPEN_GAPS_MAX, GapListing
from storage.live import BACK_S_MAX
from storage.room import open_discovery_gap
from storage.status import StatusStore
from tests.storage.conftest import World, commit, put


def batch(url: str, seq: int | None, *gaps: GapSeen, at: float | None = None) -> EventBatch:
    return EventBatch(url=url, events=(), seq=seq, event_at=at, gaps=gaps)


async def test_the_first_stream_of_all_is_no_gap_and_the_first_event_of_the_next_is(world: World):
    assert not (await world.live.apply(batch("ws://one", 7, at=70.0))).gaps
    applied = await world.live.apply(batch("ws://two", 90_000, at=71.0))
    assert applied.gaps == {GapReason.RELAY_CHANGED: 1}
    rows = await world.rows("SELECT url, reason, after_seq, before_seq FROM gaps")
    assert rows == [("ws://two", "relay_changed", None, 90_000)]
    assert await world.rows("SELECT after_at, before_at FROM gap") == [(70.0, 71.0)]
    assert not (await world.live.apply(batch("ws://one", 8))).gaps
    assert not (await world.live.apply(batch("ws://two", 90_001))).gaps


async def test_a_stream_dialled_again_before_its_first_event_is_a_gap_once_there_are_repos(
    world: World,
):
    assert await world.live.begin_now("ws://one") == 0, "there was nothing to miss"
    await world.apply(commit("r0", None, put("a", "c1"), key=None))
    forget = "DELETE FROM firehose_cursor"
    await world.database.write(lambda connection: connection.execute(forget).rowcount)
    assert await world.live.load_cursor("ws://one") is None
    assert [await world.live.begin_now("ws://one") for _ in range(3)] == [1, 0, 0]
    assert await world.rows("SELECT reason, after_seq, before_seq FROM gaps") == [
        ("no_cursor", None, None)
    ]
    await world.database.write(lambda c: c.execute("UPDATE gap SET repaired_at = 1.0").rowcount)
    assert await world.live.begin_now("ws://one") == 1, "what came since the repair is missing too"
    world.clock.at += 1
    await world.live.apply(batch("ws://one", 7))
    assert await bounds(world) == [(None, None), (None, 7)]
    assert await world.live.begin_now("ws://two") == 0, "its first event shows that gap"


async def test_who_came_after_a_scan_that_found_nobody_is_missing_too(world: World):
    """The first scan of a network is made once, and the stream may bring nothing of them."""
    insert = "INSERT INTO first_scan VALUES (1, 1.0)"
    await world.database.write(lambda connection: connection.execute(insert).rowcount)
    assert await world.live.begin_now("ws://one") == 1


async def test_a_cursor_given_up_is_one_gap_until_it_is_repaired(world: World):
    await world.apply(commit("r0", None, put("a", "c1"), key=None))
    assert await world.live.reset_cursor("ws://relay", FROM_NOW_ON) == 1
    assert await world.live.begin_now("ws://relay") == 0
    await world.database.write(lambda c: c.execute("UPDATE gap SET repaired_at = 1.0").rowcount)
    assert await world.live.begin_now("ws://relay") == 1


@pytest.mark.parametrize("was_followed", [True, False])
async def test_a_stream_that_goes_on_from_its_present_after_another_is_a_gap(
    world: World, was_followed: bool
):
    if was_followed:
        await world.live.apply(batch("ws://two", 90_000, at=60.0))
    await world.live.apply(batch("ws://one", 7, at=70.0))
    await world.live.reset_cursor("ws://two", FROM_NOW_ON)
    if was_followed:
        await world.database.write(lambda c: c.execute("UPDATE gap SET repaired_at = 1.0").rowcount)
        world.clock.at += 1
        await world.live.apply(batch("ws://one", 8, at=71.0))
    world.clock.at += 1
    applied = await world.live.apply(batch("ws://two", 200_000, at=80.0))
    assert applied.gaps == {GapReason.RELAY_CHANGED: 1}
    last_at = 71.0 if was_followed else 70.0
    sql = "SELECT url, after_at, before_at FROM gap WHERE repaired_at IS NULL"
    assert await world.rows(sql) == [("ws://two", last_at, 80.0)]
    assert not (await world.live.apply(batch("ws://two", 200_001))).gaps


async def test_one_event_with_an_old_time_makes_the_next_gap_a_day_longer_at_most(world: World):
    now = world.clock.at
    await world.live.apply(batch("ws://one", 7, at=now - 60))
    await world.live.apply(batch("ws://one", 8, at=now - 80_000_000))
    assert await world.rows("SELECT event_at FROM firehose_cursor") == [(now - 60 - BACK_S_MAX,)]
    await world.live.apply(batch("ws://one", 30, GapSeen(reason=GapReason.OUTDATED_CURSOR)))
    assert await world.rows("SELECT after_at FROM gap") == [(now - 60 - BACK_S_MAX,)]


async def test_one_event_ahead_of_a_late_stream_does_not_cut_the_beginning_of_a_gap(world: World):
    """Nor does the place where the stream is pass for its present."""
    late = world.clock.at - 36_000
    await world.live.apply(batch("ws://one", 7, at=late))
    await world.live.apply(batch("ws://one", 8, at=world.clock.at))
    await world.live.apply(batch("ws://one", 9, at=late + 1))
    assert await world.rows("SELECT event_at FROM firehose_cursor") == [(late + 1,)]
    await world.live.apply(batch("ws://one", 30, GapSeen(reason=GapReason.OUTDATED_CURSOR)))
    assert await world.rows("SELECT after_at FROM gap") == [(late + 1,)]


async def test_a_time_that_a_fast_clock_has_let_pass_is_brought_back(world: World):
    now = world.clock.at
    world.clock.at += 80_000_000
    await world.live.apply(batch("ws://one", 7, at=world.clock.at))
    world.clock.at = now
    await world.live.apply(batch("ws://one", 8, at=now - 5))
    assert await world.rows("SELECT event_at FROM firehose_cursor") == [(now - 5,)]


async def test_a_gap_and_the_cursor_behind_it_are_one_transaction(world: World):
    await world.live.apply(batch("ws://one", 7))
    seen = GapSeen(reason=GapReason.OUTDATED_CURSOR, before_seq=20)
    assert (await world.live.apply(batch("ws://one", 25, seen))).gaps == {seen.reason: 1}
    assert await world.live.load_cursor("ws://one") == 25
    assert await world.rows("SELECT after_seq, before_seq FROM gap") == [(7, 20)]


async def test_gaps_are_listed_newest_first_page_by_page(world: World):
    for after in range(5):
        seen = GapSeen(
            reason=GapReason.QUARANTINED, after_seq=10 * after, before_seq=10 * after + 2
        )
        await world.live.apply(batch("ws://one", 10 * after + 5, seen))
    listing = GapListing(world.database)
    page = await listing.gaps(before=None, limit=2)
    assert [gap.after_seq for gap in page] == [40, 30]
    page = await listing.gaps(before=page[-1].id, limit=9)
    assert [gap.after_seq for gap in page] == [20, 10, 0]
    assert page[0].detected_at == world.clock.at and page[0].repaired_at is None


async def test_a_cursor_moved_ahead_is_a_gap_and_one_moved_back_is_none(world: World):
    await world.live.apply(batch("ws://one", 50, at=5.0))
    assert await world.live.reset_cursor("ws://one", 7) == 0
    assert await world.live.load_cursor("ws://one") == 7
    assert await world.live.reset_cursor("ws://one", 70) == 1
    assert await world.live.reset_cursor("ws://one", FROM_NOW_ON) == 1
    assert await world.live.load_cursor("ws://one", start=3) is None
    assert await world.rows("SELECT after_seq, reason FROM gaps ORDER BY id") == [
        (7, "cursor_reset"),
        (70, "cursor_reset"),
    ]
    assert await world.rows("SELECT cursor FROM firehose") == [(None,)]
    world.clock.at += 1
    assert not (await world.live.apply(batch("ws://one", 90))).gaps
    assert await world.rows("SELECT before_seq FROM gap") == [(90,), (90,)]


async def test_a_cursor_given_up_in_a_batch_is_a_gap_from_where_it_stood(world: World):
    await world.live.apply(batch("ws://one", 50))
    seen = GapSeen(reason=GapReason.FUTURE_CURSOR)
    assert (await world.live.apply(batch("ws://one", FROM_NOW_ON, seen))).gaps == {seen.reason: 1}
    assert await world.live.load_cursor("ws://one") is None
    assert await world.rows("SELECT after_seq, before_seq FROM gap") == [(50, None)]


def quarantined(after: int, before: int | None) -> GapSeen:
    return GapSeen(reason=GapReason.QUARANTINED, after_seq=after, before_seq=before)


async def bounds(world: World) -> list[tuple[int | None, int | None]]:
    return await world.rows("SELECT after_seq, before_seq FROM gap ORDER BY id")


async def test_gaps_that_touch_or_overlap_are_one_until_its_repair_begins(world: World):
    await world.live.apply(batch("ws://one", 5, at=5.0))
    for after, before, opened in ((10, 12, 1), (12, 15, 1), (13, 20, 1), (14, 16, 0), (21, 23, 1)):
        gap = quarantined(after, before)
        applied = await world.live.apply(batch("ws://one", before + 1, gap, at=float(before)))
        assert applied.gaps[gap.reason] == opened, (after, before)
    assert await bounds(world) == [(10, 20), (21, 23)]
    assert await GapRepairStore(world.database, world.tracked, clock=world.clock).survey([])
    await world.live.apply(batch("ws://one", 31, quarantined(23, 30)))
    # The same numbers again, from a relay that was set back: what was asked is older than that.
    await world.live.apply(batch("ws://one", 31, quarantined(14, 16)))
    assert await bounds(world) == [(10, 20), (21, 23), (23, 30), (14, 16)]
    await world.live.apply(batch("ws://two", 31, quarantined(30, 33)))
    assert (await bounds(world))[-1] == (30, 33)


async def test_open_gaps_of_a_stream_are_bounded_and_nothing_lost_is_left_out(world: World):
    opened = 0
    for after in range(0, 10 * (OPEN_GAPS_MAX + 30), 10):
        gap = quarantined(after, after + 2)
        opened += (await world.live.apply(batch("ws://one", after + 3, gap))).gaps[gap.reason]
    found = await bounds(world)
    assert len(found) == OPEN_GAPS_MAX and opened == OPEN_GAPS_MAX + 30
    assert found[-2:] == [
        (10 * (OPEN_GAPS_MAX - 2), 10 * (OPEN_GAPS_MAX - 2) + 2),
        (10 * (OPEN_GAPS_MAX - 1), 10 * (OPEN_GAPS_MAX + 29) + 2),
    ]
    assert await GapRepairStore(world.database, world.tracked, clock=world.clock).survey([])
    await world.live.apply(batch("ws://one", after + 3, quarantined(after + 5, None)))
    widest = "SELECT after_seq, before_seq, surveyed_at FROM gap ORDER BY id DESC LIMIT 1"
    assert await world.rows(widest) == [(found[-1][0], None, None)]
    world.clock.at += 1
    await world.live.apply(batch("ws://one", after + 9))
    assert (await bounds(world))[-1] == (found[-1][0], after + 9)


async def test_a_gap_that_is_to_be_repaired_once_more_is_open_all_the_while(world: World):
    """Where it went from the gauge at each dial the alarm, which takes an hour, would never come."""
    status = StatusStore(world.database, clock=world.clock, collections=())
    await world.apply(commit("r0", None, put("a", "c1"), key=None))
    forget = "DELETE FROM firehose_cursor"
    await world.database.write(lambda connection: connection.execute(forget).rowcount)
    assert await world.live.begin_now("ws://relay") == 1
    at = (world.clock.at,)
    await world.database.write(lambda c: c.execute("UPDATE gap SET surveyed_at = ?", at).rowcount)
    assert await world.live.begin_now("ws://relay") == 1
    assert await world.rows("SELECT surveyed_at, not_before > ? FROM gap", *at) == [(None, 1)]
    assert (await status.counts()).open_gaps == 1


async def test_a_gap_of_refused_newcomers_does_not_stand_for_one_of_the_stream(world: World):
    await world.apply(commit("r0", None, put("a", "c1"), key=None))
    await world.database.write(
        lambda connection: (
            connection.execute("DELETE FROM firehose_cursor"),
            open_discovery_gap(connection, "ws://relay", now=world.clock.at),
        )
    )
    assert await world.live.begin_now("ws://relay") == 1
