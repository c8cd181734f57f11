"""Where hosts were spoken to: the addresses that names have proved, apart from those they claim.

Anybody's name may point at anybody's address. What is counted for an address is counted for hosts
that were reached there and answered to their name, so that mere names use up nothing of it.
"""

from __future__ import annotations

from collections import OrderedDict
from urllib.parse import urlsplit

from indexer.network.ssrf import is_literal
from indexer.protocol.hosts import registrable_domain

ENTRIES_MAX = 10_000


class Peers:
    """Bounded; whoever was spoken to longest ago is forgotten first, and proves it again."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._addresses: OrderedDict[str, str] = OrderedDict()  # origin -> address

    def note(self, origin: str, address: str) -> None:
        """There is a connection to the host, with TLS and all."""
        self._addresses[origin] = address
        self._addresses.move_to_end(origin)
        while len(self._addresses) > self._entries_max:
            self._addresses.popitem(last=False)

    def groups(self, origin: str) -> tuple[str, ...] | None:
        """The host's registrable domain, and the address where it was reached last.

        None where it never was, as far as we remember.
        """
        host = urlsplit(origin).hostname or ""
        if is_literal(host):
            return (f"address {host}",)
        address = self._addresses.get(origin)
        if address is None:
            return None
        return (f"domain {registrable_domain(host)}", f"address {address}")
