"""The live path from a scripted stream into a real store."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from indexer.derived import Projection
from indexer.errors import LocalFault
from indexer.ingest.continuity import RECONNECTS_MAX
from indexer.ingest.decoded import RELEVANT_MAX, DecodedBatch, event_at
from indexer.ingest.endings import ReconnectReason
from indexer.ingest.live import FUTURE_CURSOR_S
from indexer.ingest.portions import FRAME_BYTES_MAX, WRITES_MAX, portions
from indexer.ingest.verification import RawFrame
from indexer.model import GapReason, GapSeen, PreparedRecord
from indexer.planning import CommitSeen, EventBatch, FrameRefused, RecordWrite
from indexer.protocol.frame import Frame
from tests.devnet import Account, FaultKind
from tests.devnet.cbor import decode_at, encode
from tests.devnet.frames import (
    account_event,
    error_message,
    identity_event,
    info_message,
    message,
)
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.live_stage import URL, Stage, open_stage, tag
from tests.unit.ingest.scripted_relay import until

RNG = random.Random(7)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path) as opened:
        yield opened


async def followed(stage: Stage) -> Account:
    account = await stage.rig.net.create_account()
    tag(stage, account)
    await stage.send_all()
    await stage.rig.work()
    return account


async def test_frames_become_rows_and_the_cursor_is_that_of_the_last(stage: Stage):
    account = await followed(stage)
    for _ in range(20):
        tag(stage, account)
    await stage.send_all()
    assert_store_equals(stage.rig.net, stage.rig.path)
    assert_heads_equal(stage.rig.net, stage.rig.path)
    assert await stage.cursor() == stage.rig.net.relay.stream.last_seq


async def test_a_window_replayed_on_another_connection_changes_nothing(stage: Stage):
    account = await followed(stage)
    for _ in range(5):
        tag(stage, account)
    await stage.send_all()
    everything = "SELECT did, state, account_status, rev, data, claim, desyncs FROM repo"
    before = await stage.rig.rows(everything)
    stage.script.connection += 1
    await stage.send_all()
    assert await stage.rig.rows(everything) == before
    assert await stage.gaps() == []
    assert_store_equals(stage.rig.net, stage.rig.path)


async def test_frames_of_no_concern_still_move_the_cursor(stage: Stage):
    await stage.rig.net.create_account()
    await stage.send_all()
    assert await stage.cursor() == stage.rig.net.relay.stream.last_seq
    assert await stage.rig.rows("SELECT count(*) FROM repo") == [(0,)]


async def test_a_cursor_that_waits_is_not_lost_to_a_batch_without_one(stage: Stage):
    await stage.rig.net.create_account()
    stream = stage.rig.net.relay.stream
    await stage.script.send(entry.frame for entry in stream.after(0))
    await stage.script.send([info_message("Hello", "nothing")])
    await stage.script.send([b"\x00 no frame"])
    await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.POISON]
    assert await stage.cursor() == stream.last_seq


async def test_poison_costs_the_connection_once_and_then_only_itself(stage: Stage):
    account = await followed(stage)
    poison = stage.rig.net.faults.schedule(FaultKind.POISON_FRAME, did=account.did)
    tag(stage, account)
    stage.rig.net.emit_sync(account)
    await stage.send_all()
    assert stage.script.reconnects == [ReconnectReason.POISON]
    behind = await stage.cursor()
    await stage.send_all()
    assert poison.fired == 1
    assert behind is not None and behind < stage.rig.net.relay.stream.last_seq
    assert stage.script.reconnects == [ReconnectReason.POISON]
    assert await stage.cursor() == stage.rig.net.relay.stream.last_seq
    assert await stage.rig.rows("SELECT reason FROM dead_letters") == [("frame",)]
    await stage.rig.work(ahead_s=4000.0)
    assert_heads_equal(stage.rig.net, stage.rig.path)


async def test_only_the_same_bytes_again_are_kept_whole_and_what_is_behind_them_is_applied(
    stage: Stage,
):
    """Other bytes that cannot be read may be a broken connection's, as the first were."""
    account = await followed(stage)
    before = await stage.cursor() or 0
    tag(stage, account)
    (behind,) = (entry.frame for entry in stage.rig.net.relay.stream.after(before))
    poison, other = RNG.randbytes(200), RNG.randbytes(200)
    for frame in (poison, other):
        await stage.script.send([frame, behind])
        await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.POISON] * 2
    assert await stage.rig.rows("SELECT count(*) FROM dead_letters") == [(0,)]
    assert await stage.cursor() == before, "nothing behind them was taken from a broken stream"
    await stage.script.send([poison, behind])
    await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.POISON] * 2
    ((reason, letter),) = await stage.rig.rows("SELECT reason, message FROM dead_letters")
    assert (reason, str(letter).endswith(f"; 200 bytes: {poison.hex()}")) == ("frame", True)
    assert await stage.cursor() == before + 1
    assert_store_equals(stage.rig.net, stage.rig.path)
    refused = stage.metrics.registry.get_sample_value(
        "chive_verify_failures_total", {"check": "frame"}
    )
    assert refused == 3


async def test_a_stream_full_of_poison_does_not_reconnect_for_ever(stage: Stage):
    for number in range(RECONNECTS_MAX + 5):
        await stage.script.send([b"\x00 poison %d" % number])
        await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.POISON] * RECONNECTS_MAX
    letters = await stage.rig.rows("SELECT message FROM dead_letters ORDER BY id")
    frames = [b"\x00 poison %d" % number for number in range(RECONNECTS_MAX, RECONNECTS_MAX + 5)]
    for (letter,), frame in zip(letters, frames, strict=True):
        assert str(letter).endswith(f"; {len(frame)} bytes: {frame.hex()}")


async def test_of_a_long_frame_in_quarantine_the_beginning_is_shown(stage: Stage):
    poison = b"\xff" + RNG.randbytes(1_000_000)
    for _ in range(2):
        await stage.script.send([poison])
        await stage.drained()
    [(letter,)] = await stage.rig.rows("SELECT message FROM dead_letters")
    assert f"1000001 bytes: {poison[:300].hex()}" in str(letter)


async def test_a_cursor_that_was_reset_is_not_set_back_by_what_waited_to_be_saved(stage: Stage):
    """Whoever resets it waits for that; while the store is busy two at once would try to save it."""
    await followed(stage)
    cursor = await stage.cursor() or 0
    await stage.rig.database.write(lambda connection: connection.execute("PRAGMA busy_timeout=0"))
    stage.store.calls.clear()
    with closing(sqlite3.connect(stage.rig.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await stage.script.send([message("#labels", {"seq": cursor + 5, "labels": []})])
        draining = asyncio.create_task(stage.drained())
        await until(lambda: len(stage.store.calls) == 2)
    await draining
    await stage.rig.live.reset_cursor(URL, 3)
    stage.live.stop()
    await stage.task
    assert [batch.seq for batch in stage.store.calls[:2]] == [cursor + 5] * 2
    assert await stage.cursor() == 3


async def test_an_error_frame_gives_the_connection_up(stage: Stage):
    await stage.script.send([error_message("ConsumerTooSlow", "x" * 5000), b"\x00 unread"])
    await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.CONSUMER_TOO_SLOW]


async def test_an_error_of_any_name_gives_the_connection_up_and_is_logged_in_part(stage: Stage):
    with capture_logs() as logs:
        await stage.script.send([error_message("Nonsense" * 100, "x" * 500_000), b"\x00 unread"])
        await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.ERROR_FRAME]
    [told] = [each for each in logs if each["event"] == "firehose.error_received"]
    assert (len(told["error"]), len(told["message"])) == (100, 1000)


async def test_what_the_relay_says_in_words_of_the_future_changes_nothing(stage: Stage):
    account = await followed(stage)
    cursor = await stage.cursor() or 0
    states = "SELECT state, wanted, rev FROM repo"
    before = await stage.rig.rows(states)
    await stage.script.send(
        [
            info_message("Maintenance", "soon"),
            encode({"op": 7, "t": "#commit"}) + encode({"seq": cursor + 900}),
            message("#labels", {"labels": []}),
        ]
    )
    await stage.drained()
    assert stage.script.reconnects == [] and await stage.gaps() == []
    assert (await stage.cursor(), await stage.rig.rows(states)) == (cursor, before)
    await stage.script.send([message("#labels", {"seq": cursor + 5, "labels": []})])
    await stage.drained()
    assert await stage.cursor() == cursor + 5
    assert (await stage.rig.repo(account))[0] == "active"


async def test_numbers_that_are_left_out_are_no_gap(stage: Stage):
    account = await followed(stage)
    cursor = await stage.cursor() or 0
    frames = [identity_event(account.did, 0.0, account.handle).frame(cursor + n) for n in (9, 1000)]
    await stage.script.send(frames)
    await stage.drained()
    assert await stage.cursor() == cursor + 1000
    assert stage.script.reconnects == [] and await stage.gaps() == []
    skips = stage.metrics.registry.get_sample_value("chive_firehose_seq_skips_total")
    assert skips == 2


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon", ""])
async def test_an_absurd_time_of_an_event_changes_nothing_but_what_is_told_of_the_lag(
    stage: Stage, time: str
):
    account = await followed(stage)
    before = await stage.cursor() or 0
    tag(stage, account)
    (true,) = (entry.frame for entry in stage.rig.net.relay.stream.after(before))
    header, start = decode_at(true, 0)
    body, _ = decode_at(true, start)
    await stage.script.send([encode(header) + encode({**body, "time": time})])
    await stage.drained()
    assert await stage.cursor() == before + 1
    assert stage.script.reconnects == [] and not stage.doubt.is_raised
    assert_store_equals(stage.rig.net, stage.rig.path)
    assert_heads_equal(stage.rig.net, stage.rig.path)


@pytest.mark.parametrize("was_hidden", [True, False])
async def test_an_account_that_is_active_and_called_taken_down_is_shown(
    stage: Stage, was_hidden: bool
):
    account = await followed(stage)
    stage.rig.clock.ahead_s += 1.0  # later than the event of its creation
    if was_hidden:
        stage.rig.net.set_account_status(account, "deactivated")
        await stage.send_all()
        assert (await stage.rig.repo(account))[1] == "deactivated"
        stage.rig.net.set_account_status(account, "active")  # its host, which is asked
    at = stage.rig.clock.now() + 1.0
    body = account_event(account.did, at, "takendown").body | {"active": True, "seq": 10_000}
    with capture_logs() as logs:
        await stage.script.send([message("#account", body)])
        await stage.drained()
    told = [(each["event"], each["did"]) for each in logs if each["log_level"] == "warning"]
    assert told == [("account.status_contradicts", account.did)]
    assert (await stage.rig.repo(account))[1] == "active"
    assert (await stage.rig.rows("SELECT account_at FROM repo"))[0] == (pytest.approx(at, abs=0.1),)
    await stage.rig.work(ahead_s=61.0)
    assert_store_equals(stage.rig.net, stage.rig.path)


async def test_a_full_disk_delays_and_loses_nothing(stage: Stage):
    account = await followed(stage)
    stage.store.failures = 2
    tag(stage, account)
    await stage.send_all()
    assert stage.store.failures == 0
    assert stage.live.busy_reason is None
    assert_store_equals(stage.rig.net, stage.rig.path)


async def test_a_broken_store_ends_the_live_path(stage: Stage):
    account = await followed(stage)
    stage.store.failures, stage.store.error = 1, LocalFault("SQLITE_IOERR: write")
    tag(stage, account)
    entries = stage.rig.net.relay.stream.after(0)
    await stage.script.send(entry.frame for entry in entries)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(asyncio.shield(stage.task), 10)
    assert caught.group_contains(LocalFault)


async def test_what_was_received_before_the_stop_is_applied(stage: Stage):
    account = await followed(stage)
    for _ in range(10):
        tag(stage, account)
    entries = stage.rig.net.relay.stream.after(0)
    await stage.script.send(entry.frame for entry in entries)
    while not stage.script.queue.empty():
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    stage.live.stop()
    await asyncio.wait_for(stage.task, 10)
    assert_store_equals(stage.rig.net, stage.rig.path)
    assert await stage.cursor() == entries[-1].seq


async def test_a_cursor_that_is_outdated_is_one_gap_up_to_the_first_event(stage: Stage):
    account = await followed(stage)
    before = await stage.cursor()
    for _ in range(2):
        stage.script.connection += 1
        await stage.script.send([info_message("OutdatedCursor", "gone")])
        await stage.drained()
        assert await stage.gaps() == [("outdated_cursor", before, None)]
    tag(stage, account)
    tag(stage, account)
    await stage.script.send([stage.rig.net.relay.stream.after(before or 0)[-1].frame])
    await stage.drained()
    assert await stage.gaps() == [("outdated_cursor", before, (before or 0) + 2)]
    assert (await stage.rig.rows("SELECT after_at IS NULL, repaired_at FROM gaps"))[0] == (0, None)
    opened = stage.metrics.registry.get_sample_value(
        "chive_firehose_gaps_total", {"reason": "outdated_cursor"}
    )
    assert opened == 1


async def test_a_frame_in_quarantine_is_a_gap_between_its_neighbours(stage: Stage):
    account = await followed(stage)
    poison = stage.rig.net.faults.schedule(FaultKind.POISON_FRAME, did=account.did)
    tag(stage, account)
    stage.rig.net.emit_sync(account)
    await stage.send_all()
    assert poison.fired == 1
    assert await stage.gaps() == []
    await stage.send_all()
    newest = stage.rig.net.relay.stream.last_seq
    assert await stage.gaps() == [("quarantined", newest - 2, newest)]


async def test_frames_out_of_order_in_one_batch_come_in_order_on_the_next_connection(stage: Stage):
    account = await followed(stage)
    before = await stage.cursor() or 0
    for _ in range(3):
        tag(stage, account)
    first, second, third = (entry.frame for entry in stage.rig.net.relay.stream.after(before))
    await stage.script.send([first, third, second])
    await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.OUT_OF_ORDER]
    assert await stage.cursor() == before + 1
    await stage.send_all()
    await stage.rig.work()  # the replayed #identity asked for the document
    assert await stage.gaps() == []
    assert_store_equals(stage.rig.net, stage.rig.path)
    assert_heads_equal(stage.rig.net, stage.rig.path)


async def test_a_number_below_what_is_applied_is_a_gap_and_ends_the_connection(stage: Stage):
    account = await followed(stage)
    before = await stage.cursor() or 0
    tag(stage, account)
    tag(stage, account)
    first, second = (entry.frame for entry in stage.rig.net.relay.stream.after(before))
    stage.script.connection += 1
    await stage.script.send([second])
    await stage.drained()
    await stage.script.send([first])
    await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.OUT_OF_ORDER]
    assert await stage.gaps() == [("seq_regression", before, before + 2)]


async def test_a_relay_that_begins_anew_at_lower_numbers_without_a_word_is_a_gap(stage: Stage):
    account = await followed(stage)
    held = await stage.cursor() or 0
    stage.rig.net.relay.stream.rewind(0)
    tag(stage, account)  # is lost with the relay that it was sent to
    tag(stage, account)
    newest = stage.rig.net.relay.stream.last_seq
    stage.script.connection += 1
    await stage.script.send([stage.rig.net.relay.stream.after(newest - 1)[-1].frame])
    await stage.drained()
    assert newest < held and await stage.cursor() == newest
    assert await stage.gaps() == [("seq_regression", newest, held)]


async def test_a_relay_that_repeats_much_from_below_our_cursor_is_no_gap(stage: Stage):
    account = await followed(stage)
    for _ in range(2 * WRITES_MAX):
        tag(stage, account)
    await stage.send_all()
    held = await stage.cursor()
    *repeated, _ = (entry.frame for entry in stage.rig.net.relay.stream.after(0, 100_000))
    stage.script.connection += 1
    await stage.script.send(repeated)
    await stage.drained()
    assert await stage.cursor() == (held or 0) - 1
    assert await stage.gaps() == []


async def test_a_relay_that_never_keeps_the_order_is_followed_all_the_same(stage: Stage):
    await followed(stage)
    stream = stage.rig.net.relay.stream
    for _ in range(RECONNECTS_MAX + 2):
        await stage.rig.net.create_account()
        *_, older, newest = (entry.frame for entry in stream.after(0))
        await stage.script.send([newest, older])
        await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.OUT_OF_ORDER] * RECONNECTS_MAX
    assert await stage.cursor() == stream.last_seq
    assert {reason for reason, *_ in await stage.gaps()} == {"seq_regression"}


async def test_a_cursor_ahead_of_the_relay_is_held_and_said_and_the_next_relay_asked_in_the_end(
    stage: Stage,
):
    await followed(stage)
    before = await stage.cursor()
    await stage.script.send([error_message("FutureCursor", "ahead")])
    await stage.drained()
    assert stage.script.reconnects == [ReconnectReason.FUTURE_CURSOR]
    assert URL in (stage.live.held_reason or "") and not stage.script.is_moved_on
    stage.rig.clock.monotonic_ahead_s = FUTURE_CURSOR_S
    await stage.script.send([error_message("FutureCursor", "ahead")])
    await stage.drained()
    assert stage.script.is_moved_on
    # A process that is started anew does not know what this one was told.
    assert await stage.cursor() == before
    assert await stage.gaps() == [("future_cursor", before, None)]
    await stage.rig.net.create_account()
    newest = stage.rig.net.relay.stream.last_seq
    await stage.script.send([stage.rig.net.relay.stream.after(newest - 1)[-1].frame])
    await stage.drained()
    assert stage.live.held_reason is None
    # What it has sent below our cursor since it was set back, nobody has seen.
    assert await stage.gaps() == [("future_cursor", before, newest)]


async def test_a_frame_that_comes_again_is_no_gap(stage: Stage):
    account = await followed(stage)
    tag(stage, account)
    newest = stage.rig.net.relay.stream.after(0)[-1].frame
    await stage.script.send([newest, newest])
    await stage.script.send([newest])
    await stage.drained()
    assert stage.script.reconnects == [] and await stage.gaps() == []


def commit(seq: int, writes: int) -> CommitSeen:
    row = RecordWrite("c/x", None)
    return CommitSeen(
        did=f"did:plc:{seq}", seq=seq, rev="r", since=None, frame=b"", writes=(row,) * writes
    )


def test_a_large_batch_is_applied_in_parts_whose_cursor_never_runs_ahead():
    error = FrameRefused(did=None, seq=None, frame=b"", error=None)
    events = [error, *(commit(n, (n * 37) % 200) for n in range(1, 60))]
    batch = EventBatch(url=URL, events=events, seq=99, event_at=5.0)
    parts = list(portions(batch))
    assert [event for part in parts for event in part.events] == events
    for part in parts[:-1]:
        assert part.seq == part.events[-1].seq
        rows = sum(1 + len(getattr(event, "writes", ())) for event in part.events)
        assert rows <= WRITES_MAX
    assert (parts[-1].seq, parts[-1].event_at) == (99, 5.0)
    assert len(parts) > 10


def test_large_frames_are_few_in_a_part():
    size = FRAME_BYTES_MAX // 3
    events = [msgspec.structs.replace(commit(n, 1), frame=bytes(size)) for n in range(1, 11)]
    batch = EventBatch(url=URL, events=events, seq=10, event_at=5.0)
    assert [len(part.events) for part in portions(batch)] == [3, 3, 3, 1]


def test_records_with_many_side_rows_are_few_in_a_part():
    rows = Projection(row=(), side_rows={"side": (("x",),) * 500}, marks=(), search=None)
    record = PreparedRecord("c/x", "cid", "{}", None, rows)
    event = msgspec.structs.replace(commit(1, 1), writes=(RecordWrite("c/x", record),) * 2)
    batch = EventBatch(url=URL, events=[event] * 6, seq=1, event_at=5.0)
    assert [len(part.events) for part in portions(batch)] == [2, 2, 2]


def test_a_batch_without_events_is_one_part():
    batch = EventBatch(url=URL, events=(), seq=7, event_at=None)
    assert [part.seq for part in portions(batch)] == [7]


def test_a_batch_of_many_frames_of_ours_is_proved_in_parts_whose_cursor_never_runs_ahead():
    gap = GapSeen(reason=GapReason.OUTDATED_CURSOR)
    refused = FrameRefused(did=None, seq=None, frame=b"", error=None)
    ours = [RawFrame(Frame("#commit", 3 * n, "did:plc:a", {}), b"") for n in range(1, 1202)]
    batch = DecodedBatch(URL, 4, 0.0, relevant=ours, seq=9999, event_at=5.0, gaps=[gap])
    batch.refused.append(refused)
    batch.counts["#commit"] = 5000
    parts = list(batch.parts())
    assert [raw for part in parts for raw in part.relevant] == ours
    assert [len(part.relevant) for part in parts] == [RELEVANT_MAX, RELEVANT_MAX, 201]
    assert [part.seq for part in parts] == [1500, 3000, 9999]
    assert [part.event_at for part in parts] == [None, None, 5.0]
    assert [part.gaps for part in parts] == [[gap], [], []]
    assert [part.refused for part in parts] == [[refused], [], []]
    assert {part.era for part in parts} == {4}
    assert sum(part.counts["#commit"] for part in parts) == 5000


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600.0),
        ("9999-12-31T23:59:59.999999Z", 1_800_000_000.0),  # no later than now
        ("0001-01-01T00:00:00Z", None),
        ("2000-01-01T00:00:00Z", None),
        ("yesterday", None),
        (5, None),
    ],
)
def test_the_time_of_an_event_counts_where_it_can_be_one(time: object, at: float | None):
    assert event_at(time, now=1_800_000_000.0) == at
