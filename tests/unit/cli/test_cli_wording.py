from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.cli.operation_report import OperationReport, listing, progress_line, summary
from indexer.cli.wording import counted, duration, printable, table

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.6, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599.9, "1 h"),
        (3660, "1 h 1 min"),
        (3601, "1 h"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (10_000_000, "115 d 17 h"),
    ],
)
def test_a_span_has_its_two_leading_parts(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 repos"), (1, "1 repo"), (2, "2 repos"), (12345, "12,345 repos")]
)
def test_a_noun_follows_its_number(number: int, text: str):
    assert counted(number, "repo") == text


def test_columns_are_as_wide_as_their_widest_cell():
    assert table([("a", "bb", "c"), ("dddd", "e", "")]) == ["a     bb  c", "dddd  e"]


@settings(deadline=None)
@given(st.text(st.characters()))
def test_nothing_that_steers_a_terminal_is_left_in_a_text(text: str):
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)


def report(**fields: object) -> OperationReport:
    known = {
        "id": "x",
        "type": "pdsScan",
        "status": "running",
        "startedAt": NOW.isoformat(),
        "recordsProcessed": 0,
    }
    return msgspec.convert(known | fields, OperationReport)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "pdsScan 0 records"),
        ({"phase": "queued"}, "pdsScan 0 records, queued"),
        ({"phase": "paused", "cancelRequested": True}, "pdsScan 0 records, stopping"),
        ({"unit": "repo", "unitsProcessed": 1}, "pdsScan 0 records, 1 repo"),
        (
            {"unit": "repo", "unitsProcessed": 1, "rate": 1200},
            "pdsScan 0 records, 1 repo, 1,200 repos/min",
        ),
        (
            {"progress": 25, "eta": (NOW + timedelta(minutes=3)).isoformat()},
            "pdsScan [######------------------] 25 %, 0 records, 3 min left",
        ),
        ({"eta": (NOW - timedelta(minutes=3)).isoformat()}, "pdsScan 0 records, 0 s left"),
        ({"progress": 100}, "pdsScan [########################] 100 %, 0 records"),
    ],
)
def test_progress_shows_what_is_known(fields: dict[str, object], line: str):
    assert progress_line(report(**fields), NOW) == line


TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)
NUMBERS = st.integers(0, 2**53)


@settings(deadline=None)
@given(
    fields=st.fixed_dictionaries(
        {"id": TEXTS, "type": TEXTS, "recordsProcessed": NUMBERS},
        optional={
            "status": st.sampled_from(["running", "completed", "failed", "cancelled"]),
            "error": TEXTS,
            "key": TEXTS,
            "phase": TEXTS,
            "unit": TEXTS,
            "progress": st.integers(-200, 200),
            "rate": NUMBERS,
            "unitsProcessed": NUMBERS,
            "eta": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            "completedAt": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            "note": TEXTS,
            "outcomes": st.lists(st.fixed_dictionaries({"name": TEXTS, "units": NUMBERS})),
            "failures": st.lists(
                st.fixed_dictionaries({"unit": TEXTS, "outcome": TEXTS, "message": TEXTS})
            ),
        },
    )
)
def test_any_operation_can_be_shown(fields: dict[str, object]):
    operation = report(**fields)
    lines = [progress_line(operation, NOW), *summary(operation), *listing([operation], NOW)]
    assert all(line.isprintable() for line in lines)
