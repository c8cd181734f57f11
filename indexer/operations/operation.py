"""What an operation type is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from indexer.errors import ChiveIndexerError, RequestRefused
from indexer.model import Json, Operation, OperationType, SettledUnit
from indexer.ports import OperationRows


class OperationFailed(ChiveIndexerError):
    """The operation could not do what it was asked to; the message is its row's `error`."""


@dataclass(frozen=True, slots=True)
class Request:
    """A validated request: `key` is what makes two runs of one type the same run."""

    key: str
    params: dict[str, Json]
    total_units: int | None = None


class Context:
    """An operation's hold on its own row while it runs."""

    def __init__(self, operation: Operation, rows: OperationRows) -> None:
        self.operation = operation
        self._rows = rows

    async def settle(self, unit: SettledUnit) -> bool:
        """Count a finished unit, once; False when it had been settled before a restart."""
        return await self._rows.settle_unit(self.operation.id, unit)


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
