"""Gauges that are read rather than counted: brought up to date for every scrape.

They are true after a restart too, because they come from the file and not from what this process
has seen.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from indexer.metrics import Metrics
from indexer.model import OperationType
from indexer.ports import Status

LAG_SAMPLE_S = 0.5


def install_gauges(
    metrics: Metrics,
    status: Status,
    running: Callable[[], Mapping[OperationType, int]],
    queued: Callable[[], int],
    database: Path,
) -> None:
    """Have the gauges of `metrics` refreshed from the daemon's condition before every exposition.

    `running` gives the operations at work of each type, `queued` those that wait. The refresh
    raises `LocalBusy` or `LocalFault` when the store does not answer.
    """

    async def refresh() -> None:
        await _refresh_totals(metrics, status)
        await _refresh_stream(metrics, status)
        metrics.set_gauges(
            metrics.backfill_running, {str(kind): total for kind, total in running().items()}
        )
        metrics.backfill_queued.set(queued())
        sizes = await asyncio.to_thread(partial(_measure, database))
        metrics.sqlite_db_bytes.set(sizes.database_bytes)
        metrics.sqlite_wal_bytes.set(sizes.wal_bytes)
        metrics.data_dir_free_bytes.set(sizes.free_bytes)

    metrics.on_scrape(refresh)


def install_host_gauge(
    metrics: Metrics, totals: Callable[[], Awaitable[tuple[Mapping[str, int], int]]]
) -> None:
    """Have the gauge of hosts refreshed likewise; `totals` gives their number by status first."""

    async def refresh() -> None:
        by_status, _ = await totals()
        metrics.set_gauges(metrics.pds_hosts, by_status)

    metrics.on_scrape(refresh)


async def measure_loop_lag(metrics: Metrics) -> None:
    """Keep saying how late the event loop runs a timer, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SAMPLE_S
        await asyncio.sleep(LAG_SAMPLE_S)
        metrics.event_loop_lag_seconds.set(max(loop.time() - due, 0.0))


async def _refresh_totals(metrics: Metrics, status: Status) -> None:
    counts = await status.counts()
    metrics.set_gauges(metrics.repos, counts.repos)
    metrics.set_gauges(metrics.repos_verified, counts.verified)
    metrics.set_gauges(metrics.accounts, counts.accounts)
    metrics.set_gauges(metrics.dead_letters, counts.dead_letters)
    metrics.firehose_gaps_open.set(counts.open_gaps)
    metrics.repos_rolled_back.set(counts.rolled_back)
    records: Counter[str] = Counter()
    for collection, total in counts.records.items():
        records[metrics.collection_label(collection)] += total
    metrics.set_gauges(metrics.records_indexed, records)


async def _refresh_stream(metrics: Metrics, status: Status) -> None:
    stream = await status.firehose()
    if stream.cursor is not None:
        metrics.firehose_cursor_seq.set(stream.cursor)
    if stream.last_event_at is not None:
        metrics.firehose_last_event_timestamp_seconds.set(stream.last_event_at)
    if stream.cursor_saved_at is not None:
        metrics.firehose_cursor_saved_timestamp_seconds.set(stream.cursor_saved_at)


@dataclass(frozen=True, slots=True)
class _Sizes:
    database_bytes: int
    wal_bytes: int
    free_bytes: int


def _measure(database: Path) -> _Sizes:
    wal = database.with_name(database.name + "-wal")
    return _Sizes(
        database.stat().st_size,
        wal.stat().st_size if wal.exists() else 0,
        shutil.disk_usage(database.parent).free,
    )
