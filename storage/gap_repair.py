"""The repair of gaps as rows: what is still to be asked, which repos differed, what is closed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace

from indexer.clock import Clock
from indexer.listings import Listed, Question, compared
from indexer.model import GapReason, RepoState, Wanted, utc_text
from indexer.planning import plan_discovery
from storage.database import Database
from storage.repos import insert_repo, load_repos, update_repos
from storage.room import Room
from storage.tracked import TrackedRepos

QUESTIONS_AT_ONCE = 16
ASKED_AT_ONCE = 50
ATTEMPTS_MAX = 3
"""A repo that has failed so often is the resync's own business, and the gap waits no longer."""

_COLUMNS = "kind, target, since, cursor, after_id, pages, failures"

_KNOWN_HOSTS = """
WITH RECURSIVE host(url) AS (
    SELECT min(pds_url) FROM repo
    UNION ALL
    SELECT (SELECT min(pds_url) FROM repo WHERE pds_url > host.url) FROM host WHERE url IS NOT NULL)
"""

_ASK_HOSTS = f"""
INSERT INTO gap_question (kind, target, since)
{_KNOWN_HOSTS} SELECT 'host', url, ? FROM host WHERE url IS NOT NULL
"""  # noqa: S608 - a constant

_ASK_FOR_NEWCOMERS = f"""
INSERT INTO gap_question (kind, target, since)
{_KNOWN_HOSTS} SELECT 'newcomers', url, ? FROM host WHERE url IS NOT NULL
ON CONFLICT DO NOTHING
"""  # noqa: S608 - a constant

_ASK_COLLECTION = "INSERT INTO gap_question (kind, target, since) VALUES ('collection', ?, ?)"

_FRESH = """
SELECT EXISTS (SELECT 1 FROM gap
               WHERE repaired_at IS NULL AND surveyed_at IS NULL AND reason <> ?1),
       EXISTS (SELECT 1 FROM gap
               WHERE repaired_at IS NULL AND surveyed_at IS NULL AND reason = ?1),
       EXISTS (SELECT 1 FROM gap_question)
"""

_KEEP = """
UPDATE gap_question SET cursor = ?, after_id = ?, pages = ?, failures = ?, retry_at = ?
WHERE kind = ? AND target = ? AND since = ?
"""

_SETTLED = f"""
DELETE FROM gap_repo WHERE repo_id IN (
    SELECT repo.id FROM gap_repo JOIN repo ON repo.id = gap_repo.repo_id
    WHERE (wanted & {Wanted.ACCOUNT | Wanted.CONTENT:d} = 0 AND claimed = 0)
          OR attempts >= {ATTEMPTS_MAX} OR state = '{RepoState.NOT_FOUND}' LIMIT 500)
"""  # noqa: S608 - constants

# Changes of keys in a gap that began before the directory's log was followed.
_READ_DIRECTORY_AGAIN = """
UPDATE directory_cursor SET since_ms = first_ms, after_ms = first_ms, read_at = 0
FROM (SELECT CAST(min(after_at) * 1000 AS INTEGER) AS first_ms
      FROM gap WHERE repaired_at IS NULL AND surveyed_at IS NULL)
WHERE first_ms < since_ms
"""

_CLOSE = """
UPDATE gap SET repaired_at = ?
WHERE repaired_at IS NULL AND surveyed_at IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM gap_question) AND NOT EXISTS (SELECT 1 FROM gap_repo)
  AND NOT EXISTS (SELECT 1 FROM directory_cursor WHERE read_at < gap.detected_at)
"""


class GapRepairStore:
    """Satisfies what `indexer.ingest.gap_repair` needs of the store."""

    def __init__(
        self,
        database: Database,
        tracked: TrackedRepos,
        *,
        clock: Clock,
        room: Room | None = None,
    ) -> None:
        self._database = database
        self._room = room or Room()
        self._tracked = tracked
        self._clock = clock

    async def has_open_gaps(self) -> bool:
        """Whether anything is left to repair."""
        sql = "SELECT EXISTS (SELECT 1 FROM gap WHERE repaired_at IS NULL)"
        return bool((await self._database.read(sql))[0][0])

    async def survey(self, collections: Sequence[str]) -> bool:
        """Put down what a gap not seen before makes worth asking; False when there is none.

        All hosts and collections are asked from the beginning then, for all open gaps together.
        """
        fresh = (await self._database.read(_FRESH, (GapReason.DISCOVERY,)))[0]
        is_about_stream = bool(fresh[0])
        # New repos that were refused are looked for once there is room, one walk after the other.
        if not is_about_stream and not (fresh[1] and not fresh[2] and await self._has_room()):
            return False
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM gap_question")
            if is_about_stream:
                connection.execute(_ASK_HOSTS, (now,))
            connection.executemany(_ASK_COLLECTION, ((each, now) for each in collections))
            connection.execute(_READ_DIRECTORY_AGAIN)
            connection.execute("UPDATE gap SET surveyed_at = ? WHERE repaired_at IS NULL", (now,))

        await self._database.write(change)
        return True

    async def missed_since(self) -> float:
        """Unix seconds at which the earliest open gap began; 0 where that is not known."""
        rows = await self._database.read(
            "SELECT min(coalesce(after_at, 0.0)) FROM gap WHERE repaired_at IS NULL"
        )
        return float(rows[0][0] or 0.0)

    async def ask_hosts(self, hosts: Sequence[str]) -> None:
        """Put a question for newcomers down for each of these hosts and each that we know."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(_ASK_FOR_NEWCOMERS, (now,))
            connection.executemany(
                "INSERT INTO gap_question (kind, target, since) VALUES ('newcomers', ?, ?)"
                " ON CONFLICT DO NOTHING",
                ((host, now) for host in hosts),
            )

        await self._database.write(change)

    async def unknown(self, dids: Sequence[str]) -> set[str]:
        """Those that are not tracked."""
        return {did for did in dids if did not in self._tracked}

    async def _has_room(self) -> bool:
        """Whether new repos may be found, a page of them and more."""
        if self._room.is_discovery_stopped:
            return False
        rows = await self._database.read(
            "SELECT total FROM tally WHERE kind = 'repo_state' AND name = ?", (RepoState.PENDING,)
        )
        return not rows or int(rows[0][0]) <= self._room.limits.pending_max // 2

    async def questions(self) -> list[Question]:
        """The next ones that are due; none that would find new repos while there is no room."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM gap_question"  # noqa: S608 - a constant
            " WHERE retry_at <= ? AND (kind = 'host' OR ?) ORDER BY retry_at LIMIT ?",
            (self._clock.now(), await self._has_room(), QUESTIONS_AT_ONCE),
        )
        names = _COLUMNS.split(", ")
        return [Question(**dict(zip(names, row, strict=True))) for row in rows]

    async def count_tracked(self, pds_url: str) -> int:
        """Tracked repos of a host."""
        rows = await self._database.read("SELECT count(*) FROM repo WHERE pds_url = ?", (pds_url,))
        return int(rows[0][0])

    async def uncompared(self, question: Question) -> list[tuple[int, str]]:
        """(id, DID) of repos of the host that no listing has told of since the question arose."""
        rows = await self._database.read(
            "SELECT id, did FROM repo WHERE pds_url = ? AND id > ? AND verified_at < ?"
            " ORDER BY id LIMIT ?",
            (question.target, question.after_id or 0, question.since, ASKED_AT_ONCE),
        )
        return [(row[0], row[1]) for row in rows]

    async def compare(
        self, repos: Sequence[Listed], then: Question, *, is_answered: bool = True
    ) -> bool:
        """Take a host's word on its own repos, and go on with `then`; whether any differs.

        Without an answer all of them count as different, and none as compared.
        """
        now = self._clock.now()
        words = {each.did: each for each in repos}

        def change(connection: sqlite3.Connection) -> bool:
            changed = []
            for repo in load_repos(connection, words).values():
                touched = connection.execute(
                    "UPDATE repo SET verified_at = max(verified_at, ?)"
                    " WHERE id = ? AND pds_url = ?",
                    (now if is_answered else 0.0, repo.id, then.target),
                ).rowcount
                looked_at = compared(repo, words[repo.did], now=now)
                if touched and looked_at is not repo:
                    changed.append((repo, looked_at))
            update_repos(connection, changed, at=utc_text(now))
            _await(connection, (repo.id for repo, _ in changed))
            _keep(connection, then, retry_at=0.0)
            return bool(changed)

        return await self._database.write(change)

    async def discover(self, repos: Sequence[Listed], then: Question) -> bool:
        """Track those that are unknown; whether there were any."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> list[str]:
            known = load_repos(connection, [each.did for each in repos])
            new = list(dict.fromkeys(each.did for each in repos if each.did not in known))
            ids = []
            for did in new:
                repo = plan_discovery(did).repo
                if repo is None:
                    raise AssertionError("a discovery makes a repo")
                ids.append(insert_repo(connection, repo, at=utc_text(now)))
            _await(connection, ids)
            _keep(connection, then, retry_at=0.0)
            return new

        added = await self._database.write(change, committed=self._note)
        return bool(added)

    def _note(self, dids: list[str]) -> None:
        self._tracked.add(dids)

    async def put_off(self, question: Question, *, delay_s: float) -> None:
        """Ask again later."""
        later = replace(question, failures=question.failures + 1)
        retry_at = self._clock.now() + delay_s
        await self._database.write(lambda connection: _keep(connection, later, retry_at=retry_at))

    async def settle(self, question: Question) -> None:
        """Nothing more is to be asked here."""
        await self._database.write(
            lambda connection: connection.execute(
                "DELETE FROM gap_question WHERE kind = ? AND target = ? AND since = ?",
                (question.kind, question.target, question.since),
            )
        )

    async def close_gaps(self) -> int:
        """Mark as repaired what waits for nothing any more; how many gaps that is."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> int:
            connection.execute(_SETTLED)
            return connection.execute(_CLOSE, (now,)).rowcount

        return await self._database.write(change)


def _await(connection: sqlite3.Connection, repo_ids: Iterable[int | None]) -> None:
    connection.executemany(
        "INSERT INTO gap_repo (repo_id) VALUES (?) ON CONFLICT DO NOTHING",
        ((repo_id,) for repo_id in repo_ids),
    )


def _keep(connection: sqlite3.Connection, question: Question, *, retry_at: float) -> None:
    connection.execute(
        _KEEP,
        (
            question.cursor, question.after_id, question.pages, question.failures, retry_at,
            question.kind, question.target, question.since,
        ),
    )  # fmt: skip
