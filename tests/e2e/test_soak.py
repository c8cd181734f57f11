"""The short form of the soak; the long one is `python -m tests.soak`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.devnet import FaultKind
from tests.soak.mischief import Pace
from tests.soak.run import Plan, soak

KINDS = (
    FaultKind.DROP_CONNECTION,
    FaultKind.DUPLICATE_FRAME,
    FaultKind.BAD_SIGNATURE,
    FaultKind.SWALLOW_FRAME,
    FaultKind.GARBAGE_BLOCK,
)


@pytest.mark.slow
async def test_a_store_under_load_and_faults_is_watched_and_ends_equal(tmp_path: Path):
    plan = Plan(
        seconds=5.0,
        rate=2000.0,
        tracked_share=0.05,
        accounts=30,
        records=30,
        foreign_frames=40,
        sample_s=0.5,
        pace=Pace(fault_s=0.6, mishap_s=60.0, operation_s=1.0),
        window=20_000,
        settle_s=60.0,
        idle_s=30.0,
        kinds=KINDS,
    )
    outcome = await soak(plan, tmp_path / "soak", tmp_path)
    assert outcome.unfired == []
    assert set(outcome.fired) == set(KINDS)
    assert outcome.operations["freshnessScan completed"] >= 1
    assert outcome.operations["fullReindex completed"] >= 1
    assert outcome.exit_code == 0
    lines = (tmp_path / "soak" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == outcome.samples
    assert sum(each["came_through"] for each in outcome.samples) > 100
    assert max(each["events_per_s"] for each in outcome.samples[1:]) > 1500
    assert all(each["wal_mb"] < 64 for each in outcome.samples)
    assert min(each["p50_ms"] for each in outcome.samples if "p50_ms" in each) < 1000
