"""The real network once for all tests that want it, a client for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.interop.real_network import Network, real_network


@pytest.fixture(scope="module")  # what one module does to its accounts is no other's business
def network_info(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with real_network(tmp_path_factory.mktemp("network")) as info:
        yield info


@pytest.fixture
async def network(network_info: dict[str, Any]) -> AsyncIterator[Network]:
    async with aiohttp.ClientSession() as session:
        yield Network(network_info, session)
