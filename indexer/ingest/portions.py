"""Batches cut into portions that one transaction can take without holding the writer for long.

Where the stream runs at its usual pace a batch is far below these bounds. Where it is behind, what
a transaction costs is the pages that it touches, many of which are the same for all its rows: one
of 500 events takes half the time of ten of 50.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from indexer.planning import CommitSeen, Event, EventBatch

WRITES_MAX = 1200
FRAME_BYTES_MAX = 4 * 1024 * 1024
"""What one transaction may change, in rows of records and of repos, and in bytes of frames with
which its time grows too: some 250 ms, for which an operator's command may have to wait."""


def portions(batch: EventBatch) -> Iterator[EventBatch]:
    """A batch in parts that are small enough for one transaction each.

    The cursor of each part is the seq of its last event: nothing relevant lies between.
    """
    part: list[Event] = []
    writes = size = 0
    for event in batch.events:
        more_writes, more_bytes = 1, 0
        if isinstance(event, CommitSeen):
            more_writes, more_bytes = 1 + len(event.writes), len(event.frame)
        if part and (writes + more_writes > WRITES_MAX or size + more_bytes > FRAME_BYTES_MAX):
            yield replace(batch, events=part, seq=part[-1].seq, event_at=None)
            batch, part, writes, size = replace(batch, gaps=()), [], 0, 0
        part.append(event)
        writes += more_writes
        size += more_bytes
    yield replace(batch, events=part)
