"""One connection against real loopback servers that behave, and misbehave."""

import asyncio
import os
import socket
import ssl
from contextlib import asynccontextmanager
from email.utils import formatdate
from functools import partial

import pytest
from scripted_relay import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEADLINE_S,
    PING,
    PONG,
    TEXT,
    ManualClock,
    ScriptedRelay,
    answering,
    binary,
    certificate,
    closing,
    frame,
    nothing_left_behind,  # noqa: F401 - an autouse fixture
    streaming,
    until,
)
from websockets.asyncio.server import serve

from indexer.errors import Check, InvalidUpstream, Unavailable
from indexer.ingest.dialing import (
    Dialer,
    DialFailure,
    open_any_socket,
    requested_wait_s,
    subscribe_url,
)
from indexer.ingest.endings import ReconnectReason
from indexer.ingest.websocket import WebsocketSettings
from indexer.network.sockets import endpoint_of, open_public_socket
from indexer.network.ssrf import check_url

FAST = {"tick_s": 0.002, "open_s": 5.0, "batch_s": 0.002}


def dialer(
    clock=None, *, check_url=lambda url: None, open_socket=open_any_socket, tls=None, **settings
):
    return Dialer(
        settings=WebsocketSettings(**{**FAST, **settings}),
        clock=clock or ManualClock(),
        user_agent="chive-indexer/test",
        check_url=check_url,
        tls=tls or ssl.create_default_context(),
        open_socket=open_socket,
    )


@asynccontextmanager
async def connected(script, clock=None, **settings):
    """(websocket, relay) with `script` serving."""
    async with ScriptedRelay(script) as relay:
        websocket = await dialer(clock, **settings).dial(relay.url, None)
        try:
            yield websocket, relay
        finally:
            websocket.finish(ReconnectReason.OPERATOR)
            await websocket.closed()


async def drain(websocket) -> list[bytes]:
    """Every frame up to the end of the connection."""
    frames = []
    async with asyncio.timeout(DEADLINE_S):
        while (received := await websocket.receive()) is not None:
            frames += received.frames
    return frames


# Messages.


async def test_messages_arrive_whole_and_in_order_whatever_the_segmentation():
    sent = [bytes([n % 256]) * (n * 37 % 3000) for n in range(300)]
    data = binary(*sent) + closing(1000)

    async def script(peer):
        await peer.upgrade(then=data[:1])  # the first byte shares the handshake's segment
        for start in range(1, len(data), 1021):
            await peer.send(data[start : start + 1021])
        await peer.wait_gone()

    async with connected(script) as (websocket, _):
        assert await drain(websocket) == sent


async def test_a_real_websockets_server_is_understood():
    sent = [os.urandom(5000) for _ in range(2000)]

    async def handler(connection):
        for message in sent:
            await connection.send(message)

    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        websocket = await dialer().dial(f"ws://127.0.0.1:{port}", None)
        assert await drain(websocket) == sent
        assert websocket.end == (ReconnectReason.CLOSED, "1000")
        await websocket.closed()


async def test_fragments_become_one_message_around_control_frames():
    data = (
        frame(BINARY, b"one", fin=False)
        + frame(PING, b"?")
        + frame(CONTINUATION, b"", fin=False)
        + frame(CONTINUATION, b"two", fin=False)
        + frame(PONG)
        + frame(CONTINUATION, b"three")
        + frame(BINARY, b"", fin=False)
        + frame(CONTINUATION, b"")
        + binary(b"next")
        + closing(1000)
    )
    async with connected(streaming(data)) as (websocket, _):
        assert await drain(websocket) == [b"onetwothree", b"", b"next"]


async def test_pings_are_answered_with_their_payload():
    answers = []

    async def script(peer):
        await peer.upgrade(then=frame(PING, b"hello"))
        answers.append(await peer.read_frame())
        await peer.send(closing(1000))

    async with connected(script) as (websocket, _):
        await drain(websocket)
        assert answers == [(PONG, b"hello")]


async def test_text_messages_are_counted_and_not_kept():
    data = (
        frame(TEXT, b"hi")
        + binary(b"data")
        + frame(TEXT, b"long ", fin=False)
        + frame(CONTINUATION, b"text")
    )
    async with connected(streaming(data), batch_s=0.05) as (websocket, _):
        received = await websocket.receive()
        assert received.frames == [b"data"]
        assert received.text_frames == 2


async def test_text_alone_reaches_the_consumer_too():
    async with connected(streaming(frame(TEXT, b"hi"))) as (websocket, _):
        received = await websocket.receive()
        assert (received.frames, received.text_frames) == ([], 1)


async def test_more_than_ten_text_messages_in_a_minute_end_the_connection():
    clock, gate = ManualClock(), asyncio.Event()

    async def script(peer):
        await peer.upgrade(then=frame(TEXT) * 10)
        await gate.wait()
        await peer.send(frame(TEXT) * 10)
        await peer.send(frame(TEXT))
        await peer.wait_gone()

    async with connected(script, clock, dead_s=1000) as (websocket, _):
        counted = (await websocket.receive()).text_frames
        while counted < 10:
            counted += (await websocket.receive()).text_frames
        assert websocket.end is None
        clock.advance(61)
        gate.set()
        while (received := await websocket.receive()) is not None:
            counted += received.text_frames
        assert counted == 21
        assert websocket.end.reason is ReconnectReason.TEXT_FRAMES


# Batches.


async def test_a_batch_is_cut_at_its_size():
    sent = [b"%d" % n for n in range(1234)]
    async with connected(streaming(binary(*sent) + closing(1000)), batch_frames=100) as (ws, _):
        sizes, frames = [], []
        while (received := await ws.receive()) is not None:
            sizes.append(len(received.frames))
            frames += received.frames
        assert frames == sent
        assert max(sizes) == 100


async def test_few_frames_are_delivered_after_the_batch_time_without_waiting_for_more():
    async with connected(streaming(binary(b"only")), batch_s=0.01) as (websocket, _):
        async with asyncio.timeout(DEADLINE_S):
            assert (await websocket.receive()).frames == [b"only"]
        assert websocket.end is None


async def test_a_batch_tells_when_its_first_frame_came():
    clock, gate = ManualClock(), asyncio.Event()

    async def script(peer):
        await peer.upgrade(then=binary(b"1"))
        await gate.wait()
        await peer.send(binary(b"2") + closing(1000))

    async with connected(script, clock, batch_s=1000) as (websocket, _):
        await until(lambda: websocket.last_received_at is not None)
        first = clock.now()
        clock.advance(3)
        gate.set()
        received = await websocket.receive()
        assert received.frames == [b"1", b"2"]
        assert received.received_at == first
        assert websocket.last_received_at == first + 3


async def test_what_a_full_batch_leaves_does_not_make_the_next_one_older():
    """While there is more than is taken something is always left."""
    clock = ManualClock()
    async with connected(upgraded_and_silent, clock, batch_frames=2) as (websocket, relay):
        await until(lambda: relay.peers and relay.peers[0].path)
        came, told = [], []
        for _ in range(4):
            came.append(clock.now())
            await relay.peers[0].send(binary(b"1", b"2", b"3") if not told else binary(b"4", b"5"))
            await until(lambda: not websocket.is_reading)
            clock.advance(5)
            told.append((await websocket.receive()).received_at)
        assert told == [came[0], *came[:3]]


async def test_cancelling_a_receive_loses_nothing():
    gate = asyncio.Event()

    async def script(peer):
        await peer.upgrade()
        await gate.wait()
        await peer.send(binary(b"kept") + closing(1000))

    async with connected(script) as (websocket, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await websocket.receive()
        gate.set()
        assert await drain(websocket) == [b"kept"]


# Ends.


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1008, 1011, 1012, 1013, 3000, 4999, None])
async def test_every_close_code_ends_the_connection_after_its_last_frame(code):
    answers = []

    async def script(peer):
        await peer.upgrade(then=binary(b"last") + closing(code, "because" if code else ""))
        answers.append(await peer.read_frame())
        await peer.wait_gone()

    async with connected(script) as (websocket, relay):
        assert await drain(websocket) == [b"last"]
        assert websocket.end.reason is ReconnectReason.CLOSED
        assert websocket.end.detail == (f"{code} because" if code else "1005")
        # The socket is closed although the server leaves it open.
        async with asyncio.timeout(DEADLINE_S):
            await relay.peers[0].is_gone.wait()
        assert answers == [(CLOSE, closing(code, "because" if code else "")[2:])]


async def test_the_end_of_tcp_without_a_close_frame_is_a_loss_after_the_last_frame():
    async with connected(streaming(binary(b"last"), hold=False)) as (websocket, _):
        assert await drain(websocket) == [b"last"]
        assert websocket.end.reason is ReconnectReason.LOST


async def test_a_truncated_frame_is_never_delivered():
    data = binary(b"whole", b"truncated")[:-1]
    async with connected(streaming(data, hold=False)) as (websocket, _):
        assert await drain(websocket) == [b"whole"]
        assert websocket.end.reason is ReconnectReason.LOST


async def test_a_reset_is_a_loss():
    gate = asyncio.Event()

    async def script(peer):
        await peer.upgrade(then=binary(b"last"))
        await gate.wait()
        peer.reset()

    async with connected(script) as (websocket, _):
        assert (await websocket.receive()).frames == [b"last"]
        gate.set()
        assert await drain(websocket) == []
        assert websocket.end.reason is ReconnectReason.LOST
        assert "reset" in websocket.end.detail.lower()


@pytest.mark.parametrize(
    "data",
    [
        b"\xc2\x01x",  # a reserved bit without an extension (a deflated frame)
        b"\x83\x01x",  # an unknown opcode
        b"\x82\x81\x00\x00\x00\x00x",  # a masked frame
        frame(CONTINUATION, b"x"),  # nothing to continue
        frame(BINARY, b"x", fin=False) + binary(b"y"),  # a message within a message
        b"\x89\x7e\x00\x80" + b"x" * 128,  # a control frame that is too long
        frame(CLOSE, b"\x03"),  # half a close code
        frame(CLOSE, b"\x00\x01"),  # an impossible one
    ],
)
async def test_a_broken_frame_ends_the_connection_after_the_good_ones(data):
    async with connected(streaming(binary(b"good") + data)) as (websocket, _):
        assert await drain(websocket) == [b"good"]
        assert websocket.end.reason is ReconnectReason.PROTOCOL


async def test_a_message_of_the_greatest_size_is_delivered():
    message = os.urandom(5_000_000)
    async with connected(streaming(binary(message) + closing(1000))) as (websocket, _):
        assert await drain(websocket) == [message]


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x7f" + (5_000_001).to_bytes(8, "big"),  # refused on its header alone
        b"\x82\x7f" + (2**63 - 1).to_bytes(8, "big"),
        frame(BINARY, b"x" * 3_000_000, fin=False) + frame(CONTINUATION, b"x" * 2_000_001),
    ],
)
async def test_a_message_above_the_cap_ends_with_1009(data):
    codes = []

    async def script(peer):
        await peer.upgrade(then=binary(b"before"))
        await peer.send(data)
        opcode, payload = await peer.read_frame()
        codes.append((opcode, int.from_bytes(payload[:2], "big")))
        await peer.wait_gone()

    async with connected(script) as (websocket, _):
        assert await drain(websocket) == [b"before"]
        assert websocket.end.reason is ReconnectReason.OVERSIZE
        await until(lambda: codes == [(CLOSE, 1009)])


@pytest.mark.parametrize("unit", [frame(BINARY), frame(PING), frame(CONTINUATION, fin=False)])
async def test_a_flood_of_tiny_frames_ends_the_connection(unit):
    data = frame(BINARY, fin=False) if unit[0] == CONTINUATION else b""

    async def script(peer):
        await peer.upgrade(then=data)
        while True:
            await peer.send(unit * 32768)

    async with connected(script, batch_frames=10**6) as (websocket, _):
        await drain(websocket)
        assert websocket.end.reason is ReconnectReason.PROTOCOL


async def test_a_peer_that_pings_and_never_reads_is_given_up():
    async def script(peer):
        await peer.upgrade()
        while True:
            await peer.send(frame(PING, b"x" * 125) * 100)

    async with connected(script, dead_s=1e9) as (websocket, _):
        await drain(websocket)
        assert websocket.end == (ReconnectReason.PROTOCOL, "the peer does not read our answers")


# Time.


async def test_a_silent_peer_is_pinged_and_given_up_after_forty_seconds():
    clock, heard = ManualClock(), []

    async def script(peer):
        await peer.upgrade()
        while True:
            heard.append(await peer.read_frame())

    async with connected(script, clock) as (websocket, _):
        clock.advance(15)
        await until(lambda: heard == [(PING, b"")])
        clock.advance(15)
        await until(lambda: len(heard) == 2)
        clock.advance(10)
        assert websocket.end is None
        clock.advance(0.1)
        assert await drain(websocket) == []
        assert websocket.end.reason is ReconnectReason.KEEPALIVE


async def test_a_quiet_peer_that_answers_pings_is_kept():
    clock, answered = ManualClock(), []

    async def script(peer):
        await peer.upgrade()
        while True:
            opcode, payload = await peer.read_frame()
            assert opcode == PING
            answered.append(payload)
            await peer.send(frame(PONG, payload))

    async with connected(script, clock) as (websocket, _):
        for round_ in range(1, 21):
            received = websocket.bytes_received
            clock.advance(15)
            await until(lambda: websocket.bytes_received > received)  # noqa: B023
            assert len(answered) == round_
        assert websocket.end is None


async def drip(script, clock, *, step_s, **settings):
    """Advance `step_s` with every byte that arrives until the end; returns (reason, seconds).

    The deadlines are looked at after each step, however slow the machine is.
    """
    async with connected(script, clock, **settings) as (websocket, _):
        clock.elapsed, seen = 0.0, 0
        while websocket.end is None:
            await until(lambda: websocket.bytes_received > seen or websocket.end)  # noqa: B023
            seen = websocket.bytes_received
            clock.advance(step_s)
            tick = websocket._tick_timer
            await until(lambda: websocket._tick_timer is not tick or websocket.end)  # noqa: B023
        assert await drain(websocket) == []
        return websocket.end.reason, clock.elapsed


async def test_one_byte_a_second_within_a_message_ends_it_after_a_minute():
    clock = ManualClock()

    async def script(peer):
        await peer.upgrade(then=binary(b"x" * 1000)[:1])
        last = clock.elapsed
        for byte in binary(b"x" * 1000)[1:]:
            await peer.send(bytes([byte]))
            await until(lambda: clock.elapsed > last)  # noqa: B023
            last = clock.elapsed

    reason, elapsed = await drip(script, clock, step_s=1.0)
    assert reason is ReconnectReason.SLOW_MESSAGE
    assert 60 < elapsed <= 64


async def test_a_message_in_endless_fragments_ends_after_a_minute():
    clock = ManualClock()

    async def script(peer):
        await peer.upgrade(then=frame(BINARY, b"x", fin=False))
        while True:
            last = clock.elapsed
            await peer.send(frame(CONTINUATION, b"x", fin=False) + frame(PONG))
            await until(lambda: clock.elapsed > last)  # noqa: B023

    reason, elapsed = await drip(script, clock, step_s=5.0)
    assert reason is ReconnectReason.SLOW_MESSAGE
    assert 60 < elapsed <= 70


async def test_control_frames_between_messages_do_not_make_a_slow_message():
    clock = ManualClock()

    async def script(peer):
        await peer.upgrade(then=binary(b"one"))
        for _ in range(30):
            last = clock.elapsed
            await peer.send(frame(PONG, b"x"))
            await until(lambda: clock.elapsed > last)  # noqa: B023
        await peer.send(binary(b"two") + closing(1000))
        await peer.wait_gone()

    async with connected(script, clock) as (websocket, _):
        assert (await websocket.receive()).frames == [b"one"]
        seen = 0
        while websocket.end is None:
            await until(lambda: websocket.bytes_received > seen or websocket.end)  # noqa: B023
            seen = websocket.bytes_received
            clock.advance(10)
        assert await drain(websocket) == [b"two"]
        assert clock.elapsed >= 300


async def test_a_stream_of_pings_without_events_is_idle_where_a_limit_is_set():
    clock = ManualClock()

    async def script(peer):
        await peer.upgrade()
        while True:
            last = clock.elapsed
            await peer.send(frame(PING))
            await until(lambda: clock.elapsed > last)  # noqa: B023

    reason, elapsed = await drip(script, clock, step_s=10.0, idle_s=60.0)
    assert reason is ReconnectReason.IDLE
    assert 60 < elapsed <= 90


# Backpressure.


async def block(relay, websocket, data: bytes) -> None:
    """Push `data` until the server's kernel takes nothing for ten looks running.

    One refusal is not enough: the kernels go on passing what they hold for a while.
    """
    await until(lambda: relay.peers and relay.peers[0].path)
    looks = 0
    async with asyncio.timeout(DEADLINE_S):
        while looks < 10:
            looks = 0 if relay.peers[0].send_until_blocked(data) else looks + 1
            await asyncio.sleep(0.01)


MESSAGE = bytes(10_000)


async def upgraded_and_silent(peer):
    await peer.upgrade()
    await asyncio.Event().wait()


async def test_a_consumer_that_does_not_ask_blocks_the_server_s_socket():
    async with connected(upgraded_and_silent, ManualClock(), batch_frames=500) as (
        websocket,
        relay,
    ):
        await block(relay, websocket, binary(MESSAGE))
        taken = websocket.bytes_received
        assert not websocket.is_reading
        with pytest.raises(BlockingIOError):
            relay.peers[0].sock.send(b"x")
        # What is held is a batch and less than one read beyond it.
        assert taken < 500 * len(MESSAGE) + 1024 * 1024 + 20_000
        first = await websocket.receive()
        assert len(first.frames) == 500
        await until(lambda: websocket.bytes_received > taken)
        await until(lambda: relay.peers[0].send_until_blocked(binary(MESSAGE)))


async def test_large_messages_fill_a_batch_by_their_bytes():
    big = binary(bytes(4_000_000))
    async with connected(streaming(big * 20), ManualClock()) as (websocket, _):
        await until(lambda: not websocket.is_reading)
        assert websocket.bytes_received < 8 * 1024 * 1024 + 4_000_000 + 2 * 1024 * 1024
        total = 0
        while total < 20:
            total += len((await websocket.receive()).frames)


async def test_a_stall_of_thirty_seconds_closes_and_still_delivers_what_came():
    clock = ManualClock()
    async with connected(upgraded_and_silent, clock) as (websocket, relay):
        await block(relay, websocket, binary(MESSAGE))
        clock.advance(30)
        for _ in range(10):
            await asyncio.sleep(0.002)
        assert websocket.end is None
        clock.advance(0.1)
        await until(lambda: websocket.end)
        assert websocket.end.reason is ReconnectReason.BACKPRESSURE
        await websocket.closed()
        frames = await drain(websocket)
        assert len(frames) >= 500
        assert set(frames) == {MESSAGE}


async def test_nobody_is_pinged_or_judged_while_we_do_not_read():
    clock = ManualClock()
    async with connected(upgraded_and_silent, clock, stall_s=1e9) as (websocket, relay):
        await block(relay, websocket, binary(MESSAGE))
        clock.advance(3600)
        for _ in range(10):
            await asyncio.sleep(0.002)
        assert websocket.end is None
        with pytest.raises(BlockingIOError):  # no ping, no close: nothing to read
            relay.peers[0].sock.recv(1)


async def test_silence_counts_from_the_moment_reading_resumed():
    clock = ManualClock()

    async def script(peer):
        await peer.upgrade(then=binary(*[b"x"] * 10))
        await peer.wait_gone()

    async with connected(script, clock, stall_s=1e9, batch_frames=10) as (websocket, _):
        await until(lambda: not websocket.is_reading)
        clock.advance(3600)
        assert len((await websocket.receive()).frames) == 10
        assert websocket.is_reading
        clock.advance(39)
        for _ in range(10):
            await asyncio.sleep(0.002)
        assert websocket.end is None
        clock.advance(2)
        assert await drain(websocket) == []
        assert websocket.end.reason is ReconnectReason.KEEPALIVE


async def test_a_pause_of_ours_within_a_message_does_not_make_it_slow():
    clock, gate = ManualClock(), asyncio.Event()

    async def script(peer):
        await peer.upgrade(then=binary(*[b"x"] * 10) + binary(b"split")[:3])
        await gate.wait()
        await peer.send(binary(b"split")[3:] + closing(1000))

    async with connected(script, clock, stall_s=1e9, batch_frames=10) as (websocket, _):
        await until(lambda: not websocket.is_reading)
        clock.advance(3600)
        assert len((await websocket.receive()).frames) == 10
        for _ in range(10):
            await asyncio.sleep(0.002)
        gate.set()
        assert await drain(websocket) == [b"split"]
        assert websocket.end.reason is ReconnectReason.CLOSED


# Dialling.


async def test_the_request_names_us_and_the_cursor_and_offers_no_compression():
    async with ScriptedRelay(streaming()) as relay:
        websocket = await dialer().dial(relay.url + "/", 7)
        websocket.finish(ReconnectReason.OPERATOR)
        await websocket.closed()
        assert relay.paths == ["/xrpc/com.atproto.sync.subscribeRepos?cursor=7"]
        headers = relay.peers[0].headers
        assert headers["User-Agent"] == "chive-indexer/test"
        assert not {"Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Origin"} & set(headers)


def test_the_subscribe_url_keeps_a_path_and_replaces_a_cursor():
    path = "/xrpc/com.atproto.sync.subscribeRepos"
    assert subscribe_url("wss://relay.example", None) == f"wss://relay.example{path}"
    assert subscribe_url("wss://relay.example/", 0) == f"wss://relay.example{path}?cursor=0"
    assert subscribe_url("wss://r.example/a?b=c&cursor=9", 1) == "wss://r.example/a?b=c&cursor=1"
    assert subscribe_url("wss://r.example/a?cursor=9", None) == "wss://r.example/a"


async def failure(script, clock=None, **settings) -> DialFailure:
    async with ScriptedRelay(script) as relay:
        with pytest.raises(DialFailure) as caught:
            await dialer(clock, **settings).dial(relay.url, 5)
        return caught.value


DATE = formatdate(1_800_000_120, usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers", "reason", "wait_s"),
    [
        ("429 Too Many Requests", ["Retry-After: 90"], ReconnectReason.THROTTLED, 90.0),
        ("429 Too Many Requests", [f"Retry-After: {DATE}"], ReconnectReason.THROTTLED, 120.0),
        ("429 Too Many Requests", [], ReconnectReason.THROTTLED, 60.0),
        ("429 Too Many Requests", ["Retry-After: soon"], ReconnectReason.THROTTLED, 60.0),
        ("503 Service Unavailable", ["Retry-After: 5"], ReconnectReason.THROTTLED, 5.0),
        ("503 Service Unavailable", [], ReconnectReason.THROTTLED, None),
        ("403 Forbidden", [], ReconnectReason.REFUSED, None),
        ("404 Not Found", [], ReconnectReason.REFUSED, None),
        ("501 Not Implemented", [], ReconnectReason.REFUSED, None),
        ("400 Bad Request", [], ReconnectReason.REFUSED, None),
        ("408 Request Timeout", [], ReconnectReason.HANDSHAKE, None),
        ("500 Internal Server Error", [], ReconnectReason.HANDSHAKE, None),
        ("502 Bad Gateway", [], ReconnectReason.HANDSHAKE, None),
        ("200 OK", [], ReconnectReason.HANDSHAKE, None),
        ("302 Found", [], ReconnectReason.HANDSHAKE, None),
    ],
)
async def test_an_http_answer_is_a_failure_with_its_reason_and_wait(
    status, headers, reason, wait_s
):
    caught = await failure(answering(status, *headers))
    assert (caught.reason, caught.retry_after_s) == (reason, wait_s)
    assert caught.detail.startswith(f"HTTP {status}")


@pytest.mark.parametrize(
    ("values", "wait_s"),
    [
        (["0"], 0.0),
        (["9" * 400], 999_999_999_999.0),
        (["-5"], None),
        (["1e3"], None),
        (["٣"], None),
        (["1", "2"], None),
        (["Thu, 01 Jan 1970 00:00:00 GMT"], 0.0),
        (["Thu, 99 Foo 99999 99:99:99 GMT"], None),
    ],
)
def test_retry_after_is_never_negative_and_never_raises(values, wait_s):
    assert requested_wait_s(values, now_s=1_800_000_000) == wait_s


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: bm90IHRoZSBhbnN3ZXI=\r\n\r\n"
        ),
        b"x" * 100_000,
        b"HTTP/1.1 400 Bad\r\nContent-Length: 99999999999\r\n\r\n",
        b"",
    ],
)
async def test_what_is_no_handshake_fails_as_one(answer):
    async def script(peer):
        await peer.send(answer)

    assert (await failure(script)).reason in {ReconnectReason.HANDSHAKE, ReconnectReason.LOST}


async def test_compression_that_was_not_offered_is_refused():
    async def script(peer):
        await peer.upgrade("Sec-WebSocket-Extensions: permessage-deflate")
        await peer.wait_gone()

    assert (await failure(script)).reason is ReconnectReason.HANDSHAKE


async def test_a_server_that_never_answers_is_given_up():
    async def script(peer):
        await peer.wait_gone()

    caught = await failure(script, open_s=0.05)
    assert caught.reason is ReconnectReason.CONNECT


async def test_a_closed_port_and_a_strange_name_are_failures_to_connect():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"ws://127.0.0.1:{port}", "ws://" + "a" * 64 + ".example", "ws://x..example"):
        with pytest.raises(DialFailure) as caught:
            await dialer().dial(url, None)
        assert caught.value.reason is ReconnectReason.CONNECT


@pytest.mark.parametrize("hops", [1, 3])
async def test_redirects_are_followed_after_a_check_and_keep_our_cursor(hops):
    async with ScriptedRelay(streaming(binary(b"found"))) as target:
        checked = []
        there = f"http://127.0.0.1:{target.port}/stream"
        async with ScriptedRelay(
            *[answering("302 Found", f"Location: /hop{n}") for n in range(1, hops)],
            answering("301 Moved Permanently", f"Location: {there}"),
        ) as relay:
            websocket = await dialer(check_url=checked.append).dial(relay.url, 99)
            assert (await websocket.receive()).frames == [b"found"]
            websocket.finish(ReconnectReason.OPERATOR)
            await websocket.closed()
            own = [f"{relay.url}/hop{n}?cursor=99" for n in range(1, hops)]
            assert checked == [*own, f"{target.url}/stream?cursor=99"]
            assert target.paths == ["/stream?cursor=99"]


async def test_a_fourth_redirect_is_refused():
    async with ScriptedRelay(answering("307 Temporary Redirect", "Location: /again")) as relay:
        with pytest.raises(DialFailure) as caught:
            await dialer().dial(relay.url, None)
        assert caught.value.reason is ReconnectReason.BLOCKED
        assert len(relay.peers) == 4


def deny(url: str) -> None:
    raise InvalidUpstream(Check.HOST, f"{url} is private")


@pytest.mark.parametrize(
    ("location", "check"),
    [
        ("http://127.0.0.1:1/", deny),
        ("http://user:pass@example.com/", lambda url: None),
        ("ftp://example.com/", lambda url: None),
        ("http://[::1", lambda url: None),
        ("http://example.com:99999/", lambda url: None),
        ("//", lambda url: None),
    ],
)
async def test_a_redirect_that_we_do_not_follow_is_blocked(location, check):
    caught = await failure(answering("302 Found", f"Location: {location}"), check_url=check)
    assert caught.reason is ReconnectReason.BLOCKED


METADATA = [
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::ffff:169.254.169.254]/",
    "https://2852039166/",  # the same number
    "https://[fd00:ec2::254]/",
]


@pytest.mark.parametrize("location", METADATA)
async def test_a_redirect_to_a_cloud_s_metadata_is_refused_before_there_is_a_socket(location):
    """With the rules of a daemon whose own relay is at a private address."""
    asked = []

    async def open_socket(host, port):
        asked.append((host, port))
        return await open_public_socket(host, port, exempt={endpoint_of(relay.url)})

    async with ScriptedRelay(answering("302 Found", f"Location: {location}")) as relay:
        rules = {
            "check_url": partial(check_url, allow_private=False),
            "open_socket": open_socket,
        }
        with pytest.raises(DialFailure) as caught:
            await dialer(**rules).dial(relay.url, 5)
        assert caught.value.reason is ReconnectReason.BLOCKED
        assert len(relay.paths) == 1, "the redirect was never seen"
        assert asked == [("127.0.0.1", relay.port)]


async def test_the_checked_socket_is_used_and_a_refusal_of_it_is_blocked():
    asked = []

    async def open_socket(host, port):
        asked.append((host, port))
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", relay.port))
        return sock

    async def forbidden(host, port):
        raise InvalidUpstream(Check.HOST, "private")

    async def unreachable(host, port):
        raise Unavailable("no address answers")

    async with ScriptedRelay(streaming(binary(b"hi"))) as relay:
        websocket = await dialer(open_socket=open_socket).dial("ws://relay.example:8080", None)
        assert (await websocket.receive()).frames == [b"hi"]
        assert asked == [("relay.example", 8080)]
        assert relay.peers[0].headers["Host"] == "relay.example:8080"
        websocket.finish(ReconnectReason.OPERATOR)
        await websocket.closed()
    for hook, reason in (
        (forbidden, ReconnectReason.BLOCKED),
        (unreachable, ReconnectReason.CONNECT),
    ):
        with pytest.raises(DialFailure) as caught:
            await dialer(open_socket=hook).dial("ws://relay.example", None)
        assert caught.value.reason is reason


# TLS.


@asynccontextmanager
async def tls_relay(tmp_path, messages):
    server_tls, client_tls = certificate(tmp_path)

    async def handler(connection):
        for message in messages:
            await connection.send(message)

    async with serve(handler, "127.0.0.1", 0, ssl=server_tls) as server:
        yield f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}", client_tls


async def test_wss_delivers_everything_through_batches_and_pauses(tmp_path):
    sent = [os.urandom(20_000) for _ in range(400)]
    async with tls_relay(tmp_path, sent) as (url, tls):
        websocket = await dialer(tls=tls, batch_frames=20).dial(url, None)
        assert await drain(websocket) == sent
        assert websocket.end.reason is ReconnectReason.CLOSED
        await websocket.closed()


async def test_an_untrusted_certificate_is_refused(tmp_path):
    async with tls_relay(tmp_path, []) as (url, _):
        with pytest.raises(DialFailure) as caught:
            await dialer().dial(url, None)
        assert caught.value.reason is ReconnectReason.TLS
        assert "CERTIFICATE_VERIFY_FAILED" in caught.value.detail


async def test_a_redirect_never_leaves_tls(tmp_path):
    def redirect(connection, request):
        response = connection.respond(302, "")
        response.headers["Location"] = "http://127.0.0.1:1/"
        return response

    server_tls, client_tls = certificate(tmp_path)
    async with serve(
        lambda connection: connection.wait_closed(),
        "127.0.0.1",
        0,
        ssl=server_tls,
        process_request=redirect,
    ) as server:
        url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(DialFailure) as caught:
            await dialer(tls=client_tls).dial(url, None)
        assert caught.value.reason is ReconnectReason.BLOCKED


# Cancellation: the fixture above sees what is left.


async def test_cancelling_a_dial_at_any_await_leaves_nothing(tmp_path):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async with (
        ScriptedRelay(upgraded_and_silent) as relay,
        tls_relay(tmp_path, []) as (tls_url, tls),
    ):
        stuck = await asyncio.start_server(silent, "127.0.0.1", 0)
        stuck_url = f"ws://127.0.0.1:{stuck.sockets[0].getsockname()[1]}"
        for url in (relay.url, tls_url, stuck_url, stuck_url.replace("ws:", "wss:")):
            for turns in range(30):
                dial = asyncio.create_task(dialer(tls=tls).dial(url, None))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if dial.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await dial
                else:
                    websocket = await dial
                    websocket.finish(ReconnectReason.OPERATOR)
                    await websocket.closed()
        stuck.close()
        await stuck.wait_closed()
