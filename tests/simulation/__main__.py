"""The campaign: many seeds in several processes, faults counted, failing seeds printed.

    python -m tests.simulation --seeds 1000 --events 500 [--first 1] [--processes 2]

A failing seed is run again alone by `--first SEED --seeds 1`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.faults import PLACES
from tests.simulation.seed import Report, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--loud", action="store_true", help="show the daemon's log")
    options = parser.parse_args()
    started = time.monotonic()
    fired: Counter[str] = Counter()
    failures: list[str] = []
    events = 0
    seeds = range(options.first, options.first + options.seeds)
    with ProcessPoolExecutor(options.processes, max_tasks_per_child=50) as pool:
        futures = [pool.submit(run_seed, s, options.events, not options.loud) for s in seeds]
        for future in futures:
            outcome = future.result()
            if isinstance(outcome, Report):
                fired.update(kind.value for kind in outcome.fired.elements())
                events += outcome.events
            else:
                failures.append(outcome)
                print(outcome, flush=True)
    for kind in sorted(PLACES):
        print(f"{fired[kind.value]:7d}  {kind.value}")
    print(
        f"{len(seeds)} seeds, {events} events, {fired.total()} faults of {len(fired)} kinds, "
        f"{len(failures)} failed, {time.monotonic() - started:.0f} s"
    )
    for failure in failures:
        print(failure.splitlines()[0])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
