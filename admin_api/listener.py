"""The HTTP side of a listener: connections, their caps, and a clean end.

Owns everything below a request: how many connections there may be, how long a request's head or
an idle connection may take, the JSON answer to what is not HTTP, and the drain at the end. Knows
nothing of methods or health.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import HttpVersion10, web

from admin_api.xrpc import error_response
from indexer.errors import LocalFault

log = structlog.get_logger(__name__)

CONNECTIONS_MAX = 200
PER_CLIENT_MAX = 64
"""Connections of one client: whoever holds as many keeps nobody else out."""

IDLE_S = 30.0
"""A connection that has sent no complete request head for this long is closed."""

DRAIN_S = 1.0
"""Time for requests in progress when the listener closes."""

LINGER_S = 1.0
"""How long an unread rest of a refused body is read and thrown away."""

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b'Connection: close\r\nRetry-After: 5\r\n\r\n{"error":"NotEnoughResources",'
    b'"message":"too many connections"}'
)
"""What a connection beyond the caps is told."""

REMEDIES = {
    errno.EADDRINUSE: "end the process that holds the port, or choose another one",
    errno.EADDRNOTAVAIL: "it must be an address of this machine, or 0.0.0.0 or :: for all of them",
    errno.EACCES: "choose a port above 1023",
    # What the kernel answers where the unit does not list the port.
    errno.EPERM: "a port that is not the default needs SocketBindAllow=tcp:PORT in the unit",
}
"""What to do where an address cannot be bound."""

Answer = Callable[[web.BaseRequest, str, str], Awaitable[web.Response]]
"""(request, raw path, raw query) -> response"""


@asynccontextmanager
async def listen(
    name: str,
    bind: str,
    port: int,
    answer: Answer,
    *,
    client_at: Callable[[str], str | None] = str,
    idle_s: float = IDLE_S,
) -> AsyncIterator[int]:
    """Serve until the block ends; gives the bound port.

    `name` is the section of the settings; `client_at` says for whom a connection from an address
    counts, None for nobody. Raises `LocalFault` where the address cannot be bound.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.version < HttpVersion10 or not request.raw_path.startswith("/"):
            # No version, or a request that is meant for a proxy.
            return error_response(400, "InvalidRequest", "the request must be HTTP/1, for a path")
        path, _, query = request.raw_path.partition("?")
        return await answer(request, path, query)

    loop = asyncio.get_running_loop()
    server = web.Server(handle)

    def connection() -> _Connection:
        return _Connection(
            server,
            loop=loop,
            keepalive_timeout=idle_s,
            lingering_time=LINGER_S,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # documented; the annotation lacks None
        )

    places = _Places(client_at)

    try:
        sockets = await loop.create_server(lambda: _Entrance(connection, places), bind, port)
    except OSError as exc:
        remedy = REMEDIES.get(exc.errno or 0, "choose another address or port")
        raise LocalFault(
            f"{name}.bind = {bind!r}, {name}.port = {port}: cannot listen there: {exc.strerror};"
            f" {remedy}"
        ) from exc
    if not sockets.sockets:  # asyncio takes a lack of descriptors for an unknown address family
        raise LocalFault(f"{name}.bind = {bind!r}: no socket can be opened for it")
    try:
        yield sockets.sockets[0].getsockname()[1]
    finally:
        sockets.close()
        server.pre_shutdown()
        await server.shutdown(DRAIN_S)


class _Places:
    """The connections that there are, in all and by client."""

    def __init__(self, client_at: Callable[[str], str | None]) -> None:
        self._client_at = client_at
        self._taken = 0
        self._by_client: Counter[str] = Counter()

    def take(self, peer: str) -> Callable[[], None] | None:
        """A place for a connection from this address: what gives it back. None: there is none."""
        client = self._client_at(peer)
        if self._taken >= CONNECTIONS_MAX:
            return None
        if client is not None and self._by_client[client] >= PER_CLIENT_MAX:
            return None
        self._taken += 1
        if client is not None:
            self._by_client[client] += 1

        def give_back() -> None:
            self._taken -= 1
            if client is not None:
                self._by_client[client] -= 1
                if not self._by_client[client]:
                    del self._by_client[client]

        return give_back


class _Entrance(asyncio.Protocol):
    """Hands a new connection on, or turns it away: told so and closed."""

    def __init__(self, connection: Callable[[], _Connection], places: _Places) -> None:
        self._connection = connection
        self._places = places

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find a place for it."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a listener of streams accepts streams")
        peer = transport.get_extra_info("peername")
        give_back = self._places.take(str(peer[0]) if peer else "")
        if give_back is None:
            transport.write(FULL)
            transport.close()
            return
        connection = self._connection()
        connection.give_back = give_back
        transport.set_protocol(connection)
        connection.connection_made(transport)


class _Connection(web.RequestHandler):
    """Answers in JSON where aiohttp would in text: to malformed HTTP, and to a bug of ours."""

    __slots__ = ("give_back",)

    give_back: Callable[[], None]

    def connection_lost(self, exc: BaseException | None) -> None:
        """Its place is free again."""
        self.give_back()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the signature is aiohttp's
    ) -> web.StreamResponse:
        """The answer, after which the connection is closed."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client went away: nobody is left to answer, and nothing is wrong here
        if status >= web.HTTPInternalServerError.status_code:
            log.error("admin.request_crashed", reason=repr(exc), exc_info=exc)
            response = error_response(500, "InternalServerError", "a bug; the log has the details")
        else:
            response = error_response(status, "InvalidRequest", "the request is malformed HTTP")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun already")
        response.force_close()
        response.headers["Connection"] = (
            "close"  # the answer is one of HTTP/1.0, where it is implied
        )
        return response
