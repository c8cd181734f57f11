"""From the relay's send to the row: at the real network's rate times two to four, 1 % tracked."""

from __future__ import annotations

from tests.bench.benchmark import Benchmark, Session
from tests.bench.following import paced_daemon
from tests.bench.stream import MIXES

RATE = 2000.0


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark; 20 tracked events a second, so a long run for a p99."""
    seconds = 4 if session.is_quick else 25
    return [
        Benchmark(
            name="latency",
            title="1 % at 2,000/s",
            contenders=[paced_daemon(MIXES["mix1"], int(RATE * seconds), RATE)],
            rounds=1 if session.is_quick else 3,
            targets=["p99 <= 10 ms", "<= 0.25 cores", "RSS <= 120 MB"],
        )
    ]
