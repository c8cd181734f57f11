"""Outcomes of runs in one JSON file, and the document of all of them for `docs/evidence/`.

`python -m tests.fuzz.report RUNS.json docs/evidence/fuzz.json`
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.process import ROOT
from tests.bench.report import machine_line
from tests.fuzz.engine import CPU_MS_MAX, GROWTH_MB_MAX, Outcome

AT_LEAST = {"frames": 1_000_000, "archives": 1_000_000}
AT_LEAST_OF_OTHERS = 100_000


def add_run(file: Path, outcome: Outcome, seed: int) -> None:
    """Append a run to the file."""
    runs = json.loads(file.read_text()) if file.exists() else []
    fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    runs.append({"seed": seed, "commit": commit(), **fields})
    file.write_text(json.dumps(runs, indent=1) + "\n")


def commit() -> str:
    """The last commit that changed the product, which is what was measured."""
    command = ["git", "log", "-1", "--format=%h", "--", "indexer", "admin_api", "storage"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()  # fmt: skip


def document(runs: list[dict]) -> dict[str, object]:
    """All runs of each target together."""
    figures: dict[str, object] = {}
    targets: dict[str, str] = {}
    details: dict[str, object] = {}
    passed = True
    for name in dict.fromkeys(run["target"] for run in runs):
        total = Outcome(name)
        mine = [run for run in runs if run["target"] == name]
        for run in mine:
            fields = {key: value for key, value in run.items() if key not in {"seed", "commit"}}
            total.add(Outcome(**{**fields, "verdicts": Counter(run["verdicts"])}))
        passed &= not total.failures
        figures |= {
            f"{name}: inputs": total.inputs,
            f"{name}: inputs/s": round(total.inputs / total.seconds),
            f"{name}: accepted": total.accepted,
            f"{name}: refused": sum(total.verdicts.values()) - total.accepted,
            f"{name}: failures": len(total.failures),
            f"{name}: worst ms of CPU": round(total.worst_ms, 1),
            f"{name}: RSS growth MB": round(total.growth_mb, 1),
        }
        targets |= {
            f"{name}: inputs": f"at least {AT_LEAST.get(name, AT_LEAST_OF_OTHERS):,}",
            f"{name}: failures": "at most 0",
            f"{name}: worst ms of CPU": f"at most {CPU_MS_MAX:g}",
            f"{name}: RSS growth MB": f"at most {GROWTH_MB_MAX:g}",
        }
        details[name] = {
            "seeds": [run["seed"] for run in mine],
            "commits": sorted({run["commit"] for run in mine}),
            "seconds": round(total.seconds, 1),
            "verdicts": dict(total.verdicts.most_common()),
            "decoder lines reached": f"{total.lines_hit} of {total.lines}",
            "inputs kept for new lines": total.found,
        }
    return {
        "campaign": "fuzz",
        "title": "Mutated inputs for everything that reads what strangers send",
        "command": "python -m tests.fuzz --target frames --inputs 1000000 --seed 1",
        "short_form": "tests/unit/test_fuzz.py",
        "commit": ", ".join(dict.fromkeys(run["commit"] for run in runs)),
        "machine": machine_line(),
        "date": datetime.now(UTC).date().isoformat(),
        "passed": passed,
        "figures": figures,
        "targets": targets,
        "runs": details,
    }


if __name__ == "__main__":
    made = document(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
