"""SVG plots: the same bytes from the same figures, with text that stays text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.evidence.tables import Document

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2
PANEL_INCHES = (4.6, 2.3)
SOAK_PANELS = (
    ("memory, MB", ("rss_mb",)),
    ("from event to durable row, ms", ("p50_ms", "p99_ms")),
    ("events a second", ("events_per_s",)),
    ("tracked events behind", ("behind",)),
    ("open descriptors and threads", ("descriptors", "threads")),
    ("log and file, MB", ("wal_mb", "file_mb")),
    ("processor, cores", ("cores",)),
    ("event loop late, ms", ("loop_lag_ms",)),
)
LOGARITHMIC = {"p50_ms", "behind", "wal_mb", "loop_lag_ms"}
GROWTH_PANELS = (
    ("insert, us a record", ("insert_us",)),
    ("start to ready, s", ("start_s",)),
    ("memory, MB", ("rss_mb",)),
    ("live latency, ms", ("p50_ms", "p99_ms")),
    ("resync of one repo, ms", ("resync_ms",)),
    ("search, ms", ("search_p50_ms", "search_p95_ms")),
)


def soak_plot(document: Document) -> str:
    """What was sampled, over minutes."""
    series = document["series"]
    minutes = [at / 60 for at in series["at_s"]]
    figure, panels = _panels([title for title, _ in SOAK_PANELS], "minutes")
    for axes, (_, names) in zip(panels, SOAK_PANELS, strict=True):
        for name in names:
            values = [float("nan") if each is None else each for each in series[name]]
            axes.plot(minutes, values, linewidth=0.9, label=name)
        if LOGARITHMIC.intersection(names):
            axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def growth_plot(document: Document) -> str:
    """Each cost over the records held."""
    points = document["points"]
    figure, panels = _panels([title for title, _ in GROWTH_PANELS], "records")
    for axes, (_, names) in zip(panels, GROWTH_PANELS, strict=True):
        for name in names:
            known = [(each["records"], each[name]) for each in points if name in each]
            axes.plot(*zip(*known, strict=True), marker="o", markersize=3, linewidth=1, label=name)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def _panels(titles: Sequence[str], below: str) -> tuple[Figure, list[Axes]]:
    rows = -(-len(titles) // COLUMNS)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * COLUMNS, height * rows), layout="tight")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel(below, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(linewidth=0.3)
    return figure, panels


def _svg(figure: Figure) -> str:
    with mpl.rc_context({"svg.hashsalt": "chive-indexer", "svg.fonttype": "none"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
