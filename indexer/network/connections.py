"""How connections for HTTP come to be: two kinds of connectors, and a last look before sending."""

from __future__ import annotations

import aiohttp
from aiohttp.connector import Connection
from aiohttp.resolver import ThreadedResolver

from indexer.network.pacing import Pacing
from indexer.network.peers import Peers
from indexer.network.resolver import PublicResolver
from indexer.network.ssrf import checked_socket, origin_of

CONNECT_S = 5.0
"""One address, TCP and TLS."""

CONNECT_S_TOTAL = 15.0
"""A connection of our own, with all addresses of the name."""

KEEPALIVE_S = 5.0
"""How long an unused connection is kept: there may be as many as hosts were asked meanwhile."""

UNLIMITED = 0
"""Pacing bounds the connections: a wait for a place here would look like a fault of the host."""


def trusting_connector() -> aiohttp.TCPConnector:
    """For origins of the operator's choice: every address, and names as the machine knows them."""
    return aiohttp.TCPConnector(
        limit=UNLIMITED,
        keepalive_timeout=KEEPALIVE_S,
        ttl_dns_cache=60,
        resolver=ThreadedResolver(),
    )


def public_connector(resolver: PublicResolver) -> aiohttp.TCPConnector:
    """For everybody else's: only sockets to public addresses, whatever a name or literal says."""
    return aiohttp.TCPConnector(
        limit=UNLIMITED,
        keepalive_timeout=KEEPALIVE_S,
        use_dns_cache=False,  # the resolver has one, which heeds TTLs
        resolver=resolver,
        socket_factory=checked_socket,
    )


def heeding_request(pacing: Pacing, peers: Peers) -> type[aiohttp.ClientRequest]:
    """Requests that look at the host's window once more when the connection is there.

    Between a turn and the first byte lies a handshake, in which another request may be refused.
    With it the host has proved its address, which is noted.
    """

    class HeedingRequest(aiohttp.ClientRequest):
        async def send(self, conn: Connection) -> aiohttp.ClientResponse:
            origin = origin_of(str(self.url.origin()))
            peer = conn.transport and conn.transport.get_extra_info("peername")
            if peer:
                peers.note(origin, peer[0])
            pacing.refuse_closed(origin)
            return await super().send(conn)

    return HeedingRequest
