"""Due times after the wall clock was set back: what is put off is put off no longer than meant.

A time at which something falls due is wall time, so that it outlives a restart. Whatever a clock
that was ahead has put off would wait for as long as it was ahead, be that a year. So all that lies
ahead is brought forward by as much as the clock went back. What had been put off before it was
ahead comes early, which does no harm. A clock that is set while nothing runs is not noticed.
"""

from __future__ import annotations

import sqlite3

import structlog

from indexer.clock import Clock
from storage.database import Database
from storage.turns import NEVER

log = structlog.get_logger(__name__)

SET_BACK_S = 60.0
"""Less than this within a second or so is a clock that is being slowed, and no longer a wait."""

REPOS_MAX = 10_000
"""Repos looked through in one transaction."""

_TURNS = """
UPDATE turn SET due_at = iif(due_at < ?3, max(?1, due_at - ?2), due_at),
                not_before = max(?1, not_before - ?2)
WHERE not_before > ?1 OR (due_at > ?1 AND due_at < ?3)
"""

_QUESTIONS = "UPDATE gap_question SET retry_at = max(?1, retry_at - ?2) WHERE retry_at > ?1"

_REPOS = """
UPDATE repo SET retry_at = iif(retry_at > ?1, max(?1, retry_at - ?2), retry_at),
                fetch_at = iif(fetch_at > ?1, max(?1, fetch_at - ?2), fetch_at)
WHERE id > ?3 AND id <= ?4 AND (retry_at > ?1 OR fetch_at > ?1)
"""


class DueTimeUpkeep:
    """One part of `indexer.upkeep`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._ahead_s = self._wall_ahead_s()
        self._owed_s = 0.0  # by which due times are still to be brought forward
        self._upto: int | None = None  # repos that were; None: nor are turns and questions

    async def step(self) -> int:
        """Look whether the clock was set back, and bring some times forward; 0 if none are owed."""
        ahead_s = self._wall_ahead_s()
        back_s, self._ahead_s = self._ahead_s - ahead_s, ahead_s
        if back_s >= SET_BACK_S:
            log.warning("clock.set_back", by_s=round(back_s))
            self._owed_s, self._upto = self._owed_s + back_s, None
        if not self._owed_s:
            return 0
        last = (await self._database.read("SELECT max(id) FROM repo"))[0][0] or 0
        upto = await self._database.write(self._bring_forward)
        self._upto = upto
        if upto >= last:
            self._owed_s = 0.0
        return 1

    def _bring_forward(self, connection: sqlite3.Connection) -> int:
        now = self._clock.now()
        if self._upto is None:
            connection.execute(_TURNS, (now, self._owed_s, NEVER))
            connection.execute(_QUESTIONS, (now, self._owed_s))
        after = self._upto or 0
        connection.execute(_REPOS, (now, self._owed_s, after, after + REPOS_MAX))
        return after + REPOS_MAX

    def _wall_ahead_s(self) -> float:
        return self._clock.now() - self._clock.monotonic()
