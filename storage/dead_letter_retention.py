"""How long dead letters are kept, and how many: the oldest of whoever has most give way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from indexer.clock import Clock
from storage.database import Database

STEP_LETTERS = 250
"""Letters dropped in one transaction."""

DAY_S = 86_400.0

_TOO_OLD = """
DELETE FROM dead_letter WHERE id IN (
    SELECT id FROM dead_letter WHERE created_at < ? ORDER BY id LIMIT ?)
"""

_TOTAL = "SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'dead_letter'"

_LARGEST = "SELECT did, count(*) FROM dead_letter GROUP BY did ORDER BY 2 DESC, did LIMIT 2"

_OLDEST_OF = """
DELETE FROM dead_letter WHERE id IN (
    SELECT id FROM dead_letter WHERE did IS ? ORDER BY id LIMIT ?)
"""


@dataclass(frozen=True, slots=True)
class DeadLetterRetention:
    """Applies both bounds, a part a transaction."""

    database: Database
    clock: Clock
    age_s_max: float
    letters_max: int
    on_dropped: Callable[[int], None] = lambda _: None

    async def step(self) -> int:
        """Drop some letters that are too old or too many; how many, 0 when none is."""
        oldest = self.clock.now() - self.age_s_max

        def change(connection: sqlite3.Connection) -> int:
            dropped = connection.execute(_TOO_OLD, (oldest, STEP_LETTERS)).rowcount
            excess = connection.execute(_TOTAL).fetchone()[0] - self.letters_max
            if dropped or excess <= 0:
                return dropped
            (did, most), *others = connection.execute(_LARGEST).fetchall()
            lead = most - (others[0][1] if others else 0)
            share = min(excess, max(lead, 1), STEP_LETTERS)
            return connection.execute(_OLDEST_OF, (did, share)).rowcount

        return await self.database.write(change, committed=self.on_dropped)
