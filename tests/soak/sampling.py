"""What is measured every few seconds: of the process by the kernel, of its work by itself.

Latency is seen from outside: from the moment at which the devnet gave an event its seq to the
first sight of a saved cursor at or beyond it. Metrics are scraped as Prometheus scrapes them.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.benchmark import percentile
from tests.bench.process import read_usage
from tests.soak.crowd import CrowdedStream

Sample: TypeAlias = dict[str, float]
"""Name -> value; `at_s` counts from the start. Latencies are absent where nothing came through."""

GAUGES = {
    "chive_event_loop_lag_seconds": ("loop_lag_ms", 1000.0),
    "chive_firehose_gaps_open": ("gaps_open", 1.0),
    "chive_backfill_running": ("operations", 1.0),
}


@dataclass(slots=True)
class Latencies:
    """Matches events with sightings of the cursor."""

    stream: CrowdedStream
    times: list[float] = field(default_factory=list)
    cursors: list[int] = field(default_factory=list)

    def see(self, sightings: Iterable[tuple[float, int]]) -> None:
        """Take what the watcher has told."""
        for at, cursor in sightings:
            self.times.append(at)
            self.cursors.append(cursor)

    def take(self) -> list[float]:
        """Milliseconds of the events that came through since the last call."""
        taken = []
        sent = self.stream.sent
        while self.cursors and sent and sent[0][0] <= self.cursors[-1]:
            seq, at = sent.popleft()
            taken.append((self.times[bisect_left(self.cursors, seq)] - at) * 1000)
        del self.times[:-1], self.cursors[:-1]
        return taken

    @property
    def behind(self) -> int:
        """Tracked events that were sent and have not been seen to be durable."""
        return len(self.stream.sent)


class Sampler:
    """Takes samples of one daemon."""

    def __init__(self, pid: int, database: Path, metrics_url: str, latencies: Latencies) -> None:
        self._pid = pid
        self._database = database
        self._metrics_url = metrics_url
        self._latencies = latencies
        self._began = time.monotonic()
        self._last: tuple[float, float, float] | None = None  # time, CPU seconds, events

    async def sample(self, session: aiohttp.ClientSession) -> Sample:
        """One sample; a daemon that does not answer within half a minute ends the soak."""
        async with asyncio.timeout(30), session.get(self._metrics_url) as answer:
            totals = _totals(await answer.text())
        now, usage = time.monotonic(), read_usage(self._pid)
        events = totals["chive_firehose_events_total"]
        before, self._last = self._last, (now, usage.cpu_s, events)
        latencies = self._latencies.take()
        sample: Sample = {
            "at_s": round(now - self._began, 1),
            "rss_mb": round(usage.rss_bytes / 1e6, 2),
            "descriptors": _entries(self._pid, "fd"),
            "threads": _entries(self._pid, "task"),
            "wal_mb": _size_mb(self._database.with_name(self._database.name + "-wal")),
            "file_mb": _size_mb(self._database),
            "behind": self._latencies.behind,
            "came_through": len(latencies),
            **{name: totals[metric] * factor for metric, (name, factor) in GAUGES.items()},
            "repos_waiting": totals["repos_waiting"],
        }
        if latencies:
            sample["p50_ms"] = round(percentile(latencies, 0.5), 2)
            sample["p99_ms"] = round(percentile(latencies, 0.99), 2)
        if before is not None:
            seconds = now - before[0]
            sample["cores"] = round((usage.cpu_s - before[1]) / seconds, 3)
            sample["events_per_s"] = round((events - before[2]) / seconds)
        return sample


def _totals(text: str) -> dict[str, float]:
    """Family or sample name -> sum over its labels; `repos_waiting` beside them."""
    totals = {"repos_waiting": 0.0}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            totals[each.name] = totals.get(each.name, 0.0) + each.value
            if each.name == "chive_repos" and each.labels["state"] in {
                "pending", "desynchronized", "resyncing",
            }:  # fmt: skip
                totals["repos_waiting"] += each.value
    return totals


def _entries(pid: int, name: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{name}").iterdir())


def _size_mb(path: Path) -> float:
    try:
        return round(path.stat().st_size / 1e6, 2)
    except FileNotFoundError:
        return 0.0


def append(path: Path, sample: Sample) -> None:
    """Add a JSON line."""
    with path.open("a") as file:
        file.write(json.dumps(sample) + "\n")
