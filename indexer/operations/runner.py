"""Starts, resumes, cancels and ends operations.

The row comes first: it is committed before the reply to triggerBackfill, and a boot takes up
every row that still says `running`. A shutdown is not a cancel: the task ends, the row stays.
The only way out of `running` is `OperationRows.end`, which a requested cancel always turns into
`cancelled`. What its units came to decides how an operation ends that was carried through: it has
failed when all of them have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import structlog

from indexer.clock import Clock
from indexer.errors import (
    ChiveIndexerError,
    LocalBusy,
    LocalFault,
    RequestRefused,
)
from indexer.hosts import has_all_failed
from indexer.metrics import Metrics
from indexer.model import (
    FailedUnit,
    Json,
    Operation,
    OperationMode,
    OperationStatus,
    OperationType,
)
from indexer.operations.operation import Context, OperationKind, insist
from indexer.operations.pausing import Pauses
from indexer.operations.rows import OperationRows, OperationUnits

log = structlog.get_logger(__name__)

QUEUED_MAX = 1000
"""Running and waiting operations together; beyond it a request is refused with 429."""

PUT_DOWN_S = 2.0
"""Time to note that the process stops, and has not crashed, in the midst of an operation: where the
store is busy for longer, the next start takes what was under way for interrupted."""

JOINING_PARAMS = frozenset({"batchSize"})
"""Parameters that say how something is done, not what: the running operation keeps its own."""


class Runner:
    """Owns the tasks of all operations. Satisfies `indexer.ports.Backfills`."""

    def __init__(
        self,
        rows: OperationRows,
        units: OperationUnits,
        kinds: Sequence[OperationKind],
        *,
        pauses: Pauses,
        modes: Mapping[OperationType, OperationMode],
        max_running: int,
        new_id: Callable[[], str],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._rows = rows
        self._units = units
        self._kinds = {kind.type: kind for kind in kinds}
        self._pauses = pauses
        self._modes = modes  # where the call does not say
        self._slots = asyncio.Semaphore(max_running)
        self._new_id = new_id
        self._clock = clock
        self._metrics = metrics
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()  # tasks that an admin has ended, not a shutdown
        self._progress: dict[str, Operation] = {}  # rows of what is at work
        self._group: asyncio.TaskGroup | None = None
        self._is_ready = asyncio.Event()
        self._is_stopping = False

    async def ready(self) -> None:
        """Wait until interrupted operations are taken up and new ones are accepted."""
        await self._is_ready.wait()

    async def run(self) -> None:
        """Resume what a restart interrupted, then work until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._pauses.run(), name="pauses")
            listed = partial(self._rows.list, OperationStatus.RUNNING, QUEUED_MAX)
            oldest_first = reversed(await insist(listed))
            if crashed := await insist(self._units.take_over):
                log.warning("operation.units_interrupted", units=crashed)
            for operation in sorted(oldest_first, key=lambda row: row.phase == "queued"):
                if operation.cancel_requested:
                    await self._end(operation, OperationStatus.CANCELLED, None)
                else:
                    self._launch(operation)
            self._is_ready.set()
            try:
                await asyncio.Event().wait()
            finally:
                self._is_stopping = True

    async def start(
        self, type_name: str, params: Mapping[str, Json], *, started_by: str | None
    ) -> Operation:
        """Start an operation, or return the running one with the same type and key.

        The one that runs keeps its mode and batch size. Raises `RequestRefused` before anything
        has started: also where the one that runs has been asked for something else.
        """
        kind = self._kind(type_name)
        request = kind.parse({name: each for name, each in params.items() if name != "mode"})
        if request.check is not None:
            await request.check()
        wanted = Operation(
            id=self._new_id(),
            type=kind.type,
            key=request.key,
            mode=_mode(params["mode"]) if "mode" in params else self._modes[kind.type],
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
        operation = await self._inserted(wanted)
        if operation is None:
            raise RequestRefused(
                "RateLimitExceeded", "too many operations wait already", status=429
            )
        if operation.id == wanted.id:
            log.info(
                "operation.started",
                operation_id=operation.id,
                type=operation.type,
                key=operation.key,
                started_by=started_by,
            )
            self._launch(operation)
        else:
            _check_joins(operation, request.params)
        return operation

    async def _inserted(self, wanted: Operation) -> Operation | None:
        """The row, or that of the running one with its key; None where too many wait.

        One that is being cancelled is waited for: who asks anew does not ask for its end.
        """
        while True:
            operation = await self._rows.insert(wanted, running_max=QUEUED_MAX)
            if operation is None or not operation.cancel_requested:
                return operation
            ending = self._tasks.get(operation.id)
            if ending is None:  # the process stops, and the next start ends it
                return operation
            await asyncio.wait((ending,))

    async def cancel(self, operation_id: str) -> bool:
        """Ask a running operation to stop; False when it has already ended."""
        if await self._rows.load(operation_id) is None:
            raise RequestRefused("InvalidRequest", f"parameter id: no operation {operation_id}")
        if not await self._rows.request_cancel(operation_id):
            return False
        task = self._tasks.get(operation_id)
        # Once only: a second one would interrupt the ending of the row.
        if task is not None and operation_id not in self._cancelled:
            self._cancelled.add(operation_id)
            task.cancel()
        return True

    async def get(self, operation_id: str) -> Operation | None:
        """The operation with this id."""
        return await self._rows.load(operation_id)

    async def failures(self, operation_id: str) -> Sequence[FailedUnit]:
        """The first of its units that failed; a hundred are kept."""
        return await self._units.failures(operation_id)

    async def list(
        self, *, status: OperationStatus | None = None, limit: int = 100
    ) -> Sequence[Operation]:
        """Newest first; of those that run, the ones that wait come last."""
        return await self._rows.list(status, limit)

    async def history(self, *, limit: int = 100) -> Sequence[Operation]:
        """Those that have ended, the newest first."""
        return await self._rows.list(None, limit, has_ended=True)

    def running(self) -> Mapping[OperationType, int]:
        """How many operations of each type are at work."""
        counts = dict.fromkeys(OperationType, 0)
        for row in self._progress.values():
            counts[row.type] += 1
        return counts

    def queued(self) -> int:
        """How many operations wait for their turn."""
        return len(self._tasks) - len(self._progress)

    def _kind(self, type_name: str) -> OperationKind:
        try:
            operation_type = OperationType(type_name)
        except ValueError:
            known = ", ".join(OperationType)
            raise RequestRefused(
                "InvalidBackfillType", f"unknown type {type_name[:100]!r}; known: {known}"
            ) from None
        return self._kinds[operation_type]

    def _launch(self, operation: Operation) -> None:
        if self._group is None:
            raise AssertionError("operations are launched by a running runner")
        if self._is_stopping:
            return  # its row is there, and the next start takes it up
        task = self._group.create_task(
            self._carry_out(operation), name=f"{operation.type}:{operation.id}"
        )
        self._tasks[operation.id] = task

    async def _carry_out(self, operation: Operation) -> None:
        """One operation from its slot to its end."""
        try:
            try:
                status, error = await self._work(operation)
            except asyncio.CancelledError:
                if operation.id not in self._cancelled:
                    with suppress(LocalBusy, TimeoutError):
                        async with asyncio.timeout(PUT_DOWN_S):
                            await asyncio.shield(self._units.put_down(operation.id))
                    raise  # the process stops; the next boot resumes
                status, error = OperationStatus.CANCELLED, None
            await asyncio.shield(self._end(operation, status, error))
        finally:
            del self._tasks[operation.id]
            self._cancelled.discard(operation.id)
            if self._progress.pop(operation.id, None) is not None:
                self._show_progress(operation.type)

    async def _work(self, operation: Operation) -> tuple[OperationStatus, str | None]:
        """Wait for a slot and do the work; how it ended and why."""
        try:
            async with self._slots:
                row = await insist(partial(self._rows.begin, operation.id))
                if row.cancel_requested:  # before there was a task that could be told
                    return OperationStatus.CANCELLED, None
                self._progress[row.id] = row
                self._show_progress(row.type)
                self._note_progress(row.type)
                context = Context(row, self._units, self._on_settled, clock=self._clock)
                async with self._pauses.hold(row):
                    await self._kinds[row.type].run(context)
        except LocalFault:
            raise
        except ChiveIndexerError as error:
            return OperationStatus.FAILED, str(error)
        except Exception as error:
            log.exception("operation.crashed", operation_id=operation.id)
            return OperationStatus.FAILED, f"bug: {error!r}"
        return verdict(context.operation, await insist(partial(self._units.failures, operation.id)))

    def _on_settled(self, operation: Operation, records: int) -> None:
        self._metrics.backfill_records_processed.labels(operation.type).inc(records)
        self._progress[operation.id] = operation
        self._show_progress(operation.type)
        self._note_progress(operation.type)

    def _note_progress(self, kind: OperationType) -> None:
        gauge = self._metrics.backfill_last_progress_timestamp_seconds
        gauge.labels(kind).set(self._clock.now())

    def _show_progress(self, kind: OperationType) -> None:
        """The settled share of all units that the operations at work of this type know of."""
        known = [
            (row.units_processed, row.total_units)
            for row in self._progress.values()
            if row.type is kind and row.total_units
        ]
        total = sum(units for _, units in known)
        ratio = sum(done for done, _ in known) / total if total else 0.0
        self._metrics.backfill_progress_ratio.labels(kind).set(min(ratio, 1.0))

    async def _end(self, operation: Operation, status: OperationStatus, error: str | None) -> None:
        ended = await insist(partial(self._rows.end, operation.id, status, error))
        self._metrics.backfill_operations.labels(ended.type, ended.status).inc()
        self._metrics.backfill_duration_seconds.labels(ended.type).observe(
            # A sum that falls, by a clock set back meanwhile, would be a restart to who rates it.
            max((ended.completed_at or ended.started_at) - ended.started_at, 0.0)
        )
        log.info(
            "operation.ended",
            operation_id=ended.id,
            status=ended.status,
            type=ended.type,
            key=ended.key,
            records=ended.records_processed,
            reason=ended.error,
        )


def _mode(given: Json) -> OperationMode:
    for mode in OperationMode:
        if given == mode.value:
            return mode
    known = ", ".join(OperationMode)
    raise RequestRefused("InvalidRequest", f"parameter mode: is none of {known}")


def _check_joins(running: Operation, params: Mapping[str, Json]) -> None:
    """Refuse a request that the running operation with its key does not carry out."""
    for name in sorted((running.params.keys() | params.keys()) - JOINING_PARAMS):
        if running.params.get(name) != params.get(name):
            raise RequestRefused(
                "InvalidRequest",
                f"parameter {name}: differs from that of operation {running.id}, which runs"
                f" over {running.key} now",
            )


def verdict(
    operation: Operation, failures: Sequence[FailedUnit]
) -> tuple[OperationStatus, str | None]:
    """How an operation ends whose work was carried through, and what its `error` says."""
    failed, units = operation.units_failed, operation.units_processed
    if not failed or not failures:
        return OperationStatus.COMPLETED, None
    first = failures[0]
    reason = first.message or first.outcome
    if units == 1:
        return OperationStatus.FAILED, reason
    is_failure = has_all_failed(operation.outcomes, units=units, failed=failed)
    status = OperationStatus.FAILED if is_failure else OperationStatus.COMPLETED
    return status, f"{failed} of {units} {operation.unit}s failed, such as {first.unit}: {reason}"
