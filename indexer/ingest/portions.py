"""Batches cut into portions that one transaction can take without holding the writer for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from indexer.planning import CommitSeen, Event, EventBatch

WRITES_MAX = 300
SIDE_ROWS = 10
FRAME_BYTES_MAX = 1024 * 1024
"""What one transaction may change to take some 50 ms: rows, of records and of repos, and bytes of
frames, with which its time grows too. So many side rows cost as much as one more record."""


def portions(batch: EventBatch) -> Iterator[EventBatch]:
    """A batch in parts that are small enough for one transaction each.

    The cursor of each part is the seq of its last event: nothing relevant lies between. What is
    known of that event's time is that the batch had begun.
    """
    part: list[Event] = []
    writes = size = 0
    for event in batch.events:
        more_writes, more_bytes = 1, 0
        if isinstance(event, CommitSeen):
            more_writes, more_bytes = 1 + weight(event), len(event.frame)
        if part and (writes + more_writes > WRITES_MAX or size + more_bytes > FRAME_BYTES_MAX):
            yield replace(batch, events=part, seq=part[-1].seq, event_at=batch.began_at)
            batch, part, writes, size = replace(batch, gaps=()), [], 0, 0
        part.append(event)
        writes += more_writes
        size += more_bytes
    yield replace(batch, events=part)


def weight(commit: CommitSeen) -> int:
    """What the writes of a commit cost, in records without side rows."""
    projections = (write.record.projection for write in commit.writes if write.record is not None)
    side_rows = sum(each.side_row_count for each in projections if each is not None)
    return len(commit.writes) + side_rows // SIDE_ROWS
