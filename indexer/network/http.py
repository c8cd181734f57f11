"""The one way out: a bounded, paced, SSRF-safe HTTP client.

Every answer is capped after decompression, every wait has a timeout, redirects are followed only
where asked for, each checked and paced again. Failures arrive in three classes: `Unavailable` (try
later), `XrpcFailure` (the host answered with a named error), `InvalidUpstream` (it answered
nonsense, or we refuse to ask).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from indexer.clock import Clock
from indexer.errors import Check, ChiveIndexerError, InvalidUpstream, LocalBusy, Unavailable
from indexer.metrics import Metrics
from indexer.model import Json
from indexer.network.answers import (
    OK,
    SNIPPET_CHARS,
    TOO_MANY,
    exhausted_s,
    is_passing,
    refusal,
    requested_pause_s,
    status_label,
)
from indexer.network.connections import (
    CONNECT_S,
    CONNECT_S_TOTAL,
    heeding_request,
    public_connector,
    trusting_connector,
)
from indexer.network.pacing import WAIT_S_MAX, Pacing
from indexer.network.peers import Peers
from indexer.network.resolver import PublicResolver
from indexer.network.sockets import SHORTAGES
from indexer.network.ssrf import (
    AddressRefused,
    HostRefused,
    check_url,
    origin_of,
)
from indexer.protocol.hosts import host_group, registrable_domain

JSON_BYTES_MAX = 4 * 1024 * 1024
JSON_S = 15.0
BYTES_PER_S_MIN = 10_000
SLOW_S = 30.0
"""A body may come slower than the minimum for as long as this in all."""

REDIRECTS_MAX = 3
DETAIL_CHARS = 500
CHUNK_BYTES = 65536
NO_CONTENT = 204
REDIRECTS = frozenset({301, 302, 303, 307, 308})


Form = Mapping[str, str | Sequence[str] | IO[bytes]]
"""Fields of a form: a text, several texts, or a file to read from its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What stays the same over redirects."""

    service: str
    bytes_max: int
    idle_s: float
    total_s: float
    is_configured: bool
    form: Form | None = None  # what is sent, by POST
    accept: str | None = None


class HttpClient:
    """Use as an async context manager.

    `exempt` are URLs named in the settings: their origins may be private and http, for requests
    that say `is_configured`, and without redirects away from them. The same origin named by
    anybody else, such as a DID document, has no privilege. `is_denied` says of which hosts the
    operator wants nothing to be asked, by URL.
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
        is_denied: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._is_denied = is_denied
        self._headers = {"User-Agent": user_agent}
        self._allow_private = allow_private
        self._exempt = frozenset(origin_of(url) for url in exempt)
        self._pacing = pacing
        self._clock = clock
        self._metrics = metrics
        self._resolver = resolver or PublicResolver(clock=clock)
        self.peers = Peers()
        self._request_class = heeding_request(pacing, self.peers)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._trusting = await self._open(trusting_connector())
        self._checked = self._trusting
        if not self._allow_private:
            self._checked = await self._open(public_connector(self._resolver))
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
            request_class=self._request_class,
        )
        return await self._stack.enter_async_context(session)

    def groups(self, url: str) -> tuple[str, ...] | None:
        """Who is behind a stranger's host: its registrable domain and its address.

        None before it was reached there. In development each host is its own.
        """
        if self._allow_private:
            return (host_group(url),)
        return self.peers.groups(origin_of(url))

    @property
    def pacing(self) -> Pacing:
        """How hosts are dealt with."""
        return self._pacing

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
        except (ValueError, RecursionError) as error:
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
        on_headers: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> bytes:
        """GET a small body whole. `on_headers` is given those that it came with."""
        async with self.stream(
            url,
            service=service,
            params=params,
            bytes_max=bytes_max,
            idle_s=timeout_s,
            total_s=timeout_s,
            follow=follow,
            is_configured=is_configured,
            on_headers=on_headers,
        ) as body:
            parts = [chunk async for chunk in body]
        return b"".join(parts)

    async def post_form(
        self, url: str, form: Form, *, service: str, accept: str, bytes_max: int, timeout_s: float
    ) -> bytes:
        """POST a form to a URL named in the settings; the answer whole, empty where it is none."""
        request = _Request(
            service=service,
            bytes_max=bytes_max,
            idle_s=timeout_s,
            total_s=timeout_s,
            is_configured=True,
            form=form,
            accept=accept,
        )
        check_url(url, allow_private=self._allow_private, exempt=self._exempt)
        async with self._answer(url, None, request) as response:
            if response.status not in {OK, NO_CONTENT}:
                raise await self._failure(response, origin_of(url), request)
            data = b"".join([chunk async for chunk in self._bounded(response, request)])
            self._pacing.answered(origin_of(url))
        return data

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
        on_headers: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """GET a body in decoded pieces, within `total_s` and without a pause above `idle_s`.

        Raises `InvalidUpstream` (`LIMITS`) when more than `bytes_max` bytes arrive, `Unavailable`
        when they come slower than `BYTES_PER_S_MIN`. The wait for a turn at the host comes before
        `total_s` and has a bound of its own.
        """
        request = _Request(
            service=service,
            bytes_max=bytes_max,
            idle_s=idle_s,
            total_s=total_s,
            is_configured=is_configured,
        )
        for _ in range(REDIRECTS_MAX + 1):
            exempt = self._exempt if is_configured else frozenset[str]()
            check_url(url, allow_private=self._allow_private, exempt=exempt)
            if not is_configured and self._is_denied(url):
                raise HostRefused(f"{origin_of(url)} is denied by the operator")
            async with self._answer(url, params, request) as response:
                if not (follow and response.status in REDIRECTS):
                    if response.status != OK:
                        raise await self._failure(response, origin_of(url), request)
                    left_alone_s = exhausted_s(response.headers, now_s=self._clock.now())
                    if left_alone_s is not None:
                        self._pacing.close(origin_of(url), left_alone_s)
                    on_headers(response.headers)
                    yield self._bounded(response, request)
                    # Only now: a host that answers and then stalls has not answered.
                    self._pacing.answered(origin_of(url))
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
        groups = () if session is self._trusting else await self._groups(origin)
        timeout = aiohttp.ClientTimeout(
            connect=CONNECT_S_TOTAL, sock_connect=CONNECT_S, sock_read=request.idle_s
        )
        code = "none"
        async with self._pacing.turn(origin, groups=groups, is_trusted=is_exempt) as waited_s:
            self._metrics.http_client_throttled_seconds.inc(waited_s)
            started = asyncio.get_running_loop().time()
            try:
                async with (
                    # Headers that drip do not get the time of a large body.
                    asyncio.timeout(
                        min(request.total_s, CONNECT_S_TOTAL + request.idle_s)
                    ) as limit,
                    session.request(
                        "GET" if request.form is None else "POST",
                        url,
                        params=params,
                        data=None if request.form is None else _form_data(request.form),
                        headers=None if request.accept is None else {"Accept": request.accept},
                        allow_redirects=False,
                        timeout=timeout,
                    ) as response,
                ):
                    limit.reschedule(started + request.total_s)
                    code = status_label(response.status)
                    yield response
            except aiohttp.ClientError as error:
                raise self._classified(error, origin) from error
            except TimeoutError as error:
                if not limit.expired():
                    raise  # of what the caller does with the answer
                self._pacing.failed(origin)
                raise Unavailable(f"{origin}: no answer in time") from error
            finally:
                self._metrics.http_client_requests.labels(request.service, code).inc()

    async def _groups(self, origin: str) -> tuple[str, ...]:
        """The groups whose bounds a request to a stranger's host has: its domain and its address.

        Names that have never been reached at an address wait for each other there, and for none of
        the hosts that have.
        """
        self._pacing.refuse_closed(origin, WAIT_S_MAX)
        if (proven := self.peers.groups(origin)) is not None:
            return proven
        host = urlsplit(origin).hostname or ""
        try:
            found = await self._resolver.resolve(host)
        except OSError as error:
            raise self._unreachable(error, origin) from error
        return (
            f"domain {registrable_domain(host)}",
            *(f"claimed {address}" for address in {result["host"] for result in found}),
        )

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

    async def _failure(
        self, response: aiohttp.ClientResponse, origin: str, request: _Request
    ) -> ChiveIndexerError:
        """The error that a response other than 200 stands for."""
        status = response.status
        if is_passing(status):
            asked_s = requested_pause_s(response.headers, now_s=self._clock.now())
            if status == TOO_MANY or asked_s is not None:
                asked_s = self._pacing.refused(origin, asked_s)
            else:
                self._pacing.failed(origin)
            return Unavailable(f"{origin}: HTTP {status}", retry_after_s=asked_s)
        self._pacing.answered(origin)
        return refusal(status, await _start_of(response, request.idle_s), origin)

    def _classified(self, error: aiohttp.ClientError, origin: str) -> ChiveIndexerError:
        """The error that a failed transfer stands for."""
        if isinstance(error, aiohttp.InvalidURL):
            return HostRefused(f"{origin}: malformed URL")
        if isinstance(error, aiohttp.ClientConnectorError):
            return self._unreachable(error.os_error, origin)
        if isinstance(error, OSError):
            return self._unreachable(error, origin)
        self._pacing.failed(origin)
        return Unavailable(f"{origin}: {type(error).__name__}: {error}"[:DETAIL_CHARS])

    def _unreachable(self, error: OSError, origin: str) -> ChiveIndexerError:
        """Why there is no connection: our rule, our own shortage, or the host."""
        if isinstance(error, AddressRefused):
            return HostRefused(f"{origin} is not at a public address")
        if error.errno in SHORTAGES:
            return LocalBusy(f"no socket for {origin}: {error.strerror}")
        self._pacing.failed(origin)
        return Unavailable(f"{origin}: {type(error).__name__}: {error}"[:DETAIL_CHARS])

    async def _bounded(
        self, response: aiohttp.ClientResponse, request: _Request
    ) -> AsyncIterator[bytes]:
        origin = origin_of(str(response.url))
        received, waited_s = 0, 0.0
        while True:
            asked_at = self._clock.monotonic()
            try:
                async with asyncio.timeout(request.idle_s):
                    chunk = await response.content.read(CHUNK_BYTES)
            except TimeoutError as error:
                self._pacing.failed(origin)
                raise Unavailable(f"{origin}: nothing for {request.idle_s:g} s") from error
            if not chunk:
                return
            received += len(chunk)
            if received > request.bytes_max:
                raise InvalidUpstream(Check.LIMITS, f"{origin}: over {request.bytes_max} bytes")
            waited_s += self._clock.monotonic() - asked_at
            if waited_s > SLOW_S and received < waited_s * BYTES_PER_S_MIN:
                self._pacing.failed(origin)
                raise Unavailable(f"{origin}: {received} bytes in {waited_s:.0f} s is too slow")
            yield chunk


def _form_data(form: Form) -> aiohttp.FormData:
    """The fields as a body. A file is sent by a descriptor of its own, which the sender closes."""
    data = aiohttp.FormData()
    for name, value in form.items():
        if isinstance(value, str):
            data.add_field(name, value)
        elif isinstance(value, Sequence):
            for each in value:
                data.add_field(name, each)
        else:
            value.seek(0)
            copy = os.fdopen(os.dup(value.fileno()), "rb")
            data.add_field(name, copy, filename=name, content_type="application/octet-stream")
    return data


async def _start_of(response: aiohttp.ClientResponse, idle_s: float) -> bytes:
    """Up to `CHUNK_BYTES` of a body; what has come when it takes too long."""
    data = b""
    try:
        async with asyncio.timeout(idle_s):
            while len(data) < CHUNK_BYTES:
                chunk = await response.content.read(CHUNK_BYTES - len(data))
                if not chunk:
                    break
                data += chunk
    except TimeoutError:
        pass  # the status alone has to do
    return data
