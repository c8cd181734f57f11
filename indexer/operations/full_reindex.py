"""fullReindex: typed tables and search made anew from the stored records, then put in place whole.

Nothing is fetched. Readers see the old tables until the new ones are complete and have been held
against the records; whatever ends the operation before leaves the old ones as they are, and what
there is of the new ones is cleared away by the store's upkeep. Beside the live stream the work is
done in small pieces, one at a time; while the stream is held, reading and writing go on at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Generic, Protocol, TypeVar

from indexer.errors import RequestRefused
from indexer.model import Json, Operation, OperationMode, OperationType
from indexer.operations.operation import (
    Context,
    OperationFailed,
    Request,
    insist,
    refuse_foreign_params,
)
from indexer.ports import Backfills

BATCH_SIZE = 500
BATCH_SIZE_MAX = 10_000

READ_RECORDS = 1000
"""Records in memory at once, twice: those being written and those being made ready."""

READ_RECORDS_BESIDE = 100
"""The same beside the live stream, which waits for the interpreter while they are made ready."""


class Batch(Protocol):
    """Records that follow each other."""

    @property
    def unit(self) -> str:
        """What to call them."""

    @property
    def records(self) -> object:
        """Those that are still to be written; false when there are none."""


B = TypeVar("B", bound=Batch)


class Rebuilds(Protocol[B]):
    """The store as a rebuild needs it."""

    async def begin(self, operation_id: str) -> Operation:
        """Make the new tables, unless the operation has them already; its row with the total."""

    async def load(self, operation_id: str, previous: B | None, limit: int) -> B | None:
        """The records that follow `previous`, or the place that was saved; None after the last."""

    def prepare(self, batch: B) -> B:
        """Make the records of a batch ready: pure work, for a thread."""

    async def copy(self, operation_id: str, batch: B) -> tuple[Operation, B] | None:
        """Write the first records of a prepared batch; the operation's row, and what is left.

        None when the operation has ended or another rebuild has begun.
        """

    async def catch_up(self, operation_id: str) -> bool:
        """Do a part of what the new search rows still owe; False when nothing was left."""

    async def check(self, operation_id: str) -> str | None:
        """Hold the new tables against the records: what differs first."""

    async def swap(self, operation_id: str) -> bool:
        """Let readers see the new tables; False when the operation has ended before."""


Turn = Callable[[], AbstractAsyncContextManager[None]]
"""Surrounds a piece of work, so that it leaves the live stream its share."""


class FullReindex(Generic[B]):
    """Every record that is stored, whatever its verdict was, in one pass."""

    type = OperationType.FULL_REINDEX
    unit = "record"

    def __init__(self, rebuilds: Rebuilds[B], turn: Turn = nullcontext) -> None:
        self._rebuilds = rebuilds
        self._turn_beside = turn

    def parse(self, params: Mapping[str, Json]) -> Request:
        """`batchSize`: how many records at most lie between two checkpoints."""
        refuse_foreign_params(params, frozenset({"batchSize"}), self.type)
        size = params.get("batchSize", BATCH_SIZE)
        if type(size) is not int or not 1 <= size <= BATCH_SIZE_MAX:
            raise RequestRefused(
                "InvalidRequest",
                f"parameter batchSize: must be a whole number from 1 to {BATCH_SIZE_MAX}",
            )
        return Request(key=self.type.value, params={"batchSize": size})

    async def run(self, context: Context) -> None:
        """Copy, check, swap. A resumed run goes on from the last record that was copied."""
        rebuilds, operation_id = self._rebuilds, context.operation.id
        context.operation = await insist(partial(rebuilds.begin, operation_id))
        await self._copy(context)
        while await self._catch_up(context):
            pass
        difference = await insist(partial(rebuilds.check, operation_id))
        if difference is not None:
            raise OperationFailed(f"the new tables are not what the records demand: {difference}")
        if not await insist(partial(rebuilds.swap, operation_id)):
            raise OperationFailed("the new tables were given up")

    def _turn(self, context: Context) -> AbstractAsyncContextManager[None]:
        is_held = context.operation.mode is OperationMode.PAUSE
        return nullcontext() if is_held else self._turn_beside()

    async def _catch_up(self, context: Context) -> bool:
        async with self._turn(context):
            return await insist(partial(self._rebuilds.catch_up, context.operation.id))

    async def _copy(self, context: Context) -> None:
        """Make the next batch ready while the writer has the last one."""
        batch = await self._next(context, None)
        while batch is not None:
            try:
                async with asyncio.TaskGroup() as group:
                    ahead = group.create_task(self._next(context, batch), name="reindex-ahead")
                    await self._write(context, batch)
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
            batch = ahead.result()

    async def _next(self, context: Context, previous: B | None) -> B | None:
        """The next batch, prepared."""
        size = context.operation.params["batchSize"]
        is_held = context.operation.mode is OperationMode.PAUSE
        at_once = READ_RECORDS if is_held else READ_RECORDS_BESIDE
        limit = min(size, at_once) if isinstance(size, int) else at_once
        load = partial(self._rebuilds.load, context.operation.id, previous, limit)
        batch = await insist(load)
        if batch is None:
            return None
        if not await context.begin(batch.unit):
            raise OperationFailed(f"the process ended over {batch.unit} more than once")
        async with self._turn(context):
            return await asyncio.to_thread(self._rebuilds.prepare, batch)

    async def _write(self, context: Context, batch: B) -> None:
        left = batch
        while left.records:
            async with self._turn(context):
                copied = await insist(partial(self._rebuilds.copy, context.operation.id, left))
            if copied is None:
                raise OperationFailed("the new tables were given up")
            row, left = copied
            context.take(row)


async def rebuild_outdated(backfills: Backfills) -> None:
    """Begin the rebuild of tables that other declarations have made, beside the live stream."""
    params: dict[str, Json] = {"mode": OperationMode.SUPPLEMENT.value}
    await insist(partial(backfills.start, OperationType.FULL_REINDEX, params, started_by=None))
