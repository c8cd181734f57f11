"""Rows that are left of names which strangers make up are not kept once nothing is behind them.

An account may name as many hosts, one after the other, as it can make up; and write to, and empty
again, as many collections within the scope. Triggers leave a row for each. A walk over the hosts,
and one over the totals, take out those that are left.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from indexer.clock import Clock
from indexer.hosts import HostSource
from storage.database import Database

ROWS_AT_ONCE = 1_000
PAUSE_S = 600.0
"""Between two walks."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """One kind of them."""

    first: int | str  # below every key
    rows: str  # query: key and whether it is left, of those above ?1, in order; at most ?2
    forget: str  # statement: takes out the row ?1 if it still is


# A pass that is open holds the row.
_IS_LEFT = f"""
source = '{HostSource.REPO}' AND is_open = 0
AND NOT EXISTS (SELECT 1 FROM repo WHERE repo.pds_url = host.url)
"""  # noqa: S608 - a constant

# The last one stays, or its id would be given to another host.
HOSTS = Leftovers(
    0,
    f"SELECT id, {_IS_LEFT} FROM host WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - constants
    f"DELETE FROM host WHERE id = ? AND id < (SELECT max(id) FROM host) AND {_IS_LEFT}",  # noqa: S608 - constants
)
"""Hosts that nobody but accounts has named, and that no repo names any more."""

TOTALS = Leftovers(
    "",
    "SELECT name, total = 0 FROM tally WHERE kind = 'collection' AND name > ?"
    " ORDER BY name LIMIT ?",
    "DELETE FROM tally WHERE kind = 'collection' AND name = ? AND total = 0",
)
"""Totals of collections that have no records any more."""


class LeftoverUpkeep:
    """One part of `indexer.upkeep`."""

    def __init__(self, database: Database, leftovers: Leftovers, *, clock: Clock) -> None:
        self._database = database
        self._leftovers = leftovers
        self._clock = clock
        self._after = leftovers.first
        self._due_at = float("-inf")  # monotonic

    async def step(self) -> int:
        """Look at the next rows; how many of them were taken out."""
        if self._clock.monotonic() < self._due_at:
            return 0
        rows = await self._database.read(self._leftovers.rows, (self._after, ROWS_AT_ONCE))
        left = [(key,) for key, is_left in rows if is_left]
        gone = 0
        if left:

            def change(connection: sqlite3.Connection) -> int:
                return connection.executemany(self._leftovers.forget, left).rowcount

            gone = await self._database.write(change)
        if len(rows) == ROWS_AT_ONCE:
            self._after = rows[-1][0]
        else:
            self._after = self._leftovers.first
            self._due_at = self._clock.monotonic() + PAUSE_S
        return gone
