"""A devnet and an HTTP client for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from devnet_clients import Client

from tests.devnet import Devnet


@pytest.fixture
async def net() -> AsyncIterator[Devnet]:
    async with Devnet(seed=1) as devnet:
        yield devnet


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session)
