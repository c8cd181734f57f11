"""The files: read, made anew, taken over."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench.process import ROOT
from tests.evidence import plots, tables
from tests.evidence.tables import Document

DOCS = ROOT / "docs"
RESULTS = DOCS / "evidence"
REQUIRED = ("campaign", "title", "command", "short_form", "commit", "machine", "date", "passed",
            "figures")  # fmt: skip
PAGES: Mapping[str, Mapping[str, Callable[[Mapping[str, Document]], str]]] = {
    "evidence.md": {"speed": tables.speed, "campaigns": tables.campaigns},
    "scaling.md": {"growth": tables.growth},
}
PLOTS: Mapping[str, Callable[[Document], str]] = {
    tables.SOAK: plots.soak_plot,
    tables.GROWTH: plots.growth_plot,
}


def load(folder: Path = RESULTS) -> dict[str, Document]:
    """Campaign -> its result, by name. ValueError for a file that lacks what every one must say."""
    documents = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        missing = [name for name in REQUIRED if name not in document]
        if missing or document["campaign"] != path.stem:
            raise ValueError(f"{path.name} lacks {missing} or is named for another campaign")
        documents[path.stem] = document
    return documents


def made(documents: Mapping[str, Document], docs: Path = DOCS) -> dict[Path, str]:
    """File -> what it must contain, for every page and plot."""
    files = {}
    for name, parts in PAGES.items():
        text = (docs / name).read_text()
        for part, make in parts.items():
            text = replaced(text, part, make(documents))
        files[docs / name] = text
    for campaign, plot in PLOTS.items():
        if campaign in documents:
            files[docs / "evidence" / f"{campaign}.svg"] = plot(documents[campaign])
    return files


def replaced(text: str, part: str, content: str) -> str:
    """`text` with other content between the marks of a part; ValueError where it has none."""
    start, end = f"<!-- generated: {part} -->\n", "<!-- end -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no part {part!r}")
    return pattern.sub(lambda _: f"{start}\n{content}\n\n{end}", text, count=1)


def take_bench(results: Path, machine: str) -> None:
    """Put the rows of a benchmark run into `bench.json`; rows that it has not measured stay."""
    run = json.loads(results.read_text())
    path = RESULTS / "bench.json"
    kept = json.loads(path.read_text())["benchmarks"] if path.exists() else {}
    for each in run["benchmarks"]:
        kept[each["name"]] = {
            "title": each["title"],
            "commit": run["commit"],
            "date": run["date"],
            "machine": machine,
            "ratio": each["ratio"],
            "cpu_ratio": each["cpu_ratio"],
            "contenders": {
                name: {key: round(value, 4) for key, value in figures["median"].items()}
                for name, figures in each["contenders"].items()
            },
        }
    document = {
        "campaign": "bench",
        "title": "Benchmarks",
        "command": "make bench",
        "short_form": "python -m tests.bench --quick",
        "commit": run["commit"],
        "machine": machine,
        "date": run["date"],
        "passed": True,
        "figures": {},
        "benchmarks": dict(sorted(kept.items())),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
