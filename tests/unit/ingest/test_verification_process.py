"""Verification in a process: the same events, whatever becomes of the process."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
from structlog.testing import capture_logs

from indexer.children import command, environment
from indexer.ingest.verification import RawFrame, Verifier
from indexer.ingest.verification_process import (
    BEHIND_FRAMES,
    CAUGHT_UP_S,
    FULL_FRAMES,
    LOOK_S,
    PIECE_FRAMES,
    PIECES_SENT,
    Verification,
    VerificationProcess,
)
from indexer.ingest.verification_wire import (
    VERDICTS_BYTES,
    WorkerSettings,
    encode,
    framed,
)
from indexer.model import PreparedRecord, Scope
from indexer.planning import CommitSeen, Event, SyncSeen
from indexer.records.prepare import prepare_record
from tests.devnet import COLLECTIONS, Change, Devnet, FaultKind, realistic_record, unreadable_blocks
from tests.devnet.cbor import encode as encode_block
from tests.devnet.keys import derive_key, multibase
from tests.unit.ingest.live_stage import WORKER
from tests.unit.ingest.resync_rig import REGISTRY, AdvancedClock

WAIT_S = 20.0

TAG = "pub.chive.eprint.userTag"


@dataclass
class Traffic:
    """Frames with whatever a stream brings, and the keys of their accounts."""

    frames: list[RawFrame]
    keys: Mapping[str, str | None]


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return asyncio.run(recorded())


async def recorded() -> Traffic:
    rng = random.Random(3)
    async with Devnet(seed=3) as net:
        good, forged, unknown = [await net.create_account() for _ in range(3)]
        for account in (good, forged, unknown):
            for collection in COLLECTIONS:
                net.create(account, collection, realistic_record(rng, collection, did=account.did))
        for _ in range(PIECES_SENT * PIECE_FRAMES):
            net.create(good, TAG, realistic_record(rng, TAG, did=good.did))
        for block in unreadable_blocks(TAG).values():
            net.create_raw(good, TAG, block)
        net.create(good, TAG, {"tag": 7})
        net.faults.schedule(FaultKind.BAD_SIGNATURE, did=good.did)
        net.create(good, TAG, realistic_record(rng, TAG, did=good.did))
        assert net.faults.fired[FaultKind.BAD_SIGNATURE] == 1
        net.change_handle(good, "moved.test")
        net.set_account_status(good, "deactivated")
        entries = net.relay.stream.after(0, 10_000)
    wrong = multibase(derive_key("k256", "another"))
    keys = {good.did: multibase(good.key), forged.did: wrong, unknown.did: None}
    return Traffic([RawFrame.decoded(entry.frame) for entry in entries], keys)


def plain(events: list[Event]) -> list[object]:
    """What can be compared: errors are equal where they say the same."""
    return [
        (msgspec.structs.replace(event, error=None), str(event.error))
        if isinstance(event, CommitSeen | SyncSeen)
        else event
        for event in events
    ]


def verifier(clock: AdvancedClock, prepared: list[str]) -> Verifier:
    def prepare(did: str, path: str, cid: str, block: bytes) -> PreparedRecord:
        prepared.append(path)
        return prepare_record(did, path, cid, block, REGISTRY)

    return Verifier(scope=Scope(WORKER.collections), prepare=prepare, clock=clock)


@dataclass
class Stage:
    """A verification that runs, its clock, and what it must come to."""

    verification: Verification
    clock: AdvancedClock
    traffic: Traffic
    prepared_here: list[str]

    async def agrees(self) -> None:
        """Verify all of the traffic, and compare it with what a thread makes of it."""
        frames, keys = self.traffic.frames, self.traffic.keys
        events = await self.verification.events(frames, keys)
        here = verifier(self.clock, [])
        assert plain(events) == plain(here.events(frames, keys))

    async def fall_behind(self) -> VerificationProcess:
        """Bring full batches until a process is there."""
        async with asyncio.timeout(WAIT_S):
            while (process := self.verification.process) is None:
                await self.verification.events(self.traffic.frames, self.traffic.keys)
        return process

    async def loses_process(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.verification.process is not None:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    traffic: Traffic, *, settings: WorkerSettings = WORKER, **options: float
) -> AsyncIterator[Stage]:
    clock, prepared_here = AdvancedClock(), list[str]()
    verification = Verification(verifier(clock, prepared_here), settings, **options)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(verification.run())
        try:
            yield Stage(verification, clock, traffic, prepared_here)
        finally:
            task.cancel()


def with_registry(**fields: str) -> WorkerSettings:
    source = msgspec.structs.replace(WORKER.registry, **fields)
    return msgspec.structs.replace(WORKER, registry=source)


async def test_a_process_comes_to_the_same_events(traffic: Traffic):
    async with running(traffic) as stage:
        await stage.fall_behind()
        stage.prepared_here.clear()
        await stage.agrees()
        assert stage.verification.process is not None
        assert stage.prepared_here == []  # it made all records ready, and nobody else did


async def test_a_stream_that_is_not_behind_has_no_process(traffic: Traffic):
    few = Traffic(traffic.frames[: FULL_FRAMES - 1], traffic.keys)
    with capture_logs() as logs:
        async with running(few) as stage:
            for _ in range(BEHIND_FRAMES // len(few.frames) + 1):
                await stage.agrees()
    assert logs == []


async def test_a_process_ends_once_the_stream_has_caught_up(traffic: Traffic):
    with capture_logs() as logs:
        async with running(traffic) as stage:
            process = await stage.fall_behind()
            stage.clock.monotonic_ahead_s += CAUGHT_UP_S
            await stage.loses_process()
            await stage.agrees()
            with pytest.raises(ProcessLookupError):
                os.kill(process.pid, 0)
            await stage.fall_behind()  # a second one, when there is need again
    assert [log["event"] for log in logs] == [
        "verification.process_started",
        "verification.process_ended",
        "verification.process_started",
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_dies_or_hangs_costs_time_only(
    traffic: Traffic, number: signal.Signals
):
    with capture_logs() as logs:
        async with running(traffic, piece_s_max=0.5, restart_s=0.1) as stage:
            process = await stage.fall_behind()
            os.kill(process.pid, number)
            await stage.agrees()
            await stage.loses_process()
            again = await stage.fall_behind()
            assert again.pid != process.pid
            await stage.agrees()
    failures = [log for log in logs if log["event"] == "verification.process_failed"]
    reason = {
        signal.SIGKILL: "it ended with exit code -9",
        signal.SIGSTOP: "it said nothing for 0.5 s",
    }[number]
    assert len(failures) == 1
    assert failures[0]["reason"].startswith(reason)


async def test_a_process_dies_in_the_middle_of_a_batch(traffic: Traffic):
    async with running(traffic) as stage:
        process = await stage.fall_behind()
        os.kill(process.pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.agrees())
            await asyncio.sleep(0)
            os.kill(process.pid, signal.SIGKILL)
        await stage.loses_process()


async def test_a_process_that_is_asked_is_not_ended(traffic: Traffic):
    with capture_logs() as logs:
        async with running(traffic) as stage:
            process = await stage.fall_behind()
            os.kill(process.pid, signal.SIGSTOP)
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(stage.agrees())
                async with asyncio.timeout(WAIT_S):
                    while not process.is_asked:
                        await asyncio.sleep(0.01)
                stage.clock.monotonic_ahead_s += CAUGHT_UP_S
                await asyncio.sleep(2 * LOOK_S)  # so often it is looked at
                assert not asking.done()
                assert stage.verification.process is process
                os.kill(process.pid, signal.SIGCONT)
            await stage.loses_process()
            await stage.agrees()  # and may be behind again, which brings a second one
            async with asyncio.timeout(WAIT_S):
                while len(logs) < 2:
                    await asyncio.sleep(0.01)
    assert [log["event"] for log in logs[:2]] == [
        "verification.process_started",
        "verification.process_ended",
    ]


async def test_a_stop_while_a_hung_process_is_asked_ends_like_any_other(traffic: Traffic):
    """Cancelled as the daemon does it: the keeper first, then a group that waits for verdicts."""
    verification = Verification(verifier(AdvancedClock(), []), WORKER)

    async def live() -> None:
        async with asyncio.TaskGroup() as stages:
            stages.create_task(verify())

    async def verify() -> None:
        while True:
            await verification.events(traffic.frames, traffic.keys)

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        keeper = group.create_task(verification.run())
        while (process := verification.process) is None:
            await verification.events(traffic.frames, traffic.keys)
        os.kill(process.pid, signal.SIGSTOP)
        ingest = group.create_task(live())
        while not process.is_asked:
            await asyncio.sleep(0.01)
        keeper.cancel()
        ingest.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


async def test_verdicts_that_are_too_large_together_are_left_to_the_daemon(traffic: Traffic):
    paths, size = 60, 20_000  # of one block that each commit puts at so many paths
    async with Devnet(seed=4) as net:
        account = await net.create_account()
        block = encode_block({"$type": TAG, "tag": "x" * size})
        for _ in range(FULL_FRAMES):
            rkeys = [account.tids.next() for _ in range(paths)]
            net.apply_writes(account, [Change("create", TAG, rkey, block=block) for rkey in rkeys])
        entries = net.relay.stream.after(0, 10_000)
    frames = [RawFrame.decoded(entry.frame) for entry in entries]
    assert len(frames) * paths * size > 2 * VERDICTS_BYTES
    async with running(traffic) as stage:
        await stage.fall_behind()
        stage.prepared_here.clear()
        stage.traffic = Traffic(frames, {account.did: multibase(account.key)})
        await stage.agrees()
        assert stage.verification.process is not None
        assert 0 < len(stage.prepared_here) < FULL_FRAMES * paths


async def test_a_process_that_goes_by_other_lexicons_is_not_used(traffic: Traffic):
    other = with_registry(lexicon_id="others")
    with capture_logs() as logs:
        async with running(traffic, settings=other) as stage, asyncio.timeout(WAIT_S):
            while not logs:
                await stage.agrees()
            assert stage.verification.process is None
    assert [log["reason"] for log in logs] == [
        "the lexicon files have changed since the daemon started"
    ]


async def test_where_no_process_can_be_started_a_thread_verifies(traffic: Traffic):
    endless = with_registry(lexicon_dir="/" + "x" * 200_000)  # for an argument
    with capture_logs() as logs:
        async with running(traffic, settings=endless) as stage, asyncio.timeout(WAIT_S):
            while not logs:
                await stage.agrees()
    assert "cannot be started" in logs[0]["reason"]


async def test_a_caller_that_is_cancelled_costs_the_process(traffic: Traffic):
    with capture_logs() as logs:
        async with running(traffic, restart_s=0.1) as stage:
            process = await stage.fall_behind()
            os.kill(process.pid, signal.SIGSTOP)
            task = asyncio.ensure_future(stage.agrees())
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await stage.loses_process()
            await stage.agrees()
    assert "it was given up" in logs[1]["reason"]


def test_a_process_does_not_outlive_its_input():
    settings = msgspec.json.encode(WORKER).decode()
    done = subprocess.run(
        command("indexer.ingest.verification_worker", settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=WAIT_S,
        check=True,
    )
    assert done.stdout == framed(encode(None))  # ready, and nothing to do
    assert done.stderr == b""
