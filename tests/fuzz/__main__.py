"""`python -m tests.fuzz --target frames --inputs 100000 --seed 1 [--jobs 2]`: exit code 1 if any input failed.

What fails is made as small as it will get, saved in `--folder`, and printed with the command that
repeats it. `--report FILE` adds the outcome to a JSON file, which `tests.fuzz.report` turns into the
one in `docs/evidence/`.
"""

from __future__ import annotations

import argparse
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.fuzz.engine import Campaign, Outcome
from tests.fuzz.report import add_run
from tests.fuzz.targets import TARGETS, open_target

COMMAND = "python -m tests.fuzz"


def main() -> int:
    """Run, print, report."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--target", choices=[*TARGETS, "all"], required=True)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end then, all the same")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"), help="for inputs that fail")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--replay", type=Path, help="judge this one input")
    options = parser.parse_args()
    if options.replay is not None:
        print(open_target(options.target).check(options.replay.read_bytes()))
        return 0
    failed = False
    for name in TARGETS if options.target == "all" else [options.target]:
        limits = (options.inputs, options.seconds)
        outcome = run(name, limits, options.seed, options.jobs, options.folder)
        print(outcome.table(), flush=True)
        failed |= bool(outcome.failures)
        if options.report is not None:
            add_run(options.report, outcome, options.seed)
    return int(failed)


def run(name: str, limits: tuple[int, float], seed: int, jobs: int, folder: Path) -> Outcome:
    """So many inputs, for so many seconds at most, in processes with a seed of their own each."""
    inputs, seconds = limits
    if jobs == 1:
        return run_one(name, limits, str(seed), folder)
    total = Outcome(name)
    with ProcessPoolExecutor(jobs) as pool:
        parts = [
            pool.submit(run_one, name, (inputs // jobs, seconds), f"{seed}.{job}", folder)
            for job in range(jobs)
        ]
        for part in parts:
            total.add(part.result())
    return total


def run_one(name: str, limits: tuple[int, float], seed: str, folder: Path) -> Outcome:
    """In this process."""
    return Campaign(open_target(name), seed=seed, folder=folder, command=COMMAND).run(*limits)


if __name__ == "__main__":
    sys.exit(main())
