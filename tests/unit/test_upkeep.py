from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from indexer.errors import LocalBusy, LocalFault
from indexer.upkeep import keep_up

DEADLINE_S = 5.0


class Work:
    """So many parts of work, after so many refusals."""

    def __init__(self, parts: int, refusals: int = 0) -> None:
        self.parts, self.refusals = parts, refusals
        self.done = asyncio.Event()
        self.turns = 0

    async def step(self) -> int:
        self.turns += 1
        if self.refusals:
            self.refusals -= 1
            raise LocalBusy("no room")
        if self.parts == 0:
            self.done.set()
            return 0
        self.parts -= 1
        return 1


async def kept_up(*works: Work, busy_s: float = 0.0) -> None:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        task = group.create_task(keep_up([w.step for w in works], idle_s=3600.0, busy_s=busy_s))
        for work in works:
            await work.done.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_work_is_done_without_pauses_until_there_is_none():
    first, second = Work(40), Work(3)
    await kept_up(first, second)
    assert first.turns == second.turns == 41


async def test_a_store_that_is_short_of_something_is_tried_again():
    work = Work(2, refusals=3)
    await kept_up(work)
    assert work.turns == 6


async def test_a_broken_store_ends_it():
    async def broken() -> int:
        raise LocalFault("no sound file")

    with pytest.raises(LocalFault):
        async with asyncio.timeout(DEADLINE_S):
            await keep_up([broken])
