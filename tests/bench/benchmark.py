"""What a benchmark is: contenders that do the same work, measured in turns.

A module in `tests/bench/suite` offers `benchmarks(session)`. Each benchmark names its contenders,
ours first; a second one is what ours is compared with. One run gives `Figures`; rounds are
interleaved (A B A B ...), so that whatever else the machine does meets all alike, and a ratio is
the median of the ratios of the rounds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.corpus import Corpus

Figures = dict[str, float]
"""Name -> value of one run. `per_s`, where present, is the headline: events or records a second."""


class WrongResultError(RuntimeError):
    """A contender ended with other rows than the input demands: its speed means nothing."""


@dataclass(slots=True)
class Session:
    """One invocation of the suite."""

    root: Path  # where corpora are kept
    corpus: Corpus
    scratch: Path  # emptied before; a run that failed leaves its logs and database here
    is_quick: bool
    directories: int = 0
    cache: dict[str, Path] = field(default_factory=dict)  # what contenders prepare once

    def directory(self, name: str) -> Path:
        """A fresh directory, kept until the next invocation."""
        self.directories += 1
        path = self.scratch / f"{self.directories:03}-{name}"
        path.mkdir(parents=True)
        return path

    @contextmanager
    def run_directory(self, name: str) -> Iterator[Path]:
        """A fresh directory for one run, removed unless the run fails."""
        path = self.directory(name)
        yield path
        shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who does the work once per round."""

    name: str
    run: Callable[[Session], Figures]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Work to be measured; `rounds` times each contender."""

    name: str
    title: str
    contenders: Sequence[Contender]
    rounds: int
    targets: Sequence[str] = ()  # what the project wants of it, as told to people


@dataclass(slots=True)
class Result:
    """All runs of one benchmark: contender -> figures per round."""

    benchmark: Benchmark
    runs: dict[str, list[Figures]]

    def median(self, contender: str) -> Figures:
        """The median of each figure."""
        runs = self.runs[contender]
        return {name: median(run[name] for run in runs) for name in runs[0]}

    def spread(self, contender: str, figure: str) -> tuple[float, float]:
        """Least and greatest value of a figure."""
        values = [run[figure] for run in self.runs[contender]]
        return min(values), max(values)

    @property
    def ratio(self) -> float | None:
        """How many times the second contender's `per_s` ours has; None without a second."""
        return self._median_quotient("per_s")

    @property
    def cpu_ratio(self) -> float | None:
        """How many times our CPU time per event the second contender takes.

        Says what the work costs where something else has the machine too, which `ratio` cannot.
        """
        quotient = self._median_quotient("cpu_us")
        return None if not quotient else 1 / quotient

    def _median_quotient(self, figure: str) -> float | None:
        names = [contender.name for contender in self.benchmark.contenders]
        if len(names) < 2 or figure not in self.runs[names[0]][0]:
            return None
        pairs = zip(self.runs[names[0]], self.runs[names[1]], strict=True)
        return median(ours[figure] / theirs[figure] for ours, theirs in pairs)


def measure(benchmark: Benchmark, session: Session, *, progress: Callable[[str], None]) -> Result:
    """Run all rounds of a benchmark."""
    result = Result(benchmark, {contender.name: [] for contender in benchmark.contenders})
    for number in range(benchmark.rounds):
        for contender in benchmark.contenders:
            progress(f"{benchmark.name}: {contender.name}, round {number + 1}")
            result.runs[contender.name].append(contender.run(session))
    return result


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
