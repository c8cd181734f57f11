"""What the first stage of the live path makes of a batch of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from indexer.errors import InvalidUpstream
from indexer.ingest.verification import EARLIEST_AT, RawFrame
from indexer.model import GapSeen
from indexer.planning import Event, EventBatch, FrameRefused
from indexer.protocol.syntax import datetime_to_unix

RELEVANT_MAX = 500
"""Frames that concern us in one part of a batch, which is proved and queued as a whole."""


@dataclass(slots=True)
class DecodedBatch:
    """A batch after the first stage."""

    url: str
    era: int  # batches of an earlier one are discarded
    now: float  # when it was received, unix seconds
    relevant: list[RawFrame] = field(default_factory=list)
    refused: list[FrameRefused] = field(default_factory=list)
    seq: int | None = None
    event_at: float | None = None
    began_at: float | None = None  # of the first frame, where `event_at` is of the last
    counts: Counter[str] = field(default_factory=Counter)
    taken: list[tuple[int, object]] = field(default_factory=list)  # (seq, `time`), in order
    gaps: list[GapSeen] = field(default_factory=list)

    def take(self, seq: int, time: object) -> None:
        """The next frame by its number and `time`: it ends the gaps before it.

        The frame itself is not kept: a batch of them falls out of every cache.
        """
        self.taken.append((seq, time))
        if self.gaps:
            self._end_gaps(seq, time)

    def _end_gaps(self, seq: int, time: object) -> None:
        for at, gap in enumerate(self.gaps):
            if gap.before_seq is None:
                self.gaps[at] = replace(gap, before_seq=seq, before_at=event_at(time, now=self.now))

    def forget_from(self, seq: int) -> None:
        """Leave everything from `seq` on to the next connection."""
        self.taken = [taken for taken in self.taken if taken[0] < seq]
        self.relevant = [raw for raw in self.relevant if (raw.frame.seq or 0) < seq]
        self.gaps = [gap for gap in self.gaps if (gap.before_seq or 0) < seq]

    def close(self) -> None:
        """Set the cursor that is true once the batch is applied."""
        if self.taken:
            self.seq, time = self.taken[-1]
            self.event_at = event_at(time, now=self.now)
            self.began_at = event_at(self.taken[0][1], now=self.now)

    def skips(self, after_seq: int) -> int:
        """How often numbers were left out, which they may be, since `after_seq`; 0: not known."""
        if not self.taken:
            return 0
        before = after_seq or self.taken[0][0] - 1
        if self.taken[-1][0] - before == len(self.taken):
            return 0  # nearly always, and then no single one is looked at
        seqs = (before, *(seq for seq, _ in self.taken))
        return sum(later - earlier > 1 for earlier, later in pairwise(seqs))

    def parts(self) -> Iterator[DecodedBatch]:
        """The closed batch in parts that the later stages can hold several of.

        The cursor of each part is the seq of its last frame: nothing relevant lies between. What
        is known of that frame's time is that the batch had begun.
        """
        rest = self
        while len(rest.relevant) > RELEVANT_MAX:
            part, left = rest.relevant[:RELEVANT_MAX], rest.relevant[RELEVANT_MAX:]
            seq = part[-1].frame.seq
            yield replace(rest, relevant=part, seq=seq, event_at=self.began_at)
            rest = DecodedBatch(
                self.url,
                self.era,
                self.now,
                relevant=left,
                seq=self.seq,
                event_at=self.event_at,
                began_at=self.began_at,
            )
        yield rest

    def verified(self, events: list[Event]) -> EventBatch:
        """What is to be applied of the closed batch, or of a part of it."""
        return EventBatch(
            url=self.url,
            events=events,
            seq=self.seq,
            event_at=self.event_at,
            gaps=self.gaps,
            began_at=self.began_at,
        )


def event_at(time: object, *, now: float) -> float | None:
    """Unix seconds of an event's `time`, at most `now`; None where it cannot be one.

    It is its host's own word, and what is missed and read again goes by it.
    """
    if not isinstance(time, str):
        return None
    try:
        at = datetime_to_unix(time)
    except InvalidUpstream:
        return None
    return min(at, now) if at >= EARLIEST_AT else None
