"""The short form of the simulation campaign; the long one is `python -m tests.simulation`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.campaign import Outcome, earlier_runs, run_campaign

SEEDS = 24  # in which each kind of fault happens
EVENTS = 60


@pytest.mark.slow
def test_the_store_ends_equal_to_the_network_whatever_fault_happens():
    """Every seed ends with the oracle's records and heads, and its faults have happened."""
    outcome = run_campaign(range(1, SEEDS + 1), EVENTS, processes=4)
    assert not outcome.failures, "\n".join(outcome.failures.values())
    assert len(outcome.fired) == len(outcome.kinds), outcome.table()


def test_runs_of_one_commit_add_up_and_those_of_another_do_not_count(tmp_path: Path):
    path = tmp_path / "simulation.json"
    Outcome(1, 3, 60, events=200, passed=3, fired=Counter(close=2), settled_s_max=5.0).write(
        path, measured="abc"
    )
    Outcome(
        4, 2, 60, events=130, passed=1, fired=Counter(close=1), failures={5: "seed 5: x"}
    ).write(path, measured="abc")
    total = json.loads(path.read_text())
    figures = total["figures"]
    assert (figures["seeds"], figures["events"], figures["seeds that ended unequal"]) == (5, 330, 1)
    assert figures["simulated seconds to settle, most"] == 5.0
    assert (total["fired"]["close"], total["passed"], list(total["failed"])) == (3, False, ["5"])
    assert [run["first"] for run in earlier_runs(path, "abc", 60)] == [1, 4]
    assert earlier_runs(path, "abc", 61) == earlier_runs(path, "def", 60) == []
    Outcome(1, 1, 60, passed=1).write(path, measured="def")
    assert json.loads(path.read_text())["figures"]["seeds"] == 1
