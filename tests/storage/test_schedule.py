"""Operations that begin by themselves: when they are due, by the rows, and as the schedule's own."""

from __future__ import annotations

import random

from indexer.model import SCHEDULE, OperationStatus, OperationType
from indexer.operations.schedule import JITTER_SHARE, RETRY_S, SETTLE_S, Schedule
from tests.storage.conftest import World
from tests.storage.test_operations import Engine, Steps, engine

HOUR_S = 3600.0
YEAR_S = 365 * 86_400.0
KIND = OperationType.GOVERNANCE_SYNC


class Whole(Steps):
    """The same over all that there is."""

    type = KIND

    def parse(self, params):
        request = super().parse(params)
        return type(request)(key=str(params.get("did", KIND)), params={}, total_units=5)


def schedule_of(world: World, one: Engine) -> Schedule:
    intervals = {KIND: HOUR_S, OperationType.PDS_SCAN: 0.0}
    return Schedule(one.runner, one.rows, intervals, clock=world.clock, rng=random.Random(1))


async def started(one: Engine) -> int:
    return len(await one.rows.list(None, 10))


async def test_what_was_never_run_begins_once_the_process_has_settled_and_then_each_interval(
    world: World,
):
    steps = Whole()
    async with engine(world, steps) as one:
        for _ in range(100):
            steps.permits.release()
        schedule = schedule_of(world, one)
        world.clock.at += SETTLE_S - 1.0
        await schedule.look()
        assert await started(one) == 0
        world.clock.at += 1.0 + JITTER_SHARE * HOUR_S
        await schedule.look()
        (first,) = await one.rows.list(None, 10)
        assert (first.type, first.key, first.started_by) == (KIND, KIND, SCHEDULE)
        assert (await one.ended(first)).status is OperationStatus.COMPLETED
        world.clock.at += HOUR_S - 1.0
        await schedule.look()
        assert await started(one) == 1
        world.clock.at += 1.0 + JITTER_SHARE * HOUR_S
        await schedule.look()
        assert await started(one) == 2


async def test_a_restart_begins_nothing_before_its_time(world: World):
    steps = Whole()
    for _ in range(100):
        steps.permits.release()
    async with engine(world, steps) as one:
        await one.ended(await one.runner.start(KIND, {}, started_by=None))
        # One over a part says nothing of the whole.
        world.clock.at += HOUR_S / 2
        await one.ended(await one.runner.start(KIND, {"did": "a part"}, started_by=None))
    async with engine(world, steps) as two:
        schedule = schedule_of(world, two)
        world.clock.at += HOUR_S / 2 - 1.0
        await schedule.look()
        assert await started(two) == 2
        world.clock.at += 1.0 + JITTER_SHARE * HOUR_S
        await schedule.look()
        assert await started(two) == 3


async def test_what_still_runs_is_not_begun_again(world: World):
    steps = Whole()
    async with engine(world, steps) as one:
        running = await one.runner.start(KIND, {}, started_by=None)
        schedule = schedule_of(world, one)
        world.clock.at += 3 * HOUR_S
        await schedule.look()
        assert [each.id for each in await one.rows.list(None, 10)] == [running.id]
        for _ in range(100):
            steps.permits.release()
        await one.ended(running)
        await schedule.look()  # not at once, as if it were long overdue
        assert await started(one) == 1
        world.clock.at += RETRY_S
        await schedule.look()
        assert await started(one) == 2


async def test_a_clock_that_was_a_year_fast_puts_nothing_off_once_it_is_set(world: World):
    steps = Whole()
    async with engine(world, steps) as one:
        for _ in range(100):
            steps.permits.release()
        schedule = schedule_of(world, one)
        world.clock.at += YEAR_S
        await schedule.look()
        (first,) = await one.rows.list(None, 10)
        await one.ended(first)
        world.clock.at -= YEAR_S
        for each in (schedule, schedule_of(world, one)):  # the same process, and the next
            before = await started(one)
            await each.look()
            assert await started(one) == before, "not at once"
            world.clock.at += HOUR_S + JITTER_SHARE * HOUR_S
            await each.look()
            assert await started(one) == before + 1
            for operation in await one.rows.list(None, 10):
                await one.ended(operation)
