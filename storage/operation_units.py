"""Units of operations: settled once, begun before they are worked on, folded when all is over."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from indexer.clock import Clock
from indexer.model import FailedUnit, Operation, SettledUnit
from storage.database import Database
from storage.operations import load_operation

FAILURES_KEPT = 100
"""Failed units of one operation that stay listed."""

CRASHES_MAX = 2
"""A unit in progress at so many crashes is not tried again."""

STEP_ROWS = 250
"""Rows removed in one transaction."""

_SETTLE = """
UPDATE operation SET records_processed = records_processed + ?,
                     units_processed = units_processed + ?,
                     units_failed = units_failed + ?,
                     outcomes = ?,
                     checkpoint = coalesce(?, checkpoint),
                     note = coalesce(note || '; ' || ?, ?, note)
WHERE id = ?
"""

_BEGIN = """
INSERT INTO operation_unit_begun (operation_id, unit, is_at_work, crashes) VALUES (?, ?, 1, 0)
ON CONFLICT DO UPDATE SET is_at_work = 1
RETURNING crashes
"""

_ADVANCE = """
INSERT INTO operation_unit_begun (operation_id, unit, is_at_work, crashes, records)
SELECT id, ?2, 0, 0, ?3 FROM operation
WHERE id = ?1 AND status = 'running'
  AND NOT EXISTS (SELECT 1 FROM operation_unit WHERE operation_id = ?1 AND unit = ?2)
ON CONFLICT DO UPDATE SET records = excluded.records WHERE excluded.records > records
"""

_COUNT_CRASHES = """
UPDATE operation_unit_begun SET is_at_work = 0, crashes = crashes + 1 WHERE is_at_work = 1
"""

_PUT_DOWN = "UPDATE operation_unit_begun SET is_at_work = 0 WHERE operation_id = ? AND unit = ?"

_PUT_DOWN_ALL = "UPDATE operation_unit_begun SET is_at_work = 0 WHERE operation_id = ?"

_FOLD = """
DELETE FROM operation_unit WHERE (operation_id, unit) IN (
    SELECT operation_id, unit FROM operation_unit
    WHERE operation_id = ?1 AND is_kept = 0 LIMIT ?2)
"""

_TOO_OLD = """
SELECT id FROM operation
WHERE started_at < ?1 AND completed_at < ?1 AND is_folded ORDER BY started_at LIMIT 1
"""


class OperationUnits:
    """The rows behind `indexer.operations.rows.OperationUnits`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, operation_id: str, unit: str) -> bool:
        """Say that work on a unit starts; False when it has outlived enough crashes."""

        def change(connection: sqlite3.Connection) -> bool:
            crashes = connection.execute(_BEGIN, (operation_id, unit)).fetchone()[0]
            return int(crashes) < CRASHES_MAX

        return await self._database.write(change)

    async def advance(self, operation_id: str, unit: str, records: int) -> Operation | None:
        """Count at the operation what has been compared of a unit so far; the row then.

        None where nothing is new: as many had been counted before a restart or in another attempt,
        the unit had been settled, or the operation has ended.
        """

        def change(connection: sqlite3.Connection) -> Operation | None:
            found = connection.execute(
                "SELECT records FROM operation_unit_begun WHERE operation_id = ? AND unit = ?",
                (operation_id, unit),
            ).fetchone()
            if connection.execute(_ADVANCE, (operation_id, unit, records)).rowcount == 0:
                return None
            more = records - (0 if found is None else found[0])
            connection.execute(
                "UPDATE operation SET records_processed = records_processed + ? WHERE id = ?",
                (more, operation_id),
            )
            return load_operation(connection, operation_id)

        return await self._database.write(change)

    async def settle(self, operation_id: str, unit: SettledUnit) -> Operation | None:
        """Count one unit, once; the row then. None when it had been settled, or all had ended."""
        return await self._database.write(
            lambda connection: settle_units(connection, operation_id, [unit])
        )

    async def put_down(self, operation_id: str, unit: str | None = None) -> None:
        """The work on a unit, or on all of them, stops in good order: it has not crashed."""

        def change(connection: sqlite3.Connection) -> None:
            if unit is None:
                connection.execute(_PUT_DOWN_ALL, (operation_id,))
            else:
                connection.execute(_PUT_DOWN, (operation_id, unit))

        await self._database.write(change)

    async def take_over(self) -> int:
        """At a start, before any work: units that the last process left in progress.

        What was at work waits for its turn from now on: there may be fewer of them.
        """

        def change(connection: sqlite3.Connection) -> int:
            connection.execute("UPDATE operation SET phase = 'queued' WHERE status = 'running'")
            return connection.execute(_COUNT_CRASHES).rowcount

        return await self._database.write(change)

    async def failures(self, operation_id: str) -> list[FailedUnit]:
        """The first failed units, at most `FAILURES_KEPT`, by unit."""
        rows = await self._database.read(
            "SELECT unit, outcome, message FROM operation_unit"
            " WHERE operation_id = ? AND is_kept ORDER BY unit",
            (operation_id,),
        )
        return [FailedUnit(unit=row[0], outcome=row[1], message=row[2]) for row in rows]


def settle_units(
    connection: sqlite3.Connection, operation_id: str, units: Sequence[SettledUnit]
) -> Operation | None:
    """Count units, each once, in the transaction of their last change; the row then.

    None when all of them had been settled before, or the operation has ended. What goes with a unit
    (checkpoint, note) counts only with it.
    """
    row = connection.execute(
        "SELECT units_failed, outcomes FROM operation WHERE id = ? AND status = 'running'",
        (operation_id,),
    ).fetchone()
    if row is None:
        return None
    failures, outcomes = row[0], Counter(json.loads(row[1]))
    new, records = [], 0
    for unit in units:
        more = _insert(connection, operation_id, unit, is_kept=failures < FAILURES_KEPT)
        if more is not None:
            new.append(unit)
            records += more
            failures += unit.is_failed
    if not new:
        return None
    outcomes.update(unit.outcome for unit in new)
    checkpoints = [unit.checkpoint for unit in new if unit.checkpoint is not None]
    note = "; ".join(unit.note for unit in new if unit.note is not None) or None
    connection.execute(
        _SETTLE,
        (
            records,
            len(new),
            sum(unit.is_failed for unit in new),
            json.dumps(outcomes),
            json.dumps(checkpoints[-1]) if checkpoints else None,
            note,
            note,
            operation_id,
        ),
    )
    return load_operation(connection, operation_id)


def _insert(
    connection: sqlite3.Connection, operation_id: str, unit: SettledUnit, *, is_kept: bool
) -> int | None:
    """Its records that have yet to be counted; None for a unit that had been settled before."""
    inserted = connection.execute(
        "INSERT INTO operation_unit (operation_id, unit, outcome, records, message, is_kept)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            operation_id, unit.unit, unit.outcome, unit.records, unit.message,
            unit.is_failed and is_kept,
        ),
    )  # fmt: skip
    if inserted.rowcount == 0:
        return None
    begun = connection.execute(
        "DELETE FROM operation_unit_begun WHERE operation_id = ? AND unit = ? RETURNING records",
        (operation_id, unit.unit),
    ).fetchone()
    counted = 0 if begun is None else begun[0]
    return max(unit.records - counted, 0)


@dataclass(frozen=True, slots=True)
class OperationRetention:
    """Folds the units of ended operations into their counters, and forgets old operations."""

    database: Database
    clock: Clock
    age_s_max: float

    async def step(self) -> int:
        """Remove some rows that are no longer kept; how many, 0 when there is none."""
        oldest = self.clock.now() - self.age_s_max
        return await self.database.write(lambda connection: _step(connection, oldest))


def _step(connection: sqlite3.Connection, oldest: float) -> int:
    unfolded = connection.execute(
        "SELECT id FROM operation WHERE status <> 'running' AND is_folded = 0 LIMIT 1"
    ).fetchone()
    if unfolded is not None:
        removed = connection.execute(_FOLD, (unfolded[0], STEP_ROWS)).rowcount
        if removed < STEP_ROWS:
            connection.execute(
                "DELETE FROM operation_unit_begun WHERE operation_id = ?", (unfolded[0],)
            )
            connection.execute("UPDATE operation SET is_folded = 1 WHERE id = ?", (unfolded[0],))
        return removed + 1
    old = connection.execute(_TOO_OLD, (oldest,)).fetchone()
    if old is None:
        return 0
    units = connection.execute("DELETE FROM operation_unit WHERE operation_id = ?", old).rowcount
    return units + connection.execute("DELETE FROM operation WHERE id = ?", old).rowcount
