"""What is told of an operation, whatever its numbers are."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from admin_api.handlers.backfills import ETA_S_MAX, operation_json
from indexer.model import Operation, OperationMode, OperationStatus, OperationType, utc_text

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


def test_rate_and_end_count_from_when_work_began_and_went_on():
    waiting = replace(RUNNING, total_units=100)
    answer = operation_json(waiting, now=1e9 + 3600)
    assert "rate" not in answer and "eta" not in answer
    works = replace(waiting, work_began_at=1e9 + 3600, units_processed=10)
    answer = operation_json(works, now=1e9 + 3610)  # a unit a second, after an hour's wait
    assert (answer["rate"], answer["eta"]) == (60, utc_text(1e9 + 3700))
    resumed = replace(works, work_began_at=1e9 + 9000, units_processed=30, units_before=10)
    answer = operation_json(resumed, now=1e9 + 9010)  # two a second, after a stop
    assert (answer["rate"], answer["eta"]) == (120, utc_text(1e9 + 9045))
    ended = replace(resumed, status=OperationStatus.COMPLETED, completed_at=1e9 + 9020)
    answer = operation_json(ended, now=2e9)
    assert answer["rate"] == 60 and "eta" not in answer


@example(began_at=0.0, now=0.0, total=None, done=1, before=0, completed_after=2.2e-309)
@given(
    began_at=st.none() | st.floats(0, 4e9),
    before=st.integers(0, 10**12),
    now=st.floats(0, 4e9),
    total=st.none() | st.integers(0, 10**12),
    done=st.integers(0, 10**12),
    completed_after=st.none() | st.floats(0, 1e9),
)
def test_the_end_that_is_expected_is_a_time_or_is_left_out(
    began_at: float | None,
    now: float,
    total: int | None,
    done: int,
    before: int,
    completed_after: float | None,
):
    operation = replace(
        RUNNING,
        work_began_at=began_at,
        completed_at=None if completed_after is None else (began_at or 0.0) + completed_after,
        units_before=before,
        units_processed=done,
        total_units=total,
    )
    answer = operation_json(operation, now=now)
    assert answer.get("rate") is None or int(str(answer["rate"])) >= 0
    eta = answer.get("eta")
    assert eta is None or datetime.fromisoformat(str(eta)).timestamp() - now <= ETA_S_MAX + 1
