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
