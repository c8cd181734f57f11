"""Times after the wall clock was set back: what is put off is put off no longer than meant.

A time at which something falls due is wall time, so that it outlives a restart. Whatever a clock
that was ahead has put off would wait for as long as it was ahead, be that a year. So all that lies
ahead is brought forward by as much as the clock went back. What had been put off before it was
ahead comes early, which does no harm. A clock that is set while nothing runs is not noticed.

So are the times at which a repo was last looked up and fetched, because what is due counts from
them. A comparison that is yet to come has not been made: whenever a repo has such a time it loses
it.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

import structlog

from indexer.clock import Clock
from indexer.lanes import NOWHERE
from storage.database import Database
from storage.directory import ASIDE_AT
from storage.turns import NEVER

log = structlog.get_logger(__name__)

SET_BACK_S = 60.0
"""Less than this within a second or so is a clock that is being slowed, and no longer a wait."""

IN_HAND_S = 600.0
"""What was in hand when the clock was set is over by then; it was noted with the time of before."""

REPOS_MAX = 1_000
"""Repos, and hosts, and hosts with turns, looked through in one transaction."""

_TURNS = """
UPDATE turn SET due_at = iif(due_at > ?1 AND due_at < ?4, max(?2, due_at - ?3), due_at),
                not_before = iif(not_before > ?1, max(?2, not_before - ?3), not_before)
WHERE host IN (SELECT value FROM json_each(?5))
      AND (not_before > ?1 OR (due_at > ?1 AND due_at < ?4))
"""

_HOSTS_OF_TURNS = "SELECT DISTINCT host FROM turn WHERE host > ? ORDER BY host LIMIT ?"

_GAPS = """
UPDATE gap SET not_before = iif(not_before > ?1, max(?2, not_before - ?3), not_before),
               detected_at = iif(detected_at > ?1, detected_at - ?3, detected_at)
WHERE repaired_at IS NULL AND (not_before > ?1 OR detected_at > ?1)
"""

# Gaps wait until the directory's log was read after they were detected.
_DIRECTORY = f"UPDATE directory_cursor SET read_at = 0 WHERE read_at > ?1 AND read_at < {ASIDE_AT}"  # noqa: S608 - a constant

_QUESTIONS = "UPDATE gap_question SET retry_at = max(?2, retry_at - ?3) WHERE retry_at > ?1"

_REPOS = """
UPDATE repo SET retry_at = iif(retry_at > ?1, max(?2, retry_at - ?3), retry_at),
                fetch_at = iif(fetch_at > ?1, max(?2, fetch_at - ?3), fetch_at),
                identity_at = iif(identity_at > ?1, identity_at - ?3, identity_at),
                synced_at = iif(synced_at > ?1, synced_at - ?3, synced_at)
WHERE id > ?4 AND id <= ?5
      AND (retry_at > ?1 OR fetch_at > ?1 OR identity_at > ?1 OR synced_at > ?1)
"""

# A host that does not answer is let go after some time, and a comparison counts if it is later.
_AWAITED = """
UPDATE gap_repo SET let_go_at = iif(let_go_at > ?1, max(?2, let_go_at - ?3), let_go_at),
                    put_at = iif(put_at > ?1, put_at - ?3, put_at)
WHERE repo_id > ?4 AND repo_id <= ?5 AND (let_go_at > ?1 OR put_at > ?1)
"""

_HOSTS = """
UPDATE host SET
    next_scan_at = iif(next_scan_at > ?1, max(?2, next_scan_at - ?3), next_scan_at),
    leased_until = iif(leased_until > ?1, max(?2, leased_until - ?3), leased_until)
WHERE id > ?4 AND id <= ?5 AND (next_scan_at > ?1 OR leased_until > ?1)
"""

_LAST = (
    "SELECT max(coalesce((SELECT max(id) FROM repo), 0), coalesce((SELECT max(id) FROM host), 0))"
)

_IS_VERIFIED_AHEAD = "SELECT EXISTS (SELECT 1 FROM repo WHERE verified_at > ?)"

_UNVERIFY = f"""
UPDATE repo SET verified_at = 0 WHERE id IN (
    SELECT id FROM repo WHERE verified_at > ? LIMIT {REPOS_MAX})
"""  # noqa: S608 - a constant


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One look through all due times: those after `floor` (unix seconds) come `by_s` earlier."""

    begins_at: float  # by the monotonic clock
    floor: float
    by_s: float
    upto: int | None = None  # ids that were looked through; None: nor was the rest
    host: str | None = NOWHERE  # whose turn was looked at last; None: all were


class DueTimeUpkeep:
    """One part of `indexer.upkeep`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._ahead_s = self._wall_ahead_s()
        self._passes: list[_Pass] = []

    async def step(self) -> int:
        """Look whether the clock was set back, and bring some times forward; 0 if none are owed."""
        self._look()
        if (await self._database.read(_IS_VERIFIED_AHEAD, (self._clock.now(),)))[0][0]:
            return await self._database.write(self._unverify)
        now = self._clock.monotonic()
        due = next((each for each in self._passes if each.begins_at <= now), None)
        if due is None:
            return 0
        last = (await self._database.read(_LAST))[0][0]
        due.upto, due.host = await self._database.write(
            lambda connection: self._pass_on(connection, due)
        )
        if due.upto >= last and due.host is None:
            self._passes.remove(due)
        return 1

    def _look(self) -> None:
        ahead_s = self._wall_ahead_s()
        back_s, self._ahead_s = self._ahead_s - ahead_s, ahead_s
        if back_s < SET_BACK_S:
            return
        log.warning("clock.set_back", by_s=round(back_s))
        at, floor = self._clock.monotonic(), self._clock.now()
        in_hand = floor + back_s - IN_HAND_S
        self._passes += [
            _Pass(begins_at=at, floor=floor, by_s=back_s),
            _Pass(begins_at=at + IN_HAND_S, floor=in_hand, by_s=back_s),
        ]

    def _pass_on(self, connection: sqlite3.Connection, due: _Pass) -> tuple[int, str | None]:
        now = self._clock.now()
        how = (max(due.floor, now), now, due.by_s)
        hosts: list[str] = []
        if due.host is not None:
            found = connection.execute(_HOSTS_OF_TURNS, (due.host, REPOS_MAX))
            hosts = [row[0] for row in found]
        turns = hosts if due.upto is not None else [NOWHERE, *hosts]
        connection.execute(_TURNS, (*how, NEVER, json.dumps(turns)))
        if due.upto is None:
            connection.execute(_GAPS, how)
            connection.execute(_DIRECTORY, how[:1])
            connection.execute(_QUESTIONS, how)
        after = due.upto or 0
        connection.execute(_REPOS, (*how, after, after + REPOS_MAX))
        connection.execute(_AWAITED, (*how, after, after + REPOS_MAX))
        connection.execute(_HOSTS, (*how, after, after + REPOS_MAX))
        return after + REPOS_MAX, hosts[-1] if len(hosts) == REPOS_MAX else None

    def _unverify(self, connection: sqlite3.Connection) -> int:
        return connection.execute(_UNVERIFY, (self._clock.now(),)).rowcount

    def _wall_ahead_s(self) -> float:
        return self._clock.now() - self._clock.monotonic()
