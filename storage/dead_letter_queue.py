"""What admins do with dead letters, in short transactions.

A retry is work like any other: the letter's repo is wanted again, and whoever resyncs it settles
the letter in the transaction that makes the repo current (`dead_letters.settle_retried`). Where it
is about a record that is still refused, the repo's rows count as incomplete until the record has
been read and judged anew: it may be the same, while what we know of lexicons is not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from indexer.clock import Clock
from indexer.errors import RequestRefused
from indexer.model import Priority, Wanted, utc_text
from indexer.planning import plan_discovery
from storage.database import Database
from storage.dead_letters import OLDER, is_to_be_read_again
from storage.repos import insert_repo, load_repos, update_repos
from storage.rows import delete_rows
from storage.tracked import TrackedRepos

_T = TypeVar("_T")

LETTERS_MAX = 100
"""Letters changed in one transaction, which may hold the writer for 50 ms at most."""

LETTER_ID_MAX = 2**63 - 1

_NOTE = "UPDATE dead_letter SET retry_count = retry_count + 1, last_retry_at = ? WHERE id = ?"

# As for `OLDER`, all letters may be looked at.
_RETRIED = """
SELECT id FROM dead_letter
WHERE id > ?1 AND id <= ?2 AND did IS NOT NULL AND (?3 IS NULL OR reason = ?3)
ORDER BY id LIMIT ?4
"""

_THOSE = "SELECT id, did FROM dead_letter WHERE id IN (SELECT value FROM json_each(?))"


class DeadLetterStore:
    """Satisfies `admin_api.ports.DeadLetterQueue`. `on_work` is told when repos are wanted."""

    def __init__(
        self,
        database: Database,
        tracked: TrackedRepos,
        *,
        on_work: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._database = database
        self._tracked = tracked
        self._on_work = on_work
        self._clock = clock

    async def retry(self, letter_id: int) -> str | None:
        """Have the letter's repo compared with its host again; its DID, or None without one."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(
                "SELECT did FROM dead_letter WHERE id = ?", (_bounded(letter_id),)
            ).fetchone()
            if row is None:
                raise _unknown(letter_id)
            did: str | None = row[0]
            if did is not None:
                connection.execute(_NOTE, (now, letter_id))
                _want(connection, (did,), Priority.OPERATOR, now)
            return did

        return await self._write_work(change, lambda did: () if did is None else (did,))

    async def retry_all(self, reason: str | None) -> int:
        """`retry` for every letter that names an account, or those of one reason; their number."""
        newest = (await self._database.read("SELECT max(id) FROM dead_letter"))[0][0] or 0
        last = total = 0
        while last < newest:
            last, retried = await self._retry_some(reason, last, newest)
            total += retried
        return total

    async def _retry_some(self, reason: str | None, after: int, newest: int) -> tuple[int, int]:
        """The id up to which letters have been looked at, and how many were retried."""
        now = self._clock.now()
        found = await self._database.read(_RETRIED, (after, newest, reason, LETTERS_MAX))
        letters = [row[0] for row in found]

        def change(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(_THOSE, (json.dumps(letters),)).fetchall()
            connection.executemany(_NOTE, [(now, row[0]) for row in rows])
            dids = [row[1] for row in rows]
            _want(connection, set(dids), Priority.REPAIR, now)
            return dids

        dids = await self._write_work(change, lambda done: done)
        return (letters[-1] if len(letters) == LETTERS_MAX else newest), len(dids)

    async def dismiss(self, letter_id: int) -> None:
        """Drop one letter. Raises `RequestRefused` for an unknown id."""

        def change(connection: sqlite3.Connection) -> None:
            deleted = connection.execute(
                "DELETE FROM dead_letter WHERE id = ?", (_bounded(letter_id),)
            )
            if deleted.rowcount == 0:
                raise _unknown(letter_id)

        await self._database.write(change)

    async def purge(self, older_than_s: float) -> int:
        """Drop the letters that are older; their number."""
        before = self._clock.now() - older_than_s
        total = 0
        while rows := await self._database.read(OLDER, (before, LETTERS_MAX)):
            letters = [row[0] for row in rows]
            total += await self._database.write(
                partial(delete_rows, table="dead_letter", column="id", keys=letters)
            )
        return total

    async def _write_work(
        self,
        change: Callable[[sqlite3.Connection], _T],
        dids: Callable[[_T], Iterable[str]],
    ) -> _T:
        done = await self._database.write(
            change, committed=lambda result: self._tracked.add(dids(result))
        )
        self._on_work()
        return done


def _want(connection: sqlite3.Connection, dids: Iterable[str], priority: int, now: float) -> None:
    """Raise all work for these repos, due at once; unknown ones are tracked."""
    at = utc_text(now)
    found = load_repos(connection, dids)
    for did in dids:
        repo = found.get(did)
        if repo is None:
            new = plan_discovery(did).repo
            if new is None:
                raise AssertionError("a discovery makes a repo")
            repo = replace(new, id=insert_repo(connection, new, at=at))
        wanted = replace(
            repo,
            wanted=repo.wanted | Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT,
            priority=min(repo.priority, priority),
            retry_at=now,
            fetch_at=now,
            scope_id=None if is_to_be_read_again(connection, repo.id) else repo.scope_id,
        )
        update_repos(connection, [(repo, wanted)], at=at)


def _bounded(letter_id: int) -> int:
    """An id that fits a column; what does not is nobody's."""
    return letter_id if abs(letter_id) <= LETTER_ID_MAX else -1


def _unknown(letter_id: int) -> RequestRefused:
    return RequestRefused("InvalidRequest", f"parameter index: no dead letter has id {letter_id}")
