"""A live path behind a scripted stream and before a real store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from indexer.errors import LocalBusy
from indexer.ingest.clock_doubt import ClockDoubt
from indexer.ingest.live import FrameSource, LiveIngest
from indexer.ingest.verification_process import Verification
from indexer.ingest.verification_wire import WorkerSettings
from indexer.metrics import Metrics
from indexer.model import Applied
from indexer.planning import EventBatch
from storage.live import LiveStore
from tests.devnet import Account, Devnet, realistic_record
from tests.unit.ingest.resync_rig import REGISTRY, Rig, open_rig

TAG = "pub.chive.eprint.userTag"
URL = "ws://relay"
WORKER = WorkerSettings(collections=("pub.chive.*",), registry=REGISTRY.source)
RNG = random.Random(7)


@dataclass
class Batch:
    frames: list[bytes]
    connection: int
    url: str = URL


@dataclass
class Script:
    """A stream that brings what it is told to, on the connection that is open."""

    connection: int = 1
    reconnects: list[str] = field(default_factory=list)
    is_moved_on: bool = False
    queue: asyncio.Queue[Batch] = field(default_factory=lambda: asyncio.Queue(1))

    async def batches(self) -> AsyncIterator[Batch]:
        while True:
            yield await self.queue.get()

    def reconnect(self, reason: str, *, next_url: bool = False) -> None:
        self.reconnects.append(reason)
        self.is_moved_on |= next_url
        self.connection += 1

    async def send(self, frames: Iterable[bytes]) -> None:
        await self.queue.put(Batch(list(frames), self.connection))


@dataclass
class BusyStore:
    """The real store, behind a disk that is full a few times."""

    store: LiveStore
    failures: int = 0
    calls: list[EventBatch] = field(default_factory=list)
    error: Exception = field(default_factory=lambda: LocalBusy("SQLITE_FULL: disk is full"))

    def is_tracked(self, did: str) -> bool:
        return self.store.is_tracked(did)

    def is_denied(self, did: str) -> bool:
        return self.store.is_denied(did)

    async def signing_keys(self, dids: Iterable[str]) -> dict[str, str | None]:
        self.fail()
        return await self.store.signing_keys(dids)

    async def host_groups(self, dids: Iterable[str]) -> dict[str, str]:
        return await self.store.host_groups(dids)

    async def apply(self, batch: EventBatch) -> Applied:
        self.fail()
        self.calls.append(batch)
        return await self.store.apply(batch)

    def fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error


@dataclass
class Stage:
    rig: Rig
    script: Script
    store: BusyStore
    live: LiveIngest
    task: asyncio.Task[None]
    metrics: Metrics
    doubt: ClockDoubt

    async def cursor(self) -> int | None:
        return await self.rig.live.load_cursor(URL)

    async def gaps(self) -> list[tuple[object, ...]]:
        return await self.rig.rows("SELECT reason, after_seq, before_seq FROM gaps")

    async def send_all(self) -> None:
        """Everything that the relay has, in batches of seven frames."""
        entries = self.rig.net.relay.stream.after(0, 100_000)
        for start in range(0, len(entries), 7):
            await self.script.send(entry.frame for entry in entries[start : start + 7])
        await self.drained()

    async def drained(self) -> None:
        async with asyncio.timeout(10):
            while not self.script.queue.empty():
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            await self.live.drained()


def live_path(
    rig: Rig, source: FrameSource, store: BusyStore, metrics: Metrics, doubt: ClockDoubt
) -> LiveIngest:
    """The live path between a source and a store, not yet running."""
    return LiveIngest(
        source,
        store,
        Verification(rig.verifier, WORKER),
        clock=rig.clock,
        metrics=metrics,
        on_work=lambda: None,
        doubt=doubt,
    )


@asynccontextmanager
async def open_stage(folder: Path) -> AsyncIterator[Stage]:
    async with Devnet(seed=6) as net, open_rig(net, folder) as rig:
        script, store = Script(), BusyStore(rig.live)
        metrics = Metrics(REGISTRY.types)
        doubt = ClockDoubt(rig.clock, on_change=metrics.clock_in_doubt.set)
        live = live_path(rig, script, store, metrics, doubt)
        task = asyncio.create_task(live.run())
        try:
            yield Stage(rig, script, store, live, task, metrics, doubt)
        finally:
            live.stop()
            await asyncio.wait([task])


def tag(stage: Stage, account: Account) -> None:
    stage.rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
