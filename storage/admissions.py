"""New repos of a day, by who is behind their hosts."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from indexer.claims import Claim, Identity, StaleClaim
from indexer.clock import Clock
from indexer.limits import DAY_S, Limit, day_of
from indexer.model import RepoState, Wanted, utc_text
from storage.database import Database
from storage.repos import load_repo, update_repos
from storage.room import Room, open_discovery_gap, untrack

_COUNT = "SELECT coalesce(max(repos), 0) FROM admission WHERE day = ? AND host_group = ?"

_ADD = """
INSERT INTO admission VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET repos = repos + 1
"""

_WAITING = (
    "SELECT count(*) FROM repo INDEXED BY repo_limited WHERE host_group = ? AND state = 'limited'"
)


class AdmissionStore:
    """Satisfies what `indexer.ingest.admission` needs."""

    def __init__(self, database: Database, room: Room, *, clock: Clock) -> None:
        self._database = database
        self._room = room
        self._clock = clock

    async def admit(self, claim: Claim, identity: Identity, groups: tuple[str, ...]) -> bool:
        """Count a new repo among those of its groups today, or end its claim where they are full.

        Of those that are too many each group has as many wait for another day as it has in one,
        and the rest is forgotten: a gap says so, whose repair begins when the day is over and they
        may be taken in. Raises `StaleClaim`.
        """
        now = self._clock.now()
        day = day_of(now)
        most = self._room.limits.new_repos_per_host_day

        def change(connection: sqlite3.Connection) -> bool:
            repo = load_repo(connection, claim.did)
            if repo is None or repo.claim != claim.repo.claim or repo.id is None:
                raise StaleClaim(f"{claim.did}: claim {claim.repo.claim} is no longer current")
            # One that has rows is not new: an operator's fetch of it was cut off, or its purge was.
            is_admitted = "SELECT is_admitted OR records > 0 FROM repo WHERE id = ?"
            if connection.execute(is_admitted, (repo.id,)).fetchone()[0]:
                return True
            if all(connection.execute(_COUNT, (day, g)).fetchone()[0] < most for g in groups):
                connection.executemany(_ADD, ((day, group) for group in groups))
                connection.execute("DELETE FROM admission WHERE day < ?", (day,))
                connection.execute("UPDATE repo SET is_admitted = 1 WHERE id = ?", (repo.id,))
                return True
            group = identity.host_group
            waiting = connection.execute(_WAITING, (group,)).fetchone()[0]
            if waiting >= most:
                untrack(connection, (repo.id,))
                open_discovery_gap(
                    connection, identity.pds_url or "", now=now, not_before=(day + 1) * DAY_S
                )
                return False
            limited = replace(
                repo,
                state=RepoState.LIMITED,
                wanted=repo.wanted | repo.claimed,
                claimed=Wanted.NOTHING,
                retry_at=(day + 1) * DAY_S,
                reason=f"over limits.{Limit.NEW_REPOS_PER_HOST_DAY}",
            )
            update_repos(connection, [(repo, limited)], at=utc_text(now))
            connection.execute(
                "UPDATE repo SET pds_url = ?, host_group = ? WHERE id = ?",
                (identity.pds_url, group, repo.id),
            )
            return False

        return await self._database.write(change)
