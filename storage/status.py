"""What operators ask of the store: totals, dead letters, whether it answers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence

from indexer.claims import ROLLED_BACK
from indexer.clock import Clock
from indexer.model import (
    FROM_NOW_ON,
    UNTYPED,
    VERIFIED_AGES,
    Cursor,
    DeadLetter,
    GapReason,
    Overview,
    StoreCounts,
    from_utc_text,
)
from storage.database import Database

_OVERVIEW = """
SELECT (SELECT count(*) FROM eprint_submission),
       (SELECT count(DISTINCT did) FROM eprint_submission),
       (SELECT count(*) FROM review_comment),
       (SELECT count(*) FROM review_endorsement),
       (SELECT count(*) FROM graph_node WHERE subkind = 'collection'),
       (SELECT count(*) FROM eprint_user_tag),
       (SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'collection'),
       (SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'repo_state')
"""

# Strangers make up names of collections without end: those without a type are one total.
_TOTALS = f"""
SELECT kind, name, total FROM tally
WHERE kind < 'collection' OR kind > 'collection'
      OR (kind = 'collection' AND name IN (SELECT value FROM json_each(?1)))
UNION ALL
SELECT 'collection', '{UNTYPED}', coalesce(sum(total), 0) FROM tally
WHERE kind = 'collection' AND name NOT IN (SELECT value FROM json_each(?1))
"""  # noqa: S608 - a constant

_VERIFIED = "SELECT count(*) FROM repo WHERE verified_at > ? AND verified_at <= ?"

# By what their hosts were found to lack, or all repos would be read at each scrape.
ROLLED_BACK_REPOS = f"""
SELECT count(*) FROM rollback CROSS JOIN repo ON repo.id = repo_id
WHERE state = 'error' AND reason = '{ROLLED_BACK}'
"""  # noqa: S608 - a constant

# What a day's quota refused is nobody's concern until the day is over.
_OPEN_GAPS = f"""
SELECT count(*) FROM gap
WHERE repaired_at IS NULL AND (not_before <= ? OR reason <> '{GapReason.DISCOVERY}')
"""  # noqa: S608 - a constant


class StatusStore:
    """Read-only questions, answered from the tallies that the triggers keep."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        collections: Iterable[str],  # those with a type
    ) -> None:
        self._database = database
        self._collections = json.dumps(list(collections))
        self._clock = clock

    async def counts(self) -> StoreCounts:
        """Totals as of the last commit."""
        totals: dict[str, dict[str, int]] = {}
        rows = await self._database.read(_TOTALS, (self._collections,))
        for kind, name, total in rows:
            totals.setdefault(kind, {})[name] = total
        return StoreCounts(
            repos=totals.get("repo_state", {}),
            accounts=totals.get("account_status", {}),
            records=totals.get("collection", {}),
            dead_letters=totals.get("dead_letter", {}),
            rolled_back=(await self._database.read(ROLLED_BACK_REPOS))[0][0],
            open_gaps=(await self._database.read(_OPEN_GAPS, (self._clock.now(),)))[0][0],
            verified=await self._verified(),
        )

    async def _verified(self) -> dict[str, int]:
        """Repos by how long ago they were verified, those verified later included."""
        verified: dict[str, int] = {}
        now, total, upto = self._clock.now(), 0, math.inf
        for name, age_s in VERIFIED_AGES.items():
            since = now - age_s
            total += (await self._database.read(_VERIFIED, (since, upto)))[0][0]
            verified[name], upto = total, since
        return verified

    async def overview(self) -> Overview:
        """How much of what is visible, counted from the views."""
        row = (await self._database.read(_OVERVIEW))[0]
        return Overview(
            eprints=row[0],
            authors=row[1],
            reviews=row[2],
            endorsements=row[3],
            collections=row[4],
            tags=row[5],
            records=row[6],
            repos=row[7],
            verified=(await self._verified())["24h"],
        )

    async def dead_letters(self, *, limit: int, offset: int) -> tuple[Sequence[DeadLetter], int]:
        """One page, newest first, and the number of all."""
        rows = await self._database.read(
            "SELECT id, reason, did, uri, seq, message, retry_count, created_at, last_retry_at"
            " FROM dead_letter ORDER BY id DESC LIMIT ? OFFSET ?",
            (limit, offset),
        )
        letters = [
            DeadLetter(
                id=row[0],
                reason=row[1],
                did=row[2],
                uri=row[3],
                seq=row[4],
                message=row[5],
                retry_count=row[6],
                created_at=row[7],
                last_retry_at=row[8],
            )
            for row in rows
        ]
        total = await self._database.read(
            "SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'dead_letter'"
        )
        return letters, total[0][0]

    async def cursors(self) -> dict[str, Cursor]:
        """Stream URL -> how far it has been read."""
        rows = await self._database.read(
            "SELECT url, seq, event_at, updated_at FROM firehose_cursor"
        )
        return {
            url: Cursor(None if seq == FROM_NOW_ON else seq, event_at, from_utc_text(saved_at))
            for url, seq, event_at, saved_at in rows
        }

    async def check(self) -> float:
        """Seconds that a trivial read took. Raises `LocalFault` or `LocalBusy` when unusable."""
        started = time.perf_counter()
        await self._database.read("SELECT 1 FROM tally LIMIT 1")
        return time.perf_counter() - started
