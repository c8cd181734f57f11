"""What is told of an operation, whatever its numbers are."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from admin_api.handlers.backfills import ETA_S_MAX, operation_json
from indexer.model import Operation, OperationMode, OperationStatus, OperationType

RUNNING = Operation(
    id="1", type=OperationType.DID_SYNC, key="did:web:a.example", mode=OperationMode.SUPPLEMENT,
    phase="running", params={"did": "did:web:a.example", "acceptRollback": True},
    status=OperationStatus.RUNNING, started_at=1e9, completed_at=None, started_by=None,
    records_processed=0, total_records=None, unit="repo", units_processed=0, total_units=None,
    outcomes={}, checkpoint=None, error=None, cancel_requested=False,
)  # fmt: skip


def test_an_operation_says_what_it_is_about_and_what_it_was_asked_for():
    answer = operation_json(RUNNING, now=1e9)
    assert answer["key"] == "did:web:a.example"
    assert answer["params"] == {"did": "did:web:a.example", "acceptRollback": True}


@example(started_at=0.0, now=0.0, total=None, done=1, completed_after=2.2e-309)
@given(
    started_at=st.floats(0, 4e9),
    now=st.floats(0, 4e9),
    total=st.none() | st.integers(0, 10**12),
    done=st.integers(0, 10**12),
    completed_after=st.none() | st.floats(0, 1e9),
)
def test_the_end_that_is_expected_is_a_time_or_is_left_out(
    started_at: float, now: float, total: int | None, done: int, completed_after: float | None
):
    operation = replace(
        RUNNING,
        started_at=started_at,
        completed_at=None if completed_after is None else started_at + completed_after,
        units_processed=done,
        total_units=total,
    )
    answer = operation_json(operation, now=now)
    assert answer.get("rate") is None or int(str(answer["rate"])) >= 0
    eta = answer.get("eta")
    assert eta is None or datetime.fromisoformat(str(eta)).timestamp() - now <= ETA_S_MAX + 1
