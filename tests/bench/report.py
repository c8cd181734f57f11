"""Results for people and for machines: a table on stdout, `bench-results.json` beside it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from tests.bench.benchmark import Figures, Result
from tests.bench.process import ROOT

COLUMNS = (
    ("per_s", "per second", "{:,.0f}"),
    ("seconds", "s", "{:.2f}"),
    ("cpu_us", "CPU us each", "{:.1f}"),
    ("cores", "cores", "{:.2f}"),
    ("rss_mb", "RSS MB", "{:.0f}"),
    ("rss_more_mb", "RSS MB more", "{:.0f}"),
    ("p50_ms", "p50 ms", "{:.1f}"),
    ("p99_ms", "p99 ms", "{:.1f}"),
    ("bytes_percent", "% of bytes", "{:.2f}"),
    ("requests", "requests", "{:.0f}"),
    ("hour_s", "s for an hour", "{:.0f}"),
    ("standstill_s", "s of standstill", "{:.2f}"),
    ("cancel_s", "s to cancel", "{:.2f}"),
)


def machine() -> dict[str, object]:
    """Where the figures were taken, with the time of two fixed pieces of work for comparison."""
    started = time.perf_counter()
    total = 0
    for number in range(2_000_000):
        total += number & 7
    looped = time.perf_counter()
    block = bytes(1024)
    for _ in range(100_000):
        hashlib.sha256(block)
    hashed = time.perf_counter()
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "load_before": os.getloadavg()[0],
        "calibration_python_ms": round((looped - started) * 1000, 1),
        "calibration_sha256_ms": round((hashed - looped) * 1000, 1),
    }


def machine_line() -> str:
    """The same in a line, for people."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{os.cpu_count()} x {_processor()}, {memory_gb:.0f} GB, {platform.system()}"
        f" {platform.release()}, CPython {platform.python_version()}, SQLite"
        f" {sqlite3.sqlite_version}"
    )


def commit() -> str:
    """The last commit that changed the product, in short; `+` where the tree differs from it.

    What is measured is the product, and its commits keep their names when others come before them.
    """
    product = ["--", "indexer", "admin_api", "storage"]
    named = ["git", "log", "-1", "--format=%h", *product]
    done = subprocess.run(named, cwd=ROOT, check=True, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", *product], cwd=ROOT, check=False)
    return done.stdout.strip() + ("+" if changed.returncode else "")


def today() -> str:
    """The day, in UTC."""
    return datetime.now(UTC).date().isoformat()


def write_campaign(
    path: Path,
    *,
    campaign: str,
    title: str,
    command: str,
    short_form: str,
    measured: str,
    passed: bool,
    figures: Mapping[str, float | str],
    targets: Mapping[str, str] = MappingProxyType({}),
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """The result of a campaign in the form of `docs/evidence/README.md`; `more` is kept beside it.

    `measured` is the commit as it was when the campaign began.
    """
    document = {
        "campaign": campaign,
        "title": title,
        "command": command,
        "short_form": short_form,
        "commit": measured,
        "machine": machine_line(),
        "date": today(),
        "passed": passed,
        "figures": dict(figures),
        "targets": dict(targets),
        **more,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def table(results: Sequence[Result]) -> str:
    """One line per contender; ours carries the ratio."""
    titles = (title for _, title, _ in COLUMNS)
    lines = [["benchmark", "contender", *titles, "spread", "CPU ratio", "ratio"]]
    for result in results:
        for place, contender in enumerate(result.benchmark.contenders):
            figures = result.median(contender.name)
            ratios = (result.cpu_ratio, result.ratio) if place == 0 else (None, None)
            lines.append(
                [
                    result.benchmark.title if place == 0 else "",
                    contender.name,
                    *(_cell(figures, name, shape) for name, _, shape in COLUMNS),
                    _spread(result, contender.name),
                    *("" if ratio is None else f"{ratio:.1f}x" for ratio in ratios),
                ]
            )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(_padded(line, widths)) + " |" for line in lines)


def shares(results: Sequence[Result]) -> str:
    """Precision and recall of whatever was judged by them, one line a figure; else nothing."""
    lines = []
    for result in results:
        figures = result.median(result.benchmark.contenders[0].name)
        for name, precision in figures.items():
            judged = name.removesuffix("_precision")
            if judged != name:
                recall = figures[f"{judged}_recall"]
                lines.append(
                    f"{result.benchmark.title}, {judged}: precision {precision:.3f},"
                    f" recall {recall:.3f}"
                )
    return "\n".join(lines)


def _cell(figures: Figures, name: str, shape: str) -> str:
    return shape.format(figures[name]) if name in figures else ""


def _spread(result: Result, contender: str) -> str:
    if "per_s" not in result.runs[contender][0]:
        return ""
    least, most = result.spread(contender, "per_s")
    return f"{least:,.0f}-{most:,.0f}"


def _padded(line: list[str], widths: list[int]) -> list[str]:
    left = 2  # columns of words; the others are figures
    return [
        cell.ljust(width) if column < left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def write_json(path: Path, results: Sequence[Result], facts: dict[str, object]) -> None:
    """Everything measured, per round."""
    document = {
        **facts,
        "benchmarks": [
            {
                "name": result.benchmark.name,
                "title": result.benchmark.title,
                "targets": list(result.benchmark.targets),
                "ratio": result.ratio,
                "cpu_ratio": result.cpu_ratio,
                "contenders": {
                    name: {"median": result.median(name), "rounds": runs}
                    for name, runs in result.runs.items()
                },
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
