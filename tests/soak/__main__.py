"""`python -m tests.soak --minutes 120 --output DIR`: run, judge, write `soak.json` beside the samples.

Exit code 0 when every check holds, every fault that was asked for has happened, no operation
type came to nothing, and the store ended equal to the oracle.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from statistics import median

from tests.bench.process import ROOT
from tests.bench.report import commit, write_campaign
from tests.soak.mischief import OPERATIONS, Pace
from tests.soak.run import Outcome, Plan, soak
from tests.soak.sampling import Sample
from tests.soak.verdict import Check, judge

REAL_RATE = 1000.0
"""Events a second of the real network, as operators of relays and bridges report it."""

TIMES = 10.0


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=REAL_RATE * TIMES, help="events a second")
    parser.add_argument("--output", type=Path, default=ROOT / ".soak")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    measured = commit()
    plan = Plan(
        seconds=options.minutes * 60,
        rate=options.rate,
        tracked_share=0.01,
        accounts=400,
        records=100,
        foreign_frames=1500,
        sample_s=5.0,
        pace=Pace(fault_s=20.0, mishap_s=300.0, operation_s=120.0),
        window=20_000,
        settle_s=3600.0,
        idle_s=30.0,
        seed=options.seed,
    )
    outcome = asyncio.run(soak(plan, options.output, options.cache))
    checks = judge(outcome.samples, behind_max=behind_max(plan))
    for check in checks:
        print(
            f"{'ok  ' if check.holds else 'FAIL'} {check.name}: {check.found:g} <= {check.most:g}"
        )
    print(f"never happened: {outcome.unfired or 'nothing'}; operations: {outcome.operations}")
    return 0 if write(options.output / "soak.json", plan, outcome, checks, measured) else 1


def behind_max(plan: Plan) -> float:
    """Two seconds' worth of tracked events: more is an outage, or its aftermath."""
    return 2 * plan.rate * plan.tracked_share


def write(path: Path, plan: Plan, outcome: Outcome, checks: list[Check], measured: str) -> bool:
    """Write flat figures, and series for the plots. Whether all was as it must be."""
    samples = outcome.samples
    half = samples[len(samples) // 2 :]
    calm = [each for each in half if each["behind"] <= behind_max(plan)]
    idle = [kind for kind in OPERATIONS if not outcome.operations.get(f"{kind} completed")]
    figures: dict[str, float] = {
        "minutes": round(plan.seconds / 60, 1),
        "events a second, asked": plan.rate,
        "events a second, median received": _median(samples, "events_per_s"),
        "tracked events": sum(int(each["came_through"]) for each in samples),
        "records at the end": outcome.records,
        "faults fired": sum(outcome.fired.values()),
        "kinds of faults fired": len(outcome.fired),
        "mishaps": sum(outcome.mishaps.values()),
        "operations": sum(outcome.operations.values()),
        "cores, median": _median(samples, "cores"),
        "RSS MB, median of the second half": _median(half, "rss_mb"),
        "RSS MB, most": max(each["rss_mb"] for each in samples),
        "descriptors, most": max(each["descriptors"] for each in samples),
        "p50 ms, median of the second half": _median(calm, "p50_ms"),
        "p99 ms, median of the second half": _median(calm, "p99_ms"),
        "share of samples without an outage or its backlog": round(len(calm) / len(half), 2),
        "events a second, most": max(each.get("events_per_s", 0) for each in samples),
        "WAL MB, most": max(each["wal_mb"] for each in samples),
        "loop lag ms, median": _median(samples, "loop_lag_ms"),
        "seconds until equal to the oracle at the end": round(outcome.settled_s, 1),
    }
    passed = (
        all(check.holds for check in checks)
        and not outcome.unfired
        and not idle
        and outcome.exit_code == 0
    )
    targets = {}
    for check in checks:
        figures[check.name] = check.found
        targets[check.name] = f"at most {check.most:.3g}"
    write_campaign(
        path,
        campaign="soak",
        title="Soak at ten times the real network's rate, with faults",
        command=f"python -m tests.soak --minutes {plan.seconds / 60:g}",
        short_form="tests/e2e/test_soak.py",
        measured=measured,
        passed=passed,
        figures=figures,
        targets=targets,
        more={
            "fired": outcome.fired,
            "unfired": outcome.unfired,
            "mishaps": outcome.mishaps,
            "operations": outcome.operations,
            "deeds": outcome.deeds,
            "series": series(samples),
        },
    )
    return passed


def series(samples: list[Sample], points: int = 240) -> dict[str, list[float | None]]:
    """Name -> medians of at most so many stretches, for plots. None where nothing was measured."""
    size = max(1, -(-len(samples) // points))
    stretches = [samples[at : at + size] for at in range(0, len(samples), size)]
    names = sorted({name for each in samples for name in each})
    return {
        name: [
            round(median(values), 3) if (values := _values(stretch, name)) else None
            for stretch in stretches
        ]
        for name in names
    }


def _values(samples: list[Sample], name: str) -> list[float]:
    return [each[name] for each in samples if name in each]


def _median(samples: list[Sample], name: str) -> float:
    return round(median(_values(samples, name)), 3)


if __name__ == "__main__":
    sys.exit(main())
