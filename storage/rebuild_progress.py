"""How much of a rebuild is done, counted in records of which each takes its share of every stage.

What a stage works through is counted as it is told: records, kilobytes, shares. Nothing of it is
saved: after a restart the place of the copy, and whether the search index is in place, say what has
not to be done again.
"""

from __future__ import annotations

from enum import IntEnum

from storage.parity import SAMPLE_RECORDS


class Stage(IntEnum):
    """What a rebuild does: up to `GATHERED` beside each other, and then one after the other.

    All but `HELD` may come amid the first two, for records that nobody searches for, and `CHECKED`
    begins with `EMPTIED`.
    """

    MADE = 0
    """Rows of records, in files of their own: by records."""
    COPIED = 1
    """Those files, taken over: by records."""
    APPENDED = 2
    """Rows of the search index: by records."""
    GATHERED = 3
    """Many of its segments amid the appending, where there are more than FTS5 may have: by records
    that are in them."""
    MERGED = 4
    """Those that are left: by kilobytes of the file, of which some are never merged."""
    EMPTIED = 5
    """The place of the index, of what a crash has left there: by rows, of 1 kB as a rule."""
    PLACED = 6
    """The index: by kilobytes."""
    CHECKED = 7
    """All of it: by shares."""
    CAUGHT_UP = 8
    """Search rows that have changed meanwhile: by rows, of no more than there are eprints."""
    HELD = 9
    """The new tables against the records: by records."""


COSTS = {
    Stage.MADE: 4, Stage.COPIED: 4, Stage.APPENDED: 6, Stage.GATHERED: 1, Stage.MERGED: 1,
    Stage.EMPTIED: 1, Stage.PLACED: 2, Stage.CHECKED: 2, Stage.CAUGHT_UP: 1, Stage.HELD: 1,
}  # fmt: skip
"""Time that a stage takes for one of its records, about: 1 is some 30 µs."""

_OF_SEARCH = range(Stage.APPENDED, Stage.HELD)

SAMPLED_COST = 20
"""The same for a record that is read in full when all is held against the records."""


class Progress:
    """The stages of one rebuild. What it comes to never becomes less."""

    def __init__(self, records: int, eprints: int) -> None:
        """Of so many records in all, and so many among them that have a search row."""
        self.records = records
        eprints = min(eprints, records)
        self._sizes = {stage: eprints if stage in _OF_SEARCH else records for stage in Stage}
        self._costs = {stage: self._sizes[stage] * cost for stage, cost in COSTS.items()}
        self._costs[Stage.HELD] += SAMPLED_COST * min(records, SAMPLE_RECORDS)
        self._done: dict[Stage, float] = dict.fromkeys(Stage, 0)
        self._reached = Stage.MADE

    def reach(self, stage: Stage) -> None:
        """All stages before this one are done, or of one of the search index those of it."""
        self._reached = max(self._reached, stage)

    def measure(self, stage: Stage, size: int) -> None:
        """A stage, unless it has begun, works through so much in all."""
        if self._done[stage] == 0:
            self._sizes[stage] = size

    def come_to(self, stage: Stage, done: float) -> None:
        """So much of a stage is done."""
        self._done[stage] = max(self._done[stage], done)

    def add(self, stage: Stage, more: float) -> None:
        """So much more of a stage is done. What is done again counts again, up to its size."""
        self._done[stage] += more

    @property
    def units(self) -> int:
        """Records that the work comes to which is done, of all that there are."""
        total = sum(self._costs.values())
        done = sum(cost * self._share(stage) for stage, cost in self._costs.items())
        return min(int(self.records * done / total), self.records) if total else 0

    def _share(self, stage: Stage) -> float:
        if stage < self._reached and (stage in _OF_SEARCH or self._reached is Stage.HELD):
            return 1.0
        return min(self._done[stage] / self._sizes[stage], 1.0) if self._sizes[stage] else 0.0
