"""Starts, resumes, cancels and ends operations.

The row comes first: it is committed before the reply to triggerBackfill, and a boot takes up
every row that still says `running`. A shutdown is not a cancel: the task ends, the row stays.
The only way out of `running` is `OperationRows.end`, which a requested cancel always turns into
`cancelled`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from indexer.clock import Clock
from indexer.errors import (
    ChiveIndexerError,
    LocalFault,
    RequestRefused,
)
from indexer.metrics import Metrics
from indexer.model import Json, Operation, OperationStatus, OperationType
from indexer.operations.operation import Context, OperationKind
from indexer.ports import OperationRows

log = structlog.get_logger(__name__)

QUEUED_MAX = 1000
"""Running and waiting operations together; beyond it a request is refused with 429."""


class Runner:
    """Owns the tasks of all operations. Satisfies `indexer.ports.Backfills`."""

    def __init__(
        self,
        rows: OperationRows,
        kinds: Sequence[OperationKind],
        *,
        max_running: int,
        new_id: Callable[[], str],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._rows = rows
        self._kinds = {kind.type: kind for kind in kinds}
        self._slots = asyncio.Semaphore(max_running)
        self._new_id = new_id
        self._clock = clock
        self._metrics = metrics
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._is_ready = asyncio.Event()

    async def ready(self) -> None:
        """Wait until interrupted operations are taken up and new ones are accepted."""
        await self._is_ready.wait()

    async def run(self) -> None:
        """Resume what a restart interrupted, then work until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            interrupted = await self._rows.list(OperationStatus.RUNNING, QUEUED_MAX)
            for operation in reversed(interrupted):
                if operation.cancel_requested:
                    await self._end(operation, OperationStatus.CANCELLED, None)
                else:
                    self._launch(operation)
            self._is_ready.set()
            await asyncio.Event().wait()

    async def start(
        self, type_name: str, params: Mapping[str, Json], *, started_by: str | None
    ) -> Operation:
        """Start an operation, or return the running one with the same type and key.

        Raises `RequestRefused` before anything has started.
        """
        kind = self._kind(type_name)
        request = kind.parse(params)
        if self._group is None or len(self._tasks) >= QUEUED_MAX:
            raise RequestRefused(
                "RateLimitExceeded", "too many operations wait already", status=429
            )
        wanted = Operation(
            id=self._new_id(),
            type=kind.type,
            key=request.key,
            mode="supplement",
            phase="queued",
            params=request.params,
            status=OperationStatus.RUNNING,
            started_at=self._clock.now(),
            completed_at=None,
            started_by=started_by,
            records_processed=0,
            total_records=None,
            unit=kind.unit,
            units_processed=0,
            total_units=request.total_units,
            outcomes={},
            checkpoint=None,
            error=None,
            cancel_requested=False,
        )
        operation = await self._rows.insert(wanted)
        if operation.id == wanted.id:
            log.info(
                "operation.started",
                operation_id=operation.id,
                type=operation.type,
                key=operation.key,
                started_by=started_by,
            )
            self._launch(operation)
        return operation

    async def cancel(self, operation_id: str) -> bool:
        """Ask a running operation to stop; False when it has already ended."""
        if await self._rows.load(operation_id) is None:
            raise RequestRefused("InvalidRequest", f"parameter id: no operation {operation_id}")
        if not await self._rows.request_cancel(operation_id):
            return False
        task = self._tasks.get(operation_id)
        if task is not None:
            task.cancel()
        return True

    async def get(self, operation_id: str) -> Operation | None:
        """The operation with this id."""
        return await self._rows.load(operation_id)

    async def list(
        self, *, status: OperationStatus | None = None, limit: int = 100
    ) -> Sequence[Operation]:
        """Newest first."""
        return await self._rows.list(status, limit)

    def running(self) -> Mapping[OperationType, int]:
        """How many operations of each type are running or queued."""
        counts = dict.fromkeys(OperationType, 0)
        for task in self._tasks.values():
            counts[OperationType(task.get_name().split(":")[0])] += 1
        return counts

    def _kind(self, type_name: str) -> OperationKind:
        try:
            operation_type = OperationType(type_name)
        except ValueError:
            known = ", ".join(OperationType)
            raise RequestRefused(
                "InvalidBackfillType", f"unknown type {type_name[:100]!r}; known: {known}"
            ) from None
        kind = self._kinds.get(operation_type)
        if kind is None:
            raise RequestRefused(
                "NotImplemented",
                f"type {operation_type} is not available in this version",
                status=501,
            )
        return kind

    def _launch(self, operation: Operation) -> None:
        if self._group is None:
            raise AssertionError("operations are launched by a running runner")
        task = self._group.create_task(
            self._carry_out(operation), name=f"{operation.type}:{operation.id}"
        )
        self._tasks[operation.id] = task

    async def _carry_out(self, operation: Operation) -> None:
        """One operation from its slot to its end."""
        try:
            async with self._slots:
                await self._rows.set_phase(operation.id, "running")
                await self._kinds[operation.type].run(Context(operation, self._rows))
        except asyncio.CancelledError:
            row = await asyncio.shield(self._rows.load(operation.id))
            if row is None or not row.cancel_requested:
                raise  # the process stops; the next boot resumes
            await asyncio.shield(self._end(operation, OperationStatus.CANCELLED, None))
        except LocalFault:
            raise
        except ChiveIndexerError as error:
            await self._end(operation, OperationStatus.FAILED, str(error))
        except Exception as error:
            log.exception("operation.crashed", operation_id=operation.id)
            await self._end(operation, OperationStatus.FAILED, f"bug: {error!r}")
        else:
            await self._end(operation, OperationStatus.COMPLETED, None)
        finally:
            self._tasks.pop(operation.id, None)

    async def _end(self, operation: Operation, status: OperationStatus, error: str | None) -> None:
        ended = await self._rows.end(operation.id, status, error)
        self._metrics.backfill_operations.labels(ended.type, ended.status).inc()
        self._metrics.backfill_duration_seconds.labels(ended.type).observe(
            (ended.completed_at or ended.started_at) - ended.started_at
        )
        log.info(
            f"operation.{ended.status}",
            operation_id=ended.id,
            type=ended.type,
            key=ended.key,
            records=ended.records_processed,
            reason=ended.error,
        )
