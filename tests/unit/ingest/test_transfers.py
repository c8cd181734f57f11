"""Who is fetched next, where some hosts take long."""

from __future__ import annotations

import asyncio

import pytest

from indexer.ingest.places import COUNTED_S, Transfers
from indexer.lanes import Standing
from tests.unit.ingest.test_giving_way import HandClock

SLOW, FAST, OTHER = "https://slow.example", "https://fast.example", "https://other.example"


class Hall:
    """Transfers that last until they are told to end."""

    def __init__(self, workers: int, group: asyncio.TaskGroup) -> None:
        self.clock = HandClock()
        self.transfers = Transfers(workers, clock=self.clock)
        self.group = group
        self.under_way: list[tuple[str, asyncio.Event]] = []

    async def _fetch(self, host: str, standing: Standing) -> None:
        async with self.transfers.turn(standing, host):
            entry = (host, asyncio.Event())
            self.under_way.append(entry)
            await entry[1].wait()
            self.under_way.remove(entry)

    async def ask(self, *hosts: str, standing: Standing = Standing.ANSWERS) -> list[asyncio.Task]:
        tasks = [self.group.create_task(self._fetch(host, standing)) for host in hosts]
        await settled()
        return tasks

    async def end(self, host: str, after_s: float = 1.0) -> None:
        self.clock.at += after_s
        next(ending for name, ending in self.under_way if name == host).set()
        await settled()

    @property
    def hosts(self) -> list[str]:
        return sorted(host for host, _ in self.under_way)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def emptied(hall: Hall) -> None:
    while hall.under_way:
        await hall.end(hall.under_way[0][0])


async def test_hosts_that_take_long_do_not_keep_the_others_waiting_again_and_again():
    async with asyncio.TaskGroup() as group:
        hall = Hall(2, group)
        await hall.ask(SLOW, SLOW, SLOW, SLOW, *[FAST] * 40)
        assert hall.hosts == [SLOW, SLOW]
        await hall.end(SLOW, after_s=1_700.0)
        assert hall.hosts == [FAST, SLOW]
        await hall.end(SLOW)
        assert hall.hosts == [FAST, SLOW], "each has one under way"
        served = 0
        while FAST in hall.hosts:
            await hall.end(FAST)
            served += 1
        assert served == 40
        assert hall.hosts == [SLOW, SLOW], "no place is left empty"
        await emptied(hall)


async def test_who_has_had_least_time_comes_first_until_that_is_forgotten():
    async with asyncio.TaskGroup() as group:
        hall = Hall(1, group)
        await hall.ask(SLOW, SLOW, FAST, FAST)
        await hall.end(SLOW, after_s=1_700.0)
        for _ in range(2):
            assert hall.hosts == [FAST]
            await hall.end(FAST)
        assert hall.hosts == [SLOW]
        await hall.ask(SLOW, FAST)
        await hall.end(SLOW, after_s=COUNTED_S)
        assert hall.hosts == [FAST]
        await hall.ask(SLOW)
        await emptied(hall)


async def test_at_most_half_are_of_hosts_that_may_hang():
    async with asyncio.TaskGroup() as group:
        hall = Hall(4, group)
        await hall.ask(SLOW, OTHER, FAST, standing=Standing.UNKNOWN)
        assert hall.hosts == [OTHER, SLOW]
        await hall.ask(FAST)
        assert hall.hosts == [FAST, OTHER, SLOW]
        await emptied(hall)


@pytest.mark.parametrize("is_dealt", [False, True])
async def test_a_place_is_not_lost_with_who_waits_for_it(is_dealt: bool):
    async with asyncio.TaskGroup() as group:
        hall = Hall(1, group)
        await hall.ask(SLOW)
        [waiting] = await hall.ask(FAST)
        if is_dealt:
            hall.under_way[0][1].set()
            await asyncio.sleep(0)  # the place is dealt out, and its owner has not run yet
        waiting.cancel()
        if not is_dealt:
            await hall.end(SLOW)
        await settled()
        assert waiting.cancelled()
        await hall.ask(OTHER)
        assert hall.hosts == [OTHER]
        await emptied(hall)
