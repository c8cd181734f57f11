"""How far the DID directory's log was read, and what its operations make of our repos."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from indexer.clock import Clock
from indexer.directory import Reading, noticed
from indexer.model import utc_text
from indexer.planning import Policy
from indexer.protocol.plc_export import ExportedOperation
from storage.database import Database
from storage.repos import load_repos, update_repos
from storage.tracked import TrackedRepos

ASIDE_AT = 1e12
"""A reading that no gap waits for has come to its end then, until it is gone on with."""

_AWAITED = """
SELECT EXISTS (
    SELECT 1 FROM gap, directory_cursor
    WHERE repaired_at IS NULL AND surveyed_at IS NOT NULL AND detected_at > read_at)
"""

_SAVE = f"""
UPDATE directory_cursor
SET after_ms = max(after_ms, ?), read_at = coalesce(?, iif(read_at = {ASIDE_AT}, 0, read_at))
WHERE url = ? AND after_ms = ?
"""  # noqa: S608 - a constant


class DirectoryStore:
    """Satisfies `indexer.ingest.directory.DirectoryRows`."""

    def __init__(
        self,
        database: Database,
        tracked: TrackedRepos,
        policy: Policy,
        *,
        plc_url: str,
        clock: Clock,
    ) -> None:
        self._database = database
        self._tracked = tracked
        self._policy = policy
        self._plc_url = plc_url
        self._clock = clock

    async def reading(self) -> Reading | None:
        """How far it was read; None before the first time, or where it was never to be had."""
        rows = await self._database.read(
            "SELECT after_ms FROM directory_cursor WHERE url = ?", (self._plc_url,)
        )
        return Reading(*rows[0]) if rows else None

    async def begin(self, at_ms: int) -> None:
        """Read from this time on."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM directory_cursor")  # of another directory
            connection.execute(
                "INSERT INTO directory_cursor (url, since_ms, after_ms) VALUES (?, ?, ?)",
                (self._plc_url, at_ms, at_ms),
            )

        await self._database.write(change)

    async def forget(self) -> None:
        """It is not read any more: no gap is to wait for it."""
        if await self._database.read("SELECT 1 FROM directory_cursor"):
            await self._database.write(
                lambda connection: connection.execute("DELETE FROM directory_cursor")
            )

    async def put_aside(self) -> None:
        """It is read on from here once it is to be had again, and no gap is to wait for that."""
        await self._database.write(
            lambda connection: connection.execute(
                "UPDATE directory_cursor SET read_at = ?", (ASIDE_AT,)
            )
        )

    async def is_awaited(self) -> bool:
        """Whether the repair of a gap waits for the log to be read."""
        return bool((await self._database.read(_AWAITED))[0][0])

    async def take(
        self,
        operations: Sequence[ExportedOperation],
        reading: Reading,
        after_ms: int,
        *,
        ended_at: float | None,
    ) -> int:
        """Raise work for tracked repos and move on from `reading`; how many repos have some now.

        `ended_at` is our clock when the log was asked, if this was its end. Where a gap has set
        the position back since `reading`, it stays there.
        """
        now = self._clock.now()
        latest = {each.did: each for each in operations if each.did in self._tracked}

        def change(connection: sqlite3.Connection) -> int:
            changed = []
            dids = json.dumps(list(latest))
            ours = connection.execute(
                "SELECT did, handle, pds_url FROM repo"
                " WHERE did IN (SELECT value FROM json_each(?))",
                (dids,),
            )
            known = {did: (handle, pds_url) for did, handle, pds_url in ours}
            for repo in load_repos(connection, latest).values():
                handle, pds_url = known[repo.did]
                after = noticed(
                    repo,
                    latest[repo.did],
                    handle=handle,
                    pds_url=pds_url,
                    policy=self._policy,
                    now=now,
                )
                if after is not repo:
                    changed.append((repo, after))
            update_repos(connection, changed, at=utc_text(now))
            connection.execute(_SAVE, (after_ms, ended_at, self._plc_url, reading.after_ms))
            return len(changed)

        return await self._database.write(change)
