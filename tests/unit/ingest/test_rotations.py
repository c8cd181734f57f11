"""A flood of key rotations: what the directory is asked, and that every new key is learnt."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from indexer.planning import EventBatch, IdentitySeen
from tests.devnet import Devnet
from tests.devnet.keys import derive_key, multibase
from tests.devnet.plc import Identity
from tests.simulation.clock import SimulatedLoop
from tests.unit.ingest.resync_rig import Rig, open_rig
from tests.unit.ingest.test_resync_workers import working

HOUR_S = 3600.0
ACCOUNTS = 40
ROUNDS = 250
CHANGED_EVERY = 10
"""All rotations are announced. The directory keeps these, and the last: what is in between costs
the test more than what it tests."""

RATE = 0.04
"""Requests a second at the directory: fewer than there are rotations, by far."""

BURST = 10


def test_ten_thousand_rotations_in_an_hour_stay_within_the_rate_and_none_is_lost(tmp_path: Path):
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(flooded(tmp_path))


async def flooded(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    async with (
        Devnet(seed=41) as net,
        open_rig(net, folder, clock=loop.clock, rate=RATE, identity_refresh_s=60.0) as rig,
    ):
        dids = [net.plc.new_did(50_000 + number) for number in range(ACCOUNTS)]
        await track(rig, dids)
        async with working(rig):
            for turn in range(ROUNDS):
                began = loop.time()
                await rotate(rig, dids, turn)
                await asyncio.sleep(began + HOUR_S / ROUNDS - loop.time())
            asked = documents(net)
            assert ACCOUNTS < asked <= RATE * HOUR_S + BURST
            keys = {did: key(number, ROUNDS - 1) for number, did in enumerate(dids)}
            ends = loop.time() + 2.0 * ACCOUNTS / RATE + HOUR_S
            while await known(rig) != keys:
                assert loop.time() < ends, "a rotation was lost"
                await asyncio.sleep(60.0)
        assert documents(net) <= asked + 2 * ACCOUNTS + BURST


def key(number: int, turn: int) -> str:
    return multibase(derive_key("k256", "rotated", number, turn))


def documents(net: Devnet) -> int:
    """Requests that the directory has had for a document."""
    return net.plc_server.requests["plc.document"]


async def known(rig: Rig) -> dict[str, str]:
    return {
        str(did): str(held)
        for did, held, wanted in await rig.rows("SELECT did, signing_key, wanted FROM repo")
        if wanted == 0
    }


async def track(rig: Rig, dids: list[str]) -> None:
    """Repos that are followed, at a host that is not asked about them."""

    def insert(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO repo (did, pds_url, host_group, state, account_status, account_at,"
            " identity_at, rev, data, scope_id, wanted, claimed, claim, priority, retry_at,"
            " attempts, desyncs, synced_at, verified_at, is_admitted, tracked_since, updated_at)"
            " VALUES (?, ?, 'host', 'active', 'active', 0, 0, '3kaaaaaaaaaaa', 'd', 's', 0, 0, 0,"
            " 3, 0, 0, 0, 0, 0, 1, '2026-01-01T00:00:00Z', '')",
            [(did, rig.net.pds[0].server.url) for did in dids],
        )

    await rig.database.write(insert)


async def rotate(rig: Rig, dids: list[str], turn: int) -> None:
    now = rig.clock.now()
    url = rig.net.pds[0].server.url
    for number, did in enumerate(dids):
        if (number + turn) % CHANGED_EVERY == 0 or turn == ROUNDS - 1:
            signing = derive_key("k256", "rotated", number, turn)
            rig.net.plc.publish(Identity(did, None, signing, url))
    events = [IdentitySeen(did=did, seq=1, time=now) for did in dids]
    await rig.live.apply(EventBatch(url="ws://relay", events=events, seq=None, event_at=None))
    rig.resyncer.wake()
