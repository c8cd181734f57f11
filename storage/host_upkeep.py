"""Hosts that only accounts have named are not kept once no repo is there.

An account may name as many hosts, one after the other, as it can make up, and a trigger leaves a
row for each. A walk over them takes out those that no repo names any more.
"""

from __future__ import annotations

import sqlite3

from indexer.clock import Clock
from indexer.hosts import HostSource
from storage.database import Database

ROWS_AT_ONCE = 1_000
PAUSE_S = 600.0
"""Between two walks."""

# A pass that is open holds the row.
_IS_LEFT = f"""
source = '{HostSource.REPO}' AND is_open = 0
AND NOT EXISTS (SELECT 1 FROM repo WHERE repo.pds_url = host.url)
"""  # noqa: S608 - a constant

_NEXT = f"SELECT id, {_IS_LEFT} FROM host WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - constants

# The last one stays, or its id would be given to another host.
_FORGET = f"""
DELETE FROM host WHERE id = ? AND id < (SELECT max(id) FROM host) AND {_IS_LEFT}
"""  # noqa: S608 - constants


class HostUpkeep:
    """One part of `indexer.upkeep`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._after = 0
        self._due_at = float("-inf")  # monotonic

    async def step(self) -> int:
        """Look at the next rows; how many of them were taken out."""
        if self._clock.monotonic() < self._due_at:
            return 0
        rows = await self._database.read(_NEXT, (self._after, ROWS_AT_ONCE))
        left = [(host_id,) for host_id, is_left in rows if is_left]
        gone = 0
        if left:

            def change(connection: sqlite3.Connection) -> int:
                return connection.executemany(_FORGET, left).rowcount

            gone = await self._database.write(change)
        if len(rows) == ROWS_AT_ONCE:
            self._after = rows[-1][0]
        else:
            self._after, self._due_at = 0, self._clock.monotonic() + PAUSE_S
        return gone
