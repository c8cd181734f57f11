"""Names looked up in DNS without threads, and only addresses that may be contacted.

The system's resolver blocks a thread for as long as a hostile name server likes, and the pool of
threads is the one that verifies events. Questions here cost a datagram and end in time. Names are
absolute: no search list turns a stranger's host into one of ours.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
from aiohttp.abc import AbstractResolver, ResolveResult

from indexer.clock import Clock
from indexer.errors import LocalBusy, Unavailable
from indexer.network.sockets import SHORTAGES
from indexer.network.ssrf import AddressRefused, is_public

LOOKUP_S = 5.0
ADDRESSES_MAX = 8
TEXTS_MAX = 64
TEXT_CHARS_MAX = 2048
CACHE_ENTRIES_MAX = 2000
TTL_S_MAX = 300.0
CONFIGURATION_S = 60.0
"""How long a reading of /etc/resolv.conf is believed."""

_FAMILIES = {
    socket.AF_INET: (dns.rdatatype.A,),
    socket.AF_INET6: (dns.rdatatype.AAAA,),
    socket.AF_UNSPEC: (dns.rdatatype.A, dns.rdatatype.AAAA),
}


@dataclass(frozen=True, slots=True)
class _Known:
    until: float  # monotonic
    addresses: tuple[str, ...]  # at most `ADDRESSES_MAX`


class PublicResolver(AbstractResolver):
    """Resolves names for the connector of untrusted hosts, and TXT records for handles.

    Addresses are kept as long as their TTL says, but not the answers that brought them: a name
    server fills an answer with as much as it likes.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        configure: Callable[[], dns.asyncresolver.Resolver] = dns.asyncresolver.Resolver,
        entries_max: int = CACHE_ENTRIES_MAX,
    ) -> None:
        self._clock = clock
        self._configure = configure
        self._entries_max = entries_max
        self._known: OrderedDict[tuple[str, dns.rdatatype.RdataType], _Known] = OrderedDict()
        self._configured: tuple[float, dns.asyncresolver.Resolver] | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Public addresses of a name.

        Raises `AddressRefused` when it has only others, OSError when it has none; with the errno
        of a shortage when this machine could not even ask.
        """
        async with asyncio.TaskGroup() as group:
            lookups = [
                group.create_task(self._addresses(host, kind), name=f"dns-{host}")
                for kind in _FAMILIES[family]
            ]
        results = [lookup.result() for lookup in lookups]
        found = [address for result in results if isinstance(result, tuple) for address in result]
        if not found:
            shortage = next((result for result in results if isinstance(result, int)), None)
            raise OSError(shortage, f"no address of {host} found")
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
        """TXT records of a name; none when it has none.

        Raises `Unavailable` without an answer, `LocalBusy` when this machine could not ask.
        """
        try:
            answer = await self._resolver().resolve(
                dns.name.from_text(name), dns.rdatatype.TXT, lifetime=LOOKUP_S
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError) as error:
            if _shortage(error) is not None:
                raise LocalBusy(f"no socket to look up {name}") from error
            raise Unavailable(f"TXT of {name}: {error}"[:300]) from error
        texts = [b"".join(record.strings)[:TEXT_CHARS_MAX] for record in answer]
        return [text.decode(errors="replace") for text in texts[:TEXTS_MAX]]

    async def close(self) -> None:
        """Nothing is held between questions."""

    async def _addresses(
        self, host: str, kind: dns.rdatatype.RdataType
    ) -> tuple[str, ...] | int | None:
        """Addresses of one kind; an errno when this machine could not ask.

        Any other failure is None and no error, since the other kind may do.
        """
        known = self._known.get((host, kind))
        if known is not None and known.until > self._clock.monotonic():
            self._known.move_to_end((host, kind))
            return known.addresses
        try:
            answer = await self._resolver().resolve(
                dns.name.from_text(host), kind, lifetime=LOOKUP_S
            )
        except (dns.exception.DNSException, OSError) as error:
            return _shortage(error)
        addresses = tuple(record.address for record in answer)[:ADDRESSES_MAX]
        kept_s = min(float(answer.ttl), TTL_S_MAX)
        self._known[host, kind] = _Known(self._clock.monotonic() + kept_s, addresses)
        self._known.move_to_end((host, kind))
        while len(self._known) > self._entries_max:
            self._known.popitem(last=False)
        return addresses

    def _resolver(self) -> dns.asyncresolver.Resolver:
        now = self._clock.monotonic()
        if self._configured is None or now - self._configured[0] > CONFIGURATION_S:
            self._configured = (now, self._configure())
        return self._configured[1]


def _shortage(error: Exception) -> int | None:
    """The errno, if a lookup failed for want of something of our own."""
    causes: list[object] = [error]
    if isinstance(error, dns.resolver.NoNameservers | dns.resolver.LifetimeTimeout):
        # (server, is_tcp, port, exception, response) of each attempt
        causes += [attempt[3] for attempt in error.kwargs.get("errors", ())]
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in SHORTAGES:
            return cause.errno
    return None
