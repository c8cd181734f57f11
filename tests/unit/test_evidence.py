"""The pages *Evidence* and *Scaling* say what the results say."""

import json
from pathlib import Path

import pytest

from tests.evidence.pages import load, made, replaced
from tests.evidence.tables import campaigns, number, speed

DOCUMENT = {
    "campaign": "crash", "title": "Kills", "command": "python -m tests.crash", "short_form": "t.py",
    "commit": "abc", "machine": "a machine", "date": "2026-11-26", "passed": True,
    "figures": {"kills": 999, "seconds": 12.345}, "targets": {"kills": "at least 1,000"},
}  # fmt: skip


def bench(**figures: float) -> dict:
    row = {"title": "1 %", "commit": "abc", "date": "today", "machine": "m", "ratio": 9.5,
           "cpu_ratio": None, "contenders": {"daemon": figures}}  # fmt: skip
    return {"campaign": "bench", "machine": "m", "benchmarks": {"mix1": row}}


def test_pages_and_plots_are_what_the_results_give():
    documents = load()
    for path, text in made(documents).items():
        assert path.read_text() == text, f"{path.name} is stale: make docs"


def test_a_missed_target_is_shown_as_missed():
    text = campaigns({"crash": DOCUMENT})
    assert "| kills | 999 | at least 1,000 | **missed** |" in text
    assert "| seconds | 12.3 |  |  |" in text
    assert "| Kills | passed | abc |" in text
    assert "**failed**" in campaigns({"crash": {**DOCUMENT, "passed": False}})


def test_targets_of_speed_are_met_missed_or_not_measured():
    text = speed({"bench": bench(per_s=69_999.0)})
    assert "| at least 70,000 events/s | 69,999 | **missed** |" in text
    assert "| at least 9 times the SDK pipeline | 9.50 | met |" in text
    assert "| at most 15 s |  | not measured |" in text


def test_each_row_of_speed_is_told_with_its_own_machine():
    document = bench(per_s=1.0)
    assert speed({"bench": document}).endswith("\n\nOn m.")
    (row,) = document["benchmarks"].values()
    document["benchmarks"]["fetch"] = {**row, "machine": "another"}
    document["benchmarks"]["latency"] = row
    text = speed({"bench": document})
    assert text.endswith("\n\n`mix1`, `latency`: on m.\n\n`fetch`: on another.")


def test_a_result_that_lacks_something_is_refused(tmp_path: Path):
    (tmp_path / "crash.json").write_text(json.dumps(DOCUMENT))
    assert load(tmp_path) == {"crash": DOCUMENT}
    (tmp_path / "fuzz.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(ValueError, match="named for another"):
        load(tmp_path)
    (tmp_path / "fuzz.json").write_text('{"campaign": "fuzz"}')
    with pytest.raises(ValueError, match="machine"):
        load(tmp_path)


def test_only_the_named_part_of_a_page_is_replaced():
    page = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y -->\n<!-- end -->"
    once = replaced(page, "x", "new")
    assert once.startswith("a\n<!-- generated: x -->\n\nnew\n\n<!-- end -->\nb\n")
    assert replaced(once, "x", "new") == once
    with pytest.raises(ValueError, match="no part"):
        replaced(page, "z", "new")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (12, "12"), (123456.7, "123,457"), (412.3, "412"), (12.34, "12.3"), (1.5, "1.50"),
     (0.0123, "0.0123"), ("words", "words")],
)  # fmt: skip
def test_figures_are_written_for_people(value: object, text: str):
    assert number(value) == text
