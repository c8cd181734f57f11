from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from raw_http import Answer, exchange, request

from admin_api.clients import BrowserGuard, ClientAddresses
from admin_api.listener import listen
from admin_api.xrpc import json_response, refusal
from indexer.errors import ConfigurationError, RequestRefused

Ask = Callable[..., Awaitable[Answer]]


async def client_seen(trusted: list[str], *headers: tuple[str, str]) -> str:
    """The client address that a request over loopback with these headers counts for."""
    addresses = ClientAddresses(trusted)

    async def answer(incoming: web.BaseRequest, _: str, __: str) -> web.Response:
        return json_response(200, {"client": addresses.client_of(incoming)})

    async with listen("admin", "127.0.0.1", 0, answer) as port:
        return (await exchange(port, request("/", *headers))).json()["client"]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ([], ["1.2.3.4"], "127.0.0.1"),
        (["10.0.0.0/8"], ["1.2.3.4"], "127.0.0.1"),
        (["127.0.0.0/8"], [], "127.0.0.1"),
        (["127.0.0.0/8"], ["1.2.3.4"], "1.2.3.4"),
        (["127.0.0.0/8"], ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (["127.0.0.0/8"], ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (["127.0.0.0/8", "10.0.0.0/8"], ["1.2.3.4, 10.0.0.1,10.1.1.1"], "1.2.3.4"),
        (["127.0.0.0/8", "10.0.0.0/8"], ["10.0.0.1"], "10.0.0.1"),
        (["127.0.0.0/8"], ["1.2.3.4, junk"], "127.0.0.1"),
        (["127.0.0.0/8"], ["1.2.3.4:80"], "127.0.0.1"),
        (["127.0.0.0/8"], [""], "127.0.0.1"),
        (["127.0.0.0/8"], ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (["127.0.0.0/8"], ["::ffff:1.2.3.4"], "1.2.3.4"),
        (["0.0.0.0/0"], [", ".join(["9.9.9.9"] * 50)], "9.9.9.9"),
    ],
)
async def test_the_client_is_the_nearest_hop_that_is_no_trusted_proxy(
    trusted: list[str], forwarded: list[str], client: str
):
    headers = [("X-Forwarded-For", value) for value in forwarded]
    assert await client_seen(trusted, *headers) == client


def test_a_malformed_proxy_network_refuses_the_start():
    with pytest.raises(ConfigurationError, match=r"admin\.trusted_proxies: "):
        ClientAddresses(["10.0.0.1/8"])


@pytest.fixture
async def guarded() -> AsyncIterator[Ask]:
    """Ask a listener behind a browser guard for 127.0.0.1 with two further names."""
    guard = BrowserGuard("127.0.0.1", ["Admin.Example", "other.example:8443", "[2001:db8::1]"])

    async def answer(incoming: web.BaseRequest, _: str, __: str) -> web.Response:
        try:
            guard.check(incoming)
        except RequestRefused as error:
            return refusal(error)
        return json_response(200, {})

    async with listen("admin", "127.0.0.1", 0, answer) as port:

        async def ask(*headers: tuple[str, str], host: str | None = "localhost") -> Answer:
            return await exchange(port, request("/", *headers, host=host))

        yield ask


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:2580", "127.0.0.1", "127.0.0.1:1", "[::1]:2580", "admin.example",
        "ADMIN.example:443", "other.example", "[2001:db8::1]:80",
    ],
)  # fmt: skip
async def test_the_own_names_are_served_on_any_port(guarded: Ask, host: str):
    assert (await guarded(host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        None, "", "evil.example", "localhost.evil.example", "evil.example:2580", "localhost@evil",
        "evil@localhost", "localhost/x", "localhost?x", "localhost#x", "127.0.0.1.nip.io",
        "localhost:x", "localhost:99999", "[::1", "::1", "localhost.", "[::2]", "local host",
    ],
)  # fmt: skip
async def test_other_names_are_refused(guarded: Ask, host: str | None):
    """Some are no HTTP at all, which is found out first."""
    answer = await guarded(host=host)
    assert (answer.status, answer.error) in {(403, "Forbidden"), (400, "InvalidRequest")}


async def test_two_host_headers_and_pages_of_other_sites_are_refused(guarded: Ask):
    assert (await guarded(("Host", "localhost"))).status in {400, 403}
    assert (await guarded(("Sec-Fetch-Site", "cross-site"))).status == 403
    twice = [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")]
    assert (await guarded(*twice)).status == 403
    for site in ("same-origin", "none"):
        assert (await guarded(("Sec-Fetch-Site", site))).status == 200
