"""Crowds at the door: the daemon turns them away and goes on with its work."""

from __future__ import annotations

import asyncio
import base64
import resource
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

from admin_api.listener import CONNECTIONS_MAX, PER_CLIENT_MAX
from tests.e2e.daemon import PASSWORD
from tests.e2e.test_admin_methods import ADMIN, Stage, staged
from tests.unit.admin.raw_http import Connection, connected, exchange, request

SOCKETS = 5_000
DIALS = 64
CLIENTS = 20
LISTINGS = 1_000


def admin_port(stage: Stage) -> int:
    return int(stage.daemon.addresses.admin_url.rpartition(":")[2])


async def write_and_wait(stage: Stage) -> float:
    """Seconds until a record that is written now is in the index."""
    started = time.monotonic()
    stage.create(stage.admin)
    await stage.equal(stage.admin)
    return time.monotonic() - started


async def open_many(port: int, count: int, stack: AsyncExitStack) -> list[Connection]:
    turns = asyncio.Semaphore(DIALS)

    async def dial(number: int) -> Connection:
        async with turns:
            source = f"127.0.0.{10 + number % CLIENTS}"
            return await stack.enter_async_context(connected(port, source=source))

    return list(await asyncio.gather(*(dial(number) for number in range(count))))


async def test_five_thousand_idle_sockets_do_not_disturb_the_stream(tmp_path: Path):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sockets = min(SOCKETS, hard // 2 - 1000)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with staged(tmp_path) as stage, AsyncExitStack() as stack:
            await write_and_wait(stage)
            port = admin_port(stage)
            crowd = await open_many(port, sockets, stack)
            assert len(crowd) > 10 * CONNECTIONS_MAX
            turned = await exchange(port, request("/livez"))
            assert (turned.status, turned.error) == (503, "NotEnoughResources")
            assert await write_and_wait(stage) < 5.0
            await stack.aclose()
            async with asyncio.timeout(10):
                while (await exchange(port, request("/livez"))).status != 200:
                    await asyncio.sleep(0.05)
            assert await write_and_wait(stage) < 5.0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_slow_heads_and_slow_bodies_disturb_neither_the_stream_nor_other_clients(
    tmp_path: Path,
):
    """One client takes all the places it can get and hardly says anything on any of them."""
    async with staged(tmp_path) as stage, AsyncExitStack() as stack:
        await write_and_wait(stage)
        port = admin_port(stage)
        basic = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        head = request(
            f"/xrpc/{ADMIN}dismissDLQEntry", ("Authorization", f"Basic {basic}"),
            ("Content-Type", "application/json"), method="POST", body=b'{"index": 1}',
        )  # fmt: skip
        slow = [
            await stack.enter_async_context(connected(port, source="127.0.0.9"))
            for _ in range(PER_CLIENT_MAX)
        ]
        for number, connection in enumerate(slow):
            # Half of them stop within the head, half within the body, behind a good credential.
            await connection.send(head[:60] if number % 2 else head[:-5])
        refused = await exchange(port, request("/livez"), source="127.0.0.9")
        assert (refused.status, refused.error) == (503, "NotEnoughResources")
        assert await write_and_wait(stage) < 5.0
        assert (await exchange(port, request("/livez"))).status == 200
        assert (await stage.get(ADMIN + "getOverview"))["records"] == 2
        assert not await slow[0].ended(0.2), "they were there all the time"


async def test_a_thousand_listings_at_once_are_limited_and_not_fatal(tmp_path: Path):
    import aiohttp

    async with staged(tmp_path, admin={"requests_per_s": 50.0}) as stage:
        await write_and_wait(stage)
        url = f"{stage.daemon.addresses.admin_url}/xrpc/{ADMIN}listDLQEntries"
        auth = {"Authorization": aiohttp.encode_basic_auth("admin", PASSWORD)}
        waits: list[int] = []

        async def ask(session: aiohttp.ClientSession) -> int:
            async with session.get(url, headers=auth) as response:
                body = await response.json()
                if response.status == 429:
                    assert body["error"] == "RateLimitExceeded"
                    assert response.headers["RateLimit-Remaining"] == "0"
                    waits.append(int(response.headers["Retry-After"]))
                return response.status

        started = time.monotonic()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:
            written_s, *statuses = await asyncio.gather(
                write_and_wait(stage), *(ask(session) for _ in range(LISTINGS))
            )
            took_s = time.monotonic() - started
            assert written_s < 5.0, "they held up the stream"
            assert set(statuses) == {200, 429}
            assert 100 <= statuses.count(200) <= 100 + 50 * took_s + 1
            assert waits
            assert max(waits) == 1
            await asyncio.sleep(max(waits))  # what we were told
            assert await ask(session) == 200
        assert await write_and_wait(stage) < 5.0


async def test_a_flood_of_what_needs_no_credential_is_limited_and_disturbs_nothing(tmp_path: Path):
    """Pages, readiness and expositions: for one client so many, for others as ever."""

    async def flood(port: int, path: str, seen: Counter[int]) -> None:
        async with connected(port, source="127.0.0.9") as connection:
            while True:
                await connection.send(request(path))
                answer = await connection.answer()
                seen[answer.status] += 1
                if answer.status == 429:
                    assert answer.error == "RateLimitExceeded"
                    assert answer.headers["retry-after"] == "1"

    async with staged(tmp_path) as stage:
        await write_and_wait(stage)
        port = admin_port(stage)
        metrics_port = urlsplit(stage.daemon.addresses.metrics_url).port
        assert metrics_port is not None
        seen: dict[str, Counter[int]] = {
            path: Counter() for path in ("/", "/readyz", "/xrpc/_health", "/nothing", "/metrics")
        }
        async with asyncio.TaskGroup() as group:
            floods = []
            # An exposition takes long: on a slow machine more than its limit come only by itself.
            for paths in (["/metrics"], [path for path in seen if path != "/metrics"]):
                for path in paths:
                    at = metrics_port if path == "/metrics" else port
                    floods.append(group.create_task(flood(at, path, seen[path])))
                async with asyncio.timeout(60):
                    while not all(seen[path][429] for path in paths):
                        await asyncio.sleep(0.01)
            assert await write_and_wait(stage) < 5.0
            assert (await exchange(port, request("/readyz"))).status == 200, "of another client"
            assert (await exchange(metrics_port, request("/metrics"))).status == 200
            live = await exchange(port, request("/livez"), source="127.0.0.9")
            assert live.status == 200, "whether it is alive is always told"
            for each in floods:
                each.cancel()
        print({path: dict(each) for path, each in seen.items()})
