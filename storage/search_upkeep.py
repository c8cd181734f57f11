"""What the search index still owes: one part a transaction, so that live batches go first."""

from __future__ import annotations

import sqlite3

from storage.database import Database
from storage.projections import Projections
from storage.search_queue import Turns
from storage.search_rows import PrepareStored

STEP_ROWS = 20
"""Search rows written in one transaction: some 15 ms."""


class SearchUpkeep:
    """Follows accounts that were hidden or shown, and labels that many eprints bear."""

    def __init__(
        self, database: Database, projections: Projections, prepare: PrepareStored
    ) -> None:
        self._database = database
        self._projections = projections
        self._prepare = prepare
        self._turns = Turns()

    async def step(self) -> bool:
        """Do the next part; False when nothing was left to do."""
        return await self._database.write(self._work)

    def _work(self, connection: sqlite3.Connection) -> bool:
        rows = self._projections.current_search_rows(connection)
        return rows is not None and rows.work(
            connection, self._prepare, self._turns, rows_max=STEP_ROWS
        )
