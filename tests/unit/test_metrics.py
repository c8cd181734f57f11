"""What is counted under which name."""

from __future__ import annotations

import pytest

from indexer.metrics import SQLITE_CODES, Metrics


def sqlite_errors(metrics: Metrics) -> dict[str, float]:
    values = {
        code: metrics.registry.get_sample_value("chive_sqlite_errors_total", {"code": code})
        for code in SQLITE_CODES
    }
    return {code: value for code, value in values.items() if value}


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("SQLITE_FULL", "full"),
        ("SQLITE_BUSY_SNAPSHOT", "busy"),
        ("SQLITE_IOERR_WRITE", "ioerr"),
        ("SQLITE_CORRUPT", "corrupt"),
        ("SQLITE_CONSTRAINT_UNIQUE", "other"),
        ("OperationalError", "other"),
    ],
)
def test_a_failed_transaction_is_counted_under_its_primary_code(code: str, label: str):
    metrics = Metrics()
    metrics.count_sqlite_error(code)
    assert sqlite_errors(metrics) == {label: 1.0}


def test_records_that_are_not_valid_are_counted_by_type_and_beside_their_rows():
    metrics = Metrics(["pub.chive.graph.node"])
    metrics.count_records(
        {("pub.chive.graph.node", "create"): 3, ("pub.chive.graph.node", "refuse"): 2,
         ("com.example.unknown", "refuse"): 1},
        "live",
    )  # fmt: skip
    value = metrics.registry.get_sample_value
    labels = {"collection": "pub.chive.graph.node"}
    assert value("chive_invalid_records_total", labels) == 2
    assert value("chive_invalid_records_total", {"collection": "other"}) == 1
    assert value("chive_records_total", {**labels, "action": "create", "source": "live"}) == 3
