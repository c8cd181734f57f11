"""An hour of the stream at 2,000 events a second, after an outage: measured on twelve minutes of it.

The relay sends as fast as it is read, as one does that replays its window. `hour_s` is the time that
7.2 million events would take at the rate measured.
"""

from __future__ import annotations

from tests.bench.benchmark import Benchmark, Contender, Figures, Session
from tests.bench.following import flooded_daemon
from tests.bench.stream import MIXES

HOUR_EVENTS = 3600 * 2000
QUICK_EVENTS = 60_000
FULL_EVENTS = HOUR_EVENTS // 5


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark."""
    events = QUICK_EVENTS if session.is_quick else FULL_EVENTS
    flood = flooded_daemon(MIXES["mix1"], events)

    def run(session: Session) -> Figures:
        figures = flood.run(session)
        return figures | {"hour_s": HOUR_EVENTS / figures["per_s"]}

    return [
        Benchmark(
            name="backlog",
            title=f"backlog of {events / 2000 / 60:g} min at 2,000/s",
            contenders=[Contender("daemon", run)],
            rounds=1,
            targets=["one hour in < 2 min"],
        )
    ]
