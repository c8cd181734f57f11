from __future__ import annotations

import asyncio
import os
import resource
from contextlib import AsyncExitStack, suppress

import pytest
from aiohttp import web
from raw_http import Connection, connected, exchange, request
from structlog.testing import capture_logs

from admin_api import listener
from admin_api.clients import ClientAddresses
from admin_api.listener import CONNECTIONS_MAX, PER_CLIENT_MAX, listen
from admin_api.xrpc import json_response
from indexer.errors import LocalFault


async def echo(incoming: web.BaseRequest, path: str, query: str) -> web.Response:
    return json_response(200, {"method": incoming.method, "path": path, "query": query})


async def test_path_and_query_are_handed_on_as_they_were_sent():
    async with listen("admin", "127.0.0.1", 0, echo) as port:
        answer = await exchange(port, request("/xrpc/..%2fx?a=%zz&b=?c"))
    assert answer.json() == {"method": "GET", "path": "/xrpc/..%2fx", "query": "a=%zz&b=?c"}
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["server"] == "chive-indexer"
    assert "access-control-allow-origin" not in answer.headers


async def test_a_connection_serves_one_request_after_the_other():
    async with listen("admin", "127.0.0.1", 0, echo) as port, connected(port) as connection:
        for number in range(3):
            await connection.send(request(f"/{number}"))
            assert (await connection.answer()).json()["path"] == f"/{number}"


@pytest.mark.parametrize(
    "line",
    ["GET http://localhost/xrpc/x HTTP/1.1", "CONNECT localhost:80 HTTP/1.1", "OPTIONS * HTTP/1.1"],
)
async def test_what_is_meant_for_a_proxy_is_refused(line: str):
    async with listen("admin", "127.0.0.1", 0, echo) as port:
        answer = await exchange(port, f"{line}\r\nHost: localhost\r\n\r\n".encode())
    assert (answer.status, answer.error) == (400, "InvalidRequest")


async def test_a_start_without_a_descriptor_left_says_so():
    """asyncio lets the failure pass and gives a server that listens nowhere."""
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(LocalFault, match="no socket can be opened for it"):
            async with listen("admin", "127.0.0.1", 0, echo):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_an_address_of_another_machine_is_not_taken_for_a_port_in_use():
    with pytest.raises(LocalFault, match="must be an address of this machine"):
        async with listen("metrics", "192.0.2.1", 0, echo):
            pass


async def test_a_request_without_a_version_is_refused():
    async with listen("admin", "127.0.0.1", 0, echo) as port, connected(port) as connection:
        await connection.send(b"GET /\r\n\r\n")
        async with asyncio.timeout(5):
            assert b"the request must be HTTP/1" in await connection.rest()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_in_json_and_the_connection_closed(data: bytes):
    async with listen("admin", "127.0.0.1", 0, echo) as port, connected(port) as connection:
        await connection.send(data)
        answer = await connection.answer()
        assert (answer.status, answer.error) == (400, "InvalidRequest")
        assert answer.headers["connection"] == "close"
        assert await connection.ended()


async def test_a_bug_is_answered_in_json_without_its_details():
    async def broken(_: web.BaseRequest, __: str, ___: str) -> web.Response:
        raise KeyError("a secret")

    async with listen("admin", "127.0.0.1", 0, broken) as port:
        answer = await exchange(port, request())
    assert (answer.status, answer.error) == (500, "InternalServerError")
    assert b"secret" not in answer.body


async def crowd(port: int, count: int, source: str, stack: AsyncExitStack) -> list[Connection]:
    """Connections that the server has taken: each was answered."""
    held = [await stack.enter_async_context(connected(port, source=source)) for _ in range(count)]
    for connection in held:
        await connection.send(request())
    for connection in held:
        await connection.answer()
    return held


async def is_turned_away(port: int, source: str) -> bool:
    async with connected(port, source=source) as extra:
        await extra.send(request())
        answer = await extra.answer()
        if answer.status == 200:
            return False
        assert (answer.status, answer.error) == (503, "NotEnoughResources")
        assert answer.headers["retry-after"] == "5"
        return await extra.ended()


async def test_connections_beyond_the_cap_are_told_so_and_places_become_free_again():
    async with listen("admin", "127.0.0.1", 0, echo) as port, AsyncExitStack() as stack:
        left, number = CONNECTIONS_MAX, 2
        while left:
            size = min(left, PER_CLIENT_MAX)
            await crowd(port, size, f"127.0.0.{number}", stack)
            left, number = left - size, number + 1
        assert await is_turned_away(port, "127.0.0.99")
        await stack.aclose()
        async with asyncio.timeout(5):
            while await is_turned_away(port, "127.0.0.99"):
                await asyncio.sleep(0.01)


async def test_one_client_cannot_keep_others_out():
    async with listen("admin", "127.0.0.1", 0, echo) as port, AsyncExitStack() as stack:
        await crowd(port, PER_CLIENT_MAX, "127.0.0.2", stack)
        assert await is_turned_away(port, "127.0.0.2")
        assert not await is_turned_away(port, "127.0.0.3")
        await stack.aclose()
        async with asyncio.timeout(5):
            while await is_turned_away(port, "127.0.0.2"):
                await asyncio.sleep(0.01)


async def test_a_trusted_proxy_is_many_clients():
    at = ClientAddresses(["127.0.0.2/32"]).client_at
    assert (at("127.0.0.2"), at("127.0.0.3"), at("2001:db8:1:2:3::4")) == (
        None, "127.0.0.3", "2001:db8:1:2::/64",
    )  # fmt: skip
    async with (
        listen("admin", "127.0.0.1", 0, echo, client_at=at) as port,
        AsyncExitStack() as stack,
    ):
        await crowd(port, PER_CLIENT_MAX + 1, "127.0.0.2", stack)
        assert not await is_turned_away(port, "127.0.0.2")


async def test_a_request_in_progress_is_finished_when_the_listener_closes():
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: web.BaseRequest, __: str, ___: str) -> web.Response:
        entered.set()
        await leave.wait()
        return json_response(200, {})

    async with asyncio.TaskGroup() as group, listen("admin", "127.0.0.1", 0, slow) as port:
        asked = group.create_task(exchange(port, request()))
        await entered.wait()
        asyncio.get_running_loop().call_later(0.05, leave.set)
    assert asked.result().status == 200


async def test_a_client_that_is_slow_does_not_hold_up_the_end():
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        async with listen("admin", "127.0.0.1", 0, echo) as port:
            for data in (b"", b"GET / HT", request(method="POST", body=b"x")[:-1]):
                await (await stack.enter_async_context(connected(port))).send(data)
            began = loop.time()
        assert loop.time() - began < listener.DRAIN_S + 2.0


async def test_an_address_in_use_ends_the_start_with_the_setting_and_a_remedy():
    async with listen("admin", "127.0.0.1", 0, echo) as port:
        with pytest.raises(LocalFault, match=rf"admin.bind = .*admin.port = {port}: .*end the"):
            async with listen("admin", "127.0.0.1", port, echo):
                pass


async def test_a_request_that_comes_byte_by_byte_is_cut_off():
    """The time runs from the beginning: bytes that trickle in do not lengthen it."""
    loop = asyncio.get_running_loop()
    async with listen("admin", "127.0.0.1", 0, echo, idle_s=0.3) as port:
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(connected(port)) for _ in range(20)]
            began = loop.time()
            endings = [asyncio.create_task(each.ended()) for each in crowd]
            head = request("/", ("X-Slow", "a" * 200))
            sent = 0
            while not all(each.done() for each in endings) and sent < len(head) - 1:
                for connection, ending in zip(crowd, endings, strict=True):
                    if not ending.done():
                        with suppress(ConnectionError):
                            await connection.send(head[sent : sent + 1])
                sent += 1
                await asyncio.sleep(0.02)
            assert all([await each for each in endings])
            assert 0.2 < loop.time() - began < 3.0
            assert sent < len(head) - 1
        assert (await exchange(port, request())).status == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_bug_of_ours():
    has_begun, is_over = asyncio.Event(), asyncio.Event()

    async def answer(incoming: web.BaseRequest, path: str, query: str) -> web.Response:
        try:
            has_begun.set()
            await incoming.read()
            return await echo(incoming, path, query)
        finally:
            is_over.set()

    with capture_logs() as logs:
        async with listen("admin", "127.0.0.1", 0, answer) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /xrpc/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{}"
            )
            async with asyncio.timeout(5.0):
                await has_begun.wait()
                writer.transport.abort()
                await is_over.wait()
    assert logs == []
