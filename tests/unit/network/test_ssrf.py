"""Which addresses and URLs are contacted."""

import ipaddress
import socket

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st
from loopback import Loopback, answering

from indexer.errors import Check, InvalidUpstream
from indexer.network.connections import public_connector, trusting_connector
from indexer.network.ssrf import (
    AddressRefused,
    HostRefused,
    check_url,
    checked_socket,
    is_literal,
    is_public,
    origin_of,
)

SPECIAL_V4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
SPECIAL_V6 = [
    "::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48",
    "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10",
    "ff00::/8",
]  # fmt: skip


def inside(networks):
    """Addresses of these networks, their first and last ones included."""
    nets = [ipaddress.ip_network(text) for text in networks]
    return st.sampled_from(nets).flatmap(
        lambda net: st.integers(0, net.num_addresses - 1).map(lambda at: net[at])
    )


@given(inside(SPECIAL_V4))
def test_no_special_v4_address_is_public_in_any_v6_spelling(address):
    number = int(address)
    assert not is_public(str(address))
    for spelling in (
        ipaddress.IPv6Address(0xFFFF << 32 | number),  # v4-mapped
        ipaddress.IPv6Address(number),  # v4-compatible
        ipaddress.IPv6Address(0x2002 << 112 | number << 80),  # 6to4
        ipaddress.IPv6Address(0x64FF9B << 96 | number),  # NAT64
        ipaddress.IPv6Address(0x2001 << 112 | number ^ 0xFFFFFFFF),  # Teredo
    ):
        assert not is_public(str(spelling)), spelling


@given(inside(SPECIAL_V6))
def test_no_special_v6_address_is_public(address):
    is_mapped_public = address.ipv4_mapped is not None and is_public(str(address.ipv4_mapped))
    assert is_public(str(address)) == is_mapped_public


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address))
def test_every_other_v4_address_is_public(address):
    is_special = any(address in ipaddress.ip_network(net) for net in SPECIAL_V4)
    assert is_public(str(address)) is not is_special


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "127.1", "0x7f.0.0.1", "2130706433", "fe80::1%eth0", "::1%lo", "1.2.3"],
)
def test_what_is_no_plain_address_is_not_public(text):
    assert not is_public(text)


@given(st.text(max_size=60))
def test_any_text_as_a_url_gives_an_origin_or_a_refusal(text):
    for url in (text, f"https://{text}", f"https://{text}/path"):
        try:
            check_url(url, allow_private=False)
        except HostRefused:
            continue
        assert origin_of(url).startswith(("https://", "wss://"))


@pytest.mark.parametrize(
    "url",
    [
        "http://pds.example.com",
        "ftp://pds.example.com",
        "file:///etc/passwd",
        "//pds.example.com",
        "https://",
        "https://pds.example.com:22",
        "https://pds.example.com:8443",
        "https://pds.example.com:99999",
        "https://user@pds.example.com",
        "https://user:word@pds.example.com",
        "https://pds.example.com\\@127.0.0.1/",
        "https://localhost",
        "https://localhost.",
        "https://intranet",
        "https://127.0.0.1",
        "https://127.1",
        "https://0x7f.0.0.1",
        "https://0x7f000001",
        "https://2130706433",
        "https://0177.0.0.1",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]",
        "https://[64:ff9b::7f00:1]",
        "https://[fe80::1%25eth0]",
        "https://[::1",
        "https://127%2e0.0.1",
        "https://127。0。0。1",
        "https://a b.example.com",
        "https://" + "a" * 64 + ".example.com",
        "https://" + "a." * 200 + "com",
    ],
)
def test_urls_that_are_not_even_looked_up(url):
    with pytest.raises(HostRefused):
        check_url(url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("HTTPS://PDS.Example.com:443/xrpc/x?y#z", "https://pds.example.com"),
        ("ws://relay.example.com:80", "ws://relay.example.com"),
        ("http://pds.example.com:443", "http://pds.example.com:443"),
        ("https://pds.example.com:80", "https://pds.example.com:80"),
        ("https://[2606:4700::1111]:8443/", "https://[2606:4700::1111]:8443"),
    ],
)
def test_an_origin_has_one_spelling(url, origin):
    """What the settings name is exempt by it."""
    assert origin_of(url) == origin


@pytest.mark.parametrize("url", ["https://", "https:///x", "https://:443", "x", "https://a@b.c"])
def test_what_names_no_host_or_a_user_has_no_origin(url):
    with pytest.raises(HostRefused):
        origin_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://pds.example.com",
        "https://pds.example.com:443/xrpc/x",
        "wss://relay.example.com",
        "https://8.8.8.8",
        "https://[2606:4700::1111]/",
        "https://xn--bcher-kva.example.com",
    ],
)
def test_ordinary_urls_pass(url):
    check_url(url, allow_private=False)


@pytest.mark.parametrize(
    ("named", "asked", "passes"),
    [
        ("http://10.0.0.5:2582", "http://10.0.0.5:2582/did:plc:x", True),
        ("https://plc.lan", "https://PLC.lan:443/x", True),
        ("http://10.0.0.5:2582", "http://10.0.0.5:2583/x", False),
        ("http://10.0.0.5:2582", "https://10.0.0.5:2582/x", False),
        ("http://10.0.0.5:2582", "http://10.0.0.6:2582/x", False),
        ("http://10.0.0.5:2582", "http://user@10.0.0.5:2582/x", False),
    ],
)
def test_an_exemption_is_for_scheme_host_and_port_exactly(named, asked, passes):
    exempt = frozenset({origin_of(named)})
    if passes:
        check_url(asked, allow_private=False, exempt=exempt)
    else:
        with pytest.raises(HostRefused):
            check_url(asked, allow_private=False, exempt=exempt)


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "1.2.3.4.", "::1", "0x"])
def test_every_spelling_of_a_number_is_a_literal(host):
    assert is_literal(host)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254"])
def test_a_socket_for_a_private_address_is_never_made(address):
    with pytest.raises(AddressRefused):
        checked_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)))


def test_a_refusal_is_an_upstream_error_about_the_host():
    refusal = HostRefused("x")
    assert isinstance(refusal, InvalidUpstream) and refusal.check is Check.HOST


class Rebinding(AbstractResolver):
    """A resolver that lets everything through, as if the check before it had been deceived."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.port = port
        self.asked = 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.asked += 1
        kind = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        return [
            ResolveResult(
                hostname=host, host=self.address, port=self.port, family=kind, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass


async def failure(session, url):
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        async with session.get(url):
            pass
    return caught.value.os_error


async def test_names_and_literals_and_rebound_names_are_stopped_at_the_socket():
    async with Loopback(answering("{}")) as server:
        async with (
            aiohttp.ClientSession(connector=trusting_connector()) as session,
            session.get(server.url) as response,
        ):
            assert response.status == 200  # the server is there to be reached
        resolver = Rebinding("127.0.0.1", server.port)
        async with aiohttp.ClientSession(connector=public_connector(resolver)) as session:  # type: ignore[arg-type]
            for url in (
                f"http://rebound.example.com:{server.port}/",
                server.url,
                f"http://[::ffff:127.0.0.1]:{server.port}/",
                f"http://[::1]:{server.port}/",
            ):
                assert isinstance(await failure(session, url), AddressRefused), url
        assert resolver.asked == 1  # literals never come to a resolver
        assert server.connections == 1
