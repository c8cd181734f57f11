"""Background work that leaves the live stream its share of the interpreter.

A thread that prepares records holds the interpreter as long as it likes, and several of them hold
it in turns: what is live would come last. So pieces of such work are done one at a time, whoever
they are for, and while events arrive each is followed by a rest of its own length. What is written
needs no turn: the writer has a rule of its own to the same effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from indexer.clock import Clock

PIECE_S = 0.02
"""Processor time after which a piece of work ends and whoever waits for a turn has one."""


class GivingWay:
    """Hands out turns for pieces of work, in the order in which they are asked for.

    One for the whole process: two of them would let two pieces be done at a time.
    """

    def __init__(self, clock: Clock, is_live: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_live = is_live  # whether events arrive just now
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One piece of work: `PIECE_S` of it or little more, and no waiting for anything else."""
        async with self._turn:
            began = self._clock.monotonic()
            yield
            if self._is_live():
                await asyncio.sleep(self._clock.monotonic() - began)
