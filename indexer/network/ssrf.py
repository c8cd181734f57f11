"""Which addresses and URLs may be contacted.

The check that counts is made on the final address when its socket is created: names, literals,
redirects and rebinding DNS all end there. The URL check before it only gives a better message.
`ipaddress.is_global` is not used because it passes 6to4, NAT64 and multicast addresses.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from aiohttp.connector import AddrInfoType

from indexer.errors import Check, InvalidUpstream

_V4_DENIED = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_V6_ALLOWED = IPv6Network("2000::/3")
_V6_DENIED = tuple(
    IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
PUBLIC_PORTS = frozenset({443})
USUAL_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_NUMBER = re.compile("[0-9]+|0[xX][0-9a-fA-F]*")
_NAME = re.compile(r"(?=.{1,254}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")


class HostRefused(InvalidUpstream):
    """An address or URL that we do not contact, whoever names it."""

    def __init__(self, detail: str) -> None:
        super().__init__(Check.HOST, detail)


class AddressRefused(OSError):
    """The same at the socket: an OSError, so that a connector tries a name's other addresses."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to somebody on the public internet."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        if mapped is None:
            return parsed in _V6_ALLOWED and not any(parsed in net for net in _V6_DENIED)
        parsed = mapped
    return not _is_denied(parsed)


def _is_denied(address: IPv4Address) -> bool:
    return any(address in net for net in _V4_DENIED)


def origin_of(url: str) -> str:
    """The URL as `scheme://host[:port]`, lower case, without a port that goes without saying.

    Raises `HostRefused` for what is no URL with a host, or names a user.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise HostRefused(f"malformed URL {url[:200]!r}") from error
    host = (parts.hostname or "").lower()
    if not host or "@" in parts.netloc:
        raise HostRefused(f"URL {url[:200]!r} has no host, or user information")
    if ":" in host:
        host = f"[{host}]"
    is_usual = port is None or port == USUAL_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host}" + ("" if is_usual else f":{port}")


def check_url(url: str, *, allow_private: bool, exempt: Collection[str] = ()) -> None:
    """Refuse a URL that must not even be looked up. Raises `HostRefused`.

    `exempt` are origins, as `origin_of` spells them, that the operator's own settings name.
    """
    origin = origin_of(url)
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if ":" not in host and _NAME.fullmatch(host) is None:
        raise HostRefused(f"host of {url[:200]!r}")
    if parts.scheme not in USUAL_PORTS:
        raise HostRefused(f"scheme of {url[:200]!r}")
    if origin in exempt or allow_private:
        return
    if parts.scheme not in {"https", "wss"}:
        raise HostRefused(f"{url[:200]!r} is not https")
    if parts.port is not None and parts.port not in PUBLIC_PORTS:
        raise HostRefused(f"port {parts.port} of {url[:200]!r}")
    if is_literal(host):
        if not is_public(host):
            raise HostRefused(f"{host} is not a public address")
    elif "." not in host.rstrip("."):
        raise HostRefused(f"{host} is not a public name")


def is_literal(host: str) -> bool:
    """Whether a host is meant as an address, in any of the spellings that resolvers know.

    A last label that is a number makes one (127.1, 0x7f.0.0.1, 2130706433): no domain ends so.
    """
    return ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def checked_socket(info: AddrInfoType) -> socket.socket:
    """A socket for a public address; the connector connects it. Raises `AddressRefused`."""
    family, kind, proto, _, address = info
    if not is_public(str(address[0])):
        raise AddressRefused(f"{address[0]} is not a public address")
    return socket.socket(family, kind, proto)
