"""Background work that leaves the live stream its share of the interpreter and of the writer.

A thread that prepares records holds the interpreter as long as it likes, and several of them hold
it in turns: what is live would come last. So pieces of such work are done one at a time, and while
events arrive each is followed by a rest of its own length.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from indexer.clock import Clock


class GivingWay:
    """Hands out turns for pieces of work, in the order in which they are asked for."""

    def __init__(self, clock: Clock, is_live: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_live = is_live  # whether events arrive just now
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One piece of work: keep it to what one transaction may change."""
        async with self._turn:
            began = self._clock.monotonic()
            yield
            if self._is_live():
                await asyncio.sleep(self._clock.monotonic() - began)
