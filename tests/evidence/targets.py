"""What the project wants of its speed, and how it is read from a benchmark's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of one benchmark and its bound. `ratio` is a figure of the benchmark itself."""

    benchmark: str
    figure: str
    is_floor: bool
    bound: float
    unit: str

    @property
    def text(self) -> str:
        """The bound for people."""
        return f"{'at least' if self.is_floor else 'at most'} {self.bound:,g} {self.unit}"

    def is_met(self, found: float) -> bool:
        """Whether a measured figure is within the bound."""
        return found >= self.bound if self.is_floor else found <= self.bound


TARGETS = (
    Target("mix1", "per_s", True, 70_000, "events/s"),
    Target("mix1", "ratio", True, 9, "times the SDK pipeline"),
    Target("mix100", "per_s", True, 5_000, "commits/s"),
    Target("mix100", "ratio", True, 6, "times the SDK pipeline"),
    Target("latency", "p99_ms", False, 10, "ms p99"),
    Target("latency", "cores", False, 0.25, "cores"),
    Target("latency", "rss_mb", False, 120, "MB RSS"),
    Target("scale", "p99_ms", False, 10, "ms p99"),
    Target("scale", "rss_mb", False, 500, "MB RSS"),
    Target("scale", "start_s", False, 5, "s from start to ready"),
    Target("fetch", "seconds", False, 15, "s"),
    Target("fetch", "rss_more_mb", False, 100, "MB above idle"),
    Target("sparse", "bytes_percent", False, 0.2, "% of the bytes"),
    Target("sparse", "requests", False, 10, "requests"),
    Target("reindex", "per_s", True, 15_000, "records/s"),
    Target("reindex_batches", "per_s", True, 15_000, "records/s"),
    Target("reindex_live", "per_s", True, 6_000, "records/s"),
    Target("reindex_live", "p99_ms", False, 100, "ms p99 of the live stream"),
    Target("backlog", "hour_s", False, 120, "s for one hour at 2,000 events/s"),
)


def found(target: Target, benchmarks: Mapping[str, Mapping[str, object]]) -> float | None:
    """What was measured: None where nothing was."""
    measured = benchmarks.get(target.benchmark)
    if measured is None:
        return None
    if target.figure == "ratio":
        value = measured["ratio"]
    else:
        contenders = measured["contenders"]
        assert isinstance(contenders, dict)
        value = next(iter(contenders.values())).get(target.figure)
    return value if isinstance(value, int | float) else None
