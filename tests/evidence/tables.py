"""Markdown made of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tests.evidence.targets import TARGETS, found

Document: TypeAlias = dict[str, Any]
"""One file of `docs/evidence`."""

BENCH, GROWTH, SOAK = "bench", "growth", "soak"

SCALE_RECORDS = 2_990_000
CONTENDER_COLUMNS = (
    ("per_s", "per second"),
    ("cpu_us", "CPU us each"),
    ("cores", "cores"),
    ("rss_mb", "RSS MB"),
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("seconds", "s"),
    ("rss_more_mb", "RSS MB more"),
    ("bytes_percent", "% of bytes"),
    ("requests", "requests"),
    ("hour_s", "s for an hour"),
)
GROWTH_COLUMNS = (
    ("records", "records"),
    ("repos", "repos"),
    ("file_mb", "file MB"),
    ("insert_us", "insert us each"),
    ("start_s", "start s"),
    ("rss_mb", "RSS MB"),
    ("p50_ms", "live p50 ms"),
    ("p99_ms", "live p99 ms"),
    ("resync_ms", "resync ms"),
    ("search_p50_ms", "search p50 ms"),
    ("search_p95_ms", "search p95 ms"),
)


def campaigns(documents: Mapping[str, Document]) -> str:
    """One line for each campaign, then the figures of each."""
    shown = [each for each in documents.values() if each["campaign"] not in {BENCH, GROWTH}]
    summary = markdown(
        ("campaign", "result", "commit", "date", "command", "in `make test`"),
        (
            (
                each["title"],
                "passed" if each["passed"] else "**failed**",
                each["commit"],
                each["date"],
                f"`{each['command']}`",
                f"`{each['short_form']}`",
            )
            for each in shown
        ),
    )
    return "\n\n".join([summary, *(_campaign(each) for each in shown)])


def _campaign(document: Document) -> str:
    targets = document.get("targets", {})
    rows = [
        (name, number(value), targets.get(name, ""), _verdict(value, targets.get(name, "")))
        for name, value in document["figures"].items()
    ]
    table = markdown(("figure", "value", "target", ""), rows)
    parts = [f"### {document['title']}", f"On {document['machine']}.", table]
    if document["campaign"] == SOAK:
        parts.append("![The soak over time](evidence/soak.svg)")
    return "\n\n".join(parts)


def _verdict(value: object, target: str) -> str:
    words = target.replace(",", "").split()
    if len(words) < 3 or not isinstance(value, int | float):
        return ""
    bound = float(words[2])
    is_met = value >= bound if words[:2] == ["at", "least"] else value <= bound
    return "met" if is_met else "**missed**"


def speed(documents: Mapping[str, Document]) -> str:
    """Each target with what was measured, then every contender."""
    bench = documents.get(BENCH, {"benchmarks": {}})
    benchmarks = bench["benchmarks"] | _largest(documents)
    rows = []
    for target in TARGETS:
        value = found(target, benchmarks)
        title = benchmarks[target.benchmark]["title"] if target.benchmark in benchmarks else ""
        verdict = "not measured"
        if value is not None:
            verdict = "met" if target.is_met(value) else "**missed**"
        rows.append((f"`{target.benchmark}`", title, target.text, number(value), verdict))
    contenders = [
        (
            each["title"],
            name,
            *(number(figures.get(column)) for column, _ in CONTENDER_COLUMNS),
            each["commit"],
            each["date"],
        )
        for each in bench["benchmarks"].values()
        for name, figures in each["contenders"].items()
    ]
    titles = ("benchmark", "who", *(title for _, title in CONTENDER_COLUMNS), "commit", "date")
    return "\n\n".join(
        [
            markdown(("row", "what", "target", "measured", ""), rows),
            markdown(titles, contenders),
            *_machines(bench["benchmarks"]),
        ]
    )


def _machines(benchmarks: Document) -> list[str]:
    """A line for each machine: the rows that were measured on it."""
    names: dict[str, list[str]] = {}
    for name, each in benchmarks.items():
        names.setdefault(each["machine"], []).append(f"`{name}`")
    if len(names) == 1:
        return [f"On {machine}." for machine in names]
    return [f"{', '.join(rows)}: on {machine}." for machine, rows in names.items()]


def _largest(documents: Mapping[str, Document]) -> Document:
    """The row of a large index, which is the last step of the growth, once it is large."""
    document = documents.get(GROWTH)
    if document is None or document["points"][-1]["records"] < SCALE_RECORDS:
        return {}
    point = document["points"][-1]
    title = f"{point['records']:,} records of {point['repos']:,} repos"
    return {"scale": {"title": title, "ratio": None, "contenders": {"daemon": point}}}


def growth(documents: Mapping[str, Document]) -> str:
    """One line for each size."""
    if GROWTH not in documents:
        return "Not measured."
    document = documents[GROWTH]
    rows = [
        tuple(number(point.get(column)) for column, _ in GROWTH_COLUMNS)
        for point in document["points"]
    ]
    taken = "`{command}`, commit {commit}, {date}, on {machine}.".format_map(document)
    return "\n\n".join(
        [
            markdown([title for _, title in GROWTH_COLUMNS], rows),
            "![How each cost grows with the records held](evidence/growth.svg)",
            taken,
        ]
    )


def number(value: object) -> str:
    """A figure for people: three significant digits at least, none that mean nothing."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if isinstance(value, int) or size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
