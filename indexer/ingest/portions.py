"""Batches cut into portions that one transaction can take without holding the writer for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from indexer.planning import CommitSeen, Event, EventBatch

WRITES_MAX = 200
"""Rows, of records and of repos, that one transaction may change to take less than 50 ms."""


def portions(batch: EventBatch) -> Iterator[EventBatch]:
    """A batch in parts that are small enough for one transaction each.

    The cursor of each part is the seq of its last event: nothing relevant lies between.
    """
    part: list[Event] = []
    weight = 0
    for event in batch.events:
        rows = 1 + len(event.writes) if isinstance(event, CommitSeen) else 1
        if part and weight + rows > WRITES_MAX:
            yield replace(batch, events=part, seq=part[-1].seq, event_at=None)
            batch, part, weight = replace(batch, gaps=()), [], 0
        part.append(event)
        weight += rows
    yield replace(batch, events=part)
