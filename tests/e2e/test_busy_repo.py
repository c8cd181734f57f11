"""A repo that commits once a second while its archive takes half a minute, in simulated time."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.records import FOREIGN
from tests.e2e.daemon import running_daemon
from tests.e2e.test_day_of_outage import becomes_equal, settings, tag
from tests.simulation.clock import SimulatedLoop

FETCH_S = 30.0
PATIENCE_S = 600.0
CHUNK_BYTES = 60_000
RECORDS = 900
RECORD_BYTES = 2_000
GET_REPO = "com.atproto.sync.getRepo"


def test_a_commit_a_second_during_the_fetch_leaves_it_active_at_the_first_attempt(tmp_path: Path):
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(a_commit_a_second(tmp_path))


async def a_commit_a_second(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    rng = random.Random(9)
    async with Devnet(seed=9, now=loop.clock.now) as net:
        account = await net.create_account()
        net.import_records(account, records=posts(account, rng), announce=False)
        tag(net, account, rng)
        net.faults.schedule(  # no walk: the archive it has to be
            FaultKind.HTTP_STATUS,
            times=None,
            endpoint="com.atproto.sync.getRecord",
            status=400,
            error="InvalidRequest",
        )
        slow = net.faults.schedule(
            FaultKind.HTTP_SLOW, endpoint=GET_REPO, chunk=CHUNK_BYTES, interval_s=1.0
        )
        assert len(net.car(account)) >= FETCH_S * CHUNK_BYTES
        async with running_daemon(folder, settings(net), clock=loop.clock, rng=rng) as daemon:
            await net.faults.wait_fired(slow, timeout_s=60.0)
            began = loop.time()
            states = set()
            while loop.time() - began < FETCH_S or "active" not in states:
                assert loop.time() - began < PATIENCE_S, states
                tag(net, account, rng)
                await asyncio.sleep(1.0)
                states.add(daemon.rows("SELECT state FROM repo")[0][0])
            await becomes_equal(net, daemon)
            assert daemon.rows("SELECT state FROM repo") == [("active",)]
            assert states == {"resyncing", "active"}
            assert net.pds[0].server.requests[GET_REPO] == 1
            assert daemon.rows("SELECT count(*) FROM pending_commit") == [(0,)]
            assert len(daemon.rows("SELECT uri FROM records")) >= FETCH_S


def posts(account: Account, rng: random.Random) -> list[tuple[str, object]]:
    return [
        (
            f"{FOREIGN}/{account.tids.next()}",
            realistic_record(rng, FOREIGN, did=account.did)
            | {"text": rng.randbytes(RECORD_BYTES // 2).hex()},
        )
        for _ in range(RECORDS)
    ]
