"""`python -m tests.bench [--quick] [--only NAME]`: run the suite, print the table, write the JSON.

`--quick` is a check that everything runs, in two minutes; its figures are no evidence.
`--contender` leaves out the others, such as when no daemon is there to be measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import report
from tests.bench.benchmark import Benchmark, Session, measure
from tests.bench.corpus import FULL, QUICK, ensure_corpus
from tests.bench.process import ROOT
from tests.bench.suite import all_benchmarks


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole run; 0 when every contender came to the right rows."""
    options = parse(arguments)
    started = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {line}", file=sys.stderr, flush=True)

    facts: dict[str, object] = {
        "machine": report.machine(),
        "commit": report.commit(),
        "date": report.today(),
        "quick": options.quick,
    }
    size = QUICK if options.quick else FULL
    progress(f"corpus {size.name}")
    corpus = ensure_corpus(options.cache, size)
    scratch = options.cache / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    session = Session(options.cache, corpus, scratch, options.quick)
    results = [
        measure(benchmark, session, progress=progress)
        for benchmark in chosen(all_benchmarks(session), options)
    ]
    facts["seconds"] = round(time.monotonic() - started, 1)
    print(report.table(results))
    if shares := report.shares(results):
        print(shares)
    report.write_json(options.json, results, facts)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, short, two minutes")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="that one, or those with it in their name"
    )
    parser.add_argument("--contender", metavar="NAME", help="only this one of each benchmark")
    parser.add_argument("--rounds", type=int, help="instead of each benchmark's own number")
    parser.add_argument("--json", type=Path, default=ROOT / "bench-results.json")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench")
    return parser.parse_args(arguments)


def chosen(benchmarks: Sequence[Benchmark], options: argparse.Namespace) -> list[Benchmark]:
    """The benchmark of that name, else those with it in their name, with the contenders left."""
    named = [each for each in benchmarks if each.name == options.only] or [
        each for each in benchmarks if options.only in each.name
    ]
    narrowed = []
    for benchmark in named:
        contenders = [
            contender
            for contender in benchmark.contenders
            if options.contender in {None, contender.name}
        ]
        rounds = options.rounds or benchmark.rounds
        if contenders:
            narrowed.append(dataclasses.replace(benchmark, contenders=contenders, rounds=rounds))
    return narrowed


if __name__ == "__main__":
    sys.exit(main())
