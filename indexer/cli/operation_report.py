"""An operation as the daemon reports it, and how it reads on a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from indexer.cli.wording import counted, duration, printable, table
from indexer.model import OperationStatus

BAR_CELLS = 24
PERCENT = 100
FAILURES_SHOWN = 10


class Outcome(msgspec.Struct, frozen=True):
    """How many units ended in one way."""

    name: str
    units: int


class Failure(msgspec.Struct, frozen=True):
    """A unit that failed, and how."""

    unit: str
    outcome: str
    message: str = ""


class OperationReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`pub.chive.admin.getBackfillStatus#backfillOperation`."""

    id: str
    type: str
    status: OperationStatus
    started_at: datetime
    records_processed: int
    key: str = ""  # what it works on, such as a DID; the type itself where that says it all
    completed_at: datetime | None = None
    total_records: int | None = None
    error: str | None = None
    note: str | None = None
    phase: str | None = None
    progress: int | None = None  # percent
    rate: int | None = None  # units a minute
    eta: datetime | None = None
    unit: str | None = None
    units_processed: int | None = None
    total_units: int | None = None
    cancel_requested: bool = False
    is_scheduled: bool = False
    outcomes: tuple[Outcome, ...] = ()
    failures: tuple[Failure, ...] = ()  # the first of them, where one operation was asked for

    @property
    def subject(self) -> str:
        """What it works on, where its type does not say so."""
        return "" if self.key == self.type else self.key

    @property
    def is_running(self) -> bool:
        """Whether the end is still to come."""
        return self.status is OperationStatus.RUNNING


class OneOperation(msgspec.Struct, frozen=True):
    """The answer with one operation."""

    operation: OperationReport


class ListedOperations(msgspec.Struct, frozen=True):
    """The answer with several operations, newest first."""

    operations: tuple[OperationReport, ...] = ()


def progress_line(operation: OperationReport, now: datetime) -> str:
    """`didSync [####----] 50 %, 120 records, 3 repos, 12 repos/min, 4 s left`; what is known."""
    parts = [_bar(operation.progress), counted(operation.records_processed, "record")]
    if operation.unit is not None and operation.units_processed is not None:
        parts.append(counted(operation.units_processed, operation.unit))
        if operation.rate:
            parts.append(f"{operation.rate:,} {operation.unit}s/min")
    if operation.eta is not None:
        parts.append(f"{duration((operation.eta - now).total_seconds())} left")
    if (state := _state(operation)) != OperationStatus.RUNNING:
        parts.append(state)
    return printable(f"{operation.type} " + ", ".join(part for part in parts if part))


def summary(operation: OperationReport) -> list[str]:
    """What became of an operation, or how it stands: a headline, and a line for each detail."""
    took = ""
    if operation.completed_at is not None:
        seconds = (operation.completed_at - operation.started_at).total_seconds()
        took = f" in {duration(seconds)}"
    records = counted(operation.records_processed, "record")
    lines = [f"{operation.type} {operation.id}: {_state(operation)}{took}, {records}"]
    if operation.subject:
        lines.append(f"  over  {operation.subject}")
    if operation.outcomes:
        ended = ", ".join(f"{outcome.name} {outcome.units:,}" for outcome in operation.outcomes)
        lines.append(f"  {operation.unit or 'unit'}s  {ended}")
    if operation.is_scheduled:
        lines.append("  begun by itself, as scheduled")
    if operation.error is not None:
        lines.append(f"  error  {operation.error}")
    if operation.note is not None:
        lines.append(f"  note  {operation.note}")
    lines += [
        f"  failed  {failure.unit}: {failure.outcome}, {failure.message}"
        for failure in operation.failures[:FAILURES_SHOWN]
    ]
    if len(operation.failures) > FAILURES_SHOWN:
        lines.append("  failed  and more: --json lists the first hundred")
    return [printable(line) for line in lines]


def listing(operations: Sequence[OperationReport], now: datetime) -> list[str]:
    """A table of operations, one a line."""
    rows = [("ID", "TYPE", "KEY", "STATUS", "DONE", "RECORDS", "STARTED", "TOOK", "ERROR")]
    for each in operations:
        took = (each.completed_at or now) - each.started_at
        rows.append(
            (
                each.id,
                each.type,
                each.subject,
                _state(each),
                "" if each.progress is None else f"{each.progress} %",
                f"{each.records_processed:,}",
                f"{each.started_at:%Y-%m-%d %H:%M:%S}",
                duration(took.total_seconds()),
                each.error or "",
            )
        )
    return table([[printable(cell) for cell in row] for row in rows])


def _state(operation: OperationReport) -> str:
    if not operation.is_running:
        return operation.status.value
    if operation.cancel_requested:
        return "stopping"
    return operation.phase or operation.status.value


def _bar(percent: int | None) -> str:
    if percent is None:
        return ""
    filled = BAR_CELLS * min(max(percent, 0), PERCENT) // PERCENT
    return f"[{'#' * filled}{'-' * (BAR_CELLS - filled)}] {percent} %"
