"""The store as authors see it: how their records stand, and a place for their repo in the queue."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from indexer.authors import UNASKABLE, RecordState, asked_for
from indexer.clock import Clock
from indexer.model import Wanted, utc_text
from indexer.planning import plan_discovery
from storage.database import Database
from storage.repos import insert_repo, load_repo, update_repos
from storage.room import Room
from storage.tracked import TrackedRepos

_RECORD = """
SELECT record.cid, record.indexed_at, repo.state = 'active' AND repo.wanted & 4 = 0,
       max(repo.verified_at, repo.synced_at), repo.pds_url, repo.account_status = 'active'
FROM repo LEFT JOIN record ON record.repo_id = repo.id AND record.path = ?
     AND record.problem IS NOT 'denied'
WHERE repo.did = ?
"""

_KEY = f"""
SELECT signing_key FROM repo WHERE did = ? AND (wanted | claimed) & {Wanted.IDENTITY:d} = 0
"""  # noqa: S608 - constants


class AuthorIndex:
    """Satisfies `admin_api.ports.AuthorIndex`. `on_work` is told when a repo is wanted."""

    def __init__(
        self,
        database: Database,
        tracked: TrackedRepos,
        room: Room,
        *,
        on_work: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._database = database
        self._tracked = tracked
        self._room = room
        self._on_work = on_work
        self._clock = clock

    def is_denied(self, did: str) -> bool:
        """Whether an operator keeps the account or its host out."""
        return self._tracked.is_denied(did)

    async def signing_key(self, did: str) -> str | None:
        """Multibase key of a tracked account; None: unknown, or perhaps another by now."""
        if did not in self._tracked:
            return None
        rows = await self._database.read(_KEY, (did,))
        return rows[0][0] if rows else None

    async def record(self, did: str, path: str) -> RecordState | None:
        """How a record stands; None where its repo is not tracked."""
        rows = await self._database.read(_RECORD, (path, did))
        if not rows:
            return None
        cid, indexed_at, is_current, compared_at, pds_url, is_visible = rows[0]
        return RecordState(
            cid=cid if is_visible else None,
            indexed_at=indexed_at if is_visible else None,
            is_current=bool(is_current),
            compared_at=compared_at,
            pds_url=pds_url,
        )

    async def want(self, did: str) -> bool:
        """Queue a comparison of the repo with its host; False where a limit holds it back.

        An unknown repo is tracked, unless no new ones are taken in.
        """
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> bool:
            repo = load_repo(connection, did)
            if repo is None and self._room.refusal(connection) is not None:
                return False
            if repo is None:
                new = plan_discovery(did).repo
                if new is None:
                    raise AssertionError("a discovery makes a repo")
                insert_repo(connection, new, at=utc_text(now))
                return True
            update_repos(connection, [(repo, asked_for(repo, now=now))], at=utc_text(now))
            return repo.state not in UNASKABLE

        is_wanted = await self._database.write(
            change, committed=lambda is_wanted: self._tracked.add((did,) if is_wanted else ())
        )
        if is_wanted:
            self._on_work()
        return is_wanted

    async def host_status(self, url: str) -> str | None:
        """Where a host stands; None for an unknown one."""
        rows = await self._database.read("SELECT status FROM host WHERE url = ?", (url,))
        return str(rows[0][0]) if rows else None
