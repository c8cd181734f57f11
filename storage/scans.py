"""What a scan of hosts works through: pages of their lists, unknown repos to ask about, answers.

A page counts in the transaction that moves the host's cursor, an unknown repo in the one that takes
it off the list of candidates: so each counts once, however often the process ends in between.
Answers that a host has nothing for us are remembered by a hash of host, DID and scope, because
another host's word on the same DID is worth nothing, nor is what was said of another scope.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence

from indexer.clock import Clock
from indexer.hosts import (
    LEASE_S,
    HostPass,
    KnownRepo,
    PageTaken,
    ScanLimits,
    StrangerOutcome,
)
from indexer.model import Json, Operation, OperationStatus, SettledUnit
from storage.database import Database
from storage.operation_units import settle_units
from storage.operations import load_operation
from storage.repos import COLUMNS, repo_from_row

DAY_S = 86_400

AT_ONCE = 500
"""Rows read, written or removed in one transaction."""

NOMINEES_MAX = 200_000

_ADVANCE = """
UPDATE host SET cursor = ?, pages = pages + 1, is_listed = ?, leased_until = ?,
                pass_records = pass_records + ?, outcomes = ?
WHERE id = ? AND operation_id = ? AND is_open = 1
"""

_COUNT_AT_HOST = """
UPDATE host SET leased_until = ?, pass_records = pass_records + ?, outcomes = ? WHERE id = ?
"""

_COUNT = """
UPDATE operation SET records_processed = records_processed + ?,
                     units_processed = units_processed + ?, outcomes = ?
WHERE id = ?
"""

_TOO_MANY = """
DELETE FROM scan_candidate WHERE operation_id = ?1 AND host_id = ?2 AND did IN (
    SELECT did FROM scan_candidate WHERE operation_id = ?1 AND host_id = ?2
    ORDER BY rev DESC LIMIT -1 OFFSET ?3)
"""

_ENDED = """
SELECT DISTINCT operation_id FROM {0} WHERE NOT EXISTS (
    SELECT 1 FROM operation WHERE id = {0}.operation_id AND status = 'running')
"""

_TIDY_CANDIDATES = f"""
DELETE FROM scan_candidate WHERE (operation_id, host_id, did) IN (
    SELECT operation_id, host_id, did FROM scan_candidate WHERE operation_id = ? LIMIT {AT_ONCE})
"""  # noqa: S608 - constants

_TIDY_NOMINEES = f"""
DELETE FROM scan_nominee WHERE (operation_id, did) IN (
    SELECT operation_id, did FROM scan_nominee WHERE operation_id = ? LIMIT {AT_ONCE})
"""  # noqa: S608 - constants

_TIDY_ANSWERS = f"""
DELETE FROM asked_repo WHERE hash IN (
    SELECT hash FROM asked_repo WHERE asked_on < ? ORDER BY asked_on LIMIT {AT_ONCE})
"""  # noqa: S608 - constants

_FORGET_OLDEST = """
DELETE FROM asked_repo WHERE hash IN (SELECT hash FROM asked_repo ORDER BY asked_on LIMIT ?)
"""


class ScanStore:
    """Satisfies what `indexer.operations` needs of the store for a pass over a host."""

    def __init__(self, database: Database, *, limits: ScanLimits, clock: Clock) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock

    async def known(self, dids: Sequence[str]) -> dict[str, KnownRepo]:
        """The tracked ones among the DIDs."""
        found: dict[str, KnownRepo] = {}
        for start in range(0, len(dids), AT_ONCE):
            rows = await self._database.read(
                f"SELECT {COLUMNS}, pds_url, records FROM repo"  # noqa: S608 - a constant
                " WHERE did IN (SELECT value FROM json_each(?))",
                (json.dumps(dids[start : start + AT_ONCE]),),
            )
            for row in rows:
                known = KnownRepo(repo_from_row(row[:-2]), row[-2], row[-1])
                found[known.repo.did] = known
        return found

    async def verified(self, dids: Sequence[str], *, at: float) -> None:
        """What we hold of these repos is what their host had, which was asked `at` that time."""
        for start in range(0, len(dids), AT_ONCE):
            rows = [(at, did) for did in dids[start : start + AT_ONCE]]

            def change(
                connection: sqlite3.Connection, rows: Sequence[tuple[float, str]] = rows
            ) -> None:
                connection.executemany(
                    "UPDATE repo SET verified_at = max(verified_at, ?) WHERE did = ?", rows
                )

            await self._database.write(change)

    async def asked_before(self, url: str, dids: Sequence[str]) -> set[str]:
        """Those that this host was asked about not long ago, and that had nothing for us."""
        hashes = {self._hash(url, did): did for did in dids}
        today = self._today()
        rows = await self._database.read(
            "SELECT hash FROM asked_repo WHERE hash IN (SELECT value FROM json_each(?))"
            " AND asked_on BETWEEN ? AND ?",  # a day to come is from a clock that was ahead
            (json.dumps(list(hashes)), today - self._limits.ask_again_days, today),
        )
        return {hashes[row[0]] for row in rows}

    async def nominate(self, operation_id: str, dids: Sequence[str]) -> None:
        """Keep for the time of the operation which DIDs the relay has named."""
        # Not by the writer: it counts up to `NOMINEES_MAX` rows.
        held = await self._database.read(
            "SELECT count(*) FROM scan_nominee WHERE operation_id = ?", (operation_id,)
        )
        kept = dids[: max(NOMINEES_MAX - held[0][0], 0)]
        for start in range(0, len(kept), AT_ONCE):
            rows = [(operation_id, did) for did in kept[start : start + AT_ONCE]]

            def change(
                connection: sqlite3.Connection, rows: Sequence[tuple[str, str]] = rows
            ) -> None:
                connection.executemany(
                    "INSERT INTO scan_nominee (operation_id, did) VALUES (?, ?)"
                    " ON CONFLICT DO NOTHING",
                    rows,
                )

            await self._database.write(change)

    async def nominated(self, operation_id: str, dids: Sequence[str]) -> set[str]:
        """Those of the DIDs that the relay has named."""
        rows = await self._database.read(
            "SELECT did FROM scan_nominee WHERE operation_id = ?"
            " AND did IN (SELECT value FROM json_each(?))",
            (operation_id, json.dumps(list(dids))),
        )
        return {row[0] for row in rows}

    async def settled(self, operation_id: str, units: Sequence[str]) -> set[str]:
        """Those of the DIDs or hosts' URLs that the operation has settled as units."""
        rows = await self._database.read(
            "SELECT unit FROM operation_unit WHERE operation_id = ?"
            " AND unit IN (SELECT value FROM json_each(?))",
            (operation_id, json.dumps(list(units))),
        )
        return {row[0] for row in rows}

    async def keep(self, operation_id: str, checkpoint: Json) -> None:
        """Save how far an operation has come apart from its hosts."""
        text = json.dumps(checkpoint)
        await self._database.write(
            lambda connection: (
                connection.execute(
                    "UPDATE operation SET checkpoint = ? WHERE id = ? AND status = 'running'",
                    (text, operation_id),
                ).rowcount
            )
        )

    async def add_candidates(self, held: HostPass, repos: Sequence[tuple[str, str]]) -> None:
        """Unknown repos of a page, as (DID, rev), that may have to be asked about."""
        for start in range(0, len(repos), AT_ONCE):
            rows = [
                (held.operation_id, held.host_id, *repo) for repo in repos[start : start + AT_ONCE]
            ]

            def change(
                connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str, str]] = rows
            ) -> None:
                connection.executemany(
                    "INSERT INTO scan_candidate (operation_id, host_id, did, rev)"
                    " VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    rows,
                )

            await self._database.write(change)

    async def advance(self, held: HostPass, page: PageTaken) -> Operation | None:
        """Count a page and go on with the next; the operation's row then.

        Of the candidates so far only the newest by rev are kept, as many as may be asked about.
        """
        lease = self._clock.now() + LEASE_S
        key = (held.operation_id, held.host_id)

        def change(connection: sqlite3.Connection) -> Operation | None:
            excess = connection.execute(_TOO_MANY, (*key, self._limits.asked_max)).rowcount
            outcomes = Counter(page.outcomes)
            if excess:
                outcomes[StrangerOutcome.UNASKED] += excess
            there = outcomes + Counter(page.outcomes_before)
            at_host = _merged(connection, "host", held.host_id, there)
            moved = connection.execute(
                _ADVANCE,
                (page.cursor, page.is_last, lease, page.records + page.records_before, at_host,
                 held.host_id, held.operation_id),
            )  # fmt: skip
            if moved.rowcount == 0:
                return None
            return _counted(connection, held.operation_id, outcomes, page.records)

        return await self._database.write(change)

    async def candidates(self, held: HostPass, limit: int) -> list[str]:
        """DIDs still to be asked about, those that changed last first."""
        rows = await self._database.read(
            "SELECT did FROM scan_candidate WHERE operation_id = ? AND host_id = ?"
            " ORDER BY rev DESC LIMIT ?",
            (held.operation_id, held.host_id, limit),
        )
        return [row[0] for row in rows]

    async def dismiss(
        self, held: HostPass, did: str, outcome: StrangerOutcome, *, is_answer: bool
    ) -> Operation | None:
        """Count a candidate that is not to be tracked; an answer of its host is remembered."""
        today = self._today()

        def change(connection: sqlite3.Connection) -> Operation | None:
            if is_answer:
                connection.execute(
                    "INSERT INTO asked_repo (hash, asked_on) VALUES (?, ?)"
                    " ON CONFLICT DO UPDATE SET asked_on = excluded.asked_on",
                    (self._hash(held.url, did), today),
                )
            if not _take_off(connection, held, did):
                return None
            self._count_at_host(connection, held, {outcome: 1}, 0)
            return _counted(connection, held.operation_id, {outcome: 1}, 0)

        return await self._database.write(change)

    async def settle(self, held: HostPass, unit: SettledUnit) -> Operation | None:
        """Count a repo that was worked on, once, and take it off the candidates."""

        def change(connection: sqlite3.Connection) -> Operation | None:
            _take_off(connection, held, unit.unit)
            row = settle_units(connection, held.operation_id, [unit])
            if row is not None:
                self._count_at_host(connection, held, {unit.outcome: 1}, unit.records)
            return row

        return await self._database.write(change)

    async def leave(self, held: HostPass) -> Operation | None:
        """Count the candidates that a pass which has failed leaves as not asked about."""
        row = None
        while left := await self.candidates(held, AT_ONCE):

            def change(
                connection: sqlite3.Connection, left: Sequence[str] = left
            ) -> Operation | None:
                taken = sum(_take_off(connection, held, did) for did in left)
                outcomes: dict[str, int] = {StrangerOutcome.UNASKED: taken}
                self._count_at_host(connection, held, outcomes, 0)
                return _counted(connection, held.operation_id, outcomes, 0)

            row = await self._database.write(change)
        return row

    async def tidy(self) -> None:
        """Forget what ended operations have left, and answers that are old or too many."""
        oldest = self._today() - self._limits.ask_again_days
        for table, statement in (
            ("scan_candidate", _TIDY_CANDIDATES), ("scan_nominee", _TIDY_NOMINEES),
        ):  # fmt: skip
            # Which they are is no question for the writer: it goes through all rows that there are.
            for (operation_id,) in await self._database.read(_ENDED.format(table)):
                while await self._remove(statement, (operation_id,)) == AT_ONCE:
                    pass
        while await self._remove(_TIDY_ANSWERS, (oldest,)) == AT_ONCE:
            pass
        held = (await self._database.read("SELECT count(*) FROM asked_repo"))[0][0]
        while held > self._limits.remembered_max:
            held -= await self._remove(_FORGET_OLDEST, (AT_ONCE,))

    async def _remove(self, statement: str, parameters: tuple[str | int]) -> int:
        return await self._database.write(
            lambda connection: connection.execute(statement, parameters).rowcount
        )

    def _count_at_host(
        self,
        connection: sqlite3.Connection,
        held: HostPass,
        outcomes: Mapping[str, int],
        records: int,
    ) -> None:
        at_host = _merged(connection, "host", held.host_id, outcomes)
        lease = self._clock.now() + LEASE_S
        connection.execute(_COUNT_AT_HOST, (lease, records, at_host, held.host_id))

    def _today(self) -> int:
        return int(self._clock.now() // DAY_S)

    def _hash(self, url: str, did: str) -> int:
        """That a repo has nothing for us was said of today's scope alone."""
        text = f"{url} {did} {self._limits.scope_id}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


def _take_off(connection: sqlite3.Connection, held: HostPass, did: str) -> bool:
    """Whether the DID was a candidate of the pass."""
    cursor = connection.execute(
        "DELETE FROM scan_candidate WHERE operation_id = ? AND host_id = ? AND did = ?",
        (held.operation_id, held.host_id, did),
    )
    return cursor.rowcount == 1


def _merged(
    connection: sqlite3.Connection, table: str, identifier: object, more: Mapping[str, int]
) -> str:
    """The outcomes of a row with more of them, as the JSON text of the column."""
    row = connection.execute(f"SELECT outcomes FROM {table} WHERE id = ?", (identifier,)).fetchone()  # noqa: S608 - one of two tables
    outcomes = Counter(json.loads(row[0]))
    outcomes.update(more)
    return json.dumps(outcomes)


def _counted(
    connection: sqlite3.Connection, operation_id: str, outcomes: Mapping[str, int], records: int
) -> Operation | None:
    """Count units without rows of their own; the operation's row then, None when it has ended."""
    if load_operation(connection, operation_id).status is not OperationStatus.RUNNING:
        return None
    merged = _merged(connection, "operation", operation_id, outcomes)
    connection.execute(_COUNT, (records, sum(outcomes.values()), merged, operation_id))
    return load_operation(connection, operation_id)
