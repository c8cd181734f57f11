"""Where a request comes from: the client behind the proxies, and the page behind a browser.

Owns the address that limits count by, and the checks that keep a browser on a foreign page out.
Nothing here looks at credentials.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web

from indexer.errors import ConfigurationError, RequestRefused

HOPS_MAX = 20
"""Entries of X-Forwarded-For that are looked at, from the right."""

V6_CLIENT_BITS = 64
"""One IPv6 customer has a /64 at least, so that is one client."""

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
        return _client(address)

    def client_at(self, peer: str) -> str | None:
        """The client that a connection from this address counts for; None for a trusted proxy."""
        address = _address(peer)
        return None if address is not None and self._is_trusted(address) else _client(address)

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


def _host_name(host: str) -> str | None:
    """The name in `name:port`, lower case, without brackets; None where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None


def _client(address: Address | None) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, V6_CLIENT_BITS), strict=False))
    return str(address)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
