"""The devnet as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from devnet_clients import messages, parse

ROOT = Path(__file__).parents[3]


async def test_it_prints_its_addresses_serves_and_stops_on_sigterm(client) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-m", "tests.devnet", "--seed", "3", "--rate", "50", "--history", "30"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            addresses = json.loads(await process.stdout.readline())
        assert set(addresses) == {"plc", "relay", "relay_http", "handle_resolver", "pds", "dids"}
        status, document = await client.get(addresses["plc"], f"/{addresses['dids'][0]}")
        assert (status, document["id"]) == (200, addresses["dids"][0])
        live = await messages(addresses["relay"], count=3)
        assert parse(live[0])[1]["seq"] > 30
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
