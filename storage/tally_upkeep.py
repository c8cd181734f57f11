"""Totals of collections that have no records any more are not kept.

Every account can write to, and empty again, as many collections within the scope as it can make up
names for, and the triggers leave a row for each. A walk over them takes out those that are at zero.
"""

from __future__ import annotations

import sqlite3

from indexer.clock import Clock
from storage.database import Database

ROWS_AT_ONCE = 1_000
PAUSE_S = 600.0
"""Between two walks."""

_NEXT = """
SELECT name, total FROM tally WHERE kind = 'collection' AND name > ? ORDER BY name LIMIT ?
"""

_FORGET = "DELETE FROM tally WHERE kind = 'collection' AND name = ? AND total = 0"


class TallyUpkeep:
    """One part of `indexer.upkeep`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._after = ""
        self._due_at = float("-inf")  # monotonic

    async def step(self) -> int:
        """Look at the next rows; how many of them were taken out."""
        if self._clock.monotonic() < self._due_at:
            return 0
        rows = await self._database.read(_NEXT, (self._after, ROWS_AT_ONCE))
        empty = [(name,) for name, total in rows if total == 0]
        if empty:

            def change(connection: sqlite3.Connection) -> None:
                connection.executemany(_FORGET, empty)

            await self._database.write(change)
        if len(rows) == ROWS_AT_ONCE:
            self._after = rows[-1][0]
        else:
            self._after, self._due_at = "", self._clock.monotonic() + PAUSE_S
        return len(empty)
