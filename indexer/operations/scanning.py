"""The steps that the parts of a scan share: ask with patience, work through, bring up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from indexer.errors import ChiveIndexerError, Unavailable
from indexer.model import SettledUnit
from indexer.operations.did_sync import CLAIMS_MAX, GOOD_RESULTS
from indexer.operations.operation import POISONED, Context, insist
from indexer.operations.scan_rows import ListedRepos

T = TypeVar("T")

TRIES_MAX = 3
RETRY_S = 1.0
RETRY_S_MAX = 30.0
"""Who does not answer is asked again after 1 s, 4 s, or what they ask for, if it is not more."""

DONE = GOOD_RESULTS | {"put_off", "denied", "limited"}
"""Results of an attempt that are no failures."""


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """A request that is made again when it fails for a passing reason."""
    for number in range(TRIES_MAX - 1):
        try:
            return await insist(step)
        except Unavailable as error:
            asked_s = error.retry_after_s or 0.0
            if asked_s > RETRY_S_MAX:
                raise
            await asyncio.sleep(max(RETRY_S * 4.0**number, asked_s))
    return await insist(step)


async def work_through(
    items: Iterable[str], step: Callable[[str], Awaitable[None]], *, width: int
) -> None:
    """Take the step for each, so many at a time; the first error ends it and is raised."""
    left = iter(items)
    failures: list[ChiveIndexerError] = []

    async def work() -> None:
        for item in left:
            if failures:
                return
            try:
                await step(item)
            except ChiveIndexerError as error:
                failures.append(error)

    async with asyncio.TaskGroup() as group:
        for number in range(width):
            group.create_task(work(), name=f"scan-{number}")
    if failures:
        raise failures[0]


async def synced(repos: ListedRepos, context: Context, did: str) -> SettledUnit:
    """Bring a repo up to date as far as that can be done; it is to be settled as this unit."""
    if not await context.begin(did):
        return SettledUnit(unit=did, outcome=POISONED, records=0)
    attempt = partial(repos.sync_listed, did, on_compared=context.compared(did))
    for _ in range(CLAIMS_MAX):
        outcome = await insist(attempt)
        if outcome.result != "stale":
            break
    return SettledUnit(
        unit=did,
        outcome=outcome.result,
        records=outcome.records,
        is_failed=outcome.result not in DONE,
        message=outcome.reason if outcome.result not in DONE else None,
    )
