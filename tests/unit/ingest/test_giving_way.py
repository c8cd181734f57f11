"""Background work takes turns, and rests while events arrive."""

from __future__ import annotations

import asyncio

import pytest

from indexer.ingest.giving_way import GivingWay


class HandClock:
    """Monotonic time that only the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


async def test_pieces_are_done_one_at_a_time_in_the_order_of_asking():
    giving_way = GivingWay(HandClock(), lambda: False)
    at_work, order = 0, []

    async def piece(number: int) -> None:
        nonlocal at_work
        async with giving_way.turn():
            at_work += 1
            assert at_work == 1
            await asyncio.sleep(0)
            order.append(number)
            at_work -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(piece(number))
    assert order == list(range(5))


@pytest.mark.parametrize("is_live", [True, False])
async def test_a_rest_as_long_as_the_work_follows_while_events_arrive(is_live: bool):
    clock = HandClock()
    giving_way = GivingWay(clock, lambda: is_live)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with giving_way.turn():
        clock.at += 0.05
    rested = loop.time() - began
    assert (rested >= 0.05) is is_live


async def test_a_piece_that_fails_gives_its_turn_back():
    giving_way = GivingWay(HandClock(), lambda: True)
    with pytest.raises(ZeroDivisionError):
        async with giving_way.turn():
            raise ZeroDivisionError
    async with asyncio.timeout(1.0), giving_way.turn():
        pass
