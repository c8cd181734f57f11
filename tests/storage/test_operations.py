"""The operation engine over a real store: start, resume, cancel, and the guarded end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from indexer.errors import RequestRefused
from indexer.metrics import Metrics
from indexer.model import Operation, OperationStatus, OperationType, SettledUnit
from indexer.operations.did_sync import DidSync
from indexer.operations.operation import Context, OperationFailed, Request
from indexer.operations.runner import Runner
from storage.operations import OperationStore
from tests.storage.conftest import DID, World


class Steps:
    """An operation of five units that waits for permission before each."""

    type = OperationType.DID_SYNC
    unit = "repo"

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.ran: list[int] = []
        self.failure: Exception | None = None

    def parse(self, params) -> Request:
        return Request(key=str(params.get("did", "x")), params=dict(params), total_units=5)

    async def run(self, context: Context) -> None:
        start = int(context.operation.checkpoint or 0)
        for number in range(start, 5):
            await self.permits.acquire()
            if self.failure:
                raise self.failure
            self.ran.append(number)
            await context.settle(
                SettledUnit(unit=str(number), outcome="ok", records=10, checkpoint=number + 1)
            )


async def until(condition, deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.005)


class Engine:
    def __init__(self, runner: Runner, rows: OperationStore) -> None:
        self.runner = runner
        self.rows = rows

    async def ended(self, operation: Operation) -> Operation:
        async def is_ended() -> bool:
            found = await self.rows.load(operation.id)
            return found is not None and found.status is not OperationStatus.RUNNING

        await until(is_ended)
        found = await self.rows.load(operation.id)
        assert found is not None
        return found


IDS = count()


@asynccontextmanager
async def engine(world: World, kind, *, max_running: int = 2) -> AsyncIterator[Engine]:
    rows = OperationStore(world.database, clock=world.clock)
    runner = Runner(
        rows,
        [kind],
        max_running=max_running,
        new_id=lambda: f"op{next(IDS)}",
        clock=world.clock,
        metrics=Metrics(),
    )
    task = asyncio.get_running_loop().create_task(runner.run())
    await runner.ready()
    try:
        yield Engine(runner, rows)
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_operation_counts_its_units_and_completes(world: World):
    kind = Steps()
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by="did:web:me")
        assert operation.status is OperationStatus.RUNNING
        for _ in range(5):
            kind.permits.release()
        ended = await one.ended(operation)
        assert ended.status is OperationStatus.COMPLETED and ended.completed_at is not None
        assert (ended.records_processed, ended.units_processed, ended.outcomes) == (
            50,
            5,
            {"ok": 5},
        )
        assert ended.started_by == "did:web:me"


async def test_the_same_key_is_the_same_operation_until_it_ends(world: World):
    kind = Steps()
    async with engine(world, kind) as one:
        first = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        again = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        other = await one.runner.start("didSync", {"did": "b"}, started_by=None)
        assert again.id == first.id != other.id
        for _ in range(10):
            kind.permits.release()
        await one.ended(first)
        later = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        assert later.id != first.id


async def test_a_shutdown_leaves_the_row_running_and_the_next_boot_resumes(world: World):
    kind = Steps()
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        kind.permits.release()
        kind.permits.release()

        async def two_units() -> bool:
            found = await one.rows.load(operation.id)
            return found is not None and found.units_processed == 2

        await until(two_units)
    stored = await OperationStore(world.database, clock=world.clock).load(operation.id)
    assert stored is not None and stored.status is OperationStatus.RUNNING
    resumed = Steps()
    for _ in range(5):
        resumed.permits.release()
    async with engine(world, resumed) as two:
        ended = await two.ended(operation)
    assert resumed.ran == [2, 3, 4]
    assert (ended.status, ended.units_processed) == (OperationStatus.COMPLETED, 5)


async def test_a_cancel_ends_a_waiting_operation_and_stays_cancelled(world: World):
    kind = Steps()
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        assert await one.runner.cancel(operation.id)
        ended = await one.ended(operation)
        assert ended.status is OperationStatus.CANCELLED
        assert not await one.runner.cancel(operation.id)
        late = await one.rows.end(operation.id, OperationStatus.COMPLETED, None)
        assert late.status is OperationStatus.CANCELLED


async def test_a_cancel_asked_for_before_a_crash_is_honoured_at_boot(world: World):
    kind = Steps()
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
    rows = OperationStore(world.database, clock=world.clock)
    assert await rows.request_cancel(operation.id)
    async with engine(world, Steps()) as two:
        assert (await two.ended(operation)).status is OperationStatus.CANCELLED


async def test_a_cancel_that_races_the_end_wins(world: World):
    rows = OperationStore(world.database, clock=world.clock)
    async with engine(world, Steps()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        assert await rows.request_cancel(operation.id)
        ended = await rows.end(operation.id, OperationStatus.COMPLETED, None)
        assert ended.status is OperationStatus.CANCELLED


async def test_a_failure_is_the_rows_error(world: World):
    kind = Steps()
    kind.failure = OperationFailed("the host is gone")
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        kind.permits.release()
        ended = await one.ended(operation)
        assert (ended.status, ended.error) == (OperationStatus.FAILED, "the host is gone")


async def test_a_bug_in_one_operation_fails_it_and_nothing_else(world: World):
    kind = Steps()
    kind.failure = ZeroDivisionError("oops")
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        kind.permits.release()
        ended = await one.ended(operation)
        assert ended.status is OperationStatus.FAILED and "oops" in (ended.error or "")
        kind.failure = None
        second = await one.runner.start("didSync", {"did": "b"}, started_by=None)
        for _ in range(5):
            kind.permits.release()
        assert (await one.ended(second)).status is OperationStatus.COMPLETED


async def test_more_than_the_allowed_number_wait_their_turn(world: World):
    kind = Steps()
    async with engine(world, kind, max_running=1) as one:
        first = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        second = await one.runner.start("didSync", {"did": "b"}, started_by=None)

        async def first_runs() -> bool:
            found = await one.rows.load(first.id)
            return found is not None and found.phase == "running"

        await until(first_runs)
        waiting = await one.rows.load(second.id)
        assert waiting is not None and waiting.phase == "queued"
        for _ in range(10):
            kind.permits.release()
        assert (await one.ended(second)).status is OperationStatus.COMPLETED


async def test_a_unit_settled_twice_counts_once(world: World):
    async with engine(world, Steps()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        unit = SettledUnit(unit="u", outcome="it's", records=3)
        assert await one.rows.settle_unit(operation.id, unit)
        assert not await one.rows.settle_unit(operation.id, unit)
        found = await one.rows.load(operation.id)
        assert found is not None and found.records_processed == 3 and found.outcomes == {"it's": 1}


@pytest.mark.parametrize(
    ("type_name", "params", "name", "named"),
    [
        ("nonsense", {}, "InvalidBackfillType", "nonsense"),
        ("did-sync", {}, "InvalidBackfillType", "did-sync"),
        ("didSync", {}, "InvalidRequest", "did"),
        ("didSync", {"did": 5}, "InvalidRequest", "did"),
        ("didSync", {"did": "did:PLC:x"}, "InvalidRequest", "did"),
        ("didSync", {"did": DID, "pdsUrl": "https://x.example"}, "InvalidRequest", "pdsUrl"),
        ("fullReindex", {}, "NotImplemented", "fullReindex"),
    ],
)
async def test_a_wrong_request_is_refused_before_anything_starts(
    world: World, type_name, params, name, named
):
    async with engine(world, DidSync(None)) as one:
        with pytest.raises(RequestRefused) as refused:
            await one.runner.start(type_name, params, started_by=None)
        assert refused.value.name == name and named in refused.value.message
        assert await one.rows.list(None, 10) == []
