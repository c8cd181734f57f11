"""A DNS server on loopback, over UDP, that says what a test wants."""

import asyncio
from contextlib import asynccontextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """`records`: (name, type) -> answers, each a list of texts; the last one repeats.

    A name without records does not exist; None as an answer is silence, "SERVFAIL" a failure.
    """

    def __init__(self, records: dict, ttl: int = 60) -> None:
        self.records = records
        self.ttl = ttl
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport) -> None:
        self._transport = transport

    def datagram_received(self, data, address) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        before = self.asked.count((name, kind))
        self.asked.append((name, kind))
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        answers = self.records.get((name, kind))
        if answers is None:
            known = any(name == other for other, _ in self.records)
            reply.set_rcode(dns.rcode.NOERROR if known else dns.rcode.NXDOMAIN)
        else:
            texts = answers[min(before, len(answers) - 1)]
            if texts is None:
                return
            if texts == "SERVFAIL":
                reply.set_rcode(dns.rcode.SERVFAIL)
            else:
                reply.answer.append(
                    dns.rrset.from_text_list(question.name, self.ttl, "IN", kind, texts)
                )
        self._transport.sendto(reply.to_wire(max_size=65535), address)


@asynccontextmanager
async def serving(records: dict, ttl: int = 60):
    """(server, configure): `configure` is what `PublicResolver` makes its resolver with."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(records, ttl), local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]

    def configure() -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = port
        return resolver

    try:
        yield server, configure
    finally:
        transport.close()
