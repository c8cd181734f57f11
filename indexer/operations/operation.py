"""What an operation type is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog

from indexer.clock import Clock
from indexer.errors import ChiveIndexerError, LocalBusy, RequestRefused
from indexer.model import Json, Operation, OperationType, SettledUnit
from indexer.operations.rows import OperationUnits
from indexer.ports import Compared, insist_on

log = structlog.get_logger(__name__)

T = TypeVar("T")

PROGRESS_S = 0.4
"""The records of a unit in progress are counted so often: each time is a transaction, and who
watches them wants to see them move every second."""

POISONED = "poisoned"
"""Outcome of a unit that is skipped, because the process crashed over it too often."""


class OperationFailed(ChiveIndexerError):
    """The operation could not do what it was asked to; the message is its row's `error`."""


@dataclass(frozen=True, slots=True)
class Request:
    """A validated request: `key` is what makes two runs of one type the same run."""

    key: str
    params: dict[str, Json]
    total_units: int | None = None
    check: Callable[[], Awaitable[None]] | None = None
    """What only the store can judge: raises `RequestRefused` before anything has started."""


class Context:
    """An operation's hold on its own row while it runs."""

    def __init__(
        self,
        operation: Operation,
        units: OperationUnits,
        on_settled: Callable[[Operation, int], None],
        *,
        clock: Clock,
    ) -> None:
        self.operation = operation  # as of the last unit
        self._units = units
        self._on_settled = on_settled
        self._clock = clock

    async def begin(self, unit: str) -> bool:
        """Say that work on a unit starts; call it before what may bring the process down.

        False for a unit that has done so too often: it is settled and has to be skipped.
        """
        if await insist(partial(self._units.begin, self.operation.id, unit)):
            return True
        await self.settle(
            SettledUnit(
                unit=unit,
                outcome=POISONED,
                records=0,
                is_failed=True,
                message="the process ended over it more than once",
            )
        )
        return False

    async def put_down(self, unit: str) -> None:
        """Say that work on a unit has stopped before it is settled: it is to blame for no crash."""
        await insist(partial(self._units.put_down, self.operation.id, unit))

    def compared(self, unit: str) -> Compared:
        """What to tell how many records of a unit have been compared, before it is settled.

        They count at once; a further attempt at the unit counts only what it brings beyond that.
        """
        told_at = self._clock.monotonic()

        async def tell(records: int) -> None:
            nonlocal told_at
            if self._clock.monotonic() - told_at < PROGRESS_S:
                return
            told_at = self._clock.monotonic()
            step = partial(self._units.advance, self.operation.id, unit, records)
            row = await insist(step)
            if row is not None:
                self.take(row)

        return tell

    async def settle(self, unit: SettledUnit) -> bool:
        """Count a finished unit, once; False when it had been settled before a restart."""
        row = await insist(partial(self._units.settle, self.operation.id, unit))
        if row is None:
            return False
        self.take(row)
        return True

    def take(self, row: Operation) -> None:
        """Go on with the row as it is after units that the type's own store has settled.

        Of several rows the one with the highest counters is the newest, whichever comes last.
        """
        known = self.operation
        if (row.units_processed, row.records_processed) >= (
            known.units_processed,
            known.records_processed,
        ):
            self.operation = row
            self._on_settled(row, row.records_processed - known.records_processed)


class OperationKind(Protocol):
    """One type of backfill. Adding a type is one module with one of these."""

    @property
    def type(self) -> OperationType:
        """Its name."""

    @property
    def unit(self) -> str:
        """What it works through: repo, record or eprint."""

    def parse(self, params: Mapping[str, Json]) -> Request:
        """Check the request before anything starts.

        Raises `RequestRefused` that names the parameter.
        """

    async def run(self, context: Context) -> None:
        """Do the work, from the operation's checkpoint if it has one.

        Cancellation arrives as `asyncio.CancelledError` at any await and must pass through.
        Raises `OperationFailed` with the reason.
        """


def refuse_foreign_params(
    params: Mapping[str, Json], allowed: frozenset[str], type_name: OperationType
) -> None:
    """Refuse parameters that belong to another type, rather than ignore them."""
    for name in params:
        if name not in allowed:
            raise RequestRefused(
                "InvalidRequest", f"parameter {name} does not apply to type {type_name}"
            )


async def insist(step: Callable[[], Awaitable[T]]) -> T:
    """A step that has to be taken, however long the machine is short of something."""
    return await insist_on(step, _wait)


def _wait(error: LocalBusy) -> None:
    log.warning("operation.store_busy", reason=str(error))
