"""A freshness scan's rows: which repos it has yet to visit, and what was decided about them.

A repo counts as visited when the operation has a row for it as a unit. That row is written in the
transaction that changes the repo, so a scan that is taken up again asks about nothing twice.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence

from indexer.clock import Clock
from indexer.freshness import VERIFIED, Decision, Scan, WaitingHost, WaitingRepo
from indexer.model import Json, Operation, SettledUnit, utc_text
from indexer.planning import Repo
from storage.database import Database, Row
from storage.operation_units import settle_units
from storage.operations import load_operation
from storage.repos import COLUMNS, load_repos, repo_from_row, update_repos

STEP_REPOS = 100
"""Repos decided in one transaction, which each change a row, two of its indexes and a unit's."""

_BEGIN = """
UPDATE operation SET total_units = (SELECT count(*) FROM repo),
                     checkpoint = json_object('upto', (SELECT coalesce(max(id), 0) FROM repo))
WHERE id = ? AND checkpoint IS NULL
"""

_KEEP = "UPDATE operation SET checkpoint = ? WHERE id = ? AND status = 'running'"

# By anybody since the scan began. A time that is yet to come is from a clock that was ahead.
_IS_COMPARED = "verified_at BETWEEN ?1 AND ?2"

# Hosts whose repos have waited longest come first. What was verified since the scan began has had
# its turn, so that a host moves out of sight when it has been visited.
_HOSTS = f"""
SELECT *, EXISTS (SELECT 1 FROM repo WHERE pds_url = host.url AND state <> 'denied') FROM (
    SELECT pds_url AS url, min(verified_at) AS oldest, count(*) FROM repo
    WHERE pds_url IS NOT NULL AND id <= ?3 AND NOT ({_IS_COMPARED})
    GROUP BY pds_url HAVING (oldest, url) > (?5, ?6)
    ORDER BY oldest, url LIMIT ?7) AS host
ORDER BY oldest, url
"""  # noqa: S608 - a constant

_IS_LEFT = "NOT EXISTS (SELECT 1 FROM operation_unit WHERE operation_id = ?4 AND unit = did)"

_OF_HOST = f"""
SELECT id, did, verified_at, {_IS_COMPARED} FROM repo
WHERE pds_url = ?5 AND (verified_at, id) > (?6, ?7) AND id <= ?3
      AND state <> 'denied' AND {_IS_LEFT}
ORDER BY verified_at, id LIMIT ?8
"""  # noqa: S608 - constants

_OF_ALL = f"""
SELECT id, did, verified_at, {_IS_COMPARED} FROM repo
WHERE id > ?5 AND id <= ?3 AND {_IS_LEFT} ORDER BY id LIMIT ?6
"""  # noqa: S608 - constants

_AMONG = """
SELECT did, (SELECT count(*) FROM record WHERE repo_id = repo.id) FROM repo
WHERE did IN (SELECT value FROM json_each(?1)) AND id <= ?2 AND (?4 IS NULL OR pds_url = ?4)
  AND NOT EXISTS (SELECT 1 FROM operation_unit WHERE operation_id = ?3 AND unit = did)
"""

# What others have compared since the scan began was compared when they say, and not now: a loss of
# the stream may have come in between, and its repair goes by that time.
_VERIFIED = "UPDATE repo SET verified_at = ? WHERE id = ? AND verified_at < ?"


class FreshnessStore:
    """Satisfies what `indexer.operations.freshness_scan` needs of the store."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, operation_id: str) -> Operation:
        """Set what the scan comprises, once: all repos that are tracked now. Its row then."""

        def change(connection: sqlite3.Connection) -> Operation:
            connection.execute(_BEGIN, (operation_id,))
            return load_operation(connection, operation_id)

        return await self._database.write(change)

    async def hosts(self, scan: Scan, *, after: tuple[float, str], limit: int) -> list[WaitingHost]:
        """Hosts of repos not verified since it began, those that have waited longest first.

        `after` is the (oldest, URL) of the last one handed out.
        """
        rows = await self._database.read(_HOSTS, (*self._of(scan), *after, limit))
        return [WaitingHost(row[0], row[1], row[2], is_open=bool(row[3])) for row in rows]

    async def of_host(
        self, scan: Scan, pds_url: str, *, after: tuple[float, int], limit: int
    ) -> list[WaitingRepo]:
        """Repos of a host left to visit, those that have waited longest first.

        `after` is the (verified_at, id) of the last one handed out.
        """
        rows = await self._database.read(_OF_HOST, (*self._of(scan), pds_url, *after, limit))
        return [_waiting_repo(row) for row in rows]

    async def of_all(self, scan: Scan, *, after_id: int, limit: int) -> list[WaitingRepo]:
        """Repos left to visit, whatever their host, by id."""
        rows = await self._database.read(_OF_ALL, (*self._of(scan), after_id, limit))
        return [_waiting_repo(row) for row in rows]

    async def decide(
        self,
        scan: Scan,
        dids: Collection[str],
        decide: Callable[[Repo], Decision],
        *,
        pds_url: str | None = None,
    ) -> tuple[Operation | None, dict[str, Decision]]:
        """Apply `decide` to those of the repos that are left to visit, in short transactions.

        With `pds_url` only to repos of that host: a host's word on others' counts for nothing.
        Returns the operation's row if it has changed, and the decisions.
        """
        rows = await self._database.read(
            _AMONG, (json.dumps(list(dids)), scan.upto, scan.operation_id, pds_url)
        )
        records: dict[str, int] = dict(rows)
        row: Operation | None = None
        decisions: dict[str, Decision] = {}
        ours = list(records)
        for start in range(0, len(ours), STEP_REPOS):
            step = ours[start : start + STEP_REPOS]
            taken, made = await self._step(scan, step, decide, records)
            row = taken or row
            decisions |= made
        return row, decisions

    async def load(self, dids: Collection[str]) -> list[Repo]:
        """The repos as they are now."""
        rows = await self._database.read(
            f"SELECT {COLUMNS} FROM repo WHERE did IN (SELECT value FROM json_each(?))",  # noqa: S608 - a constant
            (json.dumps(list(dids)),),
        )
        return [repo_from_row(row) for row in rows]

    async def keep(self, scan: Scan, checkpoint: Json) -> None:
        """Save where the scan has come to."""
        text = json.dumps(checkpoint)
        await self._database.write(
            lambda connection: connection.execute(_KEEP, (text, scan.operation_id)).rowcount
        )

    def _of(self, scan: Scan) -> tuple[float, float, int, str]:
        """?1 to ?4 of the queries above."""
        return scan.since, self._clock.now(), scan.upto, scan.operation_id

    async def _step(
        self,
        scan: Scan,
        dids: Sequence[str],
        decide: Callable[[Repo], Decision],
        records: dict[str, int],
    ) -> tuple[Operation | None, dict[str, Decision]]:
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> tuple[Operation | None, dict[str, Decision]]:
            repos = load_repos(connection, dids)
            made = {did: decide(repo) for did, repo in repos.items()}
            changed = [(repos[did], each.repo) for did, each in made.items()]
            update_repos(
                connection, [pair for pair in changed if pair[0] is not pair[1]], at=utc_text(now)
            )
            verified = [each.repo.id for each in made.values() if each.outcome in VERIFIED]
            connection.executemany(_VERIFIED, [(now, each, scan.since) for each in verified])
            units = [
                _unit(did, each, records[did])
                for did, each in made.items()
                if each.outcome is not None
            ]
            return settle_units(connection, scan.operation_id, units), made

        return await self._database.write(change)


def _waiting_repo(row: Row) -> WaitingRepo:
    return WaitingRepo(row[0], row[1], row[2], is_compared=bool(row[3]))


def _unit(did: str, decision: Decision, records: int) -> SettledUnit:
    return SettledUnit(
        unit=did,
        outcome=str(decision.outcome),
        records=records if decision.outcome in VERIFIED else 0,
        is_failed=decision.is_failed,
        message=decision.repo.reason if decision.is_failed else None,
    )
