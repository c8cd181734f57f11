"""Events a second, fed as fast as they are read, beside the SDK pipeline."""

from __future__ import annotations

from tests.bench.benchmark import Benchmark, Session
from tests.bench.following import flooded_daemon
from tests.bench.sdk import sdk_contender
from tests.bench.stream import MIXES

QUICK_EVENTS = {
    "mix1": (100_000, 8_000),
    "mix10": (25_000, 6_000),
    "mix30": (9_000, 2_500),
    "mix100": (3_000, 600),
}
FULL_EVENTS = {
    "mix1": (400_000, 40_000),
    "mix10": (150_000, 20_000),
    "mix30": (60_000, 10_000),
    "mix100": (40_000, 3_000),
}
"""Mix -> events of a run for the daemon and for the SDK pipeline: seconds each."""

TARGETS = {
    "mix1": ["70,000 events/s", "9 times the SDK pipeline"],
    "mix100": ["5,000 commits/s", "6 times the SDK pipeline"],
}


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark for each mix."""
    events = QUICK_EVENTS if session.is_quick else FULL_EVENTS
    return [
        Benchmark(
            name=name,
            title=f"{mix.title} tracked, flood",
            contenders=[flooded_daemon(mix, events[name][0]), sdk_contender(mix, events[name][1])],
            rounds=2 if session.is_quick else 5,
            targets=TARGETS.get(name, []),
        )
        for name, mix in MIXES.items()
    ]
