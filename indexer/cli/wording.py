"""Numbers, times and foreign texts as people read them on a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400


def printable(text: str) -> str:
    """The text without what would steer a terminal: the network wrote parts of what we show."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def duration(seconds: float) -> str:
    """The two leading parts of a span, such as `3 h 12 min`."""
    whole = max(round(seconds), 0)
    for size, unit, smaller, smaller_unit in (
        (DAY_S, "d", HOUR_S, "h"),
        (HOUR_S, "h", MINUTE_S, "min"),
        (MINUTE_S, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{whole} s"


def counted(number: int, noun: str) -> str:
    """`1 record`, `12,345 records`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns; all rows have as many cells as the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
