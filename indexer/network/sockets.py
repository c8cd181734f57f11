"""Sockets for the event stream, under the same address rules as HTTP."""

from __future__ import annotations

import asyncio
import socket

from indexer.network.ssrf import HostRefused, is_public


async def open_public_socket(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket to a public address of `host`.

    Raises `HostRefused` when it has none, OSError when none of them answers. The caller sets the
    time that this may take.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    public = [info for info in found if is_public(str(info[4][0]))]
    if not public:
        raise HostRefused(f"{host} is not at a public address")
    failure: OSError = OSError(f"no address of {host} answers")
    for family, kind, proto, _, address in public:
        opened = socket.socket(family, kind, proto)
        opened.setblocking(False)
        try:
            await loop.sock_connect(opened, address)
        except OSError as error:
            opened.close()
            failure = error
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    raise failure
