"""Many seeds in several processes: what they did, counted, and which of them failed."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.report import write_campaign
from tests.simulation.faults import PLACES
from tests.simulation.mishaps import Mishap
from tests.simulation.seed import Report, run_seed

SEEDS_PER_PROCESS = 100
TOLD_EVERY = 25


@dataclass(slots=True)
class Outcome:
    """What a campaign came to."""

    first: int
    seeds: int
    events_asked: int
    events: int = 0
    passed: int = 0
    fired: Counter[str] = field(default_factory=Counter)  # kind -> times, over all seeds
    failures: dict[int, str] = field(default_factory=dict)  # seed -> what went wrong
    simulated_s: float = 0.0
    settled_s_max: float = 0.0
    took_s: float = 0.0

    @property
    def kinds(self) -> list[str]:
        """Every kind that a seed may be given."""
        return sorted([*(kind.value for kind in PLACES), *(kind.value for kind in Mishap)])

    def add(self, seed: int, outcome: Report | str) -> None:
        """Count one seed."""
        if isinstance(outcome, str):
            self.failures[seed] = outcome
            return
        self.passed += 1
        self.events += outcome.events
        self.fired.update(outcome.fired)
        self.simulated_s += outcome.simulated_s
        self.settled_s_max = max(self.settled_s_max, outcome.settled_s)

    def table(self) -> str:
        """For people."""
        lines = [f"{self.fired[kind]:7d}  {kind}" for kind in self.kinds]
        lines += [
            f"{self.seeds} seeds from {self.first} on, at least {self.events_asked} events each:",
            f"  {self.events} events, {self.fired.total()} faults of {len(self.fired)} kinds",
            f"  {self.simulated_s / 3600:.1f} simulated hours in {self.took_s:.0f} s",
            f"  settled within {self.settled_s_max:.0f} simulated s",
            f"  {len(self.failures)} failed: {sorted(self.failures) or 'none'}",
        ]
        lines += [f"  {self.failures[seed].splitlines()[0]}" for seed in sorted(self.failures)]
        return "\n".join(lines)

    def write(self, path: Path, *, measured: str) -> None:
        """As a result of the commit `measured`, with the runs of it that `path` has already.

        `fired` names every kind, those that never happened with 0.
        """
        runs = [*earlier_runs(path, measured, self.events_asked), _as_run(self)]
        fired: Counter[str] = Counter(dict.fromkeys(self.kinds, 0))
        failed: dict[str, str] = {}
        for run in runs:
            fired.update(run["fired"])
            failed |= run["failures"]
        total = {name: sum(run[name] for run in runs) for name in _SUMMED}
        seeds = total["seeds"]
        write_campaign(
            path,
            campaign="simulation",
            title="Simulated networks under faults",
            command=f"python -m tests.simulation --seeds {seeds} --events {self.events_asked}",
            short_form="tests/e2e/test_simulation.py",
            measured=measured,
            passed=not failed,
            figures={
                "seeds": seeds,
                "events a seed, at least": self.events_asked,
                "events": total["events"],
                "seeds that ended unequal": len(failed),
                "kinds of faults": len(fired),
                "faults that happened": fired.total(),
                "times the rarest kind happened": min(fired.values()),
                "simulated hours": round(total["simulated_s"] / 3600, 1),
                "simulated seconds to settle, most": round(
                    max(r["settled_s_max"] for r in runs), 1
                ),
                "seconds": round(total["took_s"]),
            },
            targets=_TARGETS,
            more={"failed": failed, "fired": dict(fired), "runs": runs},
        )


_SUMMED = ("seeds", "events", "simulated_s", "took_s")
_TARGETS = {
    "seeds": "at least 10,000",
    "events a seed, at least": "at least 1,000",
    "seeds that ended unequal": "at most 0",
    "times the rarest kind happened": "at least 1,000",
}


def earlier_runs(path: Path, measured: str, events: int) -> list[dict[str, Any]]:
    """Runs in a result that count together with one of the commit `measured` and so many events."""
    if not path.exists():
        return []
    document = json.loads(path.read_text())
    runs: list[dict[str, Any]] = document["runs"] if document["commit"] == measured else []
    return [run for run in runs if run["events_asked"] == events]


def _as_run(outcome: Outcome) -> dict[str, Any]:
    failures = {str(seed): text for seed, text in sorted(outcome.failures.items())}
    return asdict(outcome) | {"fired": dict(outcome.fired), "failures": failures}


def run_campaign(
    seeds: Sequence[int],
    events: int,
    *,
    processes: int,
    is_quiet: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the seeds; failures and progress are told as they come."""
    started = time.monotonic()
    outcome = Outcome(seeds[0], len(seeds), events)
    # Processes end with their share of seeds. `max_tasks_per_child` would do that too, and in
    # Python 3.11 it can leave the pool without a process, waiting for ever.
    share = processes * SEEDS_PER_PROCESS
    for first in range(0, len(seeds), share):
        for seed, result in _run(
            seeds[first : first + share], events, processes, is_quiet=is_quiet
        ):
            outcome.add(seed, result)
            outcome.took_s = time.monotonic() - started
            if seed in outcome.failures:
                tell(outcome.failures[seed])
            if (done := outcome.passed + len(outcome.failures)) % TOLD_EVERY == 0:
                tell(
                    f"{done} of {len(seeds)} seeds, {outcome.took_s:.0f} s,"
                    f" {len(outcome.failures)} failed"
                )
    outcome.took_s = time.monotonic() - started
    return outcome


def _run(
    seeds: Sequence[int], events: int, processes: int, *, is_quiet: bool
) -> Iterator[tuple[int, Report | str]]:
    """(seed, what came of it), as they end."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = {pool.submit(run_seed, seed, events, is_quiet): seed for seed in seeds}
        for future in as_completed(running):
            yield running[future], future.result()
