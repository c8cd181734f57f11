"""The store as the live path sees it: one batch of events, one transaction, the cursor inside."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from indexer.clock import Clock
from indexer.model import FROM_NOW_ON, Applied, GapReason, GapSeen, Source, utc_text
from indexer.planning import EventBatch
from storage.database import Database
from storage.gaps import open_gap, open_gap_before_now, save_batch_gaps
from storage.room import open_discovery_gap
from storage.session import Sessions
from storage.tracked import TrackedRepos

BACK_S_MAX = 86_400.0
"""The time of the newest event goes back by no more than this from one batch to the next."""


class LiveStore:
    """Applies live batches. Satisfies what `indexer.ingest.live` needs."""

    def __init__(
        self,
        database: Database,
        tracked: TrackedRepos,
        sessions: Sessions,
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._tracked = tracked
        self._sessions = sessions
        self._room = sessions.room
        self._clock = clock

    def is_tracked(self, did: str) -> bool:
        """Whether events of this DID concern us."""
        return did in self._tracked

    def is_denied(self, did: str) -> bool:
        """Whether events of this DID are to be passed over."""
        return self._tracked.is_denied(did)

    async def signing_keys(self, dids: Iterable[str]) -> dict[str, str | None]:
        """Multibase keys of tracked DIDs, as last committed."""
        return await self._tracked.keys(dids)

    async def host_groups(self, dids: Iterable[str]) -> dict[str, str]:
        """The groups of hosts at which tracked DIDs were last seen."""
        rows = await self._database.read(
            "SELECT did, host_group FROM repo WHERE did IN (SELECT value FROM json_each(?))"
            " AND host_group <> ''",
            (json.dumps(list(dids)),),
        )
        return dict(rows)

    async def load_cursor(self, url: str, start: int | None = None) -> int | None:
        """The last durable seq of this stream; None: from now on.

        It is `start` only at the first start of all: a stream that is followed after another one is
        joined at its present, and what the change misses is a gap.
        """
        rows = await self._database.read("SELECT url, seq FROM firehose_cursor")
        cursors: dict[str, int] = dict(rows)
        seq = cursors.get(url, None if cursors else start)
        return None if seq == FROM_NOW_ON else seq

    async def begin_now(self, url: str) -> int:
        """A stream is about to be dialled without a cursor; how many gaps that opens."""
        now = self._clock.now()
        return await self._database.write(
            lambda connection: open_gap_before_now(connection, url, now=now), urgent=True
        )

    async def reset_cursor(self, url: str, seq: int) -> int:
        """Move a stream's cursor, whatever it was; how many gaps that opens."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT seq, event_at FROM firehose_cursor WHERE url = ?", (url,)
            ).fetchall()
            opened = 0
            for held, event_at in rows:
                if seq == FROM_NOW_ON or seq > held:
                    gap = GapSeen(
                        reason=GapReason.CURSOR_RESET,
                        after_seq=None if held == FROM_NOW_ON else held,
                    )
                    opened += open_gap(connection, url, gap, after_at=event_at, now=now)
            save_cursor(connection, url, seq, None, now=now)
            return opened

        return await self._database.write(change, urgent=True)

    async def apply(self, batch: EventBatch) -> Applied:
        """Apply a batch and save its cursor, all or nothing. Applying it again changes nothing.

        Raises `LocalBusy` while there is no room for what it brings.
        """
        if batch.events:
            self._room.check()
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> Applied:
            session = self._sessions.open(connection, Source.LIVE, now)
            session.load({event.did for event in batch.events if event.did is not None})
            for event in batch.events:
                session.plan(event)
            gaps = save_batch_gaps(connection, batch, now=now)
            if batch.seq is not None:
                save_cursor(connection, batch.url, batch.seq, batch.event_at, now=now)
            session.applied.gaps += gaps
            if session.applied.refused:
                opened = open_discovery_gap(connection, batch.url, now=now)
                session.applied.gaps[GapReason.DISCOVERY] += opened
            return session.flush()

        # What a loss of power takes of it the cursor is taken back with, and so it comes again.
        return await self._database.write(
            change,
            urgent=True,
            is_synced=False,
            committed=lambda applied: self._tracked.add(applied.tracked),
        )


def save_cursor(
    connection: sqlite3.Connection, url: str, seq: int, event_at: float | None, *, now: float
) -> None:
    """Move the cursor of a stream, inside the transaction of the events up to it.

    An event may have any time, by its host's word. One that is too old makes the next gap no more
    than `BACK_S_MAX` longer. One that is too new, while the stream is late, counts only until the
    next: a gap that began then would leave out what was missed before.
    """
    connection.execute(
        "INSERT INTO firehose_cursor (url, seq, event_at, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (url) DO UPDATE SET seq = excluded.seq, updated_at = excluded.updated_at,"
        " event_at = coalesce(max(excluded.event_at, min(event_at, ?) - ?), excluded.event_at,"
        " event_at)",
        (url, seq, event_at, utc_text(now), now, BACK_S_MAX),
    )
