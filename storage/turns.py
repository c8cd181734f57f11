"""Whose turn it is: the repo table as a queue in which hosts are served one after the other.

A row of `turn` says when a host has a repo that is due, or earlier: triggers lower it with every
repo that is to be worked on, and whoever finds nothing due puts it right. A host that was served
stands behind all that have waited since, however many repos of it are due. Tracked repos whose
identity is in doubt have turns apart, one for each host where they were last seen (`lanes.doubt`):
nothing that is known of the host holds them up.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from indexer.claims import GIVE_BACK_S, Claim, StaleClaim, given_back
from indexer.clock import Clock
from indexer.errors import LocalBusy
from indexer.lanes import DOUBT, TRACKED, Lane, Standing
from indexer.model import Wanted, utc_text
from storage.buffers import drop_pending
from storage.database import Database, Row
from storage.repos import COLUMNS, repo_from_row, update_repos
from storage.room import Room
from storage.snapshots import current_row

NEVER = 1e12
"""When nothing of a host is due that we remember only because it answers."""

STALE_TURNS_MAX = 200
"""Turns without a repo that one transaction puts right; the next goes on."""

_WAITING = "wanted <> 0 AND claimed = 0"

_HELD = (
    f"FROM repo INDEXED BY repo_work WHERE {_WAITING} AND state <> 'pending'"
    " AND (priority = 0 OR rev IS NOT NULL)"
    f" AND coalesce(iif(wanted & {Wanted.IDENTITY:d}, '{DOUBT}', '') || pds_url, '') = ?1"
    " AND min(priority, 1) = {:d}"
)
_LATER = (
    f"FROM repo INDEXED BY repo_later WHERE {_WAITING} AND state <> 'pending'"
    " AND priority > 0 AND rev IS NULL AND host_group = ?1"
)
_NEW = f"FROM repo INDEXED BY repo_new WHERE {_WAITING} AND state = 'pending' AND host_group = ?1"

_BY_TIME = {
    Lane.OPERATOR: _HELD.format(0),
    Lane.REPAIR: _HELD.format(1),
    Lane.LATER: _LATER,
}

_DUE = {
    lane: f"SELECT id {repos} AND retry_at <= ?2 ORDER BY retry_at LIMIT 1"
    for lane, repos in _BY_TIME.items()
} | {Lane.DISCOVERY: f"SELECT id {_NEW} AND ?2 > 0 ORDER BY id DESC LIMIT 1"}
"""The repo of a host that is served next, with ?1 the host and ?2 the time."""

_NEXT = {lane: f"SELECT min(retry_at) {repos}" for lane, repos in _BY_TIME.items()}
"""When the next repo of a host is due."""

_BOOT = """
UPDATE repo SET wanted = wanted | claimed,
                claimed = 0,
                state = CASE WHEN state = 'resyncing' THEN 'desynchronized' ELSE state END
WHERE claimed <> 0 OR state = 'resyncing'
"""

# All may be due at one moment, as after a change of the scope: any of them is next, for one that is
# served is due later than all.
_TURN = """
SELECT host FROM turn INDEXED BY turn_due
WHERE lane = ? AND standing = ? AND due_at <= ? AND host NOT IN (SELECT value FROM json_each(?))
ORDER BY due_at LIMIT 1
"""

_CLAIM = f"""
UPDATE repo SET claim = claim + 1,
                claimed = wanted,
                wanted = 0,
                state = CASE WHEN wanted & {Wanted.CONTENT:d} AND state <> 'active'
                             THEN 'resyncing' ELSE state END
WHERE id = ?
RETURNING {COLUMNS}, pds_url
"""  # noqa: S608 - constants

_SERVED = "UPDATE turn SET due_at = ?1, not_before = ?1 WHERE host = ?2 AND lane = ?3"

_JUDGE = """
UPDATE turn SET standing = ?, due_at = max(due_at, ?2), not_before = max(not_before, ?2)
WHERE host = ?
"""

_FORGET = "DELETE FROM turn WHERE host = ? AND lane = ? AND due_at >= ? AND standing <> ?"

_REMEMBER = "INSERT INTO turn VALUES (?, ?, ?, 0, ?) ON CONFLICT DO NOTHING"


class TurnQueue:
    """Whoever works on repos asks here for the next one."""

    def __init__(self, database: Database, room: Room, *, clock: Clock) -> None:
        self._database = database
        self._room = room
        self._clock = clock

    async def claim_next(
        self,
        lanes: Sequence[Lane] = tuple(Lane),
        standings: Iterable[Standing] = tuple(Standing),
        busy: Collection[str] = (),
    ) -> Claim | None:
        """Claim the most urgent repo that is due, or None when nothing is.

        It is one of a host (in the lanes of new repos: of a group) of these standings, and of none
        that is `busy`; hosts take turns.
        """
        now = self._clock.now()
        if self._room.problem is not None:
            return None
        if self._room.is_discovery_stopped:
            lanes = [lane for lane in lanes if lane in TRACKED]

        def change(connection: sqlite3.Connection) -> Claim | None:
            row = claim_due(connection, lanes, standings, busy, now=now)
            return claim_from_row(row) if row else None

        return await self._database.write(change)

    async def next_due_at(self, lanes: Sequence[Lane] = tuple(Lane)) -> float | None:
        """Unix seconds before which no repo falls due, or None when no work is left."""
        due_at: float | None = (await self._database.read(next_due(lanes)))[0][0]
        return due_at

    async def judge(self, host: str, standing: Standing, *, until: float = 0.0) -> None:
        """Note how a host (or group) did last; no repo of it is claimed before `until`."""
        await self._database.write(lambda connection: judge(connection, host, standing, until))


async def claim_for(
    database: Database,
    change: Callable[[sqlite3.Connection], Claim],
    *,
    committed: Callable[[Claim], None],
    now: float,
) -> Claim:
    """The claim that `change` makes, for a caller who holds nothing once it is cancelled."""
    made: list[Claim] = []

    def make(connection: sqlite3.Connection) -> Claim:
        made.append(change(connection))
        return made[-1]

    def give_back(connection: sqlite3.Connection) -> None:
        for claim in made:
            repo = current_row(connection, claim)
            update_repos(connection, [(repo, given_back(repo))], at=utc_text(now))
            if not repo.is_key_stale:
                drop_pending(connection, repo)

    try:
        return await database.write(make, committed=committed)
    except asyncio.CancelledError:
        # The repo is claimed all the same, by a transaction that is not torn and comes before this.
        with suppress(TimeoutError, StaleClaim, LocalBusy):
            async with asyncio.timeout(GIVE_BACK_S):
                await database.write(give_back)
        raise


def claim_from_row(row: Row) -> Claim:
    """The claim on the repo in a row of `COLUMNS` and its PDS."""
    return Claim(repo=repo_from_row(row[:-1]), pds_url=row[-1])


def claim_due(
    connection: sqlite3.Connection,
    lanes: Sequence[Lane],
    standings: Iterable[Standing],
    busy: Collection[str],
    *,
    now: float,
) -> Row | None:
    """Claim a repo of the host whose turn it is, in the first lane that has one: its row.

    Only hosts of these standings are served, those of the first one first, and none that is `busy`.
    """
    allowed, shut = tuple(standings), json.dumps(list(busy))
    stale = 0
    for lane in lanes:
        while stale < STALE_TURNS_MAX:
            turns = (
                found
                for standing in allowed
                for found in connection.execute(_TURN, (lane, standing, now, shut))
            )
            turn = next(turns, None)
            if turn is None:
                break
            host: str = turn[0]
            due = connection.execute(_DUE[lane], (host, now)).fetchone()
            if due is None:
                _put_right(connection, host, lane)
                stale += 1
                continue
            connection.execute(_SERVED, (now, host, lane))
            row: Row = connection.execute(_CLAIM, due).fetchone()
            return row
    return None


def judge(connection: sqlite3.Connection, host: str, standing: Standing, until: float) -> None:
    """Note how a host or group has last done; it is left alone until then (unix seconds)."""
    connection.execute(_JUDGE, (standing, until, host))
    if standing is Standing.ANSWERS:
        lane = Lane.REPAIR if "://" in host else Lane.DISCOVERY
        connection.execute(_REMEMBER, (host, lane, NEVER, standing))


def give_back_all(connection: sqlite3.Connection) -> None:
    """Nobody holds a claim, and nothing is known of any host."""
    connection.execute(_BOOT)
    connection.execute("DELETE FROM turn WHERE due_at >= ?", (NEVER,))
    connection.execute("UPDATE turn SET not_before = 0")
    connection.execute(
        "UPDATE turn SET standing = ? WHERE standing <> ?", (Standing.UNKNOWN, Standing.IN_DOUBT)
    )


def next_due(lanes: Sequence[Lane]) -> str:
    """Query for the time at which the next host of these lanes may have a repo that is due."""
    each = " UNION ALL ".join(
        f"SELECT min(due_at) AS due_at FROM turn WHERE lane = {lane:d} AND standing = {standing:d}"  # noqa: S608 - numbers
        for lane in lanes
        for standing in Standing
    )
    return f"SELECT min(due_at) FROM ({each})"  # noqa: S608 - numbers


def _put_right(connection: sqlite3.Connection, host: str, lane: Lane) -> None:
    """The host had nothing due: its turn comes with its next repo, or not at all."""
    due_at: float | None = None
    if lane in _NEXT:
        due_at = connection.execute(_NEXT[lane], (host,)).fetchone()[0]
    connection.execute(
        "UPDATE turn SET due_at = max(?, not_before) WHERE host = ? AND lane = ?",
        (NEVER if due_at is None else due_at, host, lane),
    )
    connection.execute(_FORGET, (host, lane, NEVER, Standing.ANSWERS))
