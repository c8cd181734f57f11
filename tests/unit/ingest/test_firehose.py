"""The endless stream over scripted relays: reconnects, waits, failover, pauses."""

import asyncio
import random
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog.testing
from scripted_relay import (
    DEADLINE_S,
    TEXT,
    ManualClock,
    ScriptedRelay,
    TopRandom,
    answering,
    binary,
    closing,
    frame,
    nothing_left_behind,  # noqa: F401 - an autouse fixture
    streaming,
    until,
)

from indexer.errors import Check, InvalidUpstream, LocalFault
from indexer.ingest.endings import ReconnectReason
from indexer.ingest.firehose import Firehose, FirehoseSettings, FrameBatch
from indexer.ingest.websocket import WebsocketSettings
from indexer.metrics import Metrics


class World:
    """A firehose on a manual clock, its cursors, and what it counted."""

    def __init__(self, *urls, rng=None, websocket=None, **settings):
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.cursors: dict[str, int] = {}
        self.dials: list[tuple[str, float]] = []  # (url, clock) of every attempt
        self.firehose = Firehose(
            settings=FirehoseSettings(
                urls=urls,
                user_agent="chive-indexer/test",
                websocket=WebsocketSettings(
                    **{"tick_s": 0.002, "batch_s": 0.002, "open_s": 5.0, **(websocket or {})}
                ),
                **settings,
            ),
            clock=self.clock,
            rng=rng or TopRandom(),
            metrics=self.metrics,
            load_cursor=self.load_cursor,
            check_url=self.check_url,
        )

    async def load_cursor(self, url):
        self.dials.append((url, self.clock.elapsed))
        return self.cursors.get(url)

    def check_url(self, url):
        if "forbidden" in url:
            raise InvalidUpstream(Check.HOST, "forbidden")

    def reconnects(self) -> dict[str, int]:
        """Reason -> count, of those that happened."""
        (family,) = self.metrics.firehose_reconnects.collect()
        return {
            sample.labels["reason"]: int(sample.value)
            for sample in family.samples
            if sample.name.endswith("_total") and sample.value
        }

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"chive_{name}")

    @property
    def gaps_s(self) -> list[float]:
        """Seconds of the clock between consecutive attempts."""
        times = [at for _, at in self.dials]
        return [later - earlier for earlier, later in pairwise(times)]

    async def next(self, batches, *, step_s: float = 0.0) -> FrameBatch:
        """The next batch; while it is awaited, the clock advances `step_s` every millisecond."""
        request = asyncio.ensure_future(anext(batches))
        try:
            await until(request.done, lambda: self.clock.advance(step_s))
            return request.result()
        finally:
            request.cancel()

    async def run_until(self, condition, *, step_s: float) -> list[float]:
        """Let a consumer that takes everything run until `condition`, the clock advancing.

        It stands still while a dial is on its way, whose own time limits it would use up. Returns
        the waits that were decided; no attempt came sooner.
        """
        with structlog.testing.capture_logs() as events:

            def advance() -> None:
                ended = sum(event["event"] == "firehose.disconnected" for event in events)
                if ended == len(self.dials):
                    self.clock.advance(step_s)

            async with consuming(self.firehose):
                await until(condition, advance)
        return self.waits_s(events)

    def waits_s(self, events) -> list[float]:
        waits = [e["retry_in_s"] for e in events if e["event"] == "firehose.disconnected"]
        if len({url for url, _ in self.dials}) == 1:
            assert all(gap >= wait for gap, wait in zip(self.gaps_s, waits, strict=False))
        return waits[: len(self.gaps_s)]


@asynccontextmanager
async def consuming(firehose, taken=None):
    """A task that takes every batch, into `taken` if given."""

    async def consume():
        async with aclosing(firehose.batches()) as batches:
            async for batch in batches:
                if taken is not None:
                    taken.append(batch)

    task = asyncio.create_task(consume())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def cursors_asked(relay) -> list[str | None]:
    return [parse_qs(urlsplit(path).query).get("cursor", [None])[0] for path in relay.paths]


# Resuming.


async def test_every_connection_asks_for_the_durable_cursor_of_that_moment():
    async with ScriptedRelay(streaming(binary(b"a", b"b") + closing(1000))) as relay:
        world = World(relay.url)
        async with aclosing(world.firehose.batches()) as batches:
            for cursor in (None, 17, 17, 40):
                if cursor is not None:
                    world.cursors[relay.url] = cursor
                assert (await world.next(batches, step_s=1)).frames == [b"a", b"b"]
        assert cursors_asked(relay) == [None, "17", "17", "40"]


async def test_batches_carry_the_url_and_a_number_that_rises_with_each_connection():
    async with ScriptedRelay(streaming(binary(*[b"x"] * 4) + closing(1000))) as relay:
        world = World(relay.url, websocket={"batch_frames": 2})
        async with aclosing(world.firehose.batches()) as batches:
            seen = [await world.next(batches, step_s=1) for _ in range(6)]
        assert [batch.connection for batch in seen] == [1, 1, 2, 2, 3, 3]
        assert {batch.url for batch in seen} == {relay.url}


async def test_an_error_of_the_cursor_ends_the_stream():
    async def broken(url):
        raise LocalFault("disk")

    world = World("ws://127.0.0.1:1")
    world.firehose._load_cursor = broken
    with pytest.raises(LocalFault, match="disk"):
        await anext(world.firehose.batches())


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1008, 1009, 1011, 1012, 1013, 4000, None])
async def test_the_stream_goes_on_after_every_close(code):
    # 1006 may not be sent: the peer then breaks the protocol, and the stream goes on all the same.
    async with ScriptedRelay(
        streaming(binary(b"before") + closing(code)), streaming(binary(b"after"))
    ) as relay:
        world = World(relay.url)
        async with aclosing(world.firehose.batches()) as batches:
            assert (await world.next(batches)).frames == [b"before"]
            assert (await world.next(batches, step_s=0.1)).frames == [b"after"]
        assert sum(world.reconnects().values()) == 1


async def reset(peer):
    await peer.upgrade()
    peer.reset()


async def test_the_stream_goes_on_after_whatever_can_go_wrong():
    async with ScriptedRelay(
        streaming(hold=False),
        reset,
        answering("500 Oops"),
        answering("429 Too Many Requests", "Retry-After: 3"),
        answering("404 Not Found"),
        answering("302 Found", "Location: http://forbidden.example/"),
        streaming(b"\xff\xff"),
        streaming(b"\x82\x7f" + (5_000_001).to_bytes(8, "big")),
        streaming(frame(TEXT) * 11),
        streaming(binary(b"at last")),
    ) as relay:
        world = World(relay.url)
        async with aclosing(world.firehose.batches()) as batches:
            received = await world.next(batches, step_s=5)
            while not received.frames:
                assert received.text_frames == 11
                received = await world.next(batches, step_s=5)
            assert received.frames == [b"at last"]
        assert len(relay.peers) == 10
        assert world.reconnects() == {
            "lost": 2,
            "handshake": 1,
            "throttled": 1,
            "refused": 1,
            "blocked": 1,
            "protocol": 1,
            "oversize": 1,
            "text_frames": 1,
        }


async def test_what_a_relay_writes_can_be_told_whatever_it_is():
    async def redirect(peer):
        head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://forbidden.example/\x9b"
        await peer.send(head + b"\r\n\r\n")

    async with ScriptedRelay(*[redirect] * 3) as relay:
        world = World(relay.url)
        await world.run_until(lambda: len(world.dials) == 2, step_s=5)
    trouble = world.firehose.trouble
    assert trouble.startswith("blocked: redirect to http://forbidden.example/?")
    assert trouble.isprintable()


async def test_of_a_relay_that_does_well_again_no_trouble_is_told():
    """An end that we choose would seem to have yesterday's reason."""
    told = []
    async with ScriptedRelay(answering("500 Oops"), streaming(binary(b"x") * 10)) as relay:
        world = World(relay.url, good_frames=10)

        def is_over() -> bool:
            told.append(world.firehose.trouble)
            return len(world.dials) == 2 and told[-1] is None

        await world.run_until(is_over, step_s=0.25)
    assert any(trouble is not None and "500" in trouble for trouble in told)


# Waiting.


async def test_a_relay_that_is_away_is_retried_with_doubling_waits_up_to_a_minute():
    world = World("ws://127.0.0.1:1")
    waits_s = await world.run_until(lambda: len(world.dials) == 10, step_s=2)
    assert waits_s == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert world.reconnects()["connect"] >= 9


async def test_a_relay_that_accepts_and_closes_is_backed_off_from_all_the_same():
    async with ScriptedRelay(streaming(binary(b"x") * 10 + closing(1000))) as relay:
        world = World(relay.url, good_frames=11)
        waits_s = await world.run_until(lambda: len(world.dials) == 6, step_s=0.25)
        assert waits_s == [1, 2, 4, 8, 16]


async def test_enough_good_frames_make_failures_forgotten():
    async with ScriptedRelay(
        *[answering("500 Oops")] * 4, streaming(binary(b"x") * 10 + closing(1000))
    ) as relay:
        world = World(relay.url, good_frames=10)
        waits_s = await world.run_until(lambda: len(world.dials) == 8, step_s=0.25)
        assert waits_s == [1, 2, 4, 8, 1, 1, 1]


async def test_waits_are_drawn_from_the_whole_range_and_are_a_minute_in_the_end():
    """A relay that stays away is dialled once a minute, and found again within one."""
    world = World("ws://127.0.0.1:1", rng=random.Random(7))
    waits_s = await world.run_until(lambda: len(world.dials) == 11, step_s=1)
    expected = random.Random(7)
    drawn = [round(expected.uniform(0, 2**n), 3) for n in range(6)]
    assert waits_s == [*drawn, 60, 60, 60, 60]


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        ("429 Too Many Requests", ["Retry-After: 90"], 90),
        ("503 Service Unavailable", ["Retry-After: 200"], 200),
        ("429 Too Many Requests", ["Retry-After: 315360000"], 3600),
        ("429 Too Many Requests", [], 60),
        ("403 Forbidden", [], 300),
        ("404 Not Found", [], 300),
        ("501 Not Implemented", [], 300),
    ],
)
async def test_a_relay_that_sends_us_away_is_left_alone_for_so_long(status, headers, wait_s):
    async with ScriptedRelay(answering(status, *headers)) as relay:
        world = World(relay.url)
        waits_s = await world.run_until(lambda: len(world.dials) == 3, step_s=wait_s / 10)
        assert waits_s == [wait_s] * 2


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
async def test_a_wall_clock_that_jumps_changes_no_wait(jump_s):
    async with ScriptedRelay(answering("404 Not Found")) as relay:
        world = World(relay.url)
        async with consuming(world.firehose):
            await until(lambda: world.reconnects() == {"refused": 1})
            world.clock.set_wall(world.clock.now() + jump_s)
            world.clock.advance(299)
            await asyncio.sleep(0.02)
            assert len(world.dials) == 1
            await until(lambda: len(world.dials) == 2, lambda: world.clock.advance(1))
        assert 300 <= world.gaps_s[0] < 320


# Failover.


async def test_after_enough_failures_the_next_url_is_followed_from_its_own_cursor():
    async with (
        ScriptedRelay(answering("500 Oops")) as first,
        ScriptedRelay(streaming(binary(b"second"))) as second,
    ):
        world = World(first.url, second.url, failures_before_next_url=3)
        world.cursors = {first.url: 100, second.url: 7}
        assert world.firehose.url == first.url
        async with aclosing(world.firehose.batches()) as batches:
            batch = await world.next(batches, step_s=0.05)
        assert (batch.url, batch.frames) == (second.url, [b"second"])
        assert world.firehose.url == second.url
        assert cursors_asked(first) == ["100"] * 3
        assert cursors_asked(second) == ["7"]
        assert world.gaps_s[-1] < 4  # a fresh relay is not made to wait for the first one's sake


async def test_a_relay_that_insists_on_a_future_cursor_is_left_only_when_the_consumer_says_so():
    frames = [streaming(binary(b"error")) for _ in range(4)]
    async with (
        ScriptedRelay(*frames) as first,
        ScriptedRelay(streaming(binary(b"second"))) as second,
    ):
        world = World(first.url, second.url, failures_before_next_url=2)
        async with aclosing(world.firehose.batches()) as batches:
            for number in range(4):
                assert (await world.next(batches, step_s=5)).frames == [b"error"]
                world.firehose.reconnect("future_cursor", next_url=number == 3)
            assert (await world.next(batches, step_s=5)).frames == [b"second"]
        assert world.reconnects()["future_cursor"] == 4


async def test_the_list_is_a_circle_and_each_url_keeps_its_own_backoff():
    world = World("ws://127.0.0.1:1", "ws://127.0.0.2:1", failures_before_next_url=2)
    await world.run_until(lambda: len(world.dials) == 8, step_s=0.25)
    assert [url[-3] for url, _ in world.dials] == ["1", "1", "2", "2", "1", "1", "2", "2"]
    first = [at for url, at in world.dials if url[-3] == "1"]
    # Two failures each: the second visit begins after the wait of the first and doubles on.
    for (earlier, later), ceiling_s in zip(pairwise(first), [1, 2, 4], strict=True):
        assert later - earlier >= ceiling_s


async def test_a_long_wait_imposed_by_one_relay_is_spent_on_another():
    async with (
        ScriptedRelay(answering("429 Too Many Requests", "Retry-After: 3600")) as first,
        ScriptedRelay(streaming(binary(b"second"))) as second,
    ):
        world = World(first.url, second.url)
        async with aclosing(world.firehose.batches()) as batches:
            assert (await world.next(batches)).url == second.url
        assert world.clock.elapsed == 0


async def test_of_two_relays_that_send_us_away_the_one_that_may_be_asked_sooner_is_next():
    async with (
        ScriptedRelay(answering("429 Too Many Requests", "Retry-After: 3600")) as first,
        ScriptedRelay(answering("404 Not Found")) as second,
    ):
        world = World(first.url, second.url)
        await world.run_until(lambda: len(world.dials) == 4, step_s=5)
        assert [url for url, _ in world.dials] == [first.url, second.url, second.url, second.url]


async def test_good_frames_keep_the_relay_although_it_often_closes():
    async with ScriptedRelay(streaming(binary(b"x") * 10 + closing(1000))) as first:
        world = World(first.url, "ws://127.0.0.1:1", failures_before_next_url=2, good_frames=10)
        await world.run_until(lambda: len(world.dials) == 6, step_s=0.25)
        assert {url for url, _ in world.dials} == {first.url}


async def test_a_relay_that_redirects_is_known_by_its_own_url_and_cursor():
    async with (
        ScriptedRelay(streaming(binary(b"x") + closing(1000))) as target,
        ScriptedRelay(
            answering("301 Moved Permanently", f"Location: http://127.0.0.1:{target.port}/stream")
        ) as relay,
    ):
        world = World(relay.url)
        async with aclosing(world.firehose.batches()) as batches:
            for cursor in (7, 8):
                world.cursors = {relay.url: cursor, target.url: 900}
                assert (await world.next(batches, step_s=1)).url == relay.url
        assert {url for url, _ in world.dials} == {relay.url}
        assert cursors_asked(target) == ["7", "8"]


# The consumer's own reconnects.


async def test_reconnect_drops_what_is_pending_and_dials_from_the_saved_cursor():
    async with ScriptedRelay(
        streaming(binary(b"good", b"poison", b"pending")), streaming(binary(b"again"))
    ) as relay:
        world = World(relay.url, websocket={"batch_frames": 2})
        world.cursors[relay.url] = 5
        async with aclosing(world.firehose.batches()) as batches:
            assert (await world.next(batches)).frames == [b"good", b"poison"]
            world.firehose.reconnect("poison")
            assert not world.firehose.is_connected
            batch = await world.next(batches, step_s=0.1)
        assert (batch.frames, batch.connection) == ([b"again"], 2)
        assert cursors_asked(relay) == ["5", "5"]
        assert world.reconnects() == {"poison": 1}


async def test_the_consumer_s_reason_wins_over_the_close_that_follows_an_error_frame():
    async with ScriptedRelay(
        streaming(binary(b"error frame") + closing(1008, "ConsumerTooSlow")),
        streaming(binary(b"on")),
    ) as relay:
        world = World(relay.url)
        async with aclosing(world.firehose.batches()) as batches:
            await world.next(batches)
            world.firehose.reconnect(ReconnectReason.CONSUMER_TOO_SLOW)
            await world.next(batches, step_s=0.1)
        assert world.reconnects() == {"consumer_too_slow": 1}


async def test_a_stream_of_refused_batches_is_never_good():
    async with ScriptedRelay(streaming(binary(b"x") * 10)) as relay:
        world = World(relay.url, good_frames=1)
        with structlog.testing.capture_logs() as events:
            async with aclosing(world.firehose.batches()) as batches:
                for _ in range(5):
                    await world.next(batches, step_s=0.25)
                    world.firehose.reconnect("poison")
        assert world.waits_s(events) == [1, 2, 4, 8]


async def test_the_consumer_can_ask_for_a_wait_and_for_the_next_url():
    async with (
        ScriptedRelay(streaming(binary(b"1"))) as first,
        ScriptedRelay(streaming(binary(b"2"))) as second,
    ):
        world = World(first.url, second.url)
        async with aclosing(world.firehose.batches()) as batches:
            await world.next(batches)
            world.firehose.reconnect("future_cursor", retry_after_s=60)
            await world.next(batches, step_s=1)
            assert world.gaps_s[0] >= 60
            world.firehose.reconnect("future_cursor", next_url=True)
            assert (await world.next(batches)).url == second.url
        assert world.reconnects() == {"future_cursor": 2}


async def test_a_reconnect_while_dialling_applies_to_that_dial():
    """An operator resets the cursor between our asking for it and the connection."""
    async with ScriptedRelay(streaming(binary(b"x"))) as relay:
        world = World(relay.url)
        world.cursors[relay.url] = 1
        load = world.load_cursor

        async def reset_meanwhile(url):
            cursor = await load(url)
            if cursor == 1:
                world.cursors[relay.url] = 2
                world.firehose.reconnect("operator")
            return cursor

        world.firehose._load_cursor = reset_meanwhile
        async with aclosing(world.firehose.batches()) as batches:
            assert (await world.next(batches)).connection == 2
        assert cursors_asked(relay) == ["1", "2"]
        assert world.reconnects() == {"operator": 1}


async def test_without_a_connection_a_reconnect_shortens_no_wait_but_may_change_the_url():
    async with ScriptedRelay(streaming(binary(b"2"))) as second:
        world = World("ws://127.0.0.1:1", second.url)
        async with consuming(world.firehose, taken := []):
            await until(lambda: world.reconnects().get("connect"))
            world.firehose.reconnect("operator")
            await asyncio.sleep(0.02)
            assert len(world.dials) == 1
            world.firehose.reconnect("operator", next_url=True)
            await until(lambda: taken)
        assert taken[0].url == second.url


async def test_an_unknown_reason_is_our_own_mistake():
    with pytest.raises(ValueError, match="whim"):
        World("ws://127.0.0.1:1").firehose.reconnect("whim")


# Backpressure.


async def test_a_stalled_consumer_gets_what_came_and_then_a_new_connection_at_once():
    async with ScriptedRelay(streaming(binary(*[b"old"] * 15)), streaming(binary(b"new"))) as relay:
        world = World(relay.url, websocket={"batch_frames": 5}, failures_before_next_url=1)
        async with aclosing(world.firehose.batches()) as batches:
            frames = (await world.next(batches)).frames
            await until(lambda: not world.firehose._websocket.is_reading)
            assert world.value("firehose_connected") == 1
            world.clock.advance(31)
            async with asyncio.timeout(DEADLINE_S):
                await relay.peers[0].is_gone.wait()  # closed while nobody asks
            assert world.value("firehose_connected") == 0
            assert len(relay.peers) == 1
            before = world.clock.elapsed
            while (batch := await world.next(batches)).connection == 1:
                frames += batch.frames
            assert frames == [b"old"] * 15
            assert batch.frames == [b"new"]
        assert world.clock.elapsed == before  # no backoff: the relay did nothing wrong
        assert world.reconnects() == {"backpressure": 1}


# Pausing.


async def test_a_pause_delivers_what_came_closes_and_a_resume_goes_on_from_the_cursor():
    async with ScriptedRelay(streaming(binary(*[b"x"] * 9)), streaming(binary(b"later"))) as relay:
        world = World(relay.url, websocket={"batch_frames": 3})
        firehose = world.firehose
        async with aclosing(firehose.batches()) as batches:
            first = await world.next(batches)
            firehose.pause()
            assert firehose.is_paused
            assert not firehose.is_connected
            assert world.value("firehose_paused") == 1
            rest = [await world.next(batches) for _ in range(2)]
            assert [batch.frames for batch in (first, *rest)] == [[b"x"] * 3] * 3
            request = asyncio.ensure_future(anext(batches))
            async with asyncio.timeout(DEADLINE_S):
                await firehose.paused()
            await until(relay.peers[0].is_gone.is_set)
            world.clock.advance(3600)
            await asyncio.sleep(0.02)
            assert not request.done()
            assert len(relay.peers) == 1
            world.cursors[relay.url] = 9
            firehose.resume()
            assert (await request).frames == [b"later"]
        assert cursors_asked(relay) == [None, "9"]
        assert world.reconnects() == {"paused": 1}
        assert world.value("firehose_paused") == 0


@pytest.mark.parametrize(("is_asked_for", "level"), [(True, "info"), (False, "warning")])
async def test_a_pause_that_was_asked_for_is_told_and_no_warning(is_asked_for: bool, level: str):
    async with ScriptedRelay(streaming(binary(b"x")), streaming(binary(b"later"))) as relay:
        world = World(relay.url)
        firehose = world.firehose
        with structlog.testing.capture_logs() as events:
            async with aclosing(firehose.batches()) as batches:
                await world.next(batches)
                if is_asked_for:
                    firehose.pause()
                    firehose.resume()
                else:
                    firehose.reconnect("poison")
                world.cursors[relay.url] = 1
                request = asyncio.ensure_future(anext(batches))
                await until(lambda: any(e["event"] == "firehose.disconnected" for e in events))
                request.cancel()
                await asyncio.wait([request])
        ends = [e for e in events if e["event"] == "firehose.disconnected"]
        assert ends[0]["log_level"] == level
        assert ends[0]["reason"] == ("paused" if is_asked_for else "poison")


async def test_pauses_nest():
    async with ScriptedRelay(streaming(binary(b"x"))) as relay:
        world = World(relay.url)
        firehose = world.firehose
        firehose.pause()
        firehose.pause()
        async with consuming(firehose, taken := []):
            await firehose.paused()
            firehose.resume()
            await asyncio.sleep(0.02)
            assert firehose.is_paused
            assert relay.peers == []
            firehose.resume()
            await until(lambda: taken)
        with pytest.raises(RuntimeError, match="without pause"):
            firehose.resume()


async def test_a_pause_interrupts_a_long_wait_and_a_dial_and_resume_returns_to_it():
    hold = asyncio.Event()

    async def slow(peer):
        await hold.wait()
        await peer.upgrade(then=binary(b"x"))
        await peer.wait_gone()

    async with ScriptedRelay(answering("404 Not Found"), slow, streaming(binary(b"y"))) as relay:
        world = World(relay.url)
        firehose = world.firehose
        async with consuming(firehose, taken := []), asyncio.timeout(DEADLINE_S):
            await until(lambda: world.reconnects() == {"refused": 1})
            firehose.pause()
            await firehose.paused()
            world.clock.advance(100)
            firehose.resume()
            await asyncio.sleep(0.02)
            assert len(relay.peers) == 1  # 200 s of the refusal are left
            world.clock.advance(201)
            await until(lambda: len(relay.paths) == 2)
            firehose.pause()  # while dialling
            hold.set()
            await firehose.paused()
            assert world.reconnects() == {"refused": 1, "paused": 1}
            firehose.resume()
            await until(lambda: taken and taken[-1].frames == [b"y"])


# State and metrics.


async def test_state_and_metrics_follow_the_connection():
    go = asyncio.Event()

    async def script(peer):
        await peer.upgrade()
        await go.wait()
        await peer.send(binary(b"x") + frame(TEXT, b"?"))
        await peer.wait_gone()

    async with ScriptedRelay(script) as relay:
        world = World(relay.url, websocket={"batch_s": 0.02})
        firehose = world.firehose
        assert (firehose.is_connected, firehose.connected_since) == (False, None)
        assert firehose.last_received_at is None
        labels = {
            sample.labels.get("reason")
            for sample in next(iter(world.metrics.firehose_reconnects.collect())).samples
        }
        assert labels == {reason.value for reason in ReconnectReason}
        async with consuming(firehose, taken := []):
            await until(lambda: firehose.is_connected)
            assert firehose.connected_since == world.clock.now()
            world.clock.advance(5)
            go.set()
            await until(lambda: taken)
            assert taken[0].text_frames == 1
            counted = world.metrics.registry.get_sample_value(
                "chive_firehose_events_total", {"type": "text"}
            )
            assert counted == 1
            assert taken[0].received_at == world.clock.now()
            assert firehose.last_received_at == world.clock.now()
            assert world.value("firehose_last_received_timestamp_seconds") == world.clock.now()
            assert world.value("firehose_connected") == 1
        assert world.value("firehose_connected") == 0
        assert world.reconnects() == {}


# Ending.


async def test_there_is_one_consumer_and_another_may_follow_it():
    async with ScriptedRelay(streaming(binary(b"x"))) as relay:
        world = World(relay.url)
        async with aclosing(world.firehose.batches()) as batches:
            await world.next(batches)
            with pytest.raises(RuntimeError, match="one consumer"):
                await anext(world.firehose.batches())
        async with aclosing(world.firehose.batches()) as batches:
            assert (await world.next(batches)).connection == 2


async def nowhere(peer):
    await peer.wait_gone()


@pytest.mark.parametrize(
    "script", [nowhere, streaming(), streaming(binary(b"x")), answering("404 Not Found")]
)
async def test_cancelling_the_consumer_at_any_moment_leaves_nothing(script):
    """Dialling, receiving, holding a batch, waiting: the fixture sees what is left."""
    async with ScriptedRelay(script) as relay:
        for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34, 200):
            world = World(relay.url)
            async with consuming(world.firehose):
                for _ in range(turns):
                    await asyncio.sleep(0)
            assert not world.firehose.is_connected


async def test_a_consumer_that_forgets_to_close_leaves_nothing_either():
    async with ScriptedRelay(streaming(binary(b"x"))) as relay:
        world = World(relay.url)

        async def consume():
            async for _ in world.firehose.batches():
                await asyncio.Event().wait()

        task = asyncio.create_task(consume())
        await until(lambda: world.firehose.last_received_at)
        task.cancel()
        await asyncio.wait([task])
        del task
        await until(lambda: not world.firehose.is_connected)
        async with asyncio.timeout(DEADLINE_S):
            await relay.peers[0].is_gone.wait()
