"""Names looked up in DNS without threads, and only addresses that may be contacted.

The system's resolver blocks a thread for as long as a hostile name server likes, and the pool of
threads is the one that verifies events. Questions here cost a datagram and end in time. Names are
absolute: no search list turns a stranger's host into one of ours.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
from aiohttp.abc import AbstractResolver, ResolveResult

from indexer.clock import Clock
from indexer.errors import Unavailable
from indexer.network.ssrf import AddressRefused, is_public

LOOKUP_S = 5.0
ADDRESSES_MAX = 8
TEXTS_MAX = 64
CACHE_ENTRIES_MAX = 2000
CONFIGURATION_S = 60.0
"""How long a reading of /etc/resolv.conf is believed."""

_FAMILIES = {
    socket.AF_INET: (dns.rdatatype.A,),
    socket.AF_INET6: (dns.rdatatype.AAAA,),
    socket.AF_UNSPEC: (dns.rdatatype.A, dns.rdatatype.AAAA),
}


class PublicResolver(AbstractResolver):
    """Resolves names for the connector of untrusted hosts, and TXT records for handles."""

    def __init__(
        self,
        *,
        clock: Clock,
        configure: Callable[[], dns.asyncresolver.Resolver] = dns.asyncresolver.Resolver,
    ) -> None:
        self._clock = clock
        self._configure = configure
        self._cache = dns.resolver.LRUCache(CACHE_ENTRIES_MAX)
        self._configured: tuple[float, dns.asyncresolver.Resolver] | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Public addresses of a name. Raises `AddressRefused` when it has only others, OSError
        when it has none.
        """
        async with asyncio.TaskGroup() as group:
            lookups = [
                group.create_task(self._answers(host, kind), name=f"dns-{host}")
                for kind in _FAMILIES[family]
            ]
        found = [address for lookup in lookups for address in lookup.result()[:ADDRESSES_MAX]]
        if not found:
            raise OSError(None, f"no address of {host} found")
        public = [address for address in found if is_public(address)]
        if not public:
            raise AddressRefused(f"{host} is not at a public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in public
        ]

    async def lookup_texts(self, name: str) -> list[str]:
        """TXT records of a name; none when it has none. Raises `Unavailable` without an answer."""
        try:
            answer = await self._resolver().resolve(
                dns.name.from_text(name), dns.rdatatype.TXT, lifetime=LOOKUP_S
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise Unavailable(f"TXT of {name}: {error}"[:300]) from error
        texts = [b"".join(record.strings) for record in answer]
        return [text.decode(errors="replace") for text in texts[:TEXTS_MAX]]

    async def close(self) -> None:
        """Nothing is held between questions."""

    async def _answers(self, host: str, kind: dns.rdatatype.RdataType) -> list[str]:
        """Addresses of one kind; a failure is an empty answer, since the other kind may do."""
        try:
            answer = await self._resolver().resolve(
                dns.name.from_text(host), kind, lifetime=LOOKUP_S
            )
        except (dns.exception.DNSException, OSError):
            return []
        return [record.address for record in answer]

    def _resolver(self) -> dns.asyncresolver.Resolver:
        now = self._clock.monotonic()
        if self._configured is None or now - self._configured[0] > CONFIGURATION_S:
            resolver = self._configure()
            resolver.cache = self._cache
            self._configured = (now, resolver)
        return self._configured[1]
