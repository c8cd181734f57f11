"""Clients for one test, and the promise that no test leaves a socket or task behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from loopback import SteppedClock, until

from indexer.metrics import Metrics
from indexer.network.http import HttpClient
from indexer.network.pacing import Pacing


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(clock: SteppedClock, metrics: Metrics) -> AsyncIterator[Callable[..., object]]:
    """Makes entered clients: `await client(allow_private=False, exempt=[...])`."""
    async with AsyncExitStack() as stack:

        async def make(**options) -> HttpClient:
            pacing = options.pop("pacing", None)
            if pacing is None:
                pacing = Pacing(clock=clock, rate=1000.0)
            given = {"allow_private": True, "exempt": [], "clock": clock, **options}
            http = HttpClient(
                user_agent="chive-indexer/test", pacing=pacing, metrics=metrics, **given
            )
            return await stack.enter_async_context(http)

        yield make


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    loop_files = open_files()
    yield
    await until(lambda: len(asyncio.all_tasks()) == 1)
    await until(lambda: open_files() <= loop_files)
