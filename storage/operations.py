"""Operation rows: durable from the reply to triggerBackfill until retention removes them."""

from __future__ import annotations

import json
import sqlite3

from indexer.clock import Clock
from indexer.errors import LocalFault
from indexer.model import Operation, OperationMode, OperationStatus, OperationType
from storage.database import Database, Row

_COLUMNS = (
    "id, type, key, mode, phase, params, status, started_at, completed_at, started_by,"
    " records_processed, total_records, unit, units_processed, total_units, outcomes,"
    " checkpoint, error, cancel_requested, units_failed, note, work_began_at, units_before"
)

_INSERT = f"INSERT INTO operation ({_COLUMNS}) VALUES ({', '.join('?' * 23)})"  # noqa: S608 - constants

_END = """
UPDATE operation SET status = CASE WHEN cancel_requested THEN 'cancelled' ELSE ? END,
                     error = CASE WHEN cancel_requested THEN NULL ELSE ? END,
                     phase = 'ended',
                     completed_at = ?
WHERE id = ? AND status = 'running'
"""


class OperationStore:
    """The rows behind `indexer.operations.rows.OperationRows`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def insert(self, operation: Operation, *, running_max: int) -> Operation | None:
        """Store a new running operation, or return the running one with its type and key.

        None: as many are running or queued as may be.
        """

        def change(connection: sqlite3.Connection) -> Operation | None:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM operation"  # noqa: S608 - a constant
                " WHERE type = ? AND key = ? AND status = 'running'",
                (operation.type, operation.key),
            ).fetchone()
            if row is not None:
                return _operation_from_row(row)
            running = connection.execute(
                "SELECT count(*) FROM operation WHERE status = 'running'"
            ).fetchone()[0]
            if running >= running_max:
                return None
            connection.execute(_INSERT, _row_from_operation(operation))
            return operation

        return await self._database.write(change)

    async def load(self, operation_id: str) -> Operation | None:
        """One operation by id."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM operation WHERE id = ?",  # noqa: S608 - a constant
            (operation_id,),
        )
        return _operation_from_row(rows[0]) if rows else None

    async def list(
        self, status: OperationStatus | None, limit: int, *, has_ended: bool = False
    ) -> list[Operation]:
        """Newest first; of those that run, the ones that wait come last.

        With `has_ended` whatever has ended, however it did.
        """
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM operation"  # noqa: S608 - a constant
            " WHERE (?1 IS NULL OR status = ?1) AND NOT (?3 AND status = 'running')"
            " ORDER BY ?1 = 'running' AND phase = 'queued', started_at DESC, id DESC LIMIT ?2",
            (status, limit, has_ended),
        )
        return [_operation_from_row(row) for row in rows]

    async def last_started_at(self, kind: OperationType, key: str) -> float | None:
        """When the newest one of this type and key was started, unix seconds; None: never.

        Those that are yet to be started do not count: a clock that was ahead has written it.
        """
        rows = await self._database.read(
            "SELECT max(started_at) FROM operation WHERE type = ? AND key = ? AND started_at <= ?",
            (kind, key, self._clock.now()),
        )
        at: float | None = rows[0][0]
        return at

    async def request_cancel(self, operation_id: str) -> bool:
        """Record that an admin wants it ended; False when it is not running."""

        def change(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                "UPDATE operation SET cancel_requested = 1 WHERE id = ? AND status = 'running'",
                (operation_id,),
            )
            return cursor.rowcount == 1

        return await self._database.write(change)

    async def begin(self, operation_id: str) -> Operation:
        """Say that an operation has got its turn; its row then."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> Operation:
            connection.execute(
                "UPDATE operation SET phase = 'running', work_began_at = ?,"
                " units_before = units_processed WHERE id = ? AND status = 'running'",
                (now, operation_id),
            )
            return load_operation(connection, operation_id)

        return await self._database.write(change)

    async def go_on_as_supplement(self, operation_id: str, note: str) -> None:
        """The live stream is not, or no longer, held for a running operation; `note` says why."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE operation SET mode = 'supplement', note = ?"
                " WHERE id = ? AND status = 'running'",
                (note, operation_id),
            )

        await self._database.write(change)

    async def end(self, operation_id: str, status: OperationStatus, error: str | None) -> Operation:
        """The one transition out of `running`; with a cancel requested it is to `cancelled`."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> Operation:
            connection.execute(_END, (status, error, now, operation_id))
            return load_operation(connection, operation_id)

        return await self._database.write(change)


def load_operation(connection: sqlite3.Connection, operation_id: str) -> Operation:
    """The row of an operation that must be there, inside a transaction."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM operation WHERE id = ?",  # noqa: S608 - a constant
        (operation_id,),
    ).fetchone()
    if row is None:
        raise LocalFault(f"operation {operation_id} has vanished")
    return _operation_from_row(row)


def _row_from_operation(operation: Operation) -> tuple[object, ...]:
    return (
        operation.id,
        operation.type,
        operation.key,
        operation.mode,
        operation.phase,
        json.dumps(operation.params),
        operation.status,
        operation.started_at,
        operation.completed_at,
        operation.started_by,
        operation.records_processed,
        operation.total_records,
        operation.unit,
        operation.units_processed,
        operation.total_units,
        json.dumps(operation.outcomes),
        None if operation.checkpoint is None else json.dumps(operation.checkpoint),
        operation.error,
        operation.cancel_requested,
        operation.units_failed,
        operation.note,
        operation.work_began_at,
        operation.units_before,
    )


def _operation_from_row(row: Row) -> Operation:
    return Operation(
        id=row[0],
        type=OperationType(row[1]),
        key=row[2],
        mode=OperationMode(row[3]),
        phase=row[4],
        params=json.loads(row[5]),
        status=OperationStatus(row[6]),
        started_at=row[7],
        completed_at=row[8],
        started_by=row[9],
        records_processed=row[10],
        total_records=row[11],
        unit=row[12],
        units_processed=row[13],
        total_units=row[14],
        outcomes=json.loads(row[15]),
        checkpoint=None if row[16] is None else json.loads(row[16]),
        error=row[17],
        cancel_requested=bool(row[18]),
        units_failed=row[19],
        note=row[20],
        work_began_at=row[21],
        units_before=row[22],
    )
