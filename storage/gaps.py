"""Gaps of the streams as rows: written with the batch that reveals them, listed for operators."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from indexer.gaps import SURVEY_S_MIN, Gap
from indexer.model import FROM_NOW_ON, GapReason, GapSeen
from indexer.planning import EventBatch
from storage.database import Database

COLUMNS = (
    "id, url, reason, after_seq, after_at, before_seq, before_at, detected_at, surveyed_at,"
    " repaired_at, not_before, unreachable, unread"
)

OPEN_GAPS_MAX = 50
"""Open gaps of one stream and reason. What is lost beyond widens the newest of them."""

_SAME_KIND = "repaired_at IS NULL AND url = ?1 AND reason = ?2"

# The same loss is told again on every connection until an event has moved the cursor past it.
_IS_KNOWN = f"""
SELECT 1 FROM gap WHERE {_SAME_KIND}
    AND ((after_seq IS ?3 AND (before_seq IS NULL OR before_seq IS ?5))
         OR (surveyed_at IS NULL AND after_seq <= ?3 AND ?3 < ?5 AND ?5 <= before_seq))
"""  # noqa: S608 - a constant

# One that begins where another ends, or before it has, if the repair of that one has not begun.
_LENGTHEN = f"""
UPDATE gap SET before_seq = ?5, before_at = coalesce(?6, before_at), detected_at = ?7
WHERE id = (
    SELECT max(id) FROM gap WHERE {_SAME_KIND} AND surveyed_at IS NULL
        AND after_seq <= ?3 AND ?3 <= before_seq AND before_seq < ?5)
"""  # noqa: S608 - a constant

_WIDEN_NEWEST = f"""
UPDATE gap SET after_seq = min(after_seq, ?3), after_at = min(after_at, ?4),
               before_seq = max(before_seq, ?5),
               before_at = iif(?5 >= before_seq, ?6, before_at),
               detected_at = ?7, surveyed_at = NULL
WHERE id = (SELECT max(id) FROM gap WHERE {_SAME_KIND} HAVING count(*) >= {OPEN_GAPS_MAX})
"""  # noqa: S608 - constants

_OPEN = """
INSERT INTO gap (url, reason, after_seq, after_at, before_seq, before_at, detected_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
"""

# Where a stream goes on from its present, another may have been followed until now.
_OTHER = """
SELECT event_at FROM firehose_cursor AS other
WHERE url <> ?1 AND NOT EXISTS (
    SELECT 1 FROM firehose_cursor WHERE url = ?1
        AND (seq <> ?2 OR (event_at IS NOT NULL AND updated_at >= other.updated_at)))
ORDER BY updated_at DESC LIMIT 1
"""

# Before the first repo there was nothing to miss, unless a scan that found none has looked for it.
# A gap that has no end yet goes on until now, if its repair has not begun. One of new repos that
# were refused is none of the stream.
_HAS_MISSED = f"""
SELECT EXISTS (SELECT 1 FROM repo UNION ALL SELECT 1 FROM first_scan) AND NOT EXISTS (
    SELECT 1 FROM gap WHERE repaired_at IS NULL AND surveyed_at IS NULL AND url = ?
        AND before_seq IS NULL AND reason <> '{GapReason.DISCOVERY}')
"""  # noqa: S608 - a constant

# If it has, hosts may have answered before: they are asked once more, no sooner than for another.
_REPAIR_AGAIN = f"""
UPDATE gap SET surveyed_at = NULL, detected_at = ?,
               not_before = max(not_before, surveyed_at + {SURVEY_S_MIN})
WHERE repaired_at IS NULL AND url = ? AND before_seq IS NULL AND reason = '{GapReason.NO_CURSOR}'
"""  # noqa: S608 - a constant

_BOUND = """
UPDATE gap SET before_seq = ?, before_at = ?
WHERE repaired_at IS NULL AND url = ? AND before_seq IS NULL AND detected_at < ?
"""


def save_batch_gaps(
    connection: sqlite3.Connection, batch: EventBatch, *, now: float
) -> Counter[GapReason]:
    """The gaps that a batch reveals, before its cursor is saved; how many of each are new.

    A stream that begins where it is now, and not at a cursor of its own, is a gap of its own where
    another was followed before. So is one that goes on below its cursor with what is new.
    """
    before = connection.execute(
        "SELECT seq, event_at FROM firehose_cursor WHERE url = ?", (batch.url,)
    ).fetchone()
    gaps = list(batch.gaps)
    if before is not None and _begins_anew(batch, *before):
        gaps.append(
            GapSeen(reason=GapReason.SEQ_REGRESSION, after_seq=batch.seq, before_seq=before[0])
        )
    other = connection.execute(_OTHER, (batch.url, FROM_NOW_ON)).fetchone()
    if before is None or other is not None:
        before = (None, None if other is None else other[0])
        if other is not None and batch.seq is not None and batch.seq != FROM_NOW_ON:
            changed = GapSeen(
                reason=GapReason.RELAY_CHANGED, before_seq=batch.seq, before_at=batch.event_at
            )
            gaps.insert(0, changed)
    opened: Counter[GapReason] = Counter()
    cursor = None if before[0] == FROM_NOW_ON else before[0]
    for gap in gaps:
        known = replace(gap, after_seq=cursor if gap.after_seq is None else gap.after_seq)
        opened[gap.reason] += open_gap(connection, batch.url, known, after_at=before[1], now=now)
    if batch.seq is not None and batch.seq != FROM_NOW_ON:
        connection.execute(_BOUND, (batch.seq, batch.event_at, batch.url, now))
    return +opened


def open_gap_before_now(connection: sqlite3.Connection, url: str, *, now: float) -> int:
    """The gap of a stream that is dialled without a cursor, or more of it; how many that is.

    It may have been followed before, and have brought no event: what came since then will not be
    sent. Where another stream was followed, the first event of this one shows the gap between them.
    """
    (has_missed,) = connection.execute(_HAS_MISSED, (url,)).fetchone()
    if not has_missed or connection.execute(_OTHER, (url, FROM_NOW_ON)).fetchone():
        return 0
    if connection.execute(_REPAIR_AGAIN, (now, url)).rowcount:
        return 1
    gap = GapSeen(reason=GapReason.NO_CURSOR)
    return open_gap(connection, url, gap, after_at=None, now=now)


def _begins_anew(batch: EventBatch, seq: int, event_at: float | None) -> bool:
    """Whether a relay has begun to count anew, and says nothing of what came before it did.

    One that brings what is no newer than what was applied only repeats its window.
    """
    if batch.seq is None or not FROM_NOW_ON < batch.seq < seq:
        return False
    return batch.event_at is None or event_at is None or batch.event_at > event_at


def open_gap(
    connection: sqlite3.Connection, url: str, gap: GapSeen, *, after_at: float | None, now: float
) -> int:
    """Write one gap, or make another one longer by it; 0 where it is known and not repaired."""
    row = (url, gap.reason, gap.after_seq, after_at, gap.before_seq, gap.before_at, now)
    if connection.execute(_IS_KNOWN, row[:5]).fetchone():
        return 0
    for widen in (_LENGTHEN, _WIDEN_NEWEST):
        if connection.execute(widen, row).rowcount:
            return 1
    return connection.execute(_OPEN, row).rowcount


class GapListing:
    """The rows, for people to look at."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def gaps(self, *, before: int | None, limit: int) -> Sequence[Gap]:
        """Those with an id below `before`, newest first."""
        rows = await self._database.read(
            f"SELECT {COLUMNS} FROM gap WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2",  # noqa: S608 - a constant
            (before, limit),
        )
        names = [name.strip() for name in COLUMNS.split(",")]
        return [Gap(**dict(zip(names, row, strict=True))) for row in rows]
