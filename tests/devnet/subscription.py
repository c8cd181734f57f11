"""One consumer of subscribeRepos: the handshake, its cursor, its frames, its faults.

Owns what goes over one WebSocket. No compression, no pings of its own, errors as a last frame with
close 1008, an abrupt end when the server stops: as the real PDS does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable

from aiohttp import WSCloseCode, web

from tests.devnet import misbehaviour
from tests.devnet.cbor import encode
from tests.devnet.faults import CONNECTION, MESSAGE, Fault, FaultKind, FaultSchedule, Param
from tests.devnet.frames import error_message, info_message, message
from tests.devnet.serving import Reply, XrpcError
from tests.devnet.stream import Entry, EventStream

NSID = "com.atproto.sync.subscribeRepos"
_PADDED_BYTES = len(message("#labels", {"pad": b""})) + 4  # the length of a long pad takes 4 more


class Hangup(Exception):
    """The connection has ended, by us or by a fault."""


class Subscriptions:
    """Serves one `EventStream`. `backlog_max` events behind means ConsumerTooSlow; None: never."""

    def __init__(
        self, stream: EventStream, faults: FaultSchedule, service: str, host: int = 0
    ) -> None:
        self.stream = stream
        self.backlog_max: int | None = None
        self.between: Callable[[int], bytes] | None = None
        """What follows the event of a seq: whole WebSocket messages, of events in no log."""
        self.hesitation_s = 0.0  # before a cursor ahead of the log is refused
        self.connections = 0  # ever accepted
        self.open = 0
        self._changed = asyncio.Event()
        self.cursors: deque[str | None] = deque(maxlen=1000)  # what connections asked for
        self._faults = faults
        self._context: dict[str, Param] = {"service": service, "endpoint": NSID, "host": host}

    async def serve(self, request: web.Request) -> Reply | web.StreamResponse:
        """Handler of the endpoint."""
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise XrpcError("InvalidRequest", f"No service configured for {NSID}")
        fault = self._take((FaultKind.HANDSHAKE_STATUS, FaultKind.HANDSHAKE_HANG))
        if fault is not None:
            return await _refuse(fault)
        socket = web.WebSocketResponse(compress=False, max_msg_size=65_536)
        await socket.prepare(request)
        self.connections += 1
        self.open += 1
        self._changed.set()
        self.cursors.append(request.query.get("cursor"))
        connection = _Connection(self, request, socket, self._faults, self._context)
        try:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(connection.listen(), name="devnet.subscriber.listen")
                with contextlib.suppress(Hangup, ConnectionError):
                    await connection.run(request.query.get("cursor"))
                listening.cancel()
        finally:
            self.open -= 1
            self._changed.set()
            self.stream.unlisten(connection.news)
        return socket

    async def wait_open(self, count: int = 1, timeout_s: float = 10.0) -> None:
        """Return when exactly `count` consumers are connected; TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while self.open != count:
                self._changed.clear()
                await self._changed.wait()

    async def wait_connections(self, count: int, timeout_s: float = 10.0) -> None:
        """Return when `count` connections were accepted in all; TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while self.connections < count:
                self._changed.clear()
                await self._changed.wait()

    def _take(self, kinds: tuple[FaultKind, ...]) -> Fault | None:
        return self._faults.take(kinds, **self._context)


async def _refuse(fault: Fault) -> web.Response:
    if fault.kind is FaultKind.HANDSHAKE_HANG:
        await misbehaviour.never()
    headers = {}
    if "retry_after_s" in fault.params:
        headers["Retry-After"] = str(fault.params["retry_after_s"])
    status = int(fault.number("status", 503))
    return web.Response(status=status, text="<h1>No</h1>", headers=headers)


class _Connection:
    """The sending half of one WebSocket."""

    def __init__(
        self,
        owner: Subscriptions,
        request: web.Request,
        socket: web.WebSocketResponse,
        faults: FaultSchedule,
        context: dict[str, Param],
    ) -> None:
        self._owner = owner
        self._socket = socket
        self._faults = faults
        self._context = context
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._writer = request.writer
        self.news = owner.stream.listen()  # set by new events, and when the consumer has gone
        self._is_over = False
        self._sent = 0
        self._held: list[bytes] = []  # frames that a reorder lets others overtake
        self._rng = random.Random(owner.connections)

    async def listen(self) -> None:
        """Answer pings and closes; whatever a consumer says is ignored."""
        try:
            async for _ in self._socket:
                pass
        finally:
            self._is_over = True
            self.news.set()

    async def run(self, cursor: str | None) -> None:
        """Send from `cursor` on until the connection ends."""
        if self._faults.take((FaultKind.CONNECT_THEN_FAIL,), **self._context):
            await self._abort()
        position = await self._start(cursor)
        while not self._is_over:
            self.news.clear()
            entries = self._owner.stream.after(position)
            for entry in entries:
                await self._pass(entry)
                position = entry.seq
            await self._check_backlog(position)
            if not entries:
                await self._end_if_due(None)
                await self.news.wait()

    async def _start(self, cursor: str | None) -> int:
        """The seq after which to begin."""
        stream = self._owner.stream
        if cursor is None:
            return stream.last_seq
        try:
            position = int(cursor)
        except ValueError:
            text = f'Invalid {NSID} params: Expected integer value type (got "{cursor}")'
            await self._fail("InvalidRequest", text)
            raise Hangup from None
        if position > stream.last_seq:
            await asyncio.sleep(self._owner.hesitation_s)
            await self._fail("FutureCursor", "Cursor in the future.")
        if stream.is_outdated(position):
            text = "Requested cursor exceeded limit. Possibly missing events"
            await self._socket.send_bytes(info_message("OutdatedCursor", text))
        return position

    async def _check_backlog(self, position: int) -> None:
        most = self._owner.backlog_max
        if most is not None and self._owner.stream.behind(position) > most:
            await self._fail("ConsumerTooSlow", "Stream consumer too slow")

    async def _fail(self, error: str, text: str) -> None:
        await self._socket.send_bytes(error_message(error, text))
        await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=error.encode())
        raise Hangup

    async def _abort(self) -> None:
        self._transport.abort()
        raise Hangup

    def _take(self, kinds: tuple[FaultKind, ...], entry: Entry | None) -> Fault | None:
        if not self._faults.scheduled:
            return None
        context = {**self._context, "at": self._sent}
        if entry is not None:
            context |= {"seq": entry.seq, "did": entry.event.did, "type": entry.event.kind}
        return self._faults.take(kinds, **context)

    async def _end_if_due(self, entry: Entry | None) -> None:
        """Let a scheduled end of the connection happen, before `entry` or while idle."""
        fault = self._take(CONNECTION, entry)
        if fault is None:
            return
        match fault.kind:
            case FaultKind.DROP_CONNECTION:
                await self._abort()
            case FaultKind.CLOSE_WITHOUT_FRAME:
                self._transport.close()
            case FaultKind.CLOSE:
                code, reason = int(fault.number("code", 1000)), fault.text("reason", "")
                await self._socket.close(code=code, message=reason.encode())
            case FaultKind.ERROR_FRAME:
                error = fault.text("error", "ConsumerTooSlow")
                await self._fail(error, fault.text("message", error))
            case FaultKind.DEAD_PEER:
                self._transport.pause_reading()
                await misbehaviour.never()
            case _:
                await misbehaviour.never()
        raise Hangup

    async def _pass(self, entry: Entry) -> None:
        await self._end_if_due(entry)
        fault = self._take(MESSAGE, entry)
        if fault is not None and fault.kind is FaultKind.REORDER_FRAMES:
            self._held.append(entry.frame)
            return
        if fault is None:
            await self._send(entry.frame)
        elif fault.kind is FaultKind.SLOW_FRAME:
            await self._drip(entry.frame, fault.number("interval_s", 0.05))
        else:
            for before in self._before(fault):
                await self._send_any(before)
            for frame in self._altered(fault, entry):
                await self._send(frame)
        held, self._held = self._held, []
        for frame in held:
            await self._send(frame)
        if self._owner.between is not None:
            self._transport.write(self._owner.between(entry.seq))
            await self._writer.drain()

    def _before(self, fault: Fault) -> list[str | bytes]:
        """What a fault puts in front of the true frame."""
        match fault.kind:
            case FaultKind.TEXT_FRAME:
                return [fault.text("text", '{"op":1}')]
            case FaultKind.UNKNOWN_OP:
                return [encode({"op": 7, "t": "#commit"}) + encode({})]
            case FaultKind.UNKNOWN_TYPE:
                return [message(fault.text("type", "#labels"), {"labels": []})]
            case FaultKind.INFO_FRAME:
                name = fault.text("name", "OutdatedCursor")
                return [info_message(name, fault.text("message", "devnet"))]
            case FaultKind.OVERSIZED_FRAME:
                size = int(fault.number("size", 5_000_001))
                return [message("#labels", {"pad": bytes(size - _PADDED_BYTES)})]
            case _:
                return []

    def _altered(self, fault: Fault, entry: Entry) -> list[bytes]:
        """What a fault makes of the frame."""
        frame = entry.frame
        match fault.kind:
            case FaultKind.DUPLICATE_FRAME:
                return [frame, frame]
            case FaultKind.CORRUPT_FRAME:
                at = int(fault.number("offset", self._rng.randrange(len(frame))))
                return [misbehaviour.flip(frame, at)]
            case FaultKind.TRUNCATE_FRAME:
                return [frame[: len(frame) // 2]]
            case FaultKind.TRAILING_BYTES:
                return [frame + b"\xa0"]
            case FaultKind.REPLACE_FRAME:
                return [fault.raw("data") or b""]
            case _:
                return [frame]

    async def _send(self, frame: bytes) -> None:
        await self._socket.send_bytes(frame)
        self._sent += 1

    async def _send_any(self, data: str | bytes) -> None:
        if isinstance(data, str):
            await self._socket.send_str(data)
        else:
            await self._socket.send_bytes(data)

    async def _drip(self, frame: bytes, interval_s: float) -> None:
        """The frame as a hand-made WebSocket message, one byte at a time."""
        size = len(frame)
        if size < 126:
            head = bytes((0x82, size))
        elif size < 65_536:
            head = b"\x82\x7e" + size.to_bytes(2, "big")
        else:
            head = b"\x82\x7f" + size.to_bytes(8, "big")
        for byte in head + frame:
            if self._transport.is_closing():
                raise Hangup
            self._transport.write(bytes((byte,)))
            await asyncio.sleep(interval_s)
        self._sent += 1
