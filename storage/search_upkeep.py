"""What the search index still owes: one part a transaction, so that live batches go first."""

from __future__ import annotations

from indexer.records.projection import SearchIndex
from storage.database import Database
from storage.search_rows import PrepareStored, SearchRows

STEP_ROWS = 50
"""Search rows written in one transaction: some 20 ms."""


class SearchUpkeep:
    """Follows accounts that were hidden or shown, and labels that many eprints bear."""

    def __init__(self, database: Database, search: SearchIndex, prepare: PrepareStored) -> None:
        self._database = database
        self._rows = SearchRows(search)
        self._prepare = prepare

    async def step(self) -> bool:
        """Do the next part; False when nothing was left to do."""
        return await self._database.write(
            lambda connection: self._rows.work(connection, self._prepare, rows_max=STEP_ROWS)
        )
