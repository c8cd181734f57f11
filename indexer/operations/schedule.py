"""Operations that begin by themselves, each type at an interval of its own.

They are ordinary ones, started as an operator would start them. When a type was last begun, by
whomever, is read from the rows of operations, so a restart forgets nothing; what still runs is not
begun again. Each start is put off by a random part, so that not all begin together.

A time of a clock that was ahead, in a row or kept here, puts nothing off once the clock is set.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Protocol

import structlog

from indexer.clock import Clock
from indexer.errors import LocalBusy, RequestRefused
from indexer.model import SCHEDULE, OperationType
from indexer.ports import Backfills

log = structlog.get_logger(__name__)

LOOK_S = 1.0
RETRY_S = 60.0
"""After a start that was refused, or met an operation that still runs."""

SETTLE_S = 60.0
"""Nothing begins so soon after a start of the process: the stream comes first."""

JITTER_SHARE = 0.1
JITTER_S_MAX = 600.0

WHOLE_KEYS = {
    OperationType.PDS_SCAN: "*",
    OperationType.FRESHNESS_SCAN: OperationType.FRESHNESS_SCAN.value,
    OperationType.CITATION_EXTRACTION: "*",
    OperationType.FULL_REINDEX: OperationType.FULL_REINDEX.value,
    OperationType.GOVERNANCE_SYNC: OperationType.GOVERNANCE_SYNC.value,
}
"""Type -> key of a run over all that there is; one over a part of it does not count."""


class LastStarts(Protocol):
    """The rows of operations as the schedule needs them."""

    async def last_started_at(self, kind: OperationType, key: str) -> float | None:
        """When the newest one of this type and key was started, unix seconds; None: never.

        Those that are yet to be started do not count.
        """


class Schedule:
    """Starts what is due. `intervals_s`: type -> seconds between two starts, 0 for never."""

    def __init__(
        self,
        backfills: Backfills,
        starts: LastStarts,
        intervals_s: Mapping[OperationType, float],
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._backfills = backfills
        self._starts = starts
        self._intervals_s = {
            kind: interval_s
            for kind, interval_s in intervals_s.items()
            if interval_s > 0 and kind in WHOLE_KEYS
        }
        self._clock = clock
        self._rng = rng
        settled_at = clock.now() + SETTLE_S
        self._due = {
            kind: settled_at + self._jitter_s(interval_s)
            for kind, interval_s in self._intervals_s.items()
        }

    async def run(self) -> None:
        """Keep to the schedule until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Start what is due."""
        for kind, due_at in self._due.items():
            interval_s = self._intervals_s[kind]
            now = self._clock.now()
            if now >= due_at:
                self._due[kind] = await self._next_due(kind)
            elif due_at > now + max(interval_s, SETTLE_S, RETRY_S) + _jitter_s_max(interval_s):
                self._due[kind] = now + interval_s + self._jitter_s(interval_s)

    async def _next_due(self, kind: OperationType) -> float:
        """Start the type if it is due by the rows too; when to look again, unix seconds."""
        interval_s = self._intervals_s[kind]
        try:
            last = await self._starts.last_started_at(kind, WHOLE_KEYS[kind])
            if last is not None and last + interval_s > self._clock.now():
                return last + interval_s + self._jitter_s(interval_s)
            asked_at = self._clock.now()
            operation = await self._backfills.start(kind, {}, started_by=SCHEDULE)
        except (LocalBusy, RequestRefused) as error:
            log.warning("schedule.put_off", type=kind, reason=str(error))
            return self._clock.now() + RETRY_S
        if operation.started_at < asked_at:
            return self._clock.now() + RETRY_S  # an earlier one still runs
        return operation.started_at + interval_s + self._jitter_s(interval_s)

    def _jitter_s(self, interval_s: float) -> float:
        return self._rng.uniform(0.0, _jitter_s_max(interval_s))


def _jitter_s_max(interval_s: float) -> float:
    return min(JITTER_SHARE * interval_s, JITTER_S_MAX)
