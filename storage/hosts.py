"""The registry of hosts: leases on them, how passes over them end, and what an operator sees.

A lease that has run out, or whose operation has ended, holds nobody up. The pass of an operation
that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence

from indexer.clock import Clock
from indexer.hosts import (
    LEASE_S,
    HostOutcome,
    HostPass,
    HostRow,
    HostSource,
    HostState,
    ScanLimits,
    retry_s,
)
from indexer.model import Operation, OperationType, SettledUnit
from storage.database import Database, Row
from storage.operation_units import settle_units

HOSTS_MAX = 200_000
"""Hosts kept. The relay's further ones are left out: beyond it somebody makes them up."""

REGISTERED_AT_ONCE = 500

SCOPED_AT_ONCE = 100_000
"""Row ids looked through at once at start, while no stream waits."""

_IS_COMPLETE = """
SELECT EXISTS (SELECT 1 FROM repo WHERE id > ?1 AND id <= ?2 AND scope_id = ?3)
"""

_LAST_SCOPE = f"""
SELECT checkpoint ->> '$.scope_id' FROM operation
WHERE type = '{OperationType.PDS_SCAN}' AND key = '*' ORDER BY started_at DESC LIMIT 1
"""  # noqa: S608 - a constant

_DUE_AGAIN = """
UPDATE host SET next_scan_at = 0 WHERE id > ? AND id <= ? AND status <> 'unreachable'
"""

# A host that a person has named stays, also once it has none of the repos that had named it before.
_REGISTER = f"""
INSERT INTO host (url, source, status, next_scan_at) VALUES (?, ?, 'pending', 0)
ON CONFLICT DO UPDATE SET source = excluded.source
    WHERE source = '{HostSource.REPO}' AND excluded.source <> '{HostSource.RELAY}'
"""  # noqa: S608 - constants

_IS_FREE = """
(leased_until <= :now OR operation_id = :operation OR NOT EXISTS (
    SELECT 1 FROM operation WHERE operation.id = host.operation_id AND status = 'running'))
"""

# All hosts that the operation has passed over are looked at: by a reader.
_OWN = """
SELECT id FROM host WHERE operation_id = ? AND is_open = 1
AND id NOT IN (SELECT value FROM json_each(?)) LIMIT 1
"""

_STILL_OWN = "SELECT id FROM host WHERE id = :own AND operation_id = :operation AND is_open = 1"

# By its unit as well as by the time: once a clock that was ahead has been set right, a host can be
# due again at once.
_DUE = f"""
SELECT id FROM host WHERE next_scan_at <= :due AND {_IS_FREE}
AND NOT EXISTS (SELECT 1 FROM operation_unit WHERE operation_id = :operation AND unit = host.url)
AND id NOT IN (SELECT value FROM json_each(:in_hand)) ORDER BY next_scan_at, id LIMIT 1
"""  # noqa: S608 - a constant

_NAMED = f"SELECT id FROM host WHERE url = :url AND {_IS_FREE}"  # noqa: S608 - a constant

_BEGIN = """
UPDATE host SET operation_id = ?, is_open = 1, is_listed = 0, cursor = NULL, pages = 0,
                pass_records = 0, outcomes = '{}'
WHERE id = ? AND NOT (operation_id IS ?1 AND is_open = 1)
"""

_LEASE = "UPDATE host SET leased_until = ? WHERE id = ?"

# By itself: in a RETURNING clause SQLite looks through all repos for one of the host.
_LEASED = """
SELECT url, cursor, pages, is_listed,
       EXISTS (SELECT 1 FROM repo WHERE repo.pds_url = host.url), source = 'relay', outcomes
FROM host WHERE id = ?
"""

# All repos of a host that has none are looked at: by a reader.
_HAS_RECORDS = """
SELECT EXISTS (SELECT 1 FROM repo CROSS JOIN record ON record.repo_id = repo.id
               WHERE repo.pds_url = ?)
"""

_SCANNED = """
UPDATE host SET status = CASE WHEN pass_records > 0 OR ? THEN 'active' ELSE 'empty' END,
                scanned_at = ?, records = pass_records, failures = 0, error = NULL,
                is_open = 0, leased_until = 0
WHERE id = ? AND operation_id = ? AND is_open = 1
RETURNING status
"""

_COVERED = """
UPDATE host SET failures = 0, error = NULL, is_open = 0, leased_until = 0,
                status = CASE WHEN status = 'unreachable' THEN 'pending' ELSE status END
WHERE id = ? AND operation_id = ? AND is_open = 1
RETURNING status
"""

_FAILED = """
UPDATE host SET status = 'unreachable', failures = failures + 1,
                failures_total = failures_total + 1, error = ?, is_open = 0, leased_until = 0
WHERE id = ? AND operation_id = ? AND is_open = 1
RETURNING failures
"""

_STATUS = "CASE WHEN is_open AND leased_until > ?1 THEN 'scanning' ELSE status END"

_SHOWN = f"""
url, {_STATUS}, scanned_at, next_scan_at,
(SELECT count(*) FROM repo WHERE repo.pds_url = host.url),
records, failures, failures_total, error, operation_id, outcomes
"""  # noqa: S608 - a constant

_LIST = f"SELECT {_SHOWN} FROM host WHERE url > ?2 ORDER BY url LIMIT ?3"  # noqa: S608 - constants
_OF_OPERATION = f"""
SELECT {_SHOWN} FROM host WHERE operation_id = ?2 ORDER BY url LIMIT ?3
"""  # noqa: S608 - constants


class HostStore:
    """Satisfies what `indexer.operations` and `admin_api` need of the registry."""

    def __init__(self, database: Database, *, limits: ScanLimits, clock: Clock) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock

    async def enter_scope(self) -> None:
        """At start: hosts looked through under another scope are due, and no first scan is done.

        Repos have the scope that they are complete under, and lose it when it is another's. So
        where none has today's, that is a new one, or nothing was found under it yet. A scan of all
        hosts that has been begun under it, the last one, tells these apart.
        """
        if (self._limits.scope_id,) in await self._database.read(_LAST_SCOPE):
            return
        tops = "SELECT coalesce(max(id), 0), (SELECT coalesce(max(id), 0) FROM host) FROM repo"
        repos, hosts = (await self._database.read(tops))[0]
        for after in range(0, repos, SCOPED_AT_ONCE):
            asked = (after, after + SCOPED_AT_ONCE, self._limits.scope_id)
            if (await self._database.read(_IS_COMPLETE, asked))[0][0]:
                return
        for after in range(0, hosts, SCOPED_AT_ONCE):

            def change(connection: sqlite3.Connection, after: int = after) -> None:
                connection.execute(_DUE_AGAIN, (after, after + SCOPED_AT_ONCE))

            await self._database.write(change)
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM first_scan").rowcount
        )

    async def register(self, urls: Sequence[str], source: HostSource) -> None:
        """Know hosts from now on, those that an operator names in any case."""
        room = len(urls)
        if source is not HostSource.OPERATOR:
            known = (await self._database.read("SELECT count(*) FROM host"))[0][0]
            room = max(HOSTS_MAX - known, 0)
        for start in range(0, min(len(urls), room), REGISTERED_AT_ONCE):
            rows = [(url, source) for url in urls[start : start + REGISTERED_AT_ONCE]]

            def change(connection: sqlite3.Connection, rows: Sequence[Row] = rows) -> None:
                connection.executemany(_REGISTER, rows)

            await self._database.write(change)

    async def claim(
        self, operation_id: str, url: str | None, *, due_at: float, in_hand: Collection[int]
    ) -> HostPass | None:
        """Take hold of one host, or of any that was due at `due_at`; None where that is none.

        What the operation had begun before a restart comes first, and what it has settled does not
        come again unless it is named; `in_hand` are ids of hosts that it holds already. One that
        another running operation holds cannot be had.
        """
        now = self._clock.now()
        beside = json.dumps(list(in_hand))
        own = await self._database.read(_OWN, (operation_id, beside)) if url is None else ()
        asked = {
            "own": own[0][0] if own else None,
            "operation": operation_id,
            "url": url,
            "due": due_at,
            "now": now,
            "in_hand": beside,
        }

        def change(connection: sqlite3.Connection) -> HostPass | None:
            if url is None:
                row = connection.execute(_STILL_OWN, asked).fetchone()
                row = row or connection.execute(_DUE, asked).fetchone()
            else:
                row = connection.execute(_NAMED, asked).fetchone()
            if row is None:
                return None
            connection.execute(_BEGIN, (operation_id, row[0]))
            connection.execute(_LEASE, (now + LEASE_S, row[0]))
            held = connection.execute(_LEASED, row).fetchone()
            return HostPass(
                operation_id=operation_id,
                host_id=row[0],
                url=held[0],
                cursor=held[1],
                pages=held[2],
                is_listed=bool(held[3]),
                has_repos=bool(held[4]),
                is_relayed=bool(held[5]),
                outcomes=json.loads(held[6]),
            )

        return await self._database.write(change)

    async def release(self, operation_id: str) -> None:
        """Let go of every host; the operation may take hold of them again."""
        await self._database.write(
            lambda connection: (
                connection.execute(
                    "UPDATE host SET leased_until = 0 WHERE operation_id = ? AND is_open = 1",
                    (operation_id,),
                ).rowcount
            )
        )

    async def end_pass(
        self, held: HostPass, unit: SettledUnit, *, error: str | None
    ) -> Operation | None:
        """Settle the host as a unit, and say when it is due again; the operation's row then.

        Without an error it has been scanned, unless the unit says that nobody needed to ask it.
        """
        now, limits = self._clock.now(), self._limits
        is_scanned = error is None and unit.outcome != HostOutcome.COVERED
        has_records = is_scanned and (await self._database.read(_HAS_RECORDS, (held.url,)))[0][0]

        def change(connection: sqlite3.Connection) -> Operation | None:
            key = (held.host_id, held.operation_id)
            if error is not None:
                ended = connection.execute(_FAILED, (error, *key))
            elif is_scanned:
                ended = connection.execute(_SCANNED, (has_records, now, *key))
            else:
                ended = connection.execute(_COVERED, key)
            row = ended.fetchone()
            if row is None:
                return None
            if error is not None:
                delay_s = retry_s(row[0])
            else:
                is_active = row[0] == HostState.ACTIVE
                delay_s = limits.interval_s if is_active else limits.interval_empty_s
            connection.execute(
                "UPDATE host SET next_scan_at = ? WHERE id = ?", (now + delay_s, held.host_id)
            )
            return settle_units(connection, held.operation_id, [unit])

        return await self._database.write(change)

    async def has_completed_scan(self) -> bool:
        """Whether a scan of all hosts was ever completed."""
        return bool(await self._database.read("SELECT 1 FROM first_scan"))

    async def hosts(self, *, after: str, limit: int) -> Sequence[HostRow]:
        """Those with a URL behind `after`, by URL."""
        rows = await self._database.read(_LIST, (self._clock.now(), after, limit))
        return [_host_row(row) for row in rows]

    async def of_operation(self, operation_id: str, *, limit: int) -> Sequence[HostRow]:
        """Those whose last pass was, or is, this operation's, by URL."""
        rows = await self._database.read(_OF_OPERATION, (self._clock.now(), operation_id, limit))
        return [_host_row(row) for row in rows]

    async def totals(self) -> tuple[Mapping[str, int], int]:
        """Hosts by status, and those with records in scope in their last scan."""
        rows = await self._database.read(
            f"SELECT {_STATUS}, count(*), sum(records > 0) FROM host GROUP BY 1",  # noqa: S608 - a constant
            (self._clock.now(),),
        )
        return {row[0]: row[1] for row in rows}, sum(row[2] for row in rows)


def _host_row(row: Row) -> HostRow:
    (
        url, status, scanned_at, next_scan_at, repos, records, failures, failures_total, error,
        operation_id, outcomes,
    ) = row  # fmt: skip
    return HostRow(
        url=url,
        status=HostState(status),
        scanned_at=scanned_at,
        next_scan_at=next_scan_at,
        repos=repos,
        records=records,
        failures=failures,
        failures_total=failures_total,
        error=error,
        operation_id=operation_id,
        outcomes=json.loads(outcomes),
    )
