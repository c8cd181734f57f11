"""The HTTP side of a listener: connections, their caps, and a clean end.

Owns everything below a request: how many connections there may be, how long a request's head or
an idle connection may take, the JSON answer to what is not HTTP, and the drain at the end. Knows
nothing of methods or health.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from admin_api.xrpc import error_response
from indexer.errors import LocalFault

log = structlog.get_logger(__name__)

CONNECTIONS_MAX = 200
IDLE_S = 30.0
"""A connection that has sent no complete request head for this long is closed."""

DRAIN_S = 1.0
"""Time for requests in progress when the listener closes."""

LINGER_S = 1.0
"""How long an unread rest of a refused body is read and thrown away."""

Answer = Callable[[web.BaseRequest, str, str], Awaitable[web.Response]]
"""(request, raw path, raw query) -> response"""


@asynccontextmanager
async def listen(
    name: str, bind: str, port: int, answer: Answer, *, idle_s: float = IDLE_S
) -> AsyncIterator[int]:
    """Serve until the block ends; gives the bound port.

    `name` is the section of the settings. Raises `LocalFault` where the address cannot be bound.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        return await answer(request, path, query)

    loop = asyncio.get_running_loop()
    server = web.Server(handle)

    def accept() -> asyncio.Protocol:
        if len(server.connections) >= CONNECTIONS_MAX:
            return _Turned()
        return _Connection(
            server,
            loop=loop,
            keepalive_timeout=idle_s,
            lingering_time=LINGER_S,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # documented; the annotation lacks None
        )

    try:
        sockets = await loop.create_server(accept, bind, port)
    except OSError as exc:
        raise LocalFault(
            f"{name}.bind = {bind!r}, {name}.port = {port}: cannot listen there: {exc.strerror};"
            " end the process that holds the port, or choose another one"
        ) from exc
    try:
        yield sockets.sockets[0].getsockname()[1]
    finally:
        sockets.close()
        server.pre_shutdown()
        await server.shutdown(DRAIN_S)


class _Connection(web.RequestHandler):
    """Answers in JSON where aiohttp would in text: to malformed HTTP, and to a bug of ours."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the signature is aiohttp's
    ) -> web.StreamResponse:
        """The answer, after which the connection is closed."""
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


class _Turned(asyncio.Protocol):
    """A connection beyond the cap: told so and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close at once; the system sends the short answer."""
        if isinstance(transport, asyncio.Transport):
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                b'Connection: close\r\nRetry-After: 5\r\n\r\n{"error":"NotEnoughResources",'
                b'"message":"too many connections"}'
            )
        transport.close()
