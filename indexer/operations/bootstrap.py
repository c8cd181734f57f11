"""The first scan of a store: started once the stream is connected, so that nothing falls between.

It is an ordinary pdsScan of all hosts, which an operator may watch and cancel. Until one has been
completed the store is not known to hold all that there is, and whoever asks is told so. Under other
`scope.collections` it is a first one again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from indexer.errors import LocalBusy, RequestRefused
from indexer.model import OperationStatus, OperationType
from indexer.ports import Backfills

log = structlog.get_logger(__name__)

LOOK_S = 1.0
RETRY_S = 600.0
"""After a scan that has failed."""


class Bootstrap:
    """Sees to the first scan. `is_done` says whether any was completed for this scope."""

    def __init__(
        self,
        backfills: Backfills,
        *,
        is_done: Callable[[], Awaitable[bool]],
        is_connected: Callable[[], bool],
        is_wanted: bool,
    ) -> None:
        self._backfills = backfills
        self._is_done = is_done
        self._is_connected = is_connected
        self._is_wanted = is_wanted
        self.state: str | None = None
        """What is to be said of it; None when it is done with."""

    def notes(self) -> Mapping[str, str]:
        """The same, under its name, for those who show it."""
        return {} if self.state is None else {"bootstrap": self.state}

    async def run(self) -> None:
        """Until a scan has been completed or cancelled."""
        if not self._is_wanted:
            return
        while not await self._is_over():  # noqa: ASYNC110 - tried again, not waited for
            await asyncio.sleep(RETRY_S)

    async def _is_over(self) -> bool:
        """One attempt; whether there is to be no other."""
        try:
            if await self._is_done():
                self.state = None
                return True
            self.state = self.state or "the first scan of all hosts waits for the stream"
            while not self._is_connected():  # noqa: ASYNC110 - the stream has no event for it
                await asyncio.sleep(LOOK_S)
            return await self._scan()
        except (LocalBusy, RequestRefused) as error:
            log.warning("bootstrap.put_off", reason=str(error))
            return False

    async def _scan(self) -> bool:
        operation = await self._backfills.start(OperationType.PDS_SCAN, {}, started_by=None)
        log.info("bootstrap.started", operation_id=operation.id)
        while operation.status is OperationStatus.RUNNING:
            self.state = (
                f"the first scan of all hosts is under way: {operation.units_processed} repos"
            )
            await asyncio.sleep(LOOK_S)
            operation = await self._backfills.get(operation.id) or operation
        self.state = None
        if operation.status is OperationStatus.CANCELLED:
            self.state = "the first scan of all hosts was cancelled; a restart begins it again"
        if operation.status is OperationStatus.FAILED:
            self.state = f"the first scan of all hosts failed: {operation.error}"
        if operation.status is OperationStatus.COMPLETED and not await self._is_done():
            self.state = f"the first scan of all hosts left some out: {operation.error}"
            return False
        return operation.status is not OperationStatus.FAILED
