"""What the store owes and nobody waits for: done in short steps, whenever there is any of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from indexer.errors import LocalBusy

log = structlog.get_logger(__name__)

IDLE_S = 1.0
"""Between two looks for work. Views hide an account at once; its search rows follow."""

BUSY_S = 5.0
"""After the store had no room or no time."""

Step = Callable[[], Awaitable[int]]
"""Does a part of its work, one short transaction; 0 when there was none."""


async def keep_up(steps: Sequence[Step], *, idle_s: float = IDLE_S, busy_s: float = BUSY_S) -> None:
    """Take the steps in turns, until cancelled; a store that is short of room is waited for."""
    is_busy = False
    while True:
        try:
            worked = [await step() for step in steps]
        except LocalBusy as error:
            if not is_busy:
                log.warning("upkeep.delayed", reason=str(error))
            is_busy = True
            await asyncio.sleep(busy_s)
            continue
        is_busy = False
        await asyncio.sleep(0 if any(worked) else idle_s)
