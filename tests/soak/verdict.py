"""What samples must show: nothing grows, nothing slows down, the log of the file stays short.

Only the second half counts for growth: caches and pools have filled by then. A slope is Theil and Sen's, the
median of the slopes between all pairs, so that a fault that holds the stream up for a minute does
not tilt it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from tests.soak.sampling import Sample

POINTS_MAX = 400
WAL_MB_MAX = 256.0
"""Where the alert ChiveWalLarge begins."""

GROWTH = {
    "rss_mb": (0.05, 5.0),
    "descriptors": (0.0, 4.0),
    "threads": (0.0, 2.0),
    "p50_ms": (0.25, 5.0),
    "p99_ms": (0.50, 20.0),
    "cores": (0.15, 0.05),
}
"""Name -> growth over the second half that is still flat: share of the median, and at least so much."""


LASTING = ("rss_mb", "descriptors", "threads")
"""What must be flat however far the stream is behind."""


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about a soak, and whether it holds."""

    name: str
    found: float
    most: float

    @property
    def holds(self) -> bool:
        """Whether what was found is within its bound."""
        return self.found <= self.most


def judge(samples: Sequence[Sample], *, behind_max: float) -> list[Check]:
    """Every check on the samples; ValueError with fewer than eight.

    Latency and load are compared among samples that are at most `behind_max` tracked events behind:
    what waits after an outage says how long the outage was.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples say nothing")
    half = samples[len(samples) // 2 :]
    checks = []
    for name, (share, least) in GROWTH.items():
        points = [
            (each["at_s"], each[name])
            for each in half
            if name in each and (name in LASTING or each["behind"] <= behind_max)
        ]
        values = [value for _, value in points]
        grown = slope(points) * (half[-1]["at_s"] - half[0]["at_s"])
        most = max(share * median(values), least)
        checks.append(Check(f"growth of {name} over the second half", round(grown, 3), most))
    checks.append(Check("largest wal_mb", max(each["wal_mb"] for each in samples), WAL_MB_MAX))
    return checks


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The median slope between all pairs of at most `POINTS_MAX` points, evenly chosen."""
    step = max(1, -(-len(points) // POINTS_MAX))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points[::step], 2)]
    return median(slopes)
