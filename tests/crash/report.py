"""What the campaigns came to, in one file of results: every run, and the sums that are shown.

A long form is made of many runs, some at the same time, so each is added under a lock. A run that
found something is kept too, with what it found.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from tests.bench.report import commit, machine_line

Runs: TypeAlias = dict[str, list[dict[str, Any]]]
TARGETS = {
    "kills at random moments": "at least 1000",
    "deaths at the named point with the fewest": "at least 100",
}


def add_run(report: Path, campaign: str, figures: dict[str, Any]) -> None:
    """Add one run of `campaign` to the file, in the form of `docs/evidence/README.md`."""
    report.parent.mkdir(parents=True, exist_ok=True)
    with report.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        runs: Runs = json.loads(file.read() or "{}").get("runs", {})
        where = {"commit": commit(), "command": _command()}
        runs.setdefault(campaign, []).append(figures | where)
        text = json.dumps(_summary(runs), indent=1) + "\n"
        file.truncate(0)
        file.write(text)


def _summary(runs: Runs) -> dict[str, Any]:
    every = [run for each in runs.values() for run in each]
    return {
        "campaign": "crash",
        "title": "Kills, named crash points, failed calls, losses of power",
        "command": "python -m tests.crash kills --seeds 7 --kills 144; python -m tests.crash points"
        " --seeds 100; python -m tests.crash nth; python -m tests.crash power --seeds 2 --cuts 500",
        "short_form": "tests/e2e/test_crash.py, tests/e2e/test_kill.py",
        "commit": ", ".join(dict.fromkeys(run["commit"][:7] for run in every)),
        "machine": machine_line(),
        "date": datetime.now(UTC).date().isoformat(),
        "passed": not any("failure" in run for run in every),
        "figures": _figures(
            {name: [r for r in each if "failure" not in r] for name, each in runs.items()}
        ),
        "targets": TARGETS,
        "runs": runs,
    }


def _figures(runs: Runs) -> dict[str, int | float]:
    """Sums of what was run; nothing of a campaign that was not."""
    kills, points, power = (runs.get(name, []) for name in ("kills", "points", "power"))
    families = [family for run in runs.get("nth", []) for family in run["families"].values()]
    figures: dict[str, int | float] = {}
    if kills:
        figures |= {
            "kills at random moments": sum(run["kills"] for run in kills),
            "kills of daemons that had come up": sum(run["started"] for run in kills),
            "times a killed store became equal": sum(run["rounds"] for run in kills),
            "requests answered between kills": _added(run["answered"] for run in kills).total(),
        }
    if points:
        deaths = _added(run["fired"] for run in points)
        figures |= {
            "named points": len(deaths),
            "deaths at named points": deaths.total(),
            "deaths at the named point with the fewest": min(deaths.values()),
        }
    compared = sum(run["repos_compared"] for run in (*kills, *points))
    figures |= {"repos compared with their past": compared}
    if families:
        outcomes = _added(family["outcomes"] for family in families)
        figures |= {
            "failed calls": sum(family["fired"] for family in families),
            "failed calls after which the daemon went on": outcomes["went on"],
            "failed calls that ended it with 74": outcomes["exit 74"],
            "failed calls that ended a start with 78": outcomes["exit 78"],
        }
    if power:
        figures |= {
            "losses of power": sum(sum(run["cuts"].values()) for run in power),
            "syncs recorded for them": sum(run["syncs"] for run in power),
            "stores caught up after a loss of power": sum(run["caught_up"] for run in power),
        }
    took_s = sum(run["took_s"] for run in (*kills, *points, *families, *power))
    return figures | {"seconds": round(took_s, 1)}


def _added(counts: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _command() -> str:
    """As it was called, without where the figures went."""
    arguments = sys.argv[1:]
    if "--report" in arguments:
        at = arguments.index("--report")
        del arguments[at : at + 2]
    return " ".join(["python -m tests.crash", *arguments])
