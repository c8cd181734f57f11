"""A chunk of a snapshot in parts that the writer is done with in a moment.

What a row costs is its typed row and its search row, and the latter by the length of its text: a
hundred long records hold up the live stream for longer than it may be late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from indexer.claims import SnapshotChunk

PORTION_ROWS = 64
PORTION_BYTES = 96 * 1024
"""Of values, which are written and searched; one record may be larger."""


def portions(chunk: SnapshotChunk) -> Iterator[SnapshotChunk]:
    """The chunk in one or more pieces, in key order, that together say what it says."""
    after, start, rows, size = chunk.after, 0, 0, 0
    for at, (path, _) in enumerate(chunk.leaves):
        record = chunk.records.get(path)
        if record is None:
            continue  # the row is as it should be
        length = len(record.value or b"")
        if rows and (rows == PORTION_ROWS or size + length > PORTION_BYTES):
            upto = chunk.leaves[at - 1][0]
            yield replace(chunk, after=after, upto=upto, leaves=chunk.leaves[start:at])
            after, start, rows, size = upto, at, 0, 0
        rows += 1
        size += length
    yield replace(chunk, after=after, leaves=chunk.leaves[start:])
