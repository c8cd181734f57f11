"""One websocket connection to a relay, read in batches: a shell around a sans-I/O protocol.

Owns one socket from the handshake to its end: it assembles messages, answers pings, watches the
time and says in one closed enum why it ended. It starts no tasks; everything happens in transport
callbacks and in one repeating timer.

Refuses to buffer beyond one batch: from then on the socket is not read, so that TCP makes the
relay wait, until the consumer takes the batch. While the socket is not read nobody is pinged and
the peer is not judged; its silence counts from the moment reading resumed. Refuses compression,
messages above the cap (before their payload is read), and messages that never end.

Invariant: a message received before the end of the connection is delivered, in order, before the
end is reported, unless the consumer asked for `discard`. A stream that fails after every tenth
message still makes progress.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple, cast

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig
from websockets.frames import BINARY, CONT, TEXT, CloseCode, Frame
from websockets.protocol import CONNECTING, OPEN
from websockets.uri import WebSocketURI

from indexer.clock import Clock
from indexer.ingest.endings import DETAIL_CHARS_MAX, End, ReconnectReason
from indexer.ingest.frame_header import WHOLE_BINARY, payload_extent

RECEIVE_BYTES = 1024 * 1024
"""What one read of the socket may return: 200 ordinary frames, 1 ms of parsing."""

TINY_BYTES = 6
TINY_FRAMES_MAX = 8192
"""No event is that short. A flood of empty frames or pings would hold the event loop for seconds
per read; so it ends the connection after a tenth of one."""

LINE_BYTES_MAX = 8192
"""The library's own limit for a line of the answer to the handshake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebsocketSettings:
    """Bounds of one connection. Durations in seconds."""

    message_bytes_max: int = 5_000_000
    batch_frames: int = 2000
    batch_bytes: int = 8 * 1024 * 1024  # so that 2000 frames of 5 MB are never held
    batch_s: float = 0.01  # from the first message of a batch to its delivery
    open_s: float = 20.0  # TCP, TLS and handshake together
    ping_s: float = 15.0  # silence before we ping
    dead_s: float = 40.0  # silence before the peer is given up
    message_s: float = 60.0  # first to last byte of one message
    idle_s: float | None = None  # without any message; None where silence is normal
    stall_s: float = 30.0  # of our own consumer
    text_frames_per_minute: int = 10
    tick_s: float = 1.0  # how often the deadlines above are looked at


class Received(NamedTuple):
    """What arrived since the last look."""

    frames: list[bytes]  # binary messages, in order; empty where only text messages came
    text_frames: int  # text messages, whose content is not kept
    received_at: float  # unix seconds, arrival of the first


class Websocket(asyncio.BufferedProtocol):
    """One connection. Made by `indexer.ingest.dialing`; used by one consumer."""

    def __init__(
        self, uri: WebSocketURI, *, settings: WebsocketSettings, clock: Clock, user_agent: str
    ) -> None:
        self.end: End | None = None  # set once, when nothing more will be read
        self.bytes_received = 0
        self.last_received_at: float | None = None  # unix seconds
        self._settings = settings
        self._clock = clock
        self._user_agent = user_agent
        self._loop = asyncio.get_running_loop()
        self._protocol = ClientProtocol(uri, max_size=settings.message_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._filled = 0  # bytes at its front that are not parsed yet
        self._is_opened = False
        self._is_refused = False  # the head of an answer came that does not open the stream
        self._handshaken = asyncio.Event()  # or ended before that
        self._closed = asyncio.Event()
        self._waiter: asyncio.Future[None] | None = None
        self._fault: Exception | None = None
        # The pending batch.
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._pending_since = 0.0  # unix seconds
        self._text_frames = 0
        self._batch_is_due = False
        self._batch_timer: asyncio.TimerHandle | None = None
        # The message being assembled.
        self._partial: bytearray | None = None  # None: no fragment yet, or a text message
        # Instants, monotonic.
        self._tick_timer: asyncio.TimerHandle | None = None
        self._paused_since: float | None = None
        self._quiet_since = clock.monotonic()  # last byte, or when reading resumed
        self._idle_since = self._quiet_since  # last message, or when reading resumed
        self._pinged_at = self._quiet_since
        self._message_since: float | None = None  # None: between messages
        self._text_window_since = self._quiet_since
        self._text_window_count = 0

    # What the consumer calls.

    async def receive(self) -> Received | None:
        """The next batch, or None when everything before the end has been delivered.

        Waits until `batch_frames` are there, or `batch_s` has passed since the first. Cancelling
        it loses nothing.
        """
        while not self._is_due():
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._fault is not None:
            raise self._fault
        if self._pending or self._text_frames:
            return self._take()
        return None

    def finish(self, reason: ReconnectReason, detail: str = "") -> End:
        """End the connection; what has arrived is still delivered. Returns the end in force."""
        if self.end is not None:
            return self.end
        self.end = end = End(reason, detail[:DETAIL_CHARS_MAX])
        for timer in (self._tick_timer, self._batch_timer):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            if self._protocol.state is OPEN:
                self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
                self._flush()
            # Not close(): that would wait for a peer that may never read. The close frame has
            # been handed to the kernel already, as far as there was room for it.
            self._transport.abort()
        self._handshaken.set()
        self._wake()
        return end

    def discard(self, reason: ReconnectReason) -> None:
        """End the connection and forget what has arrived but was not taken."""
        self.finish(reason)
        self._pending.clear()
        self._pending_bytes = 0
        self._text_frames = 0

    async def closed(self) -> None:
        """Return once the socket is gone; `finish` has been called before."""
        if self._transport is not None:
            await self._closed.wait()

    @property
    def is_reading(self) -> bool:
        """Whether the socket is being read: not ended, and the pending batch is not full."""
        return self.end is None and self._paused_since is None

    async def opened(self) -> bool:
        """Return after the handshake: whether it succeeded.

        If so the connection may have ended since, with frames to be received all the same: that
        is how a relay says that it does not like the cursor. If not, `end` is set.
        """
        await self._handshaken.wait()
        return self._is_opened

    @property
    def handshake_problem(self) -> Exception | None:
        """What was wrong with the answer to the handshake, where there was an answer."""
        return self._protocol.handshake_exc

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake and start watching the time."""
        self._transport = cast("asyncio.Transport", transport)
        if self.end is not None:  # given up while the socket was being made
            self._transport.abort()
            return
        request = self._protocol.connect()
        request.headers["User-Agent"] = self._user_agent
        self._protocol.send_request(request)
        self._flush()
        self._tick_timer = self._loop.call_later(self._settings.tick_s, self._tick)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """The memory behind what is still incomplete; it is parsed before the next read."""
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what arrived; stop reading when it fills the batch."""
        if self.end is not None:
            return
        now = self._clock.monotonic()
        self._quiet_since = now
        self.bytes_received += nbytes
        self._filled += nbytes
        before = len(self._pending) + self._text_frames
        if not before:
            self._pending_since = self._clock.now()
        used = self._feed_handshake() if self._protocol.state is CONNECTING else 0
        if self._protocol.state is OPEN:
            used = self._take_frames(used)
        self._keep_from(used)
        is_complete = len(self._pending) + self._text_frames > before
        if is_complete:
            self.last_received_at = self._clock.now()
        self._time_message(now, is_complete=is_complete)
        self._flush()
        if self._protocol.state is not OPEN:
            self._judge_state()
        if self._pending or self._text_frames:
            self._announce()

    def eof_received(self) -> None:
        """The peer will send no more."""
        self._feed(self._buffer[: self._filled])
        self._protocol.receive_eof()
        self.finish(ReconnectReason.LOST, "the peer ended the connection without a close frame")

    def pause_writing(self) -> None:
        """Our answers to its pings fill the send buffer: the peer floods and does not read."""
        self.finish(ReconnectReason.PROTOCOL, "the peer does not read our answers")

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone. What is no network error is our own bug and reaches the consumer."""
        if exc is not None and not isinstance(exc, OSError):
            self._fault = exc
        self.finish(ReconnectReason.LOST, str(exc or "connection lost"))
        self._closed.set()

    # Inside.

    def _feed_handshake(self) -> int:
        """Hand over the answer to our handshake; where it ends.

        Line by line, so that the frames behind it are not handed over with it. A body, which only
        a refusal has, is not made of lines.
        """
        start = 0
        while self._protocol.state is CONNECTING and start < self._filled:
            rest = bytes(self._buffer[start : self._filled])
            end = rest.find(b"\n") + 1
            if self._is_refused or (not end and len(rest) > LINE_BYTES_MAX):
                end = len(rest)
            if not end:
                break
            self._feed(self._buffer[start : start + end])
            start += end
            self._is_refused |= rest[:end].strip() == b"" and self._protocol.state is CONNECTING
        return start

    def _take_frames(self, start: int) -> int:
        """Take the whole frames from `start` on; the start of the first incomplete one.

        Nearly every frame is a whole unmasked binary message: those are cut out here, at a third
        of what the library's parser costs. It gets every other frame, and what it must refuse.
        """
        buffer, filled, pending = self._buffer, self._filled, self._pending
        bytes_max, tiny = self._settings.message_bytes_max, 0
        is_fragmented = self._protocol.current_size is not None
        while (extent := payload_extent(buffer, start, filled)) is not None:
            body, size = extent
            if not 0 <= size <= bytes_max:  # refused, whatever follows
                self._feed(buffer[start:filled])
                return filled
            end = body + size
            if end > filled:
                break
            if buffer[start] == WHOLE_BINARY and not is_fragmented:
                pending.append(bytes(buffer[body:end]))
                self._pending_bytes += size
            else:
                self._feed(buffer[start:end])
                is_fragmented = self._protocol.current_size is not None
                if self._protocol.state is not OPEN:
                    return filled
            start = end
            tiny += size < TINY_BYTES
            if tiny > TINY_FRAMES_MAX:
                self.finish(ReconnectReason.PROTOCOL, "a flood of tiny frames")
                break
        return start

    def _keep_from(self, start: int) -> None:
        """Move what is incomplete to the front of the buffer, which has room for the rest of it."""
        rest = bytes(self._buffer[start : self._filled])
        self._filled = len(rest)
        size = len(self._buffer)
        if len(rest) == size:
            size *= 2
        elif not rest:
            size = RECEIVE_BYTES
        if size != len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        self._buffer[: len(rest)] = rest

    def _feed(self, data: memoryview) -> None:
        """Let the library parse `data`, and file what comes of it."""
        # It appends to a bytearray, which takes any buffer; a copy would be for its annotation.
        self._protocol.receive_data(data)  # type: ignore[arg-type]
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._assemble(event)
            elif self._protocol.handshake_exc is None:  # the answer to the handshake
                self._is_opened = True
                self._handshaken.set()

    def _time_message(self, now: float, *, is_complete: bool) -> None:
        """Note since when one message has been arriving; control frames alone say nothing."""
        if is_complete:
            self._message_since = None
            self._idle_since = now
        is_within = self._protocol.current_size is not None or self._filled > 0
        if is_within and self._message_since is None:
            self._message_since = now

    def _assemble(self, frame: Frame) -> None:
        """Add one fragment; a text message is counted when it begins and never kept."""
        if frame.opcode is TEXT:
            self._partial = None
            self._count_text()
        elif frame.opcode is BINARY:
            self._partial = bytearray(frame.data)  # with `fin` it was taken already
        elif frame.opcode is CONT and self._partial is not None:
            self._partial += frame.data
            if frame.fin:
                self._pending.append(bytes(self._partial))
                self._pending_bytes += len(self._partial)
                self._partial = None

    def _count_text(self) -> None:
        self._text_frames += 1
        now = self._clock.monotonic()
        if now - self._text_window_since > 60:  # noqa: PLR2004 - seconds of a minute
            self._text_window_since, self._text_window_count = now, 0
        self._text_window_count += 1
        if self._text_window_count > self._settings.text_frames_per_minute:
            self.finish(ReconnectReason.TEXT_FRAMES)

    def _judge_state(self) -> None:
        """Say why the protocol left the open state, if it has been there."""
        protocol = self._protocol
        if isinstance(protocol.parser_exc, PayloadTooBig):
            self.finish(ReconnectReason.OVERSIZE, str(protocol.parser_exc))
        elif protocol.parser_exc is not None:
            self.finish(ReconnectReason.PROTOCOL, str(protocol.parser_exc))
        elif protocol.close_rcvd is not None:
            close = protocol.close_rcvd
            self.finish(ReconnectReason.CLOSED, f"{close.code} {close.reason}".rstrip())
        elif protocol.handshake_exc is not None:
            self.finish(ReconnectReason.HANDSHAKE, str(protocol.handshake_exc))

    def _is_due(self) -> bool:
        return self._batch_is_due or self._is_full() or self.end is not None

    def _is_full(self) -> bool:
        return (
            len(self._pending) >= self._settings.batch_frames
            or self._pending_bytes >= self._settings.batch_bytes
        )

    def _announce(self) -> None:
        """Something is pending: deliver it soon, and stop reading if it is enough."""
        if self._is_full():
            self._wake()
            if self.end is None and self._paused_since is None and self._transport is not None:
                self._transport.pause_reading()
                self._paused_since = self._clock.monotonic()
        elif self._batch_timer is None and self.end is None:
            self._batch_timer = self._loop.call_later(self._settings.batch_s, self._make_due)

    def _make_due(self) -> None:
        self._batch_is_due = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> Received:
        size = self._settings.batch_frames
        frames, self._pending = self._pending[:size], self._pending[size:]
        self._pending_bytes = sum(map(len, self._pending))  # fewer than were taken, as a rule
        received = Received(frames, self._text_frames, self._pending_since)
        self._text_frames = 0
        if self._pending and self.last_received_at is not None:
            self._pending_since = self.last_received_at  # the rest came with the last read
        self._batch_is_due = bool(self._pending)
        if self._batch_timer is not None:
            self._batch_timer.cancel()
            self._batch_timer = None
        if self._paused_since is not None and self.end is None:
            self._paused_since = now = self._clock.monotonic()
            if not self._is_full() and self._transport is not None:
                self._paused_since = None
                self._quiet_since = self._idle_since = now
                if self._message_since is not None:
                    self._message_since = now
                self._transport.resume_reading()
        return received

    def _tick(self) -> None:
        """Look at every deadline, then come again."""
        settings, now = self._settings, self._clock.monotonic()
        quiet_s = now - self._quiet_since
        if self._paused_since is not None:
            if now - self._paused_since > settings.stall_s:
                self.finish(ReconnectReason.BACKPRESSURE)
        elif quiet_s > settings.dead_s:
            self.finish(ReconnectReason.KEEPALIVE, f"no byte for {quiet_s:.0f} s")
        elif self._message_since is not None and now - self._message_since > settings.message_s:
            self.finish(ReconnectReason.SLOW_MESSAGE)
        elif settings.idle_s is not None and now - self._idle_since > settings.idle_s:
            self.finish(ReconnectReason.IDLE)
        elif quiet_s >= settings.ping_s and now - self._pinged_at >= settings.ping_s:
            self._ping(now)
        if self.end is None:
            self._tick_timer = self._loop.call_later(settings.tick_s, self._tick)

    def _ping(self, now: float) -> None:
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._flush()
            self._pinged_at = now

    def _flush(self) -> None:
        for chunk in self._protocol.data_to_send():
            # An empty chunk asks for a half-close; this side always ends with abort().
            if chunk and self._transport is not None:
                self._transport.write(chunk)
