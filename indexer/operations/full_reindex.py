"""fullReindex: typed tables and search made anew from the stored records, then put in place whole.

Nothing is fetched. Readers see the old tables until the new ones are complete and have been held
against the records; whatever ends the operation before leaves the old ones as they are, and what
there is of the new ones is cleared away by the store's upkeep. It takes no turns beside the live
stream: what is written makes way for that of itself, and all else is done by other processes.

Records count once they are in the new typed tables; units say how much of the whole work is done,
in records, and are counted by a timer of their own, since some steps take longer than a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar

import structlog

from indexer.errors import RequestRefused
from indexer.model import Json, Operation, OperationMode, OperationType
from indexer.operations.operation import (
    PROGRESS_S,
    Context,
    OperationFailed,
    Request,
    insist,
    refuse_foreign_params,
)
from indexer.ports import Backfills

log = structlog.get_logger(__name__)

BATCH_SIZE = 500
BATCH_SIZE_MAX = 10_000

RETRY_S = 2.0
"""After a start for which there was no room in the queue."""


class Part(Protocol):
    """Records that follow each other, made ready."""

    @property
    def unit(self) -> str:
        """What to call them."""

    @property
    def record_ids(self) -> Sequence[int]:
        """Those that are still to be copied; none when they all are."""


P = TypeVar("P", bound=Part)


class Rebuild(Protocol[P]):
    """A rebuild at work."""

    async def next(self) -> P | None:
        """The next part of what is left to be copied, made ready; None after the last."""

    async def copy(self, part: P, records_max: int) -> tuple[Operation, P] | None:
        """Write the first records of a part; the operation's row, and what is left.

        None when the operation has ended or another rebuild has begun.
        """

    async def index(self, part: P) -> None:
        """Make a part searchable that has been copied."""

    @property
    def can_complete(self) -> bool:
        """Whether the new search index can be put in place, by `complete`, amid the copying."""

    async def complete(self) -> bool:
        """Do a part of what the new search rows still owe; False when nothing was left."""

    async def check(self) -> str | None:
        """Hold the new tables against the records: what differs first."""


class Rebuilds(Protocol[P]):
    """The store as a rebuild needs it."""

    async def begin(self, operation_id: str) -> Operation:
        """Make the new tables, unless the operation has them already; its row with the total."""

    def open(self, operation: Operation) -> AbstractAsyncContextManager[Rebuild[P]]:
        """Go to work. A resumed operation goes on from the last record that was copied."""

    async def count(self, operation_id: str) -> Operation | None:
        """Save how much of the work is done; the row then. None when there is nothing new."""

    async def swap(self, operation_id: str) -> bool:
        """Let readers see the new tables; False when the operation has ended before."""


class FullReindex(Generic[P]):
    """Every record that is stored, whatever its verdict was, in one pass."""

    type = OperationType.FULL_REINDEX
    unit = "record"

    def __init__(self, rebuilds: Rebuilds[P]) -> None:
        self._rebuilds = rebuilds

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
        """Copy, check, swap."""
        rebuilds, operation_id = self._rebuilds, context.operation.id
        context.operation = await insist(partial(rebuilds.begin, operation_id))
        async with self._counted(context), rebuilds.open(context.operation) as rebuild:
            await self._copy_all(context, rebuild)
            while await insist(rebuild.complete):
                pass
            if (difference := await insist(rebuild.check)) is not None:
                told = "the new tables are not what the records demand"
                raise OperationFailed(f"{told}: {difference}")
        if not await insist(partial(rebuilds.swap, operation_id)):
            raise OperationFailed("the new tables were given up")

    @asynccontextmanager
    async def _counted(self, context: Context) -> AsyncIterator[None]:
        """Surrounds the work, of which is counted meanwhile what is done."""
        try:
            async with asyncio.TaskGroup() as group:
                counting = group.create_task(self._count(context), name="reindex-count")
                yield
                counting.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[-1] from None  # that of the work, where both failed

    async def _count(self, context: Context) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            row = await insist(partial(self._rebuilds.count, context.operation.id))
            if row is not None:
                context.take(row)

    async def _copy_all(self, context: Context, rebuild: Rebuild[P]) -> None:
        """Copy one part while the one before it is made searchable.

        Once all that can be searched is, its index is put in place amid the copying of the rest.
        """
        copied: P | None = None
        completing: asyncio.Task[None] | None = None
        async with _failing_alone() as group:
            while (part := await rebuild.next()) is not None:
                async with _failing_alone() as pair:
                    pair.create_task(self._copy(context, rebuild, part), name="reindex-copy")
                    if copied is not None:
                        await insist(partial(rebuild.index, copied))
                copied = part
                if completing is None and rebuild.can_complete:
                    completing = group.create_task(_complete(rebuild), name="reindex-complete")
            if copied is not None:
                await insist(partial(rebuild.index, copied))

    async def _copy(self, context: Context, rebuild: Rebuild[P], part: P) -> None:
        if not await context.begin(part.unit):
            raise OperationFailed(f"the process ended over {part.unit} more than once")
        size = context.operation.params["batchSize"]
        records_max = size if isinstance(size, int) else BATCH_SIZE
        left = part
        while left.record_ids:
            copied = await insist(partial(rebuild.copy, left, records_max))
            if copied is None:
                raise OperationFailed("the new tables were given up")
            row, left = copied
            context.take(row)


async def _complete(rebuild: Rebuild[P]) -> None:
    while rebuild.can_complete:
        await insist(rebuild.complete)


@asynccontextmanager
async def _failing_alone() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks of which the first to fail ends the others, and raises what it raised."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def rebuild_outdated(backfills: Backfills) -> None:
    """Begin the rebuild of tables that other declarations have made, beside the live stream.

    Where too many operations wait already, as soon as there is room for it.
    """
    params: dict[str, Json] = {"mode": OperationMode.SUPPLEMENT.value}
    is_told = False
    while True:
        try:
            await insist(
                partial(backfills.start, OperationType.FULL_REINDEX, params, started_by=None)
            )
        except RequestRefused as error:
            if error.name != "RateLimitExceeded":
                raise
            if not is_told:
                log.warning("reindex.put_off", reason=str(error))
            is_told = True
            await asyncio.sleep(RETRY_S)
        else:
            return
