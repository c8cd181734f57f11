"""Names of strangers, looked up from a DNS server on loopback."""

import os
import resource
import socket

import pytest
from name_server import serving

from indexer.errors import LocalBusy, Unavailable
from indexer.network import resolver as limits
from indexer.network.resolver import PublicResolver
from indexer.network.ssrf import AddressRefused

NAME = "pds.example.com"


async def addresses(resolver, family=socket.AF_UNSPEC):
    return sorted(found["host"] for found in await resolver.resolve(NAME, 443, family))


async def test_only_the_public_ones_of_a_names_addresses_are_given(clock):
    records = {
        (NAME, "A"): [["10.0.0.1", "93.184.216.34", "127.0.0.1"]],
        (NAME, "AAAA"): [["fd00::1", "2606:4700::1111"]],
    }
    async with serving(records) as (_, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        assert await addresses(resolver) == ["2606:4700::1111", "93.184.216.34"]
        assert await addresses(resolver, socket.AF_INET) == ["93.184.216.34"]
        (found,) = await resolver.resolve(NAME, 443, socket.AF_INET6)
        assert found["family"] == socket.AF_INET6 and found["port"] == 443
        assert found["flags"] == socket.AI_NUMERICHOST


async def test_a_name_with_private_addresses_only_is_refused_and_one_without_any_is_absent(clock):
    async with serving({(NAME, "A"): [["192.168.1.1"]]}) as (_, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        with pytest.raises(AddressRefused):
            await resolver.resolve(NAME)
        with pytest.raises(OSError, match="no address"):
            await resolver.resolve("other.example.com")


async def test_one_kind_of_address_does_when_the_other_fails(clock):
    records = {(NAME, "A"): [["93.184.216.34"]], (NAME, "AAAA"): ["SERVFAIL"]}
    async with serving(records) as (names, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        assert await addresses(resolver) == ["93.184.216.34"]
        assert (NAME, "AAAA") in names.asked


async def test_an_answer_is_kept_as_long_as_it_says_but_five_minutes_at_most(clock):
    records = {(NAME, "A"): [["93.184.216.34"], ["93.184.216.35"]]}
    for ttl, kept_s in ((60, 60.0), (1_000_000, limits.TTL_S_MAX), (0, 0.0)):
        async with serving(records, ttl=ttl) as (names, configure):
            resolver = PublicResolver(clock=clock, configure=configure)
            await addresses(resolver, socket.AF_INET)
            clock.at += kept_s * 0.99
            await addresses(resolver, socket.AF_INET)
            assert len(names.asked) == (1 if kept_s else 2)
            clock.at += kept_s * 0.02
            assert await addresses(resolver, socket.AF_INET) == ["93.184.216.35"]


async def test_what_is_remembered_is_bounded_in_number_and_size(clock):
    """Of an answer with a thousand addresses eight are kept."""
    many = [f"93.{n // 250}.{n % 250}.7" for n in range(100)]
    records = {(f"n{n}.example.com", "A"): [many] for n in range(20)}
    async with serving(records) as (_, configure):
        resolver = PublicResolver(clock=clock, configure=configure, entries_max=5)
        for number in range(20):
            await resolver.resolve(f"n{number}.example.com", 0, socket.AF_INET)
        assert len(resolver._known) == 5
        assert {len(known.addresses) for known in resolver._known.values()} == {8}


async def test_texts_come_joined_and_bounded(clock):
    name = "_atproto.alice.example.com"
    records = {(name, "TXT"): [['"did=did:plc:" "abc"', '"' + "x" * 250 + '"']]}
    async with serving(records) as (_, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        texts = await resolver.lookup_texts(name)
        assert sorted(texts) == ["did=did:plc:abc", "x" * 250]
        assert await resolver.lookup_texts("_atproto.nobody.example.com") == []


async def test_no_texts_and_no_answer_are_different(clock):
    records = {("a.example.com", "A"): [["93.184.216.34"]], ("b.example.com", "TXT"): ["SERVFAIL"]}
    async with serving(records) as (names, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        assert await resolver.lookup_texts("a.example.com") == []
        with pytest.raises(Unavailable):
            await resolver.lookup_texts("b.example.com")
        assert ("b.example.com", "TXT") in names.asked


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".com", "a." * 130 + "com"])
async def test_what_is_no_name_is_unavailable(clock, name):
    async with serving({}) as (names, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        with pytest.raises(Unavailable):
            await resolver.lookup_texts(name)
        with pytest.raises(OSError, match="no address"):
            await resolver.resolve(name)
        assert not names.asked


async def test_names_are_absolute(clock):
    async with serving({("intranet.corp.example.com", "A"): [["93.184.216.34"]]}) as (
        names,
        configure,
    ):

        def searching():
            resolver = configure()
            resolver.search = [limits.dns.name.from_text("corp.example.com")]
            resolver.use_search_by_default = True
            return resolver

        resolver = PublicResolver(clock=clock, configure=searching)
        with pytest.raises(OSError, match="no address"):
            await resolver.resolve("intranet")
        assert {name for name, _ in names.asked} == {"intranet"}


async def test_no_descriptor_for_a_question_is_our_own_shortage(clock):
    async with serving({(NAME, "A"): [["93.184.216.34"]]}) as (names, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with pytest.raises(OSError, match="no address") as caught:
                await resolver.resolve(NAME)
            with pytest.raises(LocalBusy):
                await resolver.lookup_texts(NAME)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.errno in limits.SHORTAGES
        assert not names.asked
