"""A stream that is faster than the store: little is held, the rest waits with the relay."""

from __future__ import annotations

import asyncio
import random
import select
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from indexer.ingest.clock_doubt import ClockDoubt
from indexer.ingest.firehose import Firehose, FirehoseSettings
from indexer.ingest.live import BATCHES_IN_FLIGHT
from indexer.ingest.websocket import WebsocketSettings
from indexer.metrics import Metrics
from indexer.model import Applied
from indexer.planning import EventBatch
from indexer.stream_parts import SILENCE_S, how_far
from tests.devnet import Account, Devnet
from tests.devnet.frames import account_event, message
from tests.oracle import assert_store_equals
from tests.unit.ingest.live_stage import REGISTRY, TAG, BusyStore, live_path, realistic_record
from tests.unit.ingest.resync_rig import Rig, open_rig
from tests.unit.ingest.scripted_relay import Peer, ScriptedRelay, binary, until

PAD = bytes(10_000)
FRAMES = 4000
BATCH_FRAMES = 50
BATCHES_HELD = 2 * BATCHES_IN_FLIGHT + 4
"""Those queued, one in the hands of each of the three stages, and one with the socket."""

READ_BYTES = 2 * 1024 * 1024
"""What the socket's buffer may hold besides."""

LATE_S = 600.0


@dataclass
class HeldStore(BusyStore):
    """The real store, behind a disk that takes nothing while the gate is shut."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def apply(self, batch: EventBatch) -> Applied:
        await self.gate.wait()
        return await super().apply(batch)


def events(account: Account, first: int, count: int, at: float) -> Iterator[bytes]:
    """Large frames about a tracked account, each of which has to be written."""
    for seq in range(first, first + count):
        body = account_event(account.did, at).body | {"seq": seq, "pad": PAD}
        yield message("#account", body)


@dataclass
class Flood:
    """A relay's script: all at once, then, when it is told to, one event of the present."""

    rig: Rig
    account: Account
    sent: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, peer: Peer) -> None:
        await peer.upgrade()
        for frame in events(self.account, 1, FRAMES, self.rig.clock.now()):
            await peer.send(binary(frame))
            self.sent += 1
        await self.is_over.wait()
        for frame in events(self.account, FRAMES + 1, 1, self.rig.clock.now()):
            await peer.send(binary(frame))
        await peer.wait_gone()


async def blocked(relay: ScriptedRelay) -> None:
    """Wait until the relay's socket takes nothing more.

    One refusal is not enough: the kernels go on passing what they hold for a while.
    """
    await until(lambda: relay.peers)
    looks = 0

    def look() -> bool:
        nonlocal looks
        _, is_writable, _ = select.select([], [relay.peers[0].sock], [], 0)
        looks = 0 if is_writable else looks + 1
        return looks > 50

    await until(look)


async def test_of_a_flood_little_is_held_and_its_lag_is_shown_until_it_is_over(tmp_path: Path):
    async with Devnet(seed=6) as net, open_rig(net, tmp_path) as rig:
        account = await net.create_account()
        net.create(account, TAG, realistic_record(random.Random(7), TAG, did=account.did))
        await rig.hear()
        await rig.work()
        store, metrics = HeldStore(rig.live), Metrics(REGISTRY.types)
        flood = Flood(rig, account)
        async with ScriptedRelay(flood) as relay:
            firehose = Firehose(
                settings=FirehoseSettings(
                    urls=(relay.url,),
                    user_agent="test",
                    websocket=WebsocketSettings(batch_frames=BATCH_FRAMES),
                ),
                clock=rig.clock,
                rng=random.Random(7),
                metrics=metrics,
                load_cursor=rig.live.load_cursor,
                check_url=lambda _: None,
            )
            doubt = ClockDoubt(rig.clock, on_change=metrics.clock_in_doubt.set)
            live = live_path(rig, firehose, store, metrics, doubt)

            def lag_s() -> float:
                """As the daemon's status has it."""
                return rig.clock.now() - value("last_event")

            def value(name: str) -> float:
                found = metrics.registry.get_sample_value(
                    f"chive_firehose_{name}_timestamp_seconds"
                )
                assert found
                return found

            async with asyncio.TaskGroup() as group:
                group.create_task(live.run())
                await blocked(relay)
                held = firehose._websocket.bytes_received
                assert flood.sent < FRAMES, "the relay was never held up"
                assert held < BATCHES_HELD * BATCH_FRAMES * (len(PAD) + 200) + READ_BYTES
                assert store.calls == []

                rig.clock.ahead_s += LATE_S
                assert how_far(firehose, live, now=rig.clock.now()) is None, "is our own silence"
                store.gate.set()
                await until(lambda: store.calls and store.calls[-1].seq == FRAMES)
                assert lag_s() > LATE_S - 1.0
                assert value("last_received") - value("last_event") > LATE_S - 1.0, "no alarm"
                flood.is_over.set()
                await until(lambda: store.calls[-1].seq == FRAMES + 1)
                await live.drained()
                assert lag_s() < LATE_S / 2
                rig.clock.ahead_s += SILENCE_S
                assert how_far(firehose, live, now=rig.clock.now()) == pytest.approx(
                    rig.clock.now(), abs=1.0
                )
                assert sum(len(batch.events) for batch in store.calls) == FRAMES + 1
                live.stop()
            assert len(relay.peers) == 1, "the connection was given up"
        assert await rig.live.load_cursor(relay.url) == FRAMES + 1
        assert_store_equals(net, rig.path)
