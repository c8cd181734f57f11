"""What SQLite says of how it would run a statement, read for loops that read whole tables."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_MADE = re.compile(r"(?:CO-ROUTINE|MATERIALIZE) (\S+)")
_READ_WHOLE = re.compile(r"SCAN (?!CONSTANT ROW)(\S+)(?! VIRTUAL TABLE )(?: .*)?")
_SOUGHT_IN_NO_INDEX = re.compile(r"SEARCH (\S+) USING AUTOMATIC .*")


@dataclass
class Step:
    """One line of a plan, and what is done within it."""

    text: str
    within: list[Step] = field(default_factory=list)


def plan_of(
    connection: sqlite3.Connection, sql: str, parameters: Mapping[str, object] | None = None
) -> Step:
    """The plan of a statement as a tree."""
    steps = {0: Step("")}
    lines = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters or {})
    for number, parent, _, text in lines.fetchall():
        steps[number] = Step(text)
        steps[parent].within.append(steps[number])
    return steps[0]


def scans(plan: Step) -> list[str]:
    """Reads of whole tables, wherever. What the statement itself makes is no table."""
    made = _made(plan)
    return [text for text in _lines(plan) if _is_of_table(_READ_WHOLE, text, made)]


def scans_in_loops(plan: Step) -> list[str]:
    """Reads of whole tables that are repeated, or that only fill a table made for the purpose."""
    return list(_repeated(plan, _made(plan), is_repeated=False))


def _repeated(step: Step, made: set[str], *, is_repeated: bool) -> Iterator[str]:
    has_begun = False  # steps beside each other are loops, each within the one before
    for each in step.within:
        is_inner = is_repeated or has_begun or each.text.startswith(("CORRELATED", "RECURSIVE"))
        if is_inner and _is_of_table(_READ_WHOLE, each.text, made):
            yield each.text
        if _is_of_table(_SOUGHT_IN_NO_INDEX, each.text, made):
            yield each.text
        is_filled_first = each.text.startswith("MATERIALIZE")
        yield from _repeated(each, made, is_repeated=is_inner or is_filled_first)
        has_begun = has_begun or each.text.startswith(("SCAN", "SEARCH"))


def _lines(step: Step) -> Iterator[str]:
    for each in step.within:
        yield each.text
        yield from _lines(each)


def _made(plan: Step) -> set[str]:
    return {found[1] for text in _lines(plan) if (found := _MADE.match(text))}


def _is_of_table(pattern: re.Pattern[str], text: str, made: set[str]) -> bool:
    found = pattern.fullmatch(text)
    return found is not None and found[1] not in made
