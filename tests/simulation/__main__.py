"""The campaign: many seeds in several processes, faults counted, failing seeds printed.

    python -m tests.simulation --seeds 1000 --events 500 [--first 1] [--processes 2] [--report FILE]

A failing seed is run again alone by `--first SEED --seeds 1`, with the same `--events`. A report
that is there is added to, if it is of the same commit: a campaign may be made of many runs, each of
other seeds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path

from tests.bench.report import commit
from tests.simulation.campaign import earlier_runs, run_campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--first", type=int, default=1)
    # Half of a seed's time is spent waiting to be sure that nothing else happens.
    parser.add_argument("--processes", type=int, default=2 * multiprocessing.cpu_count())
    parser.add_argument("--report", type=Path, help="write the result as JSON into this file too")
    parser.add_argument("--loud", action="store_true", help="show the daemons' logs")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    measured = commit()
    if options.report is not None:
        for run in earlier_runs(options.report, measured, options.events):
            if not set(seeds).isdisjoint(range(run["first"], run["first"] + run["seeds"])):
                parser.error(f"seeds from {run['first']} on are in {options.report} already")
    outcome = run_campaign(
        seeds, options.events, processes=options.processes, is_quiet=not options.loud, tell=_tell
    )
    print(outcome.table())
    if options.report is not None:
        outcome.write(options.report, measured=measured)
    return 1 if outcome.failures else 0


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
