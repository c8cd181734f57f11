"""The operation engine over a real store: start, resume, cancel, and the guarded end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from indexer.errors import RequestRefused
from indexer.metrics import Metrics
from indexer.model import (
    FirehoseStatus,
    Operation,
    OperationMode,
    OperationStatus,
    OperationType,
    SettledUnit,
)
from indexer.operations.did_sync import DidSync
from indexer.operations.operation import PROGRESS_S, Context, OperationFailed, Request
from indexer.operations.pausing import LAG_S_MAX, Pauses
from indexer.operations.runner import QUEUED_MAX, Runner
from indexer.setting_values import DEFAULT_MODES
from storage.operation_units import FAILURES_KEPT, OperationRetention, OperationUnits
from storage.operations import OperationStore
from tests.storage.conftest import DID, SteppedClock, World

MAX_RUNNING = 2


class Steps:
    """An operation of five units that waits for permission before each."""

    type = OperationType.DID_SYNC
    unit = "repo"

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.ran: list[int] = []
        self.failure: Exception | None = None
        self.bad: frozenset[int] = frozenset()  # units that fail
        self.metrics = Metrics()

    def parse(self, params) -> Request:
        return Request(key=str(params.get("did", "x")), params=dict(params), total_units=5)

    async def run(self, context: Context) -> None:
        start = int(context.operation.checkpoint or 0)
        for number in range(start, 5):
            await self.permits.acquire()
            if self.failure:
                raise self.failure
            self.ran.append(number)
            is_bad = number in self.bad
            await context.settle(
                SettledUnit(
                    unit=str(number),
                    outcome="bad" if is_bad else "ok",
                    records=10,
                    is_failed=is_bad,
                    message=f"{number} is bad" if is_bad else None,
                    checkpoint=number + 1,
                )
            )


async def until(condition, deadline_s: float = 30.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.005)


class Engine:
    def __init__(self, runner: Runner, rows: OperationStore, units: OperationUnits) -> None:
        self.runner = runner
        self.rows = rows
        self.units = units

    async def ended(self, operation: Operation) -> Operation:
        async def is_ended() -> bool:
            found = await self.rows.load(operation.id)
            return found is not None and found.status is not OperationStatus.RUNNING

        await until(is_ended)
        found = await self.rows.load(operation.id)
        assert found is not None
        return found


IDS = count()
PAUSE_S_MAX = 3600.0


class Stream:
    """A stream that counts how often it is held."""

    def __init__(self, world: World) -> None:
        self.holds = 0
        self.at: float | None = world.clock.at  # how far it has come
        self.cursor: int | None = 7
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.is_stuck = False  # what has arrived is not stored, however long one waits

    def pause(self) -> None:
        self.holds += 1

    def resume(self) -> None:
        assert self.holds > 0
        self.holds -= 1

    async def paused(self) -> None:
        await self.quiet.wait()

    async def drained(self) -> None:
        if self.is_stuck:
            raise TimeoutError

    async def status(self) -> FirehoseStatus:
        return FirehoseStatus(
            url="ws://relay",
            connected=not self.holds,
            paused=self.holds > 0,
            cursor=self.cursor,
            last_event_at=None,
            last_received_at=None,
        )


@asynccontextmanager
async def engine(
    world: World, kind, *, max_running: int = MAX_RUNNING, stream: Stream | None = None
) -> AsyncIterator[Engine]:
    rows = OperationStore(world.database, clock=world.clock)
    held = stream or Stream(world)
    pauses = Pauses(
        held,
        rows,
        drained=held.drained,
        status=held.status,
        stream_at=lambda: held.at,
        pause_s_max=PAUSE_S_MAX,
        clock=world.clock,
    )
    units = OperationUnits(world.database)
    runner = Runner(
        rows,
        units,
        [kind],
        pauses=pauses,
        modes=DEFAULT_MODES,
        max_running=max_running,
        new_id=lambda: f"op{next(IDS)}",
        clock=world.clock,
        metrics=getattr(kind, "metrics", None) or Metrics(),
    )
    task = asyncio.get_running_loop().create_task(runner.run())
    await runner.ready()
    try:
        yield Engine(runner, rows, units)
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


async def test_an_operation_that_ends_before_it_began_by_the_clock_took_no_time(world: World):
    """A sum that fell would look like a restart."""
    kind = Steps()
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        world.clock.at -= 3600
        for _ in range(5):
            kind.permits.release()
        await one.ended(operation)

        async def is_counted() -> bool:
            name, labels = "chive_backfill_duration_seconds", {"type": "didSync"}
            values = kind.metrics.registry.get_sample_value
            assert values(f"{name}_sum", labels) == 0.0
            return values(f"{name}_count", labels) == 1.0

        await until(is_counted)


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


async def test_what_asks_for_something_else_is_not_taken_for_what_runs(world: World):
    kind = Steps()
    consents = {"did": "a", "acceptRollback": True}
    async with engine(world, kind) as one:
        first = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        with pytest.raises(RequestRefused) as refused:
            await one.runner.start("didSync", consents, started_by=None)
        assert (refused.value.status, refused.value.name) == (400, "InvalidRequest")
        assert "parameter acceptRollback" in refused.value.message
        assert first.id in refused.value.message
        assert [each.id for each in await one.rows.list(None, 10)] == [first.id]
        for _ in range(5):
            kind.permits.release()
        await one.ended(first)
        second = await one.runner.start("didSync", consents, started_by=None)
        with pytest.raises(RequestRefused, match="acceptRollback"):
            await one.runner.start("didSync", {"did": "a"}, started_by=None)
        again = await one.runner.start("didSync", consents, started_by=None)
        assert again.id == second.id


async def test_mode_and_batch_size_are_those_of_the_one_that_runs(world: World):
    async with engine(world, Steps()) as one:
        small = {"did": "a", "batchSize": 10, "mode": "supplement"}
        large = {"did": "a", "batchSize": 900, "mode": "pause"}
        first = await one.runner.start("didSync", small, started_by=None)
        joined = await one.runner.start("didSync", large, started_by=None)
        assert joined.id == first.id
        assert (joined.mode, joined.params["batchSize"]) == (OperationMode.SUPPLEMENT, 10)


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
    assert (stored.work_began_at, stored.units_before) == (world.clock.at, 0)
    world.clock.at += 100
    resumed = Steps()
    for _ in range(5):
        resumed.permits.release()
    async with engine(world, resumed) as two:
        ended = await two.ended(operation)
    assert resumed.ran == [2, 3, 4]
    assert (ended.work_began_at, ended.units_before) == (world.clock.at, 2)
    assert (ended.status, ended.units_processed) == (OperationStatus.COMPLETED, 5)


async def test_what_is_asked_for_while_the_process_stops_is_done_after_the_next_start(
    world: World,
):
    async with engine(world, OneUnit()) as stopped:
        pass
    operation = await stopped.runner.start("didSync", {"did": "a"}, started_by=None)
    assert operation.status is OperationStatus.RUNNING
    kind = OneUnit()
    kind.goes_on.set()
    async with engine(world, kind) as one:
        assert (await one.ended(operation)).status is OperationStatus.COMPLETED


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
        assert waiting.work_began_at is None
        for _ in range(10):
            kind.permits.release()
        assert (await one.ended(second)).status is OperationStatus.COMPLETED


async def test_a_unit_settled_twice_counts_once(world: World):
    async with engine(world, Steps()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        unit = SettledUnit(unit="u", outcome="it's", records=3)
        assert await one.units.settle(operation.id, unit)
        assert not await one.units.settle(operation.id, unit)
        found = await one.rows.load(operation.id)
        assert found is not None and found.records_processed == 3 and found.outcomes == {"it's": 1}


def sample(kind: Steps, name: str, **labels: str) -> float:
    value = kind.metrics.registry.get_sample_value(name, {"type": "didSync", **labels})
    assert value is not None
    return value


async def test_an_operation_whose_units_all_failed_has_failed(world: World):
    kind = Steps()
    kind.bad = frozenset(range(5))
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        for _ in range(5):
            kind.permits.release()
        ended = await one.ended(operation)
        assert (ended.status, ended.units_failed) == (OperationStatus.FAILED, 5)
        assert ended.error == "5 of 5 repos failed, such as 0: 0 is bad"


async def test_an_operation_of_which_a_part_failed_completes_and_says_so(world: World):
    kind = Steps()
    kind.bad = frozenset({1, 3})
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        for _ in range(5):
            kind.permits.release()
        ended = await one.ended(operation)
        assert (ended.status, ended.outcomes) == (OperationStatus.COMPLETED, {"ok": 3, "bad": 2})
        assert ended.error == "2 of 5 repos failed, such as 1: 1 is bad"
        failures = await one.runner.failures(operation.id)
        assert [(each.unit, each.outcome, each.message) for each in failures] == [
            ("1", "bad", "1 is bad"),
            ("3", "bad", "3 is bad"),
        ]


async def test_the_first_hundred_failures_stay_listed_and_the_others_counted(world: World):
    async with engine(world, Steps()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        for number in range(FAILURES_KEPT + 5):
            unit = SettledUnit(unit=f"{number:03}", outcome="bad", records=0, is_failed=True)
            assert await one.units.settle(operation.id, unit)
        row = await one.rows.end(operation.id, OperationStatus.FAILED, "all")
        assert row.units_failed == row.outcomes["bad"] == FAILURES_KEPT + 5
        listed = await one.units.failures(operation.id)
        assert [each.unit for each in listed] == [f"{n:03}" for n in range(FAILURES_KEPT)]


async def test_the_metrics_follow_the_units(world: World):
    kind = Steps()
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        for _ in range(2):
            kind.permits.release()

        async def is_shown() -> bool:
            return sample(kind, "chive_backfill_progress_ratio") == 0.4

        await until(is_shown)
        assert sample(kind, "chive_backfill_records_processed_total") == 20
        assert sample(kind, "chive_backfill_last_progress_timestamp_seconds") == world.clock.now()
        for _ in range(3):
            kind.permits.release()
        await one.ended(operation)

        async def is_over() -> bool:
            return sample(kind, "chive_backfill_progress_ratio") == 0

        await until(is_over)
        assert sample(kind, "chive_backfill_records_processed_total") == 50
        assert sample(kind, "chive_backfill_operations_total", status="completed") == 1


async def test_a_full_queue_refuses_what_is_new_and_joins_what_runs(world: World):
    insert = (
        "INSERT INTO operation (id, type, key, mode, phase, params, status, started_at,"
        " records_processed, unit, units_processed, outcomes, cancel_requested)"
        " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " SELECT 'q' || i, 'didSync', 'key' || i, 'supplement', 'queued',"
        " json_object('did', 'key' || i), 'running', i, 0, 'repo', 0, '{}', 0 FROM n"
    )
    await world.database.write(lambda connection: connection.execute(insert, (QUEUED_MAX,)))
    kind = Steps()
    async with engine(world, kind) as one:
        at_work = sum(one.runner.running().values())
        assert at_work + one.runner.queued() == QUEUED_MAX
        assert one.runner.queued() >= QUEUED_MAX - MAX_RUNNING
        with pytest.raises(RequestRefused) as refused:
            await one.runner.start("didSync", {"did": "new"}, started_by=None)
        assert (refused.value.status, refused.value.name) == (429, "RateLimitExceeded")
        joined = await one.runner.start("didSync", {"did": "key7"}, started_by=None)
        assert joined.id == "q7"
        assert await one.runner.cancel("q1000")
        await one.ended(await one.runner.get("q1000"))
        assert (await one.runner.start("didSync", {"did": "new"}, started_by=None)).key == "new"


async def test_a_second_cancel_does_not_disturb_the_first(world: World):
    async with engine(world, Steps()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(one.runner.cancel(operation.id))
        assert (await one.ended(operation)).status is OperationStatus.CANCELLED


class Cleaning(Steps):
    """An operation that has something to put in order when it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.cleans = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.is_clean = False

    async def run(self, context: Context) -> None:
        try:
            self.begun.set()
            await self.permits.acquire()
        finally:
            self.cleans.set()
            await self.goes_on.wait()
            self.is_clean = True


async def cancelled(one: Engine, kind: Cleaning) -> Operation:
    """A running operation that is cancelled, and has come to what it does at its end."""
    operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
    await asyncio.wait_for(kind.begun.wait(), 5)
    assert await one.runner.cancel(operation.id)
    await asyncio.wait_for(kind.cleans.wait(), 5)
    return operation


async def test_a_second_cancel_does_not_interrupt_what_the_first_has_begun(world: World):
    kind = Cleaning()
    async with engine(world, kind) as one:
        operation = await cancelled(one, kind)
        assert await one.runner.cancel(operation.id)
        kind.goes_on.set()
        assert (await one.ended(operation)).status is OperationStatus.CANCELLED
        assert kind.is_clean


async def test_what_is_asked_for_during_a_cancel_is_another_operation(world: World):
    """Who cancels one to start it anew would be told of the old one, and nothing would be done."""
    kind = Cleaning()
    async with engine(world, kind) as one:
        first = await cancelled(one, kind)
        anew = {"did": "a"}
        starting = asyncio.create_task(one.runner.start("didSync", anew, started_by=None))
        await asyncio.sleep(0.05)
        assert not starting.done()
        kind.goes_on.set()
        second = await starting
        assert second.id != first.id
        kind.permits.release()
        assert (await one.ended(first)).status is OperationStatus.CANCELLED
        assert (await one.ended(second)).status is OperationStatus.COMPLETED


class Ordered(Steps):
    """Tells in which order operations get their turn."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[str] = []

    async def run(self, context: Context) -> None:
        self.turns.append(context.operation.key)
        await super().run(context)


async def test_a_restart_goes_on_with_what_was_at_work_and_then_in_the_order_of_the_requests(
    world: World,
):
    kind = Ordered()
    async with engine(world, kind, max_running=2) as one:
        for name in ("first", "short", "third", "fourth"):
            await one.runner.start("didSync", {"did": name}, started_by=None)
            world.clock.at += 1
        await until(lambda: is_true(kind.turns == ["first", "short"]))
        (short,) = [each for each in await one.rows.list(None, 10) if each.key == "short"]
        assert await one.runner.cancel(short.id)
        await until(lambda: is_true(kind.turns == ["first", "short", "third"]))
        await one.runner.start("didSync", {"did": "fifth"}, started_by=None)

        async def third_works() -> bool:
            rows = await one.rows.list(OperationStatus.RUNNING, 10)
            return [each.key for each in rows if each.phase == "running"] == ["third", "first"]

        await until(third_works)
    resumed = Ordered()
    for _ in range(20):
        resumed.permits.release()
    phases = "SELECT key, phase FROM operation WHERE status = 'running' ORDER BY started_at"
    waiting = [("third", "queued"), ("fourth", "queued"), ("fifth", "queued")]
    gone_on = Ordered()
    async with engine(world, gone_on, max_running=1):
        await until(lambda: is_true(gone_on.turns == ["first"]))
        assert await world.rows(phases) == [("first", "running"), *waiting]
    async with engine(world, resumed, max_running=1):
        await until(lambda: is_true(len(resumed.turns) == 4))
    assert resumed.turns == ["first", "third", "fourth", "fifth"]


class OneUnit:
    """An operation of one unit that waits until it is let go on."""

    type = OperationType.DID_SYNC
    unit = "repo"

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.goes_on = asyncio.Event()

    def parse(self, params) -> Request:
        return Request(key=str(params["did"]), params=dict(params), total_units=1)

    async def run(self, context: Context) -> None:
        if await context.begin("unit"):
            self.begun.set()
            await self.goes_on.wait()
            await context.settle(SettledUnit(unit="unit", outcome="ok", records=1))


class LargeUnit(OneUnit):
    """The same of a unit of a thousand records, of which it has compared so many by then."""

    def __init__(self, clock: SteppedClock, compared: list[int]) -> None:
        super().__init__()
        self.metrics = Metrics()
        self._clock = clock
        self._compared = compared

    async def run(self, context: Context) -> None:
        assert await context.begin("unit")
        tell = context.compared("unit")
        for records in self._compared:
            self._clock.at += PROGRESS_S
            await tell(records)
        self.begun.set()
        await self.goes_on.wait()
        await context.settle(SettledUnit(unit="unit", outcome="ok", records=1000))


async def crash(world: World, operation_id: str) -> None:
    """As if the process had ended while the operation's unit was in progress."""
    await OperationUnits(world.database).begin(operation_id, "unit")


async def test_the_records_of_a_unit_count_while_it_is_in_progress(world: World):
    kind = LargeUnit(world.clock, [60, 120, 180])
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        await asyncio.wait_for(kind.begun.wait(), 5)
        row = await one.rows.load(operation.id)
        assert row is not None and (row.records_processed, row.units_processed) == (180, 0)
        assert sample(kind, "chive_backfill_records_processed_total") == 180
        kind.goes_on.set()
        ended = await one.ended(operation)
        assert (ended.records_processed, ended.units_processed) == (1000, 1)
        assert sample(kind, "chive_backfill_records_processed_total") == 1000


async def test_the_records_of_a_unit_cost_no_transaction_each(world: World):
    async with engine(world, OneUnit()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        context = Context(operation, one.units, lambda *_: None, clock=world.clock)
        tell = context.compared("unit")
        for records in range(60, 600, 60):
            await tell(records)
        assert context.operation.records_processed == 0
        world.clock.at += PROGRESS_S
        await tell(600)
        assert context.operation.records_processed == 600


async def test_a_restart_counts_no_record_of_a_unit_again(world: World):
    first = LargeUnit(world.clock, [300, 600])
    async with engine(world, first) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        await asyncio.wait_for(first.begun.wait(), 5)
    second = LargeUnit(world.clock, [200, 400])
    async with engine(world, second) as one:
        await asyncio.wait_for(second.begun.wait(), 5)
        row = await one.rows.load(operation.id)
        assert row is not None and row.records_processed == 600
        second.goes_on.set()
        assert (await one.ended(operation)).records_processed == 1000


async def test_a_unit_in_progress_at_two_crashes_is_poisoned(world: World):
    async with engine(world, OneUnit()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
    await crash(world, operation.id)
    second = OneUnit()
    async with engine(world, second):
        await asyncio.wait_for(second.begun.wait(), 5)
    await crash(world, operation.id)
    third = OneUnit()
    async with engine(world, third) as one:
        ended = await one.ended(operation)
    assert not third.begun.is_set()
    assert (ended.status, ended.outcomes) == (OperationStatus.FAILED, {"poisoned": 1})
    assert "more than once" in (ended.error or "")


async def test_stops_in_good_order_poison_nothing(world: World):
    async with engine(world, OneUnit()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
    for _ in range(4):
        kind = OneUnit()
        async with engine(world, kind):
            await asyncio.wait_for(kind.begun.wait(), 5)
    last = OneUnit()
    last.goes_on.set()
    async with engine(world, last) as one:
        assert (await one.ended(operation)).outcomes == {"ok": 1}


async def test_units_fold_into_counters_and_old_operations_are_forgotten(world: World):
    kind = Steps()
    kind.bad = frozenset({2})
    retention = OperationRetention(world.database, world.clock, age_s_max=1000.0)
    async with engine(world, kind) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        assert await retention.step() == 0
        for _ in range(5):
            kind.permits.release()
        ended = await one.ended(operation)
        while await retention.step():
            pass
        assert await one.rows.load(operation.id) == ended
        left = await world.rows("SELECT unit FROM operation_unit")
        assert left == [("2",)]
        running = await one.runner.start("didSync", {"did": "b"}, started_by=None)
        world.clock.at += 1001
        while await retention.step():
            pass
        assert await one.rows.load(operation.id) is None
        assert await one.rows.load(running.id) is not None
        assert await world.rows("SELECT unit FROM operation_unit") == []


async def test_nothing_is_settled_of_an_operation_that_has_ended(world: World):
    async with engine(world, Steps()) as one:
        operation = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        assert await one.runner.cancel(operation.id)
        ended = await one.ended(operation)
        unit = SettledUnit(unit="late", outcome="ok", records=1)
        assert await one.units.settle(operation.id, unit) is None
        assert await one.units.advance(operation.id, "late", 60) is None
        assert await one.rows.load(operation.id) == ended
        assert await world.rows("SELECT * FROM operation_unit") == []


async def test_the_stream_is_held_from_the_first_pause_to_the_end_of_the_last(world: World):
    stream = Stream(world)
    first, second = {"did": "a", "mode": "pause"}, {"did": "b", "mode": "pause"}
    kind = OneUnit()
    async with engine(world, kind, stream=stream) as one:
        a = await one.runner.start("didSync", first, started_by=None)
        assert a.mode is OperationMode.PAUSE and a.params == {"did": "a"}
        await asyncio.wait_for(kind.begun.wait(), 5)
        assert stream.holds == 1
        b = await one.runner.start("didSync", second, started_by=None)
        await until(lambda: is_true(stream.holds == 2))
        assert await one.runner.cancel(a.id)
        assert (await one.ended(a)).mode is OperationMode.PAUSE
        assert stream.holds == 1
        kind.goes_on.set()
        ended = await one.ended(b)
        assert (ended.status, ended.mode, ended.note) == (
            OperationStatus.COMPLETED,
            OperationMode.PAUSE,
            None,
        )
        assert stream.holds == 0


async def test_a_cancel_that_came_before_there_was_anybody_to_tell_leaves_nothing_done(
    world: World,
):
    """As between the row and its task: the turn finds it in the row."""
    kind = OneUnit()
    async with engine(world, kind, max_running=1) as one:
        first = await one.runner.start("didSync", {"did": "a"}, started_by=None)
        await asyncio.wait_for(kind.begun.wait(), 5)
        second = await one.runner.start("didSync", {"did": "b"}, started_by=None)
        assert await one.rows.request_cancel(second.id)
        kind.begun.clear()
        kind.goes_on.set()
        assert (await one.ended(first)).status is OperationStatus.COMPLETED
        assert (await one.ended(second)).status is OperationStatus.CANCELLED
        assert not kind.begun.is_set()


async def test_the_bound_of_nested_pauses_counts_from_the_first(world: World):
    stream, kind = Stream(world), OneUnit()
    stream.at = world.clock.at - 50
    async with engine(world, kind, stream=stream) as one:
        await one.runner.start("didSync", {"did": "a", "mode": "pause"}, started_by=None)
        await until(lambda: is_true(stream.holds == 1))
        stream.at = world.clock.at  # the last of what had arrived
        await one.runner.start("didSync", {"did": "b", "mode": "pause"}, started_by=None)
        await until(lambda: is_true(stream.holds == 2))
        world.clock.at += PAUSE_S_MAX - 50
        await until(lambda: is_true(stream.holds == 0))


async def is_true(value: bool) -> bool:
    return value


async def test_nothing_is_done_before_the_held_stream_is_quiet(world: World):
    stream = Stream(world)
    stream.quiet.clear()
    kind = OneUnit()
    async with engine(world, kind, stream=stream) as one:
        operation = await one.runner.start(
            "didSync", {"did": "a", "mode": "pause"}, started_by=None
        )
        await until(lambda: is_true(stream.holds == 1))
        assert not kind.begun.is_set()
        stream.quiet.set()
        kind.goes_on.set()
        assert (await one.ended(operation)).status is OperationStatus.COMPLETED
        assert kind.begun.is_set() and stream.holds == 0


async def test_a_stop_in_a_pause_lets_go_of_the_stream_and_the_next_start_takes_it_again(
    world: World,
):
    stream, kind = Stream(world), OneUnit()
    async with engine(world, kind, stream=stream) as one:
        await one.runner.start("didSync", {"did": "a", "mode": "pause"}, started_by=None)
        await asyncio.wait_for(kind.begun.wait(), 5)
        assert stream.holds == 1
    assert stream.holds == 0
    again = OneUnit()
    async with engine(world, again, stream=stream):
        await asyncio.wait_for(again.begun.wait(), 5)
        assert stream.holds == 1


@pytest.mark.parametrize("cause", ["late", "no cursor", "stuck"])
async def test_a_stream_that_is_not_up_to_date_is_not_paused(world: World, cause: str):
    stream, kind = Stream(world), OneUnit()
    match cause:
        case "late":
            stream.at = world.clock.at - LAG_S_MAX - 1
        case "no cursor":
            stream.cursor = None
        case "stuck":
            stream.is_stuck = True
    async with engine(world, kind, stream=stream) as one:
        operation = await one.runner.start(
            "didSync", {"did": "a", "mode": "pause"}, started_by=None
        )
        await asyncio.wait_for(kind.begun.wait(), 5)
        assert stream.holds == 0
        kind.goes_on.set()
        ended = await one.ended(operation)
        assert (ended.status, ended.mode) == (
            OperationStatus.COMPLETED,
            OperationMode.SUPPLEMENT,
        )
        assert (ended.note or "").startswith("the stream was not paused: ")


@pytest.mark.parametrize("set_back_s", [0.0, 86_400.0])
async def test_a_pause_ends_when_the_newest_event_is_too_old_and_the_work_goes_on(
    world: World, set_back_s: float
):
    stream, kind = Stream(world), OneUnit()
    stream.at = world.clock.at - 50
    async with engine(world, kind, stream=stream) as one:
        operation = await one.runner.start(
            "didSync", {"did": "a", "mode": "pause"}, started_by=None
        )
        await asyncio.wait_for(kind.begun.wait(), 5)
        assert stream.holds == 1
        world.clock.set_back_s = set_back_s
        # Since the event, not since the pause began, unless the clock was set meanwhile.
        world.clock.at += PAUSE_S_MAX - (0 if set_back_s else 50)
        await until(lambda: is_true(stream.holds == 0))
        kind.goes_on.set()
        ended = await one.ended(operation)
        assert (ended.status, ended.mode) == (
            OperationStatus.COMPLETED,
            OperationMode.SUPPLEMENT,
        )
        assert "3600 s late" in (ended.note or "")


@pytest.mark.parametrize(
    ("type_name", "params", "name", "named"),
    [
        ("nonsense", {}, "InvalidBackfillType", "nonsense"),
        ("did-sync", {}, "InvalidBackfillType", "did-sync"),
        ("didSync", {}, "InvalidRequest", "did"),
        ("didSync", {"did": 5}, "InvalidRequest", "did"),
        ("didSync", {"did": "did:PLC:x"}, "InvalidRequest", "did"),
        ("didSync", {"did": DID, "pdsUrl": "https://x.example"}, "InvalidRequest", "pdsUrl"),
        ("didSync", {"did": DID, "mode": "fast"}, "InvalidRequest", "mode"),
        ("didSync", {"did": DID, "mode": ["pause"]}, "InvalidRequest", "mode"),
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


async def test_many_that_wait_hide_neither_what_is_at_work_nor_what_has_ended(world: World):
    insert = (
        "INSERT INTO operation (id, type, key, mode, phase, params, status, started_at,"
        " records_processed, unit, units_processed, outcomes, cancel_requested)"
        " VALUES (?, 'didSync', ?, 'supplement', ?, '{}', ?, ?, 0, 'repo', 0, '{}', 0)"
    )
    rows = [("ended", "a", "running", "completed", 1), ("works", "b", "running", "running", 2)]
    rows += [(f"waits{at}", f"w{at}", "queued", "running", 3 + at) for at in range(20)]
    await world.database.write(lambda connection: connection.executemany(insert, rows))
    store = OperationStore(world.database, clock=world.clock)
    assert (await store.list(OperationStatus.RUNNING, 5))[0].id == "works"
    assert [each.id for each in await store.list(None, 5, has_ended=True)] == ["ended"]
