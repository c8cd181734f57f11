"""Who asks, and whether this listener talks to them at all.

Owns HTTP Basic with one or more passwords of `admin`, the failure limit for each client, and the
checks that keep a browser on a foreign page out. A correct credential is always accepted: the
limit slows only those who fail. Without a configured password nobody is let in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

from indexer.clock import Clock
from indexer.errors import ConfigurationError, RequestRefused
from indexer.metrics import Metrics

USER = "admin"
FAILURES_MAX = 10
"""Wrong credentials of one client in `WINDOW_S` that are answered with 401; further ones 429."""

WINDOW_S = 60.0
CLIENTS_MAX = 10_000
"""Clients remembered; the one that failed longest ago is forgotten first."""

HOPS_MAX = 20
"""Entries of X-Forwarded-For that are looked at, from the right."""

V6_CLIENT_BITS = 64
"""One IPv6 customer has a /64 at least, so that is one client."""

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Actor:
    """Someone with admin rights. `did` is None for whoever knows the password."""

    name: str
    did: str | None


class Unauthenticated(RequestRefused):
    """No usable credential: answered with a challenge."""

    def __init__(self, message: str) -> None:
        super().__init__("AuthenticationRequired", message, status=401)


class TooManyFailures(RequestRefused):
    """A client keeps failing: it may try again after `retry_after_s`."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            "RateLimitExceeded",
            f"too many wrong credentials: wait {retry_after_s} s",
            status=429,
        )
        self.retry_after_s = retry_after_s


class ClientAddresses:
    """Finds the client of a request behind reverse proxies that are trusted by address."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        try:
            self._trusted: tuple[Network, ...] = tuple(map(ipaddress.ip_network, trusted_proxies))
        except ValueError as exc:
            raise ConfigurationError(f"admin.trusted_proxies: {exc}") from exc

    def client_of(self, request: web.BaseRequest) -> str:
        """Address of the nearest hop that is no trusted proxy, an IPv6 one as its /64."""
        address = _address(request.remote or "")
        if address is not None and self._is_trusted(address):
            address = self._forwarded(request, address)
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, V6_CLIENT_BITS), strict=False))
        return str(address)

    def _forwarded(self, request: web.BaseRequest, proxy: Address) -> Address:
        hops = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        nearest = proxy
        for hop in hops[: -HOPS_MAX - 1 : -1]:
            address = _address(hop.strip())
            if address is None:
                return nearest
            nearest = address
            if not self._is_trusted(address):
                return address
        return nearest

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


class BasicAuth:
    """HTTP Basic for `admin` with any of several passwords, all of them always compared."""

    def __init__(
        self,
        passwords: Sequence[str],
        *,
        addresses: ClientAddresses,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._digests = tuple(_digest(f"{USER}:{password}".encode()) for password in passwords)
        self._addresses = addresses
        self._clock = clock
        self._metrics = metrics
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def authenticate(self, request: web.BaseRequest) -> Actor:
        """The admin behind a request. Raises `Unauthenticated` or `TooManyFailures`."""
        if not self._digests:
            self._metrics.auth_failures.labels("unconfigured").inc()
            raise Unauthenticated(
                "no admin password is configured: set admin.password_file and start again"
            )
        headers = request.headers.getall("Authorization", ())
        if not headers:
            self._metrics.auth_failures.labels("missing").inc()
            raise Unauthenticated(f"HTTP Basic credentials of {USER} are required")
        credential = _basic_credential(headers[0]) if len(headers) == 1 else None
        if credential is None:
            raise self._failure(request, "malformed", "Authorization is not HTTP Basic")
        if not self._is_known(credential):
            raise self._failure(request, "wrong", "the user or the password is wrong")
        return Actor(USER, did=None)

    def _is_known(self, credential: bytes) -> bool:
        given = _digest(credential)
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches)

    def _failure(self, request: web.BaseRequest, reason: str, message: str) -> RequestRefused:
        """The refusal of a failed attempt, once it is counted."""
        client = self._addresses.client_of(request)
        now = self._clock.monotonic()
        started, count = self._failures.pop(client, (now, 0))
        if now - started >= WINDOW_S:
            started, count = now, 0
        self._failures[client] = (started, count + 1)
        if len(self._failures) > CLIENTS_MAX:
            self._failures.popitem(last=False)
        if count >= FAILURES_MAX:
            self._metrics.auth_failures.labels("limited").inc()
            return TooManyFailures(int(started + WINDOW_S - now) + 1)
        self._metrics.auth_failures.labels(reason).inc()
        return Unauthenticated(message)


class BrowserGuard:
    """Refuses requests that a page of another site made a browser send."""

    def __init__(self, bind: str, hosts: Sequence[str]) -> None:
        self._hosts = LOCAL_HOSTS | {bind} | {_host_name(host) or host.lower() for host in hosts}

    def check(self, request: web.BaseRequest) -> None:
        """Raise `RequestRefused` (Forbidden) for a foreign page or a rebound name."""
        if "cross-site" in request.headers.getall("Sec-Fetch-Site", ()):
            raise RequestRefused("Forbidden", "cross-site requests are refused", status=403)
        given = request.headers.getall("Host", ())
        if len(given) != 1 or _host_name(given[0]) not in self._hosts:
            raise RequestRefused(
                "Forbidden", "this Host is not served: add it to admin.hosts", status=403
            )


def _basic_credential(header: str) -> bytes | None:
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(token.strip(), validate=True)
    except ValueError:
        return None


def _digest(credential: bytes) -> bytes:
    """Equal lengths, so that a comparison tells nothing about the length of a password."""
    return hashlib.sha256(credential).digest()


def _host_name(host: str) -> str | None:
    """The name in `name:port`, lower case, without brackets; None where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
