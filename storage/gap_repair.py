"""The repair of gaps as rows: what is still to be asked, which repos differed, what is closed."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence

from indexer.clock import Clock
from indexer.gaps import SURVEY_S_MIN
from indexer.limits import day_of
from indexer.listings import Listed, Question, compared, differs
from indexer.model import GapReason, RepoState, utc_text
from indexer.planning import Repo, plan_discovery
from storage.database import Database, Row
from storage.directory import ASIDE_AT
from storage.gap_closing import (
    ENDING,
    SETTLED_AT_ONCE,
    WAITS_SINCE,
    await_repos,
    close_gaps,
    count_unread,
    settle_repos,
)
from storage.repos import HOST_URLS, insert_repo, load_repos, update_repos
from storage.room import Room
from storage.tracked import TrackedRepos

QUESTIONS_AT_ONCE = 16
ASKED_AT_ONCE = 50
HOSTS_AT_ONCE = 1_000
"""Hosts that are to be asked, put down in one transaction."""

_COLUMNS = "kind, target, since, cursor, after_id, pages, failures, wanted_at"

# A list that is being read is read to its end, for the gaps that wait for it, and then once more.
# A gap that comes later waits too, though the first one was surveyed by a clock that was ahead.
_OR_AGAIN = """
ON CONFLICT DO UPDATE SET
    wanted_at = min(wanted_at, excluded.wanted_at),
    since = iif(pages = 0 AND after_id IS NULL, excluded.since, since),
    again_at = iif(pages = 0 AND after_id IS NULL, again_at,
                   min(coalesce(again_at, excluded.wanted_at), excluded.wanted_at))
"""

_ASK = f"""
INSERT INTO gap_question (kind, target, since, wanted_at) VALUES (?, ?, ?, ?) {_OR_AGAIN}
"""  # noqa: S608 - constants

# New repos that were refused are looked for once there is room.
_DUE = f"""
repaired_at IS NULL AND surveyed_at IS NULL AND not_before <= ?1
AND (?2 OR reason <> '{GapReason.DISCOVERY}')
"""

_FRESH = f"""
SELECT max(detected_at), coalesce(sum(reason <> '{GapReason.DISCOVERY}'), 0),
       (SELECT max(surveyed_at) FROM gap)
FROM gap WHERE {_DUE}
"""  # noqa: S608 - constants

# Not one that has come, or become longer, while hosts were put down.
_SURVEYED = f"UPDATE gap SET surveyed_at = ?1 WHERE {_DUE} AND detected_at <= ?3"  # noqa: S608 - a constant

_KEEP = """
UPDATE gap_question SET cursor = ?, after_id = ?, pages = ?, failures = ?, retry_at = ?
WHERE kind = ? AND target = ? AND since = ?
"""

_BEGIN_AGAIN = """
UPDATE gap_question SET since = ?, wanted_at = again_at, again_at = NULL, cursor = NULL,
                        after_id = NULL, pages = 0, failures = 0, retry_at = 0
WHERE kind = ? AND target = ? AND since = ? AND again_at IS NOT NULL
"""

_NOTE_ASKED = """
INSERT INTO gap_asked VALUES (?, ?, 1, ?)
ON CONFLICT DO UPDATE SET pages = pages + 1, accounts = accounts + excluded.accounts
"""

# The plus keeps SQLite from going through all repos of the host for those on a page.
_AT_HOST = """
SELECT did FROM repo WHERE +pds_url = ? AND did IN (SELECT value FROM json_each(?))
"""

_VERIFIED = "UPDATE repo SET verified_at = max(verified_at, ?) WHERE id = ?"

_UNCOMPARED = """
SELECT id, did FROM repo WHERE pds_url = ?1 AND id > ?2 AND verified_at < ?3 AND state <> 'denied'
    AND NOT EXISTS (SELECT 1 FROM gap_repo WHERE repo_id = repo.id AND put_at >= ?3)
ORDER BY id LIMIT ?4
"""

# Changes of keys in a gap that began before the directory's log was followed.
_READ_DIRECTORY_AGAIN = f"""
UPDATE directory_cursor SET since_ms = first_ms, after_ms = first_ms,
                            read_at = iif(read_at = {ASIDE_AT}, read_at, 0)
FROM (SELECT CAST(min(after_at) * 1000 AS INTEGER) AS first_ms FROM gap WHERE surveyed_at = ?)
WHERE first_ms < since_ms
"""  # noqa: S608 - a constant


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
        """Put down what the gaps that are due make worth asking; False when there is none.

        What is still to be asked for earlier ones goes on: what has not begun is asked for all of
        them, and what has once more when it is done.
        """
        now = self._clock.now()
        due = (now, await self._has_room())
        newest, about_stream, last_at = (await self._database.read(_FRESH, due))[0]
        if newest is None or (last_at is not None and 0.0 <= now - last_at < SURVEY_S_MIN):
            return False
        if about_stream:
            await self._ask_all("host", await self._known_hosts(), now, wanted_at=now)

        def change(connection: sqlite3.Connection) -> None:
            connection.executemany(_ASK, (("collection", each, now, now) for each in collections))
            connection.execute(_SURVEYED, (*due, newest))
            connection.execute(_READ_DIRECTORY_AGAIN, (now,))

        await self._database.write(change)
        return True

    async def _known_hosts(self) -> list[str]:
        return [row[0] for row in await self._database.read(HOST_URLS)]

    async def _ask_all(
        self, kind: str, hosts: Sequence[str], since: float, *, wanted_at: float
    ) -> None:
        """Put down a question for each host, in short transactions."""
        for start in range(0, len(hosts), HOSTS_AT_ONCE):
            rows = [(kind, host, since, wanted_at) for host in hosts[start : start + HOSTS_AT_ONCE]]

            def change(connection: sqlite3.Connection, rows: Sequence[Row] = rows) -> None:
                connection.executemany(_ASK, rows)

            await self._database.write(change)

    async def missed_since(self) -> float:
        """Unix seconds at which the earliest open gap began; 0 where that is not known."""
        rows = await self._database.read(
            "SELECT min(coalesce(after_at, 0.0)) FROM gap WHERE repaired_at IS NULL"
        )
        return float(rows[0][0] or 0.0)

    async def ask_hosts(self, hosts: Sequence[str], question: Question, *, is_cut: bool) -> None:
        """Look for newcomers at each of these hosts and each that we know.

        The gaps that wait for `question` wait for the answers, and count what is cut.
        """
        wanted_at = question.wanted_at
        each = list(dict.fromkeys((*await self._known_hosts(), *hosts)))
        await self._ask_all("newcomers", each, self._clock.now(), wanted_at=wanted_at)
        if is_cut:
            await self._database.write(
                lambda connection: count_unread(connection, wanted_at=wanted_at)
            )

    async def unknown(self, dids: Sequence[str]) -> set[str]:
        """Those that are not tracked."""
        return {did for did in dids if did not in self._tracked}

    async def asked_of(self, group: str) -> tuple[int, int]:
        """(pages, accounts) that a group of hosts was asked for today."""
        rows = await self._database.read(
            "SELECT pages, accounts FROM gap_asked WHERE day = ? AND host_group = ?",
            (day_of(self._clock.now()), group),
        )
        return (rows[0][0], rows[0][1]) if rows else (0, 0)

    async def note_asked(self, group: str, *, accounts: int) -> None:
        """It was asked for one more page, and about so many accounts."""
        day = day_of(self._clock.now())

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(_NOTE_ASKED, (day, group, accounts))
            connection.execute("DELETE FROM gap_asked WHERE day < ?", (day,))

        await self._database.write(change)

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
        """(id, DID) of some repos of the host that nobody has compared since the question arose."""
        rows = await self._database.read(
            _UNCOMPARED, (question.target, question.after_id or 0, question.since, ASKED_AT_ONCE)
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
            repos = load_repos(connection, words)
            at_host = connection.execute(_AT_HOST, (then.target, json.dumps(list(repos))))
            changed: list[tuple[Repo, Repo]] = []
            differing: list[int | None] = []
            equal: list[int | None] = []
            for repo in (repos[did] for (did,) in at_host.fetchall()):
                word = words[repo.did]
                looked_at = compared(repo, word, now=now)
                if looked_at is not repo:
                    changed.append((repo, looked_at))
                (differing if differs(repo, word) else equal).append(repo.id)
            update_repos(connection, changed, at=utc_text(now))
            if is_answered:
                connection.executemany(_VERIFIED, ((now, repo_id) for repo_id in equal))
            await_repos(connection, differing, wanted_at=then.wanted_at, now=now)
            _keep(connection, then, retry_at=0.0)
            return bool(changed)

        return await self._database.write(change)

    async def discover(
        self, repos: Sequence[Listed], then: Question, *, retry_at: float = 0.0
    ) -> bool:
        """Track those that are unknown, and go on with `then`; whether there were any."""
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
            await_repos(connection, ids, wanted_at=then.wanted_at, now=now)
            _keep(connection, then, retry_at=retry_at)
            return new

        added = await self._database.write(change, committed=self._note)
        return bool(added)

    def _note(self, dids: list[str]) -> None:
        self._tracked.add(dids)

    async def put_off(self, question: Question, *, delay_s: float) -> None:
        """Ask again later."""
        retry_at = self._clock.now() + delay_s
        await self._database.write(
            lambda connection: _keep(connection, question, retry_at=retry_at)
        )

    async def settle(self, question: Question, *, is_cut: bool = False) -> None:
        """Nothing more is to be asked here, but for a gap that came meanwhile.

        `is_cut`: though a list was not read to its end, which the rows of the gaps say.
        """
        now = self._clock.now()
        key = (question.kind, question.target, question.since)

        def change(connection: sqlite3.Connection) -> None:
            if is_cut:
                count_unread(connection, wanted_at=question.wanted_at)
            if not connection.execute(_BEGIN_AGAIN, (now, *key)).rowcount:
                connection.execute(
                    "DELETE FROM gap_question WHERE kind = ? AND target = ? AND since = ?", key
                )

        await self._database.write(change)

    async def close_gaps(self) -> list[int]:
        """Mark as repaired what waits for nothing any more.

        For each gap the number of repos that it was closed without, their hosts not answering.
        """
        now = self._clock.now()
        rows = await self._database.read(ENDING, (SETTLED_AT_ONCE, now))
        ending = [row[0] for row in rows]
        # Behind all that askers have left in the writer's queue, though they were cancelled.
        await self._database.write(lambda connection: settle_repos(connection, ending, now=now))
        [(first,)] = await self._database.read(WAITS_SINCE)
        waits_since = math.inf if first is None else float(first)
        return await self._database.write(
            lambda connection: close_gaps(connection, waits_since, now=now)
        )


def _keep(connection: sqlite3.Connection, question: Question, *, retry_at: float) -> None:
    connection.execute(
        _KEEP,
        (
            question.cursor, question.after_id, question.pages, question.failures, retry_at,
            question.kind, question.target, question.since,
        ),
    )  # fmt: skip
