"""The one way out: a bounded, paced, SSRF-safe HTTP client.

Every answer is capped after decompression, every wait has a timeout, redirects are followed only
where asked for, each checked and paced again. Failures arrive in three classes: `Unavailable` (try
later), `XrpcFailure` (the host answered with a named error), `InvalidUpstream` (it answered
nonsense, or we refuse to ask).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urljoin

import aiohttp
import msgspec
from aiohttp.resolver import ThreadedResolver

from indexer.clock import Clock
from indexer.errors import Check, ChiveIndexerError, InvalidUpstream, Unavailable
from indexer.metrics import Metrics
from indexer.model import Json
from indexer.network.pacing import Pacing, requested_pause_s
from indexer.network.resolver import PublicResolver
from indexer.network.ssrf import (
    AddressRefused,
    HostRefused,
    check_url,
    checked_socket,
    origin_of,
)

CONNECT_S = 5.0
"""One address, TCP and TLS."""

CONNECT_S_TOTAL = 15.0
"""A connection of our own, with the wait for a free place, the name and all addresses."""

JSON_BYTES_MAX = 4 * 1024 * 1024
JSON_S = 15.0
CONNECTIONS_MAX = 50
REDIRECTS_MAX = 3
SNIPPET_CHARS = 200
DETAIL_CHARS = 500
CHUNK_BYTES = 65536
OK = 200
TOO_MANY = 429
RETRY_LATER = frozenset({408, 425, TOO_MANY})
NOT_FOUND = frozenset({404, 410})
NOT_IMPLEMENTED = 501
REDIRECTS = frozenset({301, 302, 303, 307, 308})
COUNTED_CODES = frozenset({OK, 400, 401, 403, 404, 410, TOO_MANY, 500, 501, 502, 503, 504})
"""Statuses with a label of their own; a host cannot invent further ones."""


class XrpcFailure(ChiveIndexerError):
    """A host refused a request with an error of its own; `name` may be empty."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(f"HTTP {status} {name}: {message}")
        self.status = status
        self.name = name
        self.message = message


@dataclass(frozen=True, slots=True)
class Body:
    """A response being read: `chunks` are decoded bytes, at most the cap in all."""

    content_type: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What stays the same over redirects."""

    service: str
    idle_s: float
    total_s: float
    is_configured: bool


class HttpClient:
    """Use as an async context manager.

    `exempt` are URLs named in the settings: their origins may be private and http, for requests
    that say `is_configured`, and without redirects away from them. The same origin named by
    anybody else, such as a DID document, has no privilege.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        allow_private: bool,
        exempt: Collection[str],
        pacing: Pacing,
        clock: Clock,
        metrics: Metrics,
        resolver: PublicResolver | None = None,
    ) -> None:
        self._headers = {"User-Agent": user_agent}
        self._allow_private = allow_private
        self._exempt = frozenset(origin_of(url) for url in exempt)
        self._pacing = pacing
        self._clock = clock
        self._metrics = metrics
        self._resolver = resolver or PublicResolver(clock=clock)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> HttpClient:
        self._trusting = await self._open(
            aiohttp.TCPConnector(
                limit=CONNECTIONS_MAX, ttl_dns_cache=60, resolver=ThreadedResolver()
            )
        )
        self._checked = self._trusting
        if not self._allow_private:
            self._checked = await self._open(
                aiohttp.TCPConnector(
                    limit=CONNECTIONS_MAX,
                    use_dns_cache=False,  # the resolver has one, which heeds TTLs
                    resolver=self._resolver,
                    socket_factory=checked_socket,
                )
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _open(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return await self._stack.enter_async_context(session)

    async def get_json(
        self,
        url: str,
        *,
        service: str,
        params: Mapping[str, str] | None = None,
        bytes_max: int = JSON_BYTES_MAX,
        timeout_s: float = JSON_S,
        is_configured: bool = False,
    ) -> Json:
        """GET a JSON document. `service` is the label of the request counter."""
        data = await self.get_bytes(
            url,
            service=service,
            params=params,
            bytes_max=bytes_max,
            timeout_s=timeout_s,
            is_configured=is_configured,
        )
        try:
            value: Json = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            snippet = data[:SNIPPET_CHARS]
            raise InvalidUpstream(Check.RESPONSE, f"{url} is not JSON: {snippet!r}") from error
        return value

    async def get_bytes(
        self,
        url: str,
        *,
        service: str,
        params: Mapping[str, str] | None = None,
        bytes_max: int,
        timeout_s: float = JSON_S,
        follow: bool = False,
        is_configured: bool = False,
    ) -> bytes:
        """GET a small body whole."""
        async with self.stream(
            url,
            service=service,
            params=params,
            bytes_max=bytes_max,
            idle_s=timeout_s,
            total_s=timeout_s,
            follow=follow,
            is_configured=is_configured,
        ) as body:
            parts = [chunk async for chunk in body.chunks]
        return b"".join(parts)

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        *,
        service: str,
        params: Mapping[str, str] | None = None,
        bytes_max: int,
        idle_s: float,
        total_s: float,
        follow: bool = False,
        is_configured: bool = False,
    ) -> AsyncIterator[Body]:
        """GET a body piece by piece, within `total_s` and without a pause above `idle_s`.

        Raises `InvalidUpstream` (`LIMITS`) when more than `bytes_max` bytes arrive. The wait for
        a turn at the host comes before `total_s` and has a bound of its own.
        """
        request = _Request(
            service=service, idle_s=idle_s, total_s=total_s, is_configured=is_configured
        )
        for _ in range(REDIRECTS_MAX + 1):
            exempt = self._exempt if is_configured else frozenset[str]()
            check_url(url, allow_private=self._allow_private, exempt=exempt)
            async with self._answer(url, params, request) as response:
                if not (follow and response.status in REDIRECTS):
                    if response.status != OK:
                        raise await self._failure(response, origin_of(url))
                    self._pacing.answered(origin_of(url))
                    yield Body(response.content_type, _bounded(response, bytes_max, idle_s))
                    return
                url, params = self._redirected(url, response, exempt), None
        raise InvalidUpstream(Check.RESPONSE, f"{origin_of(url)}: too many redirects")

    @asynccontextmanager
    async def _answer(
        self, url: str, params: Mapping[str, str] | None, request: _Request
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request and the reading of its answer, whatever the status."""
        origin = origin_of(url)
        is_exempt = request.is_configured and origin in self._exempt
        session = self._trusting if is_exempt else self._checked
        timeout = aiohttp.ClientTimeout(
            connect=CONNECT_S_TOTAL, sock_connect=CONNECT_S, sock_read=request.idle_s
        )
        code = "none"
        async with self._pacing.turn(origin) as waited_s:
            self._metrics.http_client_throttled_seconds.inc(waited_s)
            try:
                async with (
                    asyncio.timeout(request.total_s) as deadline,
                    session.get(
                        url, params=params, allow_redirects=False, timeout=timeout
                    ) as response,
                ):
                    code = _code(response.status)
                    yield response
            except aiohttp.ClientError as error:
                raise self._classified(error, origin) from error
            except TimeoutError as error:
                if not deadline.expired():
                    raise  # of what the caller does with the answer
                self._pacing.failed(origin)
                raise Unavailable(f"{origin}: no answer in time") from error
            finally:
                self._metrics.http_client_requests.labels(request.service, code).inc()

    def _redirected(
        self, url: str, response: aiohttp.ClientResponse, exempt: Collection[str]
    ) -> str:
        try:
            target = urljoin(url, response.headers.get("Location", ""))
        except ValueError as error:
            raise HostRefused(f"{origin_of(url)} redirects to a malformed URL") from error
        origin = origin_of(url)
        if origin in exempt and origin_of(target) != origin:
            raise HostRefused(f"{origin} redirects away to {target[:SNIPPET_CHARS]!r}")
        if url.startswith("https:") and not target.startswith("https:"):
            raise HostRefused(f"{origin} redirects to {target[:SNIPPET_CHARS]!r}")
        return target

    async def _failure(self, response: aiohttp.ClientResponse, origin: str) -> ChiveIndexerError:
        """The error that a response other than 200 stands for."""
        status = response.status
        if status in RETRY_LATER or (status >= 500 and status != NOT_IMPLEMENTED):  # noqa: PLR2004 - server errors
            asked_s = requested_pause_s(response.headers, now_s=self._clock.now())
            if status == TOO_MANY or asked_s is not None:
                asked_s = self._pacing.refused(origin, asked_s)
            else:
                self._pacing.failed(origin)
            return Unavailable(f"{origin}: HTTP {status}", retry_after_s=asked_s)
        self._pacing.answered(origin)
        data = await response.content.read(CHUNK_BYTES)
        try:
            body = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            body = None
        if isinstance(body, dict):
            name, message = body.get("error"), body.get("message")
            return XrpcFailure(
                status,
                name[:SNIPPET_CHARS] if isinstance(name, str) else "",
                message[:SNIPPET_CHARS] if isinstance(message, str) else "",
            )
        if status in NOT_FOUND:
            return XrpcFailure(status, "", data[:SNIPPET_CHARS].decode(errors="replace"))
        return InvalidUpstream(Check.RESPONSE, f"{origin}: HTTP {status} {data[:SNIPPET_CHARS]!r}")

    def _classified(self, error: aiohttp.ClientError, origin: str) -> ChiveIndexerError:
        """The error that a failed transfer stands for."""
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
            error.os_error, AddressRefused
        ):
            return HostRefused(f"{origin} is not at a public address")
        if isinstance(error, aiohttp.InvalidURL):
            return HostRefused(f"{origin}: malformed URL")
        self._pacing.failed(origin)
        return Unavailable(f"{origin}: {type(error).__name__}: {error}"[:DETAIL_CHARS])


async def _bounded(
    response: aiohttp.ClientResponse, bytes_max: int, idle_s: float
) -> AsyncIterator[bytes]:
    received = 0
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await response.content.read(CHUNK_BYTES)
        except TimeoutError as error:
            detail = f"{origin_of(str(response.url))}: nothing for {idle_s:g} s"
            raise Unavailable(detail) from error
        if not chunk:
            return
        received += len(chunk)
        if received > bytes_max:
            detail = f"{origin_of(str(response.url))}: more than {bytes_max} bytes"
            raise InvalidUpstream(Check.LIMITS, detail)
        yield chunk


def _code(status: int) -> str:
    return str(status) if status in COUNTED_CODES else f"{min(status // 100, 9)}xx"
