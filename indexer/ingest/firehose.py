"""The event stream that never ends: relays in, batches of raw frames out.

Owns the decision when to dial which relay and from where: backoff, failover over the list of
URLs, pauses, and the reasons for every reconnect. It does not decode: what a frame means, and
which seq is durable, the consumer knows and says through `load_cursor` and `reconnect`.

It starts no task. Connecting, waiting and receiving happen inside the consumer's own request for
the next batch, so a consumer that does not ask has a relay that is not read, and a cancelled one
leaves nothing behind.

Invariants: every connection starts from what `load_cursor` says at that moment for that URL; a
URL's cursor is never used for another; every end of a connection, whatever its code, is followed
by another attempt; a relay that accepts and then fails is backed off from like one that is away.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from indexer.clock import Clock
from indexer.ingest.dialing import Dialer, DialFailure, OpenSocket, open_any_socket
from indexer.ingest.endings import End, ReconnectReason
from indexer.ingest.websocket import Received, Websocket, WebsocketSettings
from indexer.metrics import Metrics

log = structlog.get_logger(__name__)

LoadCursor = Callable[[str], Awaitable[int | None]]
"""Relay URL -> the last seq of it that is durably processed; None: start with live events.

Asked before every dial. It may wait until the consumer's pipeline has settled, so that less is
replayed. Its errors end `batches`.
"""

NO_FAULT_OF_THE_RELAY = frozenset(
    {
        ReconnectReason.BACKPRESSURE,
        ReconnectReason.PAUSED,
        ReconnectReason.OPERATOR,
        ReconnectReason.CLOCK,
    }
)
"""Ends that we chose: no backoff, no step towards the next URL."""

BACKOFF_DOUBLINGS_MAX = 16

TROUBLE_CHARS_MAX = 200
"""So much of a failure fits into a line of status; the log has more of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirehoseSettings:
    """How the stream is kept alive. Durations in seconds."""

    urls: tuple[str, ...]  # in order of preference; ws:// or wss://, with or without a path
    user_agent: str
    backoff_s_min: float = 1.0  # full jitter: uniform between 0 and min * 2**failures
    backoff_s_max: float = 60.0  # once those exceed it, exactly this: no sooner and no later
    good_frames: int = 100  # accepted frames of one connection after which failures are forgotten
    failures_before_next_url: int = 5
    retry_after_s_max: float = 3600.0  # longest wait that a relay may impose
    refused_retry_s: float = 300.0  # shortest wait after 403, 404, 501 and the like
    websocket: WebsocketSettings = field(default_factory=WebsocketSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameBatch:
    """Messages of one connection, in order of arrival."""

    url: str  # as configured: the key of the cursor, whatever redirects led to
    connection: int  # rises with every connection; sequence checks start anew with it
    frames: list[bytes]  # binary messages; may be empty when only text messages came
    text_frames: int  # text messages, which the stream does not have; content not kept
    received_at: float  # unix seconds, arrival of the first


@dataclass(slots=True)
class _Relay:
    """One configured URL and what we owe it."""

    url: str
    failures: int = 0  # since its last connection with enough good frames
    not_before: float = 0.0  # monotonic; no dial earlier
    trouble: str | None = None  # of the last failure, since then


@dataclass(frozen=True, slots=True)
class _Request:
    """The consumer's wish to leave the present connection."""

    reason: ReconnectReason
    retry_after_s: float
    next_url: bool


class Firehose:
    """Endless batches of frames from the first relay that works. One consumer at a time."""

    def __init__(
        self,
        *,
        settings: FirehoseSettings,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        load_cursor: LoadCursor,
        check_url: Callable[[str], None],
        open_socket: OpenSocket = open_any_socket,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._load_cursor = load_cursor
        self._dialer = Dialer(
            settings=settings.websocket,
            clock=clock,
            user_agent=settings.user_agent,
            check_url=check_url,
            open_socket=open_socket,
            tls=tls or ssl.create_default_context(),
        )
        self._relays = [_Relay(url) for url in settings.urls]
        self._relay = self._relays[0]
        self._failures_in_a_row = 0  # on the present relay, since it was chosen
        self._websocket: Websocket | None = None
        self._connection = 0
        self._good_frames = 0  # of the present connection
        self._request: _Request | None = None
        self._pauses = 0
        self._is_iterated = False
        self._parked = asyncio.Event()  # paused, and the consumer is waiting for us
        self._nudge = asyncio.Event()  # something changed that a waiting dial must see
        self.connected_since: float | None = None  # unix seconds, of the present connection
        self.last_received_at: float | None = None  # unix seconds, of any connection
        for reason in ReconnectReason:
            metrics.firehose_reconnects.labels(reason)  # a counter at 0 can be alerted on
        metrics.firehose_connected.set_function(lambda: self.is_connected)
        metrics.firehose_paused.set_function(lambda: self.is_paused)

    # What an operator sees.

    @property
    def url(self) -> str:
        """The relay in use, or next to be tried; as configured."""
        return self._relay.url

    @property
    def trouble(self) -> str | None:
        """Why the last attempt to follow that relay failed; None after one that did well."""
        return self._relay.trouble

    @property
    def is_connected(self) -> bool:
        """Whether a stream is open."""
        return self._websocket is not None and self._websocket.end is None

    @property
    def has_begun(self) -> bool:
        """Whether frames of the present connection have been accepted."""
        return self.is_connected and self._good_frames > 0

    @property
    def is_paused(self) -> bool:
        """Whether at least one `pause` is in force."""
        return self._pauses > 0

    # What the consumer does.

    async def batches(self) -> AsyncGenerator[FrameBatch, None]:
        """Frames for ever. Close it (`contextlib.aclosing`) or cancel its consumer to end it.

        A batch has counted as good once the next one is asked for without `reconnect`. Raises
        what `load_cursor` raises, and nothing that a relay can cause.
        """
        if self._is_iterated:
            raise RuntimeError("the firehose has one consumer")
        self._is_iterated = True
        try:
            while True:
                await self._wait_for_turn()
                websocket = await self._connect()
                if websocket is None:
                    continue
                try:
                    while (received := await websocket.receive()) is not None:
                        yield self._batch(received)
                        self._note_accepted(len(received.frames))
                finally:
                    self._websocket = None
                    end = websocket.finish(ReconnectReason.OPERATOR, "the consumer left")
                    await websocket.closed()
                request, self._request = self._request, None
                self._settle(end, request=request)
        finally:
            self._is_iterated = False

    def reconnect(self, reason: str, *, retry_after_s: float = 0.0, next_url: bool = False) -> None:
        """Drop the present connection and what it has pending; dial again from the saved cursor.

        `reason` is a value of `ReconnectReason`. `retry_after_s` is waited at least; `next_url`
        goes to the next relay. Without a connection only `next_url` has an effect.
        """
        self._request = _Request(ReconnectReason(reason), retry_after_s, next_url)
        if self._websocket is not None:
            self._websocket.discard(self._request.reason)
        self._nudge.set()

    def pause(self) -> None:
        """Close the connection and dial no more until `resume`; what has arrived is delivered.

        Pauses nest: as many calls of `resume` are needed. `paused` tells when it is quiet.
        """
        self._pauses += 1
        if self._websocket is not None:
            self._websocket.finish(ReconnectReason.PAUSED)
        self._nudge.set()

    def resume(self) -> None:
        """Take back one `pause`; after the last the stream goes on from the saved cursor."""
        if not self._pauses:
            raise RuntimeError("resume without pause")
        self._pauses -= 1
        self._nudge.set()

    async def paused(self) -> None:
        """Wait until a pause is complete: no socket, and the consumer has taken every frame.

        The consumer must be iterating. It has then asked for more, so it has handled them too.
        """
        await self._parked.wait()

    # Inside.

    async def _wait_for_turn(self) -> None:
        """Return when the present relay may be dialled."""
        while True:
            if self._request is not None:  # made while there was no connection
                if self._request.next_url:
                    self._move_on()
                self._request = None
            self._nudge.clear()
            if self._pauses:
                self._parked.set()
                try:
                    await self._nudge.wait()
                finally:
                    self._parked.clear()
                continue
            left_s = self._relay.not_before - self._clock.monotonic()
            if left_s <= 0:
                return
            # Looked at again every tick: the clock is a parameter, the loop's timer is not.
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, self._settings.websocket.tick_s)):
                    await self._nudge.wait()

    async def _connect(self) -> Websocket | None:
        """Dial the present relay; None after a failure, which is settled."""
        relay = self._relay
        cursor = await self._load_cursor(relay.url)
        try:
            websocket = await self._dialer.dial(relay.url, cursor)
        except DialFailure as failure:
            self._settle(
                End(failure.reason, failure.detail), retry_after_s=failure.retry_after_s or 0.0
            )
            return None
        self._websocket = websocket
        self._connection += 1
        self._good_frames = 0
        self.connected_since = self._clock.now()
        log.info("firehose.connected", host=relay.url, seq=cursor, connection=self._connection)
        # Asked for while we were dialling.
        if self._request is not None:
            websocket.discard(self._request.reason)
        elif self._pauses:
            websocket.finish(ReconnectReason.PAUSED)
        return websocket

    def _batch(self, received: Received) -> FrameBatch:
        self.last_received_at = received.received_at
        self._metrics.firehose_last_received_timestamp_seconds.set(received.received_at)
        self._metrics.count_events("text", received.text_frames)
        return FrameBatch(
            url=self._relay.url,
            connection=self._connection,
            frames=received.frames,
            text_frames=received.text_frames,
            received_at=received.received_at,
        )

    def _note_accepted(self, frames: int) -> None:
        if self._request is not None:
            return
        self._good_frames += frames
        if self._good_frames >= self._settings.good_frames:
            self._relay.failures = self._failures_in_a_row = 0
            self._relay.trouble = None

    def _settle(
        self, end: End, *, request: _Request | None = None, retry_after_s: float = 0.0
    ) -> None:
        """Account for the end of a connection or attempt: counters, waits, the next relay."""
        settings, relay = self._settings, self._relay
        reason = end.reason if request is None else request.reason
        self._metrics.firehose_reconnects.labels(reason).inc()
        self.connected_since = None
        imposed_s = min(retry_after_s, settings.retry_after_s_max)
        if reason is ReconnectReason.REFUSED:
            imposed_s = max(imposed_s, settings.refused_retry_s)
        wait_s = max(imposed_s, 0.0 if request is None else request.retry_after_s)
        if reason not in NO_FAULT_OF_THE_RELAY:
            relay.failures += 1
            relay.trouble = f"{reason.value}: {_readable(end.detail)}"
            # How long a relay may insist on FutureCursor is the consumer's decision.
            self._failures_in_a_row += reason is not ReconnectReason.FUTURE_CURSOR
            wait_s = max(wait_s, self._backoff_s(relay.failures))
        relay.not_before = self._clock.monotonic() + wait_s
        # What somebody asked for is no cause for concern.
        report = log.info if reason is ReconnectReason.PAUSED else log.warning
        report(
            "firehose.disconnected",
            host=relay.url,
            reason=reason.value,
            detail=end.detail,
            failures=relay.failures,
            retry_in_s=round(wait_s, 3),
        )
        # A relay that sends us away for long is as good as down: another may serve meanwhile.
        if (
            (request is not None and request.next_url)
            or self._failures_in_a_row >= settings.failures_before_next_url
            or imposed_s >= settings.refused_retry_s
        ):
            self._move_on()

    def _backoff_s(self, failures: int) -> float:
        doublings = min(failures - 1, BACKOFF_DOUBLINGS_MAX)
        ceiling_s = self._settings.backoff_s_min * 2**doublings
        if ceiling_s >= self._settings.backoff_s_max:
            return self._settings.backoff_s_max
        return self._rng.uniform(0, ceiling_s)

    def _move_on(self) -> None:
        """Choose the relay that may be dialled first, starting behind the present one."""
        index = self._relays.index(self._relay)
        now = self._clock.monotonic()
        self._relay = min(
            self._relays[index + 1 :] + self._relays[: index + 1],
            key=lambda relay: max(relay.not_before, now),
        )
        self._failures_in_a_row = 0


def _readable(text: str) -> str:
    """What a peer wrote, as one line of status that steers no terminal and can be sent."""
    return "".join(c if c.isprintable() else "?" for c in text[:TROUBLE_CHARS_MAX])
