"""HTTP servers on 127.0.0.1 that answer like the real ones, or as a fault wants.

Owns listening, XRPC errors, request bookkeeping (for tests of politeness) and the faults that
concern any answer. Handlers give a `Reply` or raise `XrpcError` and know nothing of faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from aiohttp import web

from tests.devnet import misbehaviour
from tests.devnet.faults import HTTP_AFTER, HTTP_BEFORE, FaultSchedule, Param

JSON_TYPE = "application/json; charset=utf-8"
CAR_TYPE = "application/vnd.ipld.car"
_CHUNK_BYTES = 65_536
_SEEN_MAX = 20_000
_GZIP_BYTES_MIN = 1024  # the real PDS leaves shorter answers alone


@dataclass(slots=True)
class Reply:
    """An answer. A CAR comes in its sections, so that faults can aim at a block."""

    parts: Iterable[bytes]
    content_type: str = JSON_TYPE
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    is_chunked: bool = False


class XrpcError(Exception):
    """An XRPC failure. The real PDS answers nearly all of them with 400."""

    def __init__(self, error: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.error = error
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the server saw it."""

    at: float  # monotonic seconds
    endpoint: str
    query: dict[str, str]
    headers: dict[str, str]


Handler: TypeAlias = Callable[[web.Request], Awaitable[Reply | web.StreamResponse]]
Route: TypeAlias = tuple[str, Handler]  # the endpoint's name in faults and counts, its handler


def json_reply(value: object, *, content_type: str = JSON_TYPE, status: int = 200) -> Reply:
    """JSON without spaces."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Reply([text.encode()], content_type, status)


class Server:
    """One listening socket. Its port is chosen at the first start and kept over restarts."""

    def __init__(self, service: str, faults: FaultSchedule, host: int = 0) -> None:
        self.service = service
        self.host = host
        self.faults = faults
        self.port = 0
        self.requests: Counter[str] = Counter()  # endpoint -> requests
        self.seen: deque[Seen] = deque(maxlen=_SEEN_MAX)
        self.busy = 0
        self.busy_max = 0  # most requests in progress at once, without subscribeRepos
        self._routes: dict[tuple[str, str], Route] = {}
        self._fallback: Callable[[web.Request], Route] | None = None
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.Transport] = set()

    @property
    def url(self) -> str:
        """Origin, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def route(self, method: str, path: str, endpoint: str, handler: Handler) -> None:
        """Answer an exact path."""
        self._routes[method, path] = (endpoint, handler)

    def fallback(self, choose: Callable[[web.Request], Route]) -> None:
        """Answer every other path."""
        self._fallback = choose

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, backlog=512)
        await site.start()
        self.port = runner.addresses[0][1]
        self._runner = runner

    async def stop(self) -> None:
        """Stop like a killed process: every connection ends without a farewell."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        self.drop_connections()
        await runner.cleanup()

    def drop_connections(self) -> int:
        """Reset every connection that has a request in progress. Returns their number."""
        transports, self._transports = self._transports, set()
        for transport in transports:
            transport.abort()
        return len(transports)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        endpoint, handler = self._choose(request)
        self.requests[endpoint] += 1
        query = dict(request.query)
        self.seen.append(Seen(time.monotonic(), endpoint, query, dict(request.headers)))
        transport = request.transport
        if transport is not None:
            self._transports.add(transport)
        is_stream = endpoint.endswith("subscribeRepos")
        self.busy += not is_stream
        self.busy_max = max(self.busy_max, self.busy)
        try:
            return await self._answer_as(request, endpoint, handler)
        finally:
            self.busy -= not is_stream
            if transport is not None:
                self._transports.discard(transport)

    async def _answer_as(
        self, request: web.Request, endpoint: str, handler: Handler
    ) -> web.StreamResponse:
        context: dict[str, Param] = {
            "service": self.service,
            "endpoint": endpoint,
            "host": self.host,
            "did": request.query.get("did") or request.query.get("repo") or request.path[1:],
        }
        fault = self.faults.take(HTTP_BEFORE, **context)
        reply: Reply | web.StreamResponse | None = None
        if fault is not None:
            reply = await misbehaviour.instead(fault, request)
        if reply is None:
            try:
                reply = await handler(request)
            except XrpcError as exc:
                reply = json_reply({"error": exc.error, "message": exc.message}, status=exc.status)
        if isinstance(reply, web.StreamResponse):
            return reply
        fault = self.faults.take(HTTP_AFTER, **context)
        if fault is not None:
            return await misbehaviour.spoil(fault, request, reply)
        return await send(request, reply)

    def _choose(self, request: web.Request) -> Route:
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((method, request.path))
        if route is not None:
            return route
        if self._fallback is not None:
            return self._fallback(request)
        return request.path, _not_found


async def _not_found(request: web.Request) -> Reply:
    raise XrpcError("NotFound", f"nothing at {request.path}", 404)


async def send(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Send an answer, gzipped where that is accepted and pays."""
    headers = {
        "Content-Type": reply.content_type,
        "Access-Control-Allow-Origin": "*",
        **reply.headers,
    }
    accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    if not reply.is_chunked:
        body = b"".join(reply.parts)
        if accepts_gzip and len(body) >= _GZIP_BYTES_MIN:
            headers["Content-Encoding"] = "gzip"
            body = zlib.compress(body, wbits=31)
        return web.Response(status=reply.status, headers=headers, body=body)
    packer = zlib.compressobj(wbits=31) if accepts_gzip else None
    if packer is not None:
        headers["Content-Encoding"] = "gzip"
    response = web.StreamResponse(status=reply.status, headers=headers)
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    with contextlib.suppress(ConnectionResetError):  # the client may hang up at any byte
        for chunk in chunks(reply.parts):
            await response.write(chunk if packer is None else packer.compress(chunk))
        if packer is not None:
            await response.write(packer.flush())
        await response.write_eof()
    return response


def chunks(parts: Iterable[bytes]) -> Iterable[bytes]:
    """The same bytes in pieces of about 64 KiB."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= _CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
