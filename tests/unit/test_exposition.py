"""What a scraper gets is what the client library would give, and costs little."""

from __future__ import annotations

import time
from math import inf, nan

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import choose_encoder

from indexer.exposition import encode
from indexer.metrics import OPENMETRICS, Metrics
from indexer.records.registry import load_registry

COST_S_MAX = 0.005
TRIES_MAX = 200
"""A busy machine makes some of them dearer."""

ACCEPTS = pytest.mark.parametrize("accept", ["text/plain", f"{OPENMETRICS}; version=1.0.0"])


def both(registry: CollectorRegistry, accept: str) -> tuple[bytes, bytes]:
    """Ours and the library's."""
    theirs, content_type = choose_encoder(accept)
    ours = encode(registry, is_openmetrics=content_type.startswith(OPENMETRICS))
    return ours, theirs(registry)


def exported() -> Metrics:
    metrics = Metrics(load_registry().types)
    metrics.count_events("#commit", 3)
    metrics.resync_duration_seconds.observe(0.3)
    metrics.firehose_last_event_timestamp_seconds.set(1795660596.393)
    return metrics


def of_ours(exposition: bytes) -> list[bytes]:
    """Without the metrics of the process, which differ from moment to moment."""
    return [line for line in exposition.splitlines() if b"chive_" in line or line == b"# EOF"]


@ACCEPTS
def test_our_metrics_are_written_as_the_client_library_writes_them(accept: str):
    ours, theirs = both(exported().registry, accept)
    assert len(of_ours(ours)) > 500
    assert of_ours(ours) == of_ours(theirs)
    assert b"process_cpu_seconds_total" in ours


@ACCEPTS
def test_odd_values_and_labels_are_written_as_the_client_library_writes_them(accept: str):
    registry = CollectorRegistry()
    counter = Counter("chive_odd", "Odd", ["b", "a"], registry=registry)
    for value in ('"', "\\", "\n", "é", ""):
        counter.labels(value, "plain").inc(1e20)
    for name, value in {"low": -inf, "high": inf, "none": nan, "small": 1e-9, "big": 2**53}.items():
        Gauge(f"chive_{name}", "A value", registry=registry).set(value)
    ours, theirs = both(registry, accept)
    assert ours == theirs


@ACCEPTS
async def test_a_scrape_costs_less_than_five_milliseconds_of_the_processor(accept: str):
    metrics = exported()
    costs = []
    while len(costs) < TRIES_MAX and min(costs, default=inf) > COST_S_MAX:
        started = time.thread_time()
        await metrics.expose(accept)
        costs.append(time.thread_time() - started)
    assert min(costs) < COST_S_MAX
