"""The HTTP client against servers that behave, refuse and redirect."""

import asyncio
import os
import resource
from contextlib import AsyncExitStack
from email.utils import formatdate
from types import SimpleNamespace

import aiohttp
import pytest
from loopback import (
    Loopback,
    answer,
    answering,
    chunk,
    chunked,
    hanging,
    no_port,
    self_signed,
    until,
)
from name_server import serving

from indexer.errors import Check, InvalidUpstream, LocalBusy, Unavailable
from indexer.network.answers import XrpcFailure
from indexer.network.connections import heeding_request
from indexer.network.pacing import FAILURES_MAX, GROUP_WIDTH, PER_HOST_CONCURRENCY, Pacing
from indexer.network.peers import Peers
from indexer.network.resolver import PublicResolver
from indexer.network.ssrf import HostRefused


class JumpingClock:
    """Stands still until it is moved; its wall time can be set apart from that."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.wall_ahead_s = 0.0

    def now(self) -> float:
        return 1_800_000_000.0 + self.elapsed_s + self.wall_ahead_s

    def monotonic(self) -> float:
        return 5000.0 + self.elapsed_s


def counted(metrics, service: str) -> dict[str, float]:
    return {
        sample.labels["code"]: sample.value
        for metric in metrics.http_client_requests.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["service"] == service
    }


async def get(http, url, **options):
    return await http.get_bytes(url, service="pds", **{"bytes_max": 100_000, **options})


# Ordinary answers.


async def test_a_request_names_us_and_its_answer_is_counted(client, metrics):
    http = await client()
    async with Loopback(answering('{"a":[1,"ü"]}', Set_Cookie="a=b")) as server:
        found = await http.get_json(f"{server.url}/x", service="pds", params={"did": "did:plc:a b"})
        await http.get_json(f"{server.url}/x", service="pds")
        assert found == {"a": [1, "ü"]}
        path, headers = server.asked[0]
        assert path == "/x?did=did:plc:a+b"
        assert headers["user-agent"] == "chive-indexer/test"
        assert "cookie" not in server.asked[1][1]
        assert server.connections == 1  # kept alive
    assert counted(metrics, "pds") == {"200": 2.0}


async def test_proxies_of_the_environment_are_not_used(client, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{no_port()}")
    monkeypatch.setenv("no_proxy", "")
    http = await client()
    async with Loopback(answering("{}")) as server:
        assert await http.get_json(server.url, service="pds") == {}


async def test_a_body_comes_piece_by_piece(client):
    async def script(wire):
        await wire.send(chunked())
        for number in range(50):
            await wire.send(chunk(bytes([number]) * 10_000))
        await wire.send(chunk(b""))

    http = await client()
    async with (
        Loopback(script) as server,
        http.stream(server.url, service="pds", bytes_max=500_000, idle_s=5, total_s=5) as body,
    ):
        pieces = [piece async for piece in body]
    assert b"".join(pieces) == b"".join(bytes([n]) * 10_000 for n in range(50))
    assert max(map(len, pieces)) <= 65_536


async def test_a_page_instead_of_json_is_refused_with_a_short_snippet(client):
    http = await client()
    async with Loopback(answering("<html>" + "x" * 5000, kind="text/html")) as server:
        with pytest.raises(InvalidUpstream) as caught:
            await http.get_json(server.url, service="pds")
    assert caught.value.check is Check.RESPONSE
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":NaN}', b"\xff\xfe", b""])
async def test_what_is_no_json_is_refused(client, body):
    http = await client()
    async with Loopback(answering(body)) as server:
        with pytest.raises(InvalidUpstream) as caught:
            await http.get_json(server.url, service="pds")
    assert caught.value.check is Check.RESPONSE


# Refusals.


async def test_an_error_of_the_host_is_named_even_when_it_comes_in_pieces(client):
    data = answer('{"error":"RepoTakendown","message":"Repo has been takendown"}', status=400)

    async def script(wire):
        for at in range(0, len(data), 20):
            await wire.send(data[at : at + 20])
            await asyncio.sleep(0.001)  # a segment each

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(XrpcFailure) as caught:
            await get(http, server.url)
    assert (caught.value.status, caught.value.name) == (400, "RepoTakendown")


async def test_an_error_whose_body_stalls_is_judged_by_its_status(client):
    async def script(wire):
        await wire.send(answer("<h1>", status=403, length=100))
        await wire.until_gone()

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(InvalidUpstream, match="HTTP 403"):
            async with http.stream(server.url, service="pds", bytes_max=10, idle_s=0.4, total_s=5):
                pass
        await server.all_gone()


def refusals(clock):
    html = {"body": "<h1>429</h1>", "kind": "text/html"}
    reset = str(int(clock.at) + 300)
    return {
        "delta": ({"Retry_After": "278", "RateLimit_Reset": reset}, 278.0),
        "date": ({"Retry_After": formatdate(clock.at + 200, usegmt=True)}, 200.0),
        "epoch": ({"RateLimit_Reset": reset, "RateLimit_Remaining": "0"}, 300.0),
        "past date": ({"Retry_After": formatdate(clock.at - 200, usegmt=True), **html}, 60.0),
        "negative": ({"Retry_After": "-1", **html}, 60.0),
        "ten years": ({"Retry_After": "315360000"}, 3600.0),
        "no header": (html, 60.0),
    }


@pytest.mark.parametrize(
    "form", ["delta", "date", "epoch", "past date", "negative", "ten years", "no header"]
)
async def test_no_request_is_sent_while_a_refusal_holds(client, clock, form):
    headers, pause_s = refusals(clock)[form]
    http = await client()
    async with (
        Loopback(answering(status=429, **headers), answering("{}")) as server,
        Loopback(answering("{}")) as other,
    ):
        with pytest.raises(Unavailable) as caught:
            await get(http, server.url)
        assert caught.value.retry_after_s == pytest.approx(pause_s)
        for _ in range(3):
            with pytest.raises(Unavailable, match="left alone"):
                await get(http, server.url)
        clock.at += pause_s - 31.0
        with pytest.raises(Unavailable, match="left alone"):
            await get(http, server.url)
        assert len(server.asked) == 1
        await get(http, other.url)
        clock.at += 31.0
        assert await get(http, server.url) == b"{}"
        assert len(server.asked) == 2


async def test_refusals_without_headers_double(client, clock):
    http = await client()
    async with Loopback(answering(status=429)) as server:
        for pause_s in (60.0, 120.0, 240.0):
            with pytest.raises(Unavailable) as caught:
                await get(http, server.url)
            assert caught.value.retry_after_s == pytest.approx(pause_s)
            clock.at += pause_s
        assert len(server.asked) == 3


async def test_an_answer_that_leaves_nothing_closes_the_window_before_a_refusal(client, clock):
    reset = {"RateLimit_Remaining": "0", "RateLimit_Reset": str(int(clock.at) + 100)}
    http = await client()
    async with Loopback(answering("{}", **reset), answering("[]")) as server:
        assert await get(http, server.url) == b"{}"
        with pytest.raises(Unavailable) as caught:
            await get(http, server.url)
        assert caught.value.retry_after_s == pytest.approx(100.0)
        assert len(server.asked) == 1
        clock.at += 100.0
        assert await get(http, server.url) == b"[]"


async def test_a_503_with_a_time_is_heeded_as_a_refusal(client):
    http = await client()
    async with Loopback(answering(status=503, Retry_After="120")) as server:
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await get(http, server.url)
            assert caught.value.retry_after_s == pytest.approx(120.0)
        assert len(server.asked) == 1


async def test_a_host_that_only_fails_is_left_alone_and_others_are_not(client, clock):
    http = await client()
    async with Loopback(answering(status=503)) as server, Loopback(answering("{}")) as other:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await get(http, server.url)
        assert len(server.asked) == FAILURES_MAX
        await get(http, other.url)
        clock.at += 60.0
        with pytest.raises(Unavailable):
            await get(http, server.url)
        assert len(server.asked) == FAILURES_MAX + 1


async def test_a_port_where_nobody_listens_opens_the_breaker(client):
    http = await client()
    url = f"http://127.0.0.1:{no_port()}"
    for _ in range(FAILURES_MAX):
        with pytest.raises(Unavailable, match="Connect"):
            await get(http, url)
    with pytest.raises(Unavailable, match="left alone"):
        await get(http, url)


async def test_a_window_that_closes_during_the_handshake_is_heeded(clock):
    pacing = Pacing(clock=clock, rate=10.0)
    async with (
        Loopback(answering("{}")) as server,
        aiohttp.ClientSession(request_class=heeding_request(pacing, Peers())) as session,
    ):
        async with session.get(f"{server.url}/before") as response:
            await response.read()
        pacing.refused(server.url, 10.0)
        with pytest.raises(Unavailable):
            await session.get(f"{server.url}/after")
        assert server.paths == ["/before"]


# Redirects and exemptions.


def to(location: str, status: int = 302):
    return answering(status=status, Location=location)


async def test_redirects_are_followed_only_where_asked_for(client):
    http = await client()
    async with Loopback(to("/b"), answering("there")) as server:
        with pytest.raises(InvalidUpstream):
            await get(http, f"{server.url}/a")
        assert server.paths == ["/a"]
    async with Loopback(to("/b", 308), to("c", 303), answering("there")) as server:
        found = await get(http, f"{server.url}/a?q=1", follow=True, params={"x": "1"})
        assert found == b"there"
        assert server.paths == ["/a?q=1&x=1", "/b", "/c"]


async def test_a_redirect_loop_ends_after_three(client):
    http = await client()
    async with Loopback(to("/again")) as server:
        with pytest.raises(InvalidUpstream, match="too many redirects"):
            await get(http, server.url, follow=True)
        assert len(server.asked) == 4


@pytest.mark.parametrize(
    "location",
    ["", "http://", "http://[", "ftp://x.example.com", "http://u@127.0.0.1/", "javascript:x"],
)
async def test_a_redirect_to_nowhere_is_refused(client, location):
    http = await client()
    async with Loopback(to(location)) as server:
        with pytest.raises(InvalidUpstream):
            await get(http, server.url, follow=True)
        assert server.asked


@pytest.mark.parametrize(
    ("location", "passes"),
    [
        ("http://pds.example.com/", False),
        ("//pds.example.org/x", True),
        ("/x", True),
        ("https://pds.example.org/", True),
        ("https://[", False),
    ],
)
async def test_a_redirect_never_leaves_https(client, location, passes):
    http = await client()
    response = SimpleNamespace(headers={"Location": location})
    if passes:
        target = http._redirected("https://pds.example.com/a", response, ())
        assert target.startswith("https://pds.example.")
    else:
        with pytest.raises(HostRefused):
            http._redirected("https://pds.example.com/a", response, ())


async def test_a_certificate_that_nobody_vouches_for_is_not_spoken_to(client, tmp_path):
    http = await client()
    async with Loopback(answering("{}"), tls=self_signed(tmp_path)) as server:
        with pytest.raises(Unavailable, match="ertificate"):
            await get(http, server.url)
        assert not server.asked


async def test_a_server_without_tls_behind_https_is_unavailable(client):
    async def script(wire):
        await wire.until_gone()

    http = await client()
    async with Loopback(script) as server:
        with pytest.raises(Unavailable):
            await get(http, f"https://127.0.0.1:{server.port}", timeout_s=0.3)
        await until(lambda: server.connections == 1)


async def test_the_operators_own_hosts_may_be_private_but_only_for_their_own_client(client):
    async with Loopback(answering("{}")) as server:
        http = await client(allow_private=False, exempt=[f"{server.url}/path"])
        assert await get(http, f"{server.url}/x", is_configured=True) == b"{}"
        with pytest.raises(HostRefused, match="not https"):
            await get(http, f"{server.url}/x")  # the same origin, named by a stranger
        assert server.paths == ["/x"]


async def test_of_a_denied_host_nothing_is_asked_unless_the_settings_name_it(client):
    async with Loopback(answering("{}")) as denied, Loopback(to(f"{denied.url}/x")) as other:
        http = await client(exempt=[denied.url], is_denied=lambda url: url.startswith(denied.url))
        with pytest.raises(HostRefused, match="denied by the operator"):
            await get(http, denied.url)
        with pytest.raises(HostRefused, match="denied by the operator"):
            await get(http, other.url, follow=True)
        assert denied.connections == 0
        assert await get(http, denied.url, is_configured=True) == b"{}"


async def test_another_port_is_not_exempt(client):
    async with Loopback(answering("{}")) as named, Loopback(answering("{}")) as other:
        http = await client(allow_private=False, exempt=[named.url])
        with pytest.raises(HostRefused):
            await get(http, other.url, is_configured=True)
        assert other.connections == 0


@pytest.mark.parametrize(
    "target", ["other", "http://169.254.169.254/latest/", "https://pds.example.com/"]
)
async def test_an_exempt_host_cannot_redirect_away(client, target):
    async with Loopback(answering("{}")) as other:
        location = f"{other.url}/x" if target == "other" else target
        async with Loopback(to(location)) as named:
            http = await client(allow_private=False, exempt=[named.url])
            with pytest.raises(HostRefused, match="redirects away"):
                await get(http, named.url, is_configured=True, follow=True)
            assert len(named.asked) == 1
        assert other.connections == 0


async def test_an_exempt_host_may_redirect_within_itself(client):
    async with Loopback(to("/b"), answering("{}")) as named:
        http = await client(allow_private=False, exempt=[named.url])
        assert await get(http, named.url, is_configured=True, follow=True) == b"{}"


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
@pytest.mark.parametrize("asked_for", ["seconds", "date"])
async def test_a_host_is_left_alone_for_as_long_as_it_asked_whatever_the_wall_clock_does(
    client, jump_s, asked_for
):
    clock = JumpingClock()
    asked = "20" if asked_for == "seconds" else formatdate(clock.now() + 20, usegmt=True)
    http = await client(clock=clock, pacing=Pacing(clock=clock, rate=1000.0))
    async with Loopback(answering(status="429 No", Retry_After=asked), answering("{}")) as server:
        with pytest.raises(Unavailable):
            await get(http, server.url)
        clock.wall_ahead_s += jump_s
        assert http.pacing.closed_s(server.url) == 20.0
        clock.elapsed_s += 19.0
        with pytest.raises(Unavailable):
            http.pacing.refuse_closed(server.url)
        clock.elapsed_s += 1.0
        assert await get(http, server.url) == b"{}"
        assert len(server.asked) == 2


# Addresses behind names.


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("A", "127.0.0.1"),
        ("A", "10.0.0.1"),
        ("A", "169.254.169.254"),
        ("AAAA", "::1"),
        ("AAAA", "fd00::1"),
        ("AAAA", "::ffff:127.0.0.1"),
        ("AAAA", "2002:7f00:1::1"),
        ("AAAA", "64:ff9b::7f00:1"),
    ],
)
async def test_a_name_at_a_private_address_is_refused(client, clock, kind, address):
    async with serving({("pds.example.com", kind): [[address]]}) as (names, configure):
        http = await client(
            allow_private=False,
            exempt=["https://plc.example.com"],
            resolver=PublicResolver(clock=clock, configure=configure),
        )
        for is_configured in (False, True):  # as long as it is none of the origins that are
            with pytest.raises(HostRefused, match="not at a public address"):
                await get(http, "https://pds.example.com/x", is_configured=is_configured)
        assert ("pds.example.com", kind) in names.asked


async def test_a_name_in_the_settings_is_looked_up_as_a_strangers_when_a_stranger_names_it(
    client, clock
):
    async with serving({("plc.example.com", "A"): [["127.0.0.1"]]}) as (names, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        exempt = ["https://plc.example.com"]
        http = await client(allow_private=False, exempt=exempt, resolver=resolver)
        with pytest.raises(HostRefused, match="not at a public address"):
            await get(http, "https://plc.example.com/x")
        assert names.asked


async def test_a_name_that_turns_private_between_two_questions_is_refused(client, clock):
    """The first answer is for the groups of the host, the second for its connection."""
    records = {("pds.example.com", "A"): [["93.184.216.34"], ["127.0.0.1"]]}
    async with serving(records, ttl=0) as (names, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        http = await client(allow_private=False, resolver=resolver)
        with pytest.raises(HostRefused, match="not at a public address"):
            await get(http, "https://pds.example.com/x")
        assert names.asked.count(("pds.example.com", "A")) == 2


async def test_a_name_that_does_not_exist_is_unavailable_and_opens_the_breaker(client, clock):
    async with serving({}) as (names, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        http = await client(allow_private=False, resolver=resolver)
        for _ in range(FAILURES_MAX + 3):
            with pytest.raises(Unavailable):
                await get(http, "https://pds.example.com/x")
        assert len(names.asked) == 2 * FAILURES_MAX  # not even looked up any more


async def test_hosts_are_grouped_by_domain_and_by_the_address_where_they_were_reached(
    client, clock
):
    """Until then requests wait for others to the same addresses whose names proved nothing."""
    url = "https://a.pds.example.com"
    records = {
        ("a.pds.example.com", "A"): [["93.184.216.34", "10.0.0.1"]],
        ("a.pds.example.com", "AAAA"): [["2606:4700::1111"]],
    }
    async with serving(records) as (_, configure):
        resolver = PublicResolver(clock=clock, configure=configure)
        http = await client(allow_private=False, resolver=resolver)
        assert set(await http._groups(url)) == {
            "domain example.com",
            "claimed 93.184.216.34",
            "claimed 2606:4700::1111",
        }
        assert http.groups(url) is None
        http.peers.note(url, "93.184.216.34")
        assert http.groups(url) == ("domain example.com", "address 93.184.216.34")
        assert await http._groups(url) == http.groups(url)
        assert http.groups("https://[2606:4700::1111]") == ("address 2606:4700::1111",)


async def test_names_alone_use_up_nothing_of_an_address(client, clock):
    """Neither its places, nor what is counted for it, nor the memory of who was reached there."""
    address, honest = "93.184.216.34", "https://pds.example.com"
    mere = [f"https://pds{n}.example{n}.org" for n in range(10_000)]
    records = {(f"pds{n}.example{n}.org", "A"): [[address]] for n in range(50)}
    async with serving(records) as (_, configure), AsyncExitStack() as stack:
        resolver = PublicResolver(clock=clock, configure=configure)
        http = await client(allow_private=False, resolver=resolver)
        http.peers.note(honest, address)
        for n, url in enumerate(mere):
            if n < 50:
                groups = await http._groups(url)
                if n < PER_HOST_CONCURRENCY * GROUP_WIDTH:  # they hang, all of them
                    await stack.enter_async_context(http.pacing.turn(url, groups=groups))
            elif n < 100:
                with pytest.raises(Unavailable):
                    await http._groups(url)
            http.pacing.failed(url)
            assert http.groups(url) is None
        groups = await http._groups(honest)
        assert groups == ("domain example.com", f"address {address}")
        async with asyncio.timeout(0.5), http.pacing.turn(honest, groups=groups):
            pass


async def test_a_host_is_known_to_be_where_it_was_reached_and_one_without_a_certificate_is_not(
    client, tmp_path
):
    http = await client()
    async with (
        Loopback(answering("{}")) as server,
        Loopback(answering("{}"), tls=self_signed(tmp_path)) as unproven,
    ):
        named = [url.replace("127.0.0.1", "localhost") for url in (server.url, unproven.url)]
        await get(http, named[0])
        with pytest.raises(Unavailable):
            await get(http, named[1])
        assert http.peers.groups(named[0]) == ("domain localhost", "address 127.0.0.1")
        assert http.peers.groups(named[1]) is None


def test_of_the_hosts_that_were_reached_the_latest_are_remembered():
    peers = Peers(entries_max=3)
    for n in range(5):
        peers.note(f"https://{n}.example.com", "93.184.216.34")
        peers.note("https://0.example.com", "93.184.216.35")
    known = [n for n in range(5) if peers.groups(f"https://{n}.example.com")]
    assert known == [0, 3, 4]


# This machine, and the caller.


async def test_no_free_descriptor_is_our_own_shortage(client):
    http = await client()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with Loopback(answering("{}")) as server:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            with pytest.raises(LocalBusy):
                await get(http, server.url)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert server.connections == 0
        assert http._pacing._hosts[server.url].failures == 0
        assert await get(http, server.url) == b"{}"


async def test_a_timeout_of_the_callers_own_stays_its_own(client):
    http = await client()
    async with Loopback(answering("{}")) as server:
        with pytest.raises(TimeoutError, match="mine"):
            async with http.stream(server.url, service="x", bytes_max=9, idle_s=5, total_s=5):
                raise TimeoutError("mine")


@pytest.mark.parametrize("where", ["headers", "body"])
async def test_a_cancelled_request_leaves_nothing_behind(client, where):
    async def stalling(wire):
        await wire.send(chunked(), chunk(b"x"))
        await wire.until_gone()

    http = await client()
    async with Loopback(hanging if where == "headers" else stalling) as server:
        task = asyncio.create_task(get(http, server.url))
        await until(lambda: server.asked)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.all_gone()
        host = http._pacing._hosts[server.url]
        assert (host.users, host.failures) == (0, 0)
        assert host.slots._value == 2
