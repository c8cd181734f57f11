"""Sockets for the event stream, under the same address rules as HTTP."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from indexer.network.ssrf import USUAL_PORTS, HostRefused, is_public

ADDRESS_S = 5.0
"""How long one of several addresses may take before the next is tried."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What opening a socket fails with when this machine, not the peer, is the reason."""


def endpoint_of(url: str) -> tuple[str, int]:
    """(host, port) that a checked URL leads to: what `open_public_socket` may be told to spare."""
    parts = urlsplit(url)
    return (parts.hostname or "").lower(), parts.port or USUAL_PORTS[parts.scheme]


async def open_public_socket(
    host: str, port: int, *, exempt: Collection[tuple[str, int]] = ()
) -> socket.socket:
    """A connected, non-blocking socket to a public address of `host`.

    `exempt` are hosts and ports that the operator's own settings name: those may be private.
    Raises `HostRefused` when it has no such address, OSError when none of them answers. The caller
    sets the time that this may take.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if (host.lower(), port) not in exempt:
        found = [info for info in found if is_public(str(info[4][0]))]
    if not found:
        raise HostRefused(f"{host} is not at a public address")
    failure: OSError = OSError(f"no address of {host} answers")
    for family, kind, proto, _, address in found:
        opened = socket.socket(family, kind, proto)
        opened.setblocking(False)
        is_connected = False
        try:
            async with asyncio.timeout(ADDRESS_S):
                await loop.sock_connect(opened, address)
            is_connected = True
        except OSError as error:
            failure = error
        finally:
            if not is_connected:
                opened.close()
        if is_connected:
            return opened
    raise failure
