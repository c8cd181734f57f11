"""From the URL of a relay to an open websocket, or one `DialFailure` that says why not.

Owns the subscribe URL with its cursor, TLS, the handshake and its redirects. A redirect may lead
elsewhere (at most three times, never from wss to ws, each target passed by the caller's check),
yet the cursor stays the one of the configured URL. Refuses to guess: every failure carries a
reason of the closed set and, where HTTP answered, the status and the wait that it asks for.
Whatever happens, no socket is left behind.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from socket import SOCK_STREAM, socket
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.uri import parse_uri

from indexer.clock import Clock
from indexer.errors import InvalidUpstream, Unavailable
from indexer.ingest.endings import DETAIL_CHARS_MAX, ReconnectReason
from indexer.ingest.websocket import Websocket, WebsocketSettings

SUBSCRIBE_PATH = "/xrpc/com.atproto.sync.subscribeRepos"

REDIRECTS_MAX = 3

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

RETRYABLE_CLIENT_ERRORS = frozenset({408, 425})
"""4xx statuses that speak of the moment; the others stand until somebody changes something."""

HEADERLESS_429_S = 60.0
"""How long a 429 without Retry-After is taken to mean."""

ADDRESS_S = 5.0
"""How long one of several addresses may take before the next is tried."""

OpenSocket = Callable[[str, int], Awaitable[socket]]
"""(host, port) -> a connected, non-blocking TCP socket to an address that may be contacted.

Raises `InvalidUpstream` for a forbidden address, `Unavailable` or `OSError` when nobody answers.
"""


class DialFailure(Unavailable):
    """No connection came to be: back off, not less than `retry_after_s` where it is set."""

    def __init__(
        self,
        reason: ReconnectReason,
        detail: str,
        *,
        retry_after_s: float | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(detail[:DETAIL_CHARS_MAX], retry_after_s=retry_after_s)
        self.reason = reason
        self.location = location  # where a redirect points, unchecked


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialer:
    """Opens connections, all in the same way."""

    settings: WebsocketSettings
    clock: Clock
    user_agent: str
    check_url: Callable[[str], None]  # raises InvalidUpstream; asked for redirect targets only
    tls: ssl.SSLContext  # for wss; never left out, never relaxed
    open_socket: OpenSocket

    async def dial(self, relay_url: str, cursor: int | None) -> Websocket:
        """Open the event stream of `relay_url` from `cursor` (None: live events only).

        Raises `DialFailure`.
        """
        target = subscribe_url(relay_url, cursor)
        for _ in range(REDIRECTS_MAX + 1):
            try:
                return await self._open(target)
            except DialFailure as failure:
                if failure.location is None:
                    raise
                target = self._redirected(target, failure.location, cursor)
        raise DialFailure(ReconnectReason.BLOCKED, f"more than {REDIRECTS_MAX} redirects")

    def _redirected(self, url: str, location: str, cursor: int | None) -> str:
        """The next URL, in websocket spelling. The cursor is ours even if the answer drops it."""
        try:
            target = urlsplit(urljoin(url, location))
            scheme = {"http": "ws", "https": "wss"}.get(target.scheme, target.scheme)
            if url.startswith("wss:") and scheme != "wss":
                raise DialFailure(ReconnectReason.BLOCKED, f"redirect without TLS: {location}")
            if target.username is not None or target.password is not None:
                raise DialFailure(ReconnectReason.BLOCKED, "redirect with credentials")
            result = _with_cursor(urlunsplit(target._replace(scheme=scheme, fragment="")), cursor)
            self.check_url(result)
        except (ValueError, InvalidUpstream) as exc:
            raise DialFailure(ReconnectReason.BLOCKED, f"redirect to {location}: {exc}") from exc
        return result

    async def _open(self, url: str) -> Websocket:
        try:
            uri = parse_uri(url)
        except (InvalidURI, ValueError) as exc:
            raise DialFailure(ReconnectReason.BLOCKED, f"not a websocket URL: {url}") from exc
        websocket = Websocket(
            uri, settings=self.settings, clock=self.clock, user_agent=self.user_agent
        )
        is_open = False
        try:
            async with asyncio.timeout(self.settings.open_s):
                await self._connect(websocket, uri.host, uri.port, secure=uri.secure)
                is_open = await websocket.opened()
        except TimeoutError as exc:
            raise DialFailure(
                ReconnectReason.CONNECT, f"no connection within {self.settings.open_s:g} s"
            ) from exc
        except ssl.SSLError as exc:
            raise DialFailure(ReconnectReason.TLS, str(exc)) from exc
        except (OSError, Unavailable, UnicodeError) as exc:
            raise DialFailure(ReconnectReason.CONNECT, str(exc)) from exc
        except InvalidUpstream as exc:
            raise DialFailure(ReconnectReason.BLOCKED, str(exc)) from exc
        finally:
            if not is_open:
                end = websocket.finish(ReconnectReason.CONNECT)
                await websocket.closed()
        if is_open:
            return websocket
        if isinstance(websocket.handshake_problem, InvalidStatus):
            raise refusal(websocket.handshake_problem.response, now_s=self.clock.now())
        raise DialFailure(end.reason, end.detail)

    async def _connect(self, websocket: Websocket, host: str, port: int, *, secure: bool) -> None:
        sock = await self.open_socket(host, port)
        # From here on the transport owns the socket, also when this is cancelled.
        await asyncio.get_running_loop().create_connection(
            lambda: websocket,
            sock=sock,
            ssl=self.tls if secure else None,
            server_hostname=host if secure else None,
        )


async def open_any_socket(host: str, port: int) -> socket:
    """The `OpenSocket` without restrictions: the first address of `host` that answers.

    asyncio's own happy eyeballs leak the socket that wins while the caller is cancelled.
    """
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=SOCK_STREAM):
        sock = socket(family, kind, protocol)
        is_connected = False
        try:
            sock.setblocking(False)
            async with asyncio.timeout(ADDRESS_S):
                await loop.sock_connect(sock, address)
            is_connected = True
        except OSError as exc:
            failure = exc
        finally:
            if not is_connected:
                sock.close()
        if is_connected:
            return sock
    raise failure


def subscribe_url(relay_url: str, cursor: int | None) -> str:
    """The stream's URL: the method's path is added to a bare origin, other paths are kept."""
    parts = urlsplit(relay_url)
    path = SUBSCRIBE_PATH if parts.path in {"", "/"} else parts.path
    return _with_cursor(urlunsplit(parts._replace(path=path)), cursor)


def refusal(response: Response, *, now_s: float) -> DialFailure:
    """What an HTTP answer to the handshake means. `now_s` is unix time, for dates."""
    status = response.status_code
    detail = f"HTTP {status} {response.reason_phrase}"
    if status in REDIRECT_STATUSES:
        locations = response.headers.get_all("Location")
        if len(locations) == 1:
            return DialFailure(ReconnectReason.BLOCKED, detail, location=locations[0])
        return DialFailure(ReconnectReason.HANDSHAKE, f"{detail} without one Location")
    if status in {429, 503}:
        wait_s = requested_wait_s(response.headers.get_all("Retry-After"), now_s=now_s)
        if wait_s is None and status == 429:  # noqa: PLR2004 - an HTTP status
            wait_s = HEADERLESS_429_S
        return DialFailure(ReconnectReason.THROTTLED, detail, retry_after_s=wait_s)
    if status == 501 or (400 <= status < 500 and status not in RETRYABLE_CLIENT_ERRORS):  # noqa: PLR2004 - HTTP statuses
        return DialFailure(ReconnectReason.REFUSED, detail)
    return DialFailure(ReconnectReason.HANDSHAKE, detail)


def requested_wait_s(values: list[str], *, now_s: float) -> float | None:
    """Seconds that Retry-After asks for, as a number or as a date; None where it says nothing.

    Never negative; the caller caps it.
    """
    if len(values) != 1:
        return None
    value = values[0].strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None


def _with_cursor(url: str, cursor: int | None) -> str:
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "cursor"]
    if cursor is not None:
        query.append(("cursor", str(cursor)))
    return urlunsplit(parts._replace(query=urlencode(query)))
