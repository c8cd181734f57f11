"""How long dead letters are kept, and how many: the oldest of whoever has most give way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from indexer.clock import Clock
from storage.database import Database, Row
from storage.dead_letters import OLDER
from storage.rows import delete_rows

STEP_LETTERS = 250
"""Letters dropped in one transaction."""

LOOK_S = 60.0
"""Between two looks for letters that are too old, once none was: each look reads all letters."""

DAY_S = 86_400.0

_TOTAL = "SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'dead_letter'"

_LARGEST = "SELECT did, count(*) FROM dead_letter GROUP BY did ORDER BY 2 DESC, did LIMIT 2"

_OLDEST_OF = "SELECT id FROM dead_letter WHERE did IS ? ORDER BY id LIMIT ?"


@dataclass(slots=True)
class DeadLetterRetention:
    """Applies both bounds, a part a transaction."""

    database: Database
    clock: Clock
    age_s_max: float
    letters_max: int
    on_dropped: Callable[[int], None] = lambda _: None
    _due_at: float = field(default=float("-inf"), init=False)  # of the next look, monotonic

    async def step(self) -> int:
        """Drop some letters that are too old or too many; how many, 0 when none is."""
        letters = await self._superfluous()
        if not letters:
            return 0
        return await self.database.write(
            partial(delete_rows, table="dead_letter", column="id", keys=letters),
            committed=self.on_dropped,
        )

    async def _superfluous(self) -> list[int]:
        """Ids of what is to be dropped next, looked up by a reader: all letters are looked at."""
        rows = await self._too_old()
        excess = (await self.database.read(_TOTAL))[0][0] - self.letters_max
        if not rows and excess > 0:
            (did, most), *others = await self.database.read(_LARGEST)
            lead = most - (others[0][1] if others else 0)
            share = min(excess, max(lead, 1), STEP_LETTERS)
            rows = await self.database.read(_OLDEST_OF, (did, share))
        return [row[0] for row in rows]

    async def _too_old(self) -> list[Row]:
        now = self.clock.monotonic()
        if now < self._due_at:
            return []
        rows = await self.database.read(OLDER, (self.clock.now() - self.age_s_max, STEP_LETTERS))
        if not rows:
            self._due_at = now + LOOK_S
        return rows
