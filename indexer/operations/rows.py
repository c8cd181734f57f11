"""What operations need of the store: their own rows, and those of the units they work through."""

from __future__ import annotations

from typing import Protocol

from indexer.model import FailedUnit, Operation, OperationStatus, SettledUnit


class OperationRows(Protocol):
    """The durable rows of operations."""

    async def insert(self, operation: Operation, *, running_max: int) -> Operation | None:
        """Store a new running operation, or return the running one with its type and key.

        None: as many are running or queued as may be.
        """

    async def load(self, operation_id: str) -> Operation | None:
        """One operation by id."""

    async def list(
        self, status: OperationStatus | None, limit: int, *, has_ended: bool = False
    ) -> list[Operation]:
        """Newest first; of those that run, the ones that wait come last.

        With `has_ended` whatever has ended, however it did.
        """

    async def request_cancel(self, operation_id: str) -> bool:
        """Record that an admin wants it ended; False when it is not running."""

    async def begin(self, operation_id: str) -> Operation:
        """Say that an operation has got its turn; its row then."""

    async def go_on_as_supplement(self, operation_id: str, note: str) -> None:
        """The live stream is not, or no longer, held for a running operation; `note` says why."""

    async def end(self, operation_id: str, status: OperationStatus, error: str | None) -> Operation:
        """The one transition out of `running`; with a cancel requested it is to `cancelled`."""


class OperationUnits(Protocol):
    """What becomes of the units that operations work through."""

    async def begin(self, operation_id: str, unit: str) -> bool:
        """Say that work on a unit starts; False when it has outlived enough crashes."""

    async def advance(self, operation_id: str, unit: str, records: int) -> Operation | None:
        """Count what has been compared of a unit so far; the row then, None for nothing new."""

    async def settle(self, operation_id: str, unit: SettledUnit) -> Operation | None:
        """Count one unit, once; the row then. None when it had been settled, or all had ended."""

    async def put_down(self, operation_id: str, unit: str | None = None) -> None:
        """The work on a unit, or on all of them, stops in good order: it has not crashed."""

    async def take_over(self) -> int:
        """At a start, before any work: units that the last process left in progress.

        What was at work waits for its turn from now on: there may be fewer of them.
        """

    async def failures(self, operation_id: str) -> list[FailedUnit]:
        """The first failed units, by unit."""
