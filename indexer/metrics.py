"""Every metric of the daemon, in one registry, named before use.

Names and labels are those that dashboards and alerts rely on. Label sets are closed and exist
from the start with value 0, so that `rate()` sees the first event. Hot paths count in plain
integers and bring them here once a batch.
"""

from __future__ import annotations

import platform
import sqlite3
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from indexer.errors import Check
from indexer.exposition import encode
from indexer.hosts import HostState
from indexer.limits import Limit
from indexer.model import (
    VERIFIED_AGES,
    AccountStatus,
    Applied,
    FetchMethod,
    GapReason,
    OperationStatus,
    OperationType,
    RepoState,
    Source,
)
from indexer.planning import Outcome

disable_created_metrics()  # type: ignore[no-untyped-call]  # the client has no annotation here

EVENT_TYPES = (
    "commit", "sync", "identity", "account", "info", "error", "unknown", "repeated", "text"
)  # fmt: skip
ACTIONS = ("create", "update", "delete")
SQLITE_CODES = ("busy", "full", "ioerr", "corrupt", "notadb", "readonly", "other")
FAST_S = tuple(0.0001 * 2.0**power for power in range(16))
SLOW_S = tuple(0.01 * 2.0**power for power in range(16))
HTTP_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

OPENMETRICS = "application/openmetrics-text"

OTHER = "other"
"""Label of every collection that has no registered type."""

Refresh = Callable[[], Awaitable[None]]


class Metrics:
    """The registry, one attribute a metric. `collections`: NSIDs that get a label of their own."""

    def __init__(self, collections: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self._collections = frozenset(collections)
        self._refreshers: list[Refresh] = []
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        self._define_stream()
        self._define_index()
        self._define_sync()
        self._define_backfills()
        self._define_edges()

    def _define_stream(self) -> None:
        registry = self.registry
        self.build = Info("chive_build", "What is running", registry=registry)
        self.build.info(
            {
                "version": _version(),
                "python": platform.python_version(),
                "sqlite": sqlite3.sqlite_version,
            }
        )
        self.firehose_connected = _gauge(
            "firehose_connected", "1 while frames can arrive", registry
        )
        self.firehose_paused = _gauge("firehose_paused", "1 while the stream is held", registry)
        self.firehose_events = _counter(
            "firehose_events", "Frames received", registry, type=EVENT_TYPES
        )
        self.firehose_cursor_seq = _gauge("firehose_cursor_seq", "Last durable seq", registry)
        self.firehose_last_event_timestamp_seconds = _gauge(
            "firehose_last_event_timestamp_seconds", "Time that the newest event claims", registry
        )
        self.firehose_last_received_timestamp_seconds = _gauge(
            "firehose_last_received_timestamp_seconds", "When a frame last arrived", registry
        )
        self.firehose_cursor_saved_timestamp_seconds = _gauge(
            "firehose_cursor_saved_timestamp_seconds", "When the cursor was last saved", registry
        )
        self.firehose_reconnects = Counter(
            "chive_firehose_reconnects", "Connections given up", ["reason"], registry=registry
        )
        self.firehose_seq_skips = Counter(
            "chive_firehose_seq_skips",
            "Times that numbers were left out of what is taken in",
            registry=registry,
        )
        self.clock_in_doubt = _gauge(
            "clock_in_doubt", "1 while our clock seems wrong and intake is held", registry
        )
        self.firehose_gaps = _counter(
            "firehose_gaps", "Losses noticed", registry, reason=tuple(GapReason)
        )
        self.firehose_gaps_open = _gauge(
            "firehose_gaps_open", "Losses due to be repaired, and not yet", registry
        )
        self.event_outcomes = Counter(
            "chive_event_outcomes",
            "What became of events of tracked repos",
            ["outcome", "source"],
            registry=registry,
        )
        for outcome in Outcome:
            for source in Source:
                self.event_outcomes.labels(outcome, source)
        self.verify_failures = _counter(
            "verify_failures", "Upstream data refused", registry, check=tuple(Check)
        )

    def _define_index(self) -> None:
        registry = self.registry
        labels = (*sorted(self._collections), OTHER)
        self.records = Counter(
            "chive_records",
            "Record rows written",
            ["collection", "action", "source"],
            registry=registry,
        )
        for collection in labels:
            for action in ACTIONS:
                for source in Source:
                    self.records.labels(collection, action, source)
        self.invalid_records = _counter(
            "invalid_records", "Records kept that are not valid", registry, collection=labels
        )
        self.records_indexed = _gauge(
            "records_indexed", "Record rows held", registry, collection=labels
        )
        self.dead_letters_dropped = Counter(
            "chive_dead_letters_dropped", "Refusals no longer kept", registry=registry
        )
        self.dead_letters = _gauge("dead_letters", "Refusals kept", registry, reason=tuple(Check))
        self.sqlite_transaction_duration_seconds = Histogram(
            "chive_sqlite_transaction_duration_seconds",
            "Write transactions",
            buckets=FAST_S,
            registry=registry,
        )
        self.sqlite_errors = _counter(
            "sqlite_errors", "Failed transactions", registry, code=SQLITE_CODES
        )
        self.sqlite_db_bytes = _gauge("sqlite_db_bytes", "Size of the database file", registry)
        self.sqlite_wal_bytes = _gauge("sqlite_wal_bytes", "Size of the WAL file", registry)
        self.data_dir_free_bytes = _gauge(
            "data_dir_free_bytes", "Free space of the file system that holds the store", registry
        )
        self.event_loop_lag_seconds = _gauge(
            "event_loop_lag_seconds", "Lateness of a timer on the event loop", registry
        )

    def _define_sync(self) -> None:
        registry = self.registry
        self.repos = _gauge("repos", "Tracked repos", registry, state=tuple(RepoState))
        self.repos_verified = _gauge(
            "repos_verified",
            "Tracked repos found equal to their hosts' within so long",
            registry,
            within=tuple(VERIFIED_AGES),
        )
        self.repos_rolled_back = _gauge(
            "repos_rolled_back", "Repos whose hosts show less than we hold for a day", registry
        )
        self.accounts = _gauge(
            "accounts", "Tracked accounts", registry, status=tuple(AccountStatus)
        )
        self.directory_read_timestamp_seconds = _gauge(
            "directory_read_timestamp_seconds",
            "When the log of the DID directory was last read to its end",
            registry,
        )
        self.pds_hosts = _gauge("pds_hosts", "Known hosts", registry, status=tuple(HostState))
        self.limits_refused = _counter(
            "limits_refused", "Repos over one of our bounds", registry, limit=tuple(Limit)
        )
        self.discovery_stopped = _gauge(
            "discovery_stopped", "1 while no new repo is taken in for want of space", registry
        )
        self.resyncs = Counter(
            "chive_resyncs", "Resync attempts ended", ["result", "method"], registry=registry
        )
        self.resync_duration_seconds = Histogram(
            "chive_resync_duration_seconds", "Resync attempts", buckets=SLOW_S, registry=registry
        )
        self.resync_bytes = _counter(
            "resync_bytes", "Bytes fetched from repos", registry, method=tuple(FetchMethod)
        )

    def _define_backfills(self) -> None:
        registry = self.registry
        types = tuple(OperationType)
        self.backfill_running = _gauge(
            "backfill_running", "Operations at work", registry, type=types
        )
        self.backfill_queued = _gauge(
            "backfill_queued", "Operations that wait for their turn", registry
        )
        self.backfill_operations = Counter(
            "chive_backfill_operations", "Operations ended", ["type", "status"], registry=registry
        )
        for kind in types:
            for status in OperationStatus:
                self.backfill_operations.labels(kind, status)
        self.backfill_records_processed = _counter(
            "backfill_records_processed", "Records compared or rebuilt", registry, type=types
        )
        self.backfill_progress_ratio = _gauge(
            "backfill_progress_ratio", "Settled share of the units at work", registry, type=types
        )
        self.backfill_last_progress_timestamp_seconds = _gauge(
            "backfill_last_progress_timestamp_seconds",
            "Last start or settled unit",
            registry,
            type=types,
        )
        self.backfill_duration_seconds = Histogram(
            "chive_backfill_duration_seconds",
            "Whole operations",
            ["type"],
            buckets=(1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400, 86400),
            registry=registry,
        )
        for kind in types:
            self.backfill_duration_seconds.labels(kind)

    def _define_edges(self) -> None:
        registry = self.registry
        self.http_client_requests = Counter(
            "chive_http_client_requests",
            "Outbound requests",
            ["service", "code"],
            registry=registry,
        )
        self.http_client_throttled_seconds = Counter(
            "chive_http_client_throttled_seconds",
            "Time that requests waited for their turn at a host",
            registry=registry,
        )
        self.xrpc_requests = Counter(
            "chive_xrpc_requests", "Admin requests answered", ["nsid", "code"], registry=registry
        )
        self.xrpc_request_duration_seconds = Histogram(
            "chive_xrpc_request_duration_seconds",
            "Admin requests",
            ["nsid"],
            buckets=HTTP_S,
            registry=registry,
        )
        self.auth_failures = Counter(
            "chive_auth_failures", "Credentials refused", ["reason"], registry=registry
        )

    def count_events(self, kind: str, count: int) -> None:
        """Count frames of one type; `kind` as the wire has it, with or without `#`."""
        name = kind.removeprefix("#")
        self.firehose_events.labels(name if name in EVENT_TYPES else "unknown").inc(count)

    def count_applied(self, applied: Applied, *, source: str) -> None:
        """Count what a transaction did."""
        for outcome, count in applied.outcomes.items():
            self.event_outcomes.labels(outcome, source).inc(count)
        for check, count in applied.checks.items():
            self.verify_failures.labels(check).inc(count)
        for limit, count in applied.refused.items():
            self.limits_refused.labels(limit).inc(count)
        for reason, count in applied.gaps.items():
            self.firehose_gaps.labels(reason).inc(count)
        self.count_records(applied.records, source)

    def count_records(self, records: Mapping[tuple[str, str], int], source: str) -> None:
        """Count written rows: (collection, action) -> number; `refuse` is one of the others too."""
        for (collection, action), count in records.items():
            label = self.collection_label(collection)
            if action == "refuse":
                self.invalid_records.labels(label).inc(count)
            else:
                self.records.labels(label, action, source).inc(count)

    def count_sqlite_error(self, code: str) -> None:
        """Count a failed transaction by SQLite's symbolic code; extended ones by their primary."""
        name = code.removeprefix("SQLITE_").split("_")[0].lower()
        self.sqlite_errors.labels(name if name in SQLITE_CODES else "other").inc()

    def collection_label(self, collection: str) -> str:
        """The collection if it has a label of its own, else `other`."""
        return collection if collection in self._collections else OTHER

    def set_gauges(self, gauge: Gauge, values: Mapping[str, int]) -> None:
        """Set every child of a gauge with one label; absent names become 0."""
        totals: Tally[str] = Tally()
        for name, value in values.items():
            totals[name] += value
        for (name,) in list(gauge._metrics):  # noqa: SLF001 - the client offers no list of children
            gauge.labels(name).set(totals.get(name, 0))

    def on_scrape(self, refresh: Refresh) -> None:
        """Have `refresh` awaited before every exposition, for gauges that are read, not counted."""
        self._refreshers.append(refresh)

    async def expose(self, accept: str | None) -> tuple[bytes, str]:
        """The exposition and its content type, OpenMetrics if the client asks for it."""
        for refresh in self._refreshers:
            await refresh()
        _, content_type = choose_encoder(accept or "")
        is_openmetrics = content_type.startswith(OPENMETRICS)
        return encode(self.registry, is_openmetrics=is_openmetrics), content_type


def _gauge(name: str, text: str, registry: CollectorRegistry, **label: tuple[str, ...]) -> Gauge:
    gauge = Gauge(f"chive_{name}", text, list(label), registry=registry)
    for values in label.values():
        for value in values:
            gauge.labels(value)
    return gauge


def _counter(
    name: str, text: str, registry: CollectorRegistry, **label: tuple[str, ...]
) -> Counter:
    counter = Counter(f"chive_{name}", text, list(label), registry=registry)
    for values in label.values():
        for value in values:
            counter.labels(value)
    return counter


def _version() -> str:
    try:
        return version("chive-indexer")
    except PackageNotFoundError:
        return "unknown"
