"""DID documents that nobody has looked at for a month are looked at again, a few at a time.

Those of accounts that are held without a handle after a week: whoever was to confirm it may have
been away.

Keys change by events, by failed signatures and by the directory's log; what all of these missed
ends here. The position is not durable: a restart begins anew, and finds most of it done.
"""

from __future__ import annotations

import sqlite3

from indexer.clock import Clock
from indexer.lanes import Standing
from indexer.model import AccountStatus, Priority, Wanted, utc_text
from indexer.planning import Policy, raised
from storage.database import Database
from storage.repos import load_repos, update_repos

AGE_S_MAX = 30 * 86_400.0
NAMELESS_S_MAX = 7 * 86_400.0
ROWS_AT_ONCE = 2_000
MARKED_AT_ONCE = 4
"""A step a second: no more requests of the directory than that."""

WAITING_MAX = 50
"""While so many repos wait for more urgent work, none is added.

Those of a host that does not answer do not count: it may never do so again, and they would end the
sweep for good.
"""

PAUSE_S = 3_600.0
"""Between two walks over all repos."""

_OLD = f"""
SELECT id, did, identity_at < iif(handle IS NULL AND rev IS NOT NULL, ?3, ?1)
                AND wanted & {Wanted.IDENTITY:d} = 0 AND claimed = 0
                AND account_status <> '{AccountStatus.DELETED}'
FROM repo WHERE id > ?2 ORDER BY id LIMIT {ROWS_AT_ONCE}
"""  # noqa: S608 - constants

# In the words of the index of what waits: without them each look reads all repos that there are.
IS_BUSY = f"""
SELECT 1 FROM repo INDEXED BY repo_work
WHERE wanted <> 0 AND claimed = 0 AND state <> 'pending' AND (priority = 0 OR rev IS NOT NULL)
      AND priority <= {Priority.REPAIR:d} AND retry_at <= ?
      AND (wanted & {Wanted.IDENTITY:d} OR NOT EXISTS (
          SELECT 1 FROM turn WHERE host = pds_url AND standing = {Standing.FAILED:d}))
LIMIT 1 OFFSET {WAITING_MAX}
"""  # noqa: S608 - constants


class IdentitySweep:
    """Makes old identities stale."""

    def __init__(self, database: Database, policy: Policy, *, clock: Clock) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock
        self._after_id = 0
        self._due_at = 0.0  # monotonic

    async def step(self) -> int:
        """Look at the next rows and mark a few; always 0: there is no hurry."""
        now = self._clock.now()
        if self._clock.monotonic() < self._due_at:
            return 0
        if await self._database.read(IS_BUSY, (now,)):
            return 0
        rows = await self._database.read(
            _OLD, (now - AGE_S_MAX, self._after_id, now - NAMELESS_S_MAX)
        )
        old = [(row[0], row[1]) for row in rows if row[2]][:MARKED_AT_ONCE]
        if len(old) == MARKED_AT_ONCE:
            self._after_id = old[-1][0]
        elif len(rows) == ROWS_AT_ONCE:
            self._after_id = rows[-1][0]
        else:
            self._after_id, self._due_at = 0, self._clock.monotonic() + PAUSE_S
        if old:
            await self._database.write(lambda c: self._mark(c, [did for _, did in old], now))
        return 0

    def _mark(self, connection: sqlite3.Connection, dids: list[str], now: float) -> None:
        changed = [
            (repo, raised(repo, Wanted.IDENTITY, self._policy, now))
            for repo in load_repos(connection, dids).values()
        ]
        update_repos(connection, changed, at=utc_text(now))
