"""Denials as rows, and what follows from them for repos and records.

An account or record is hidden in the transaction that stores its denial. So is a host, with the
first `STEP_REPOS` of its repos: no transaction may hold the writer for longer, so the others follow
in further ones before the call is answered. A start takes up what a kill has left, and the upkeep
what a call had to leave because the store was busy.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial

from indexer.claims import DELETED_ROWS
from indexer.clock import Clock
from indexer.denials import (
    ACCOUNT_DENIED,
    HOST_DENIED,
    Denial,
    DenialKind,
    DeniedHosts,
    Subject,
    allowed,
    denied,
    emptied,
    parse_subject,
    refetched,
)
from indexer.model import Source, utc_text
from indexer.planning import Repo
from storage.database import Database
from storage.dead_letters import delete_record_letters
from storage.denied import load_denied_hosts
from storage.records import RecordTable, RowWrite
from storage.repos import COLUMNS, HOST_URLS, load_repo, repo_from_row, update_repos
from storage.tracked import TrackedRepos

STEP_REPOS = 200
"""Repos that are hidden in one transaction: some 30 ms."""

FOUND_REPOS = 20_000
"""Repos to be hidden that are looked up at once."""

ANY_ID = 2**63 - 1

_INSERT = """
INSERT INTO denial (subject, kind, reason, denied_by, denied_at, purge) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (subject) DO UPDATE SET reason = excluded.reason, denied_by = excluded.denied_by,
    purge = CASE excluded.purge WHEN 'no' THEN purge ELSE excluded.purge END
"""

# All repos of these hosts are looked at, hidden or not: by a reader.
_TO_HIDE = """
SELECT repo.id FROM json_each(?) AS host CROSS JOIN repo ON repo.pds_url = host.value
WHERE repo.account_status <> 'denied' LIMIT ?
"""

_THOSE = f"""
SELECT {COLUMNS}, pds_url FROM repo
WHERE id IN (SELECT value FROM json_each(?)) AND account_status <> 'denied'
"""  # noqa: S608 - a constant

_DENIED_REPOS = f"""
SELECT {COLUMNS}, pds_url, EXISTS (SELECT 1 FROM denial WHERE subject = repo.did)
FROM repo WHERE account_status = 'denied' AND id > ? ORDER BY id LIMIT ?
"""  # noqa: S608 - a constant

_STILL_WANTED = "SELECT 1 FROM denial WHERE id = ? AND purge = 'wanted'"

_HIDDEN_RECORDS = """
SELECT count(*) FROM record JOIN repo ON repo.id = record.repo_id WHERE repo.did = ?
"""


class DenialStore:
    """Satisfies `admin_api.ports.Denials`. `on_work` is told when repos are wanted again."""

    def __init__(
        self, database: Database, tracked: TrackedRepos, records: RecordTable, *, clock: Clock
    ) -> None:
        self._database = database
        self._tracked = tracked
        self._records = records
        self._clock = clock
        self._turn = asyncio.Lock()
        self._hosts = DeniedHosts(())
        self._purging = (0, 0)  # denial, and the repo up to which its host is purged
        self._is_owing = False  # whether repos are not yet as the stored denials say
        self.on_work: Callable[[], None] = lambda: None

    async def load(self) -> None:
        """At start: what is denied, and the repos for which that was not carried out yet."""
        await self._load_hosts()
        accounts = await self._database.read(
            "SELECT subject FROM denial WHERE kind = ?", (DenialKind.ACCOUNT,)
        )
        self._tracked.deny(row[0] for row in accounts)
        await self._carry_out()

    def is_denied_host(self, url: str) -> bool:
        """Whether nothing is to be asked of the host of this URL."""
        return self._hosts.covers(url)

    async def deny(self, text: str, reason: str, *, purge: bool, by: str) -> int | None:
        """Hide an account, a record or a host until `allow`; how many records that hides.

        None for a host. With `purge` the rows go too, in the background. Denying again replaces
        the reason. Raises `RequestRefused` for what is none of the three.
        """
        subject = parse_subject(text)
        now = self._clock.now()
        async with self._turn:
            hosts = DeniedHosts((subject.text,) if subject.kind is DenialKind.HOST else ())
            found = await self._to_hide(hosts, STEP_REPOS)

            def change(connection: sqlite3.Connection) -> tuple[int, list[str]]:
                purging = "done" if subject.kind is DenialKind.RECORD else "wanted"
                row = (subject.text, subject.kind, reason, by, now, purging if purge else "no")
                connection.execute(_INSERT, row)
                match subject.kind:
                    case DenialKind.ACCOUNT:
                        return self._hide_account(connection, subject.did), [subject.did]
                    case DenialKind.RECORD:
                        return self._empty_record(connection, subject), []
                    case DenialKind.HOST:
                        return 0, self._hide_some(connection, hosts, found)

            def note(done: tuple[int, list[str]]) -> None:
                self._tracked.deny(done[1])
                self._is_owing |= subject.kind is DenialKind.HOST

            hidden, _ = await self._database.write(change, committed=note)
            if subject.kind is not DenialKind.HOST:
                return hidden
            await self._follow()
            return None

    async def allow(self, text: str) -> bool:
        """Lift a denial and have what it hid fetched again; False where there was none."""
        subject = parse_subject(text)
        async with self._turn:

            def change(connection: sqlite3.Connection) -> bool:
                gone = connection.execute("DELETE FROM denial WHERE subject = ?", (subject.text,))
                if not gone.rowcount:
                    return False
                if subject.kind is DenialKind.RECORD:
                    self._drop_record(connection, subject)
                return True

            # An account may be denied besides one of its records.
            allowed = (subject.did,) if subject.kind is DenialKind.ACCOUNT else ()

            def note(was_denied: bool) -> None:  # noqa: FBT001 - what `change` gives
                if was_denied:
                    self._tracked.allow(allowed)
                    self._is_owing = True

            was_denied = await self._database.write(change, committed=note)
            if was_denied:
                await self._follow()
            return was_denied

    async def denials(self, *, before: int | None, limit: int) -> Sequence[Denial]:
        """Those with an id below `before`, newest first."""
        rows = await self._database.read(
            "SELECT id, subject, kind, reason, denied_by, denied_at, purge FROM denial"
            " WHERE id < ? ORDER BY id DESC LIMIT ?",
            (ANY_ID if before is None else before, limit),
        )
        return [
            Denial(
                id=row[0],
                subject=row[1],
                kind=row[2],
                reason=row[3],
                denied_by=row[4],
                denied_at=row[5],
                is_purged=row[6] == "done",
            )
            for row in rows
        ]

    async def step(self) -> int:
        """Remove the next rows of a denial that wants it; 0 when none does.

        What a call has stored and not carried out comes first: nobody could ask for it again.
        """
        if self._is_owing:
            async with self._turn:
                await self._follow()
            return 1
        waiting = await self._database.read(
            "SELECT id, subject, kind FROM denial WHERE purge = 'wanted' ORDER BY id LIMIT 1"
        )
        if not waiting:
            return 0
        denial_id, subject, kind = waiting[0]
        after = self._purging[1] if self._purging[0] == denial_id else 0

        def change(connection: sqlite3.Connection) -> int | None:
            """The repo to go on behind; None when all are purged."""
            if not connection.execute(_STILL_WANTED, (denial_id,)).fetchone():
                return None
            if kind == DenialKind.ACCOUNT:
                repo = load_repo(connection, subject)
                is_left = repo is not None and self._purge_some(connection, repo) == DELETED_ROWS
                upto = 0 if is_left else None
            else:
                upto = self._purge_next(connection, DeniedHosts((subject,)), after)
            if upto is None:
                connection.execute("UPDATE denial SET purge = 'done' WHERE id = ?", (denial_id,))
            return upto

        upto = await self._database.write(change)
        self._purging = (denial_id, upto or 0)
        return 1

    async def _follow(self) -> None:
        """Go by the denials as they are stored now, and have done with it."""
        await self._load_hosts()
        await self._carry_out()
        self._is_owing = False
        self.on_work()

    async def _load_hosts(self) -> None:
        rows = await self._database.read(
            "SELECT subject FROM denial WHERE kind = ?", (DenialKind.HOST,)
        )
        self._hosts = DeniedHosts(row[0] for row in rows)

    async def _urls(self, hosts: DeniedHosts) -> list[str]:
        rows = await self._database.read(HOST_URLS) if hosts else []
        return [row[0] for row in rows if hosts.covers(row[0])]

    async def _to_hide(self, hosts: DeniedHosts, limit: int) -> list[int]:
        """Some repos of these hosts that are not hidden yet."""
        rows = await self._database.read(_TO_HIDE, (json.dumps(await self._urls(hosts)), limit))
        return [row[0] for row in rows]

    async def _carry_out(self) -> None:
        """Make every repo as the denials say: those of denied hosts hidden, no others."""
        hosts = self._hosts
        while found := await self._to_hide(hosts, FOUND_REPOS):
            for start in range(0, len(found), STEP_REPOS):
                step = found[start : start + STEP_REPOS]
                await self._database.write(
                    partial(self._hide_some, hosts=hosts, repo_ids=step),
                    committed=self._tracked.deny,
                )
        last: int | None = 0
        while last is not None:
            last = await self._release_some(last)

    async def _release_some(self, after: int) -> int | None:
        """Want those denied repos again that nothing denies any more; where to go on."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> tuple[int | None, list[str], list[str]]:
            hosts = load_denied_hosts(connection)
            rows = connection.execute(_DENIED_REPOS, (after, STEP_REPOS)).fetchall()
            free, kept = [], []
            for row in rows:
                repo = repo_from_row(row[:-2])
                if row[-1] or hosts.covers(row[-2]):
                    kept.append(repo.did)
                else:
                    free.append(repo)
            update_repos(
                connection, [(repo, allowed(repo, now=now)) for repo in free], at=utc_text(now)
            )
            return (rows[-1][0] if rows else None), [repo.did for repo in free], kept

        def note(done: tuple[int | None, list[str], list[str]]) -> None:
            self._tracked.allow(done[1])
            self._tracked.deny(done[2])

        return (await self._database.write(change, committed=note))[0]

    def _hide_some(
        self, connection: sqlite3.Connection, hosts: DeniedHosts, repo_ids: Sequence[int]
    ) -> list[str]:
        """Hide those of the repos that are at these hosts and not hidden yet; their DIDs."""
        rows = connection.execute(_THOSE, (json.dumps(repo_ids),)).fetchall()
        found = [repo_from_row(row[:-1]) for row in rows if hosts.covers(row[-1])]
        self._hide(connection, found, HOST_DENIED)
        return [repo.did for repo in found]

    def _hide_account(self, connection: sqlite3.Connection, did: str) -> int:
        repo = load_repo(connection, did)
        if repo is None:
            return 0
        self._hide(connection, [repo], ACCOUNT_DENIED)
        return int(connection.execute(_HIDDEN_RECORDS, (did,)).fetchone()[0])

    def _hide(self, connection: sqlite3.Connection, repos: Sequence[Repo], reason: str) -> None:
        at = utc_text(self._clock.now())
        update_repos(connection, [(repo, denied(repo, reason)) for repo in repos], at=at)
        for repo in repos:
            connection.execute("DELETE FROM pending_commit WHERE repo_id = ?", (repo.id,))
        connection.executemany(
            "UPDATE repo SET pending_bytes = 0 WHERE id = ?", [(repo.id,) for repo in repos]
        )

    def _empty_record(self, connection: sqlite3.Connection, subject: Subject) -> int:
        at = utc_text(self._clock.now())
        delete_record_letters(connection, [subject.text])
        repo = load_repo(connection, subject.did)
        return 0 if repo is None else self._records.empty(connection, repo, subject.path, at=at)

    def _drop_record(self, connection: sqlite3.Connection, subject: Subject) -> None:
        """The row goes, so that the next fetch finds the record missing and brings it."""
        repo = load_repo(connection, subject.did)
        if repo is None or repo.id is None:
            return
        now = self._clock.now()
        write = {(repo.id, subject.path): RowWrite(repo.did, "", None)}
        self._records.write(connection, write, source=Source.BACKFILL, at=utc_text(now), now=now)
        update_repos(connection, [(repo, refetched(repo, now=now))], at=utc_text(now))

    def _purge_next(
        self, connection: sqlite3.Connection, hosts: DeniedHosts, after: int
    ) -> int | None:
        """Remove rows of the next repo of a denied host that has any; where to go on."""
        rows = connection.execute(_DENIED_REPOS, (after, STEP_REPOS)).fetchall()
        for row in rows:
            if not hosts.covers(row[-2]):
                continue
            removed = self._purge_some(connection, repo_from_row(row[:-2]))
            if removed:
                return int(row[0]) - (removed == DELETED_ROWS)
        return int(rows[-1][0]) if rows else None

    def _purge_some(self, connection: sqlite3.Connection, repo: Repo) -> int:
        """Remove up to `DELETED_ROWS` rows of a denied repo; how many that were."""
        paths = connection.execute(
            "SELECT path FROM record WHERE repo_id = ? ORDER BY path LIMIT ?",
            (repo.id, DELETED_ROWS),
        ).fetchall()
        if repo.id is None:
            raise AssertionError("a loaded repo is stored")
        now = self._clock.now()
        writes = {(repo.id, path): RowWrite(repo.did, "", None) for (path,) in paths}
        self._records.write(connection, writes, source=Source.BACKFILL, at=utc_text(now), now=now)
        update_repos(connection, [(repo, emptied(repo))], at=utc_text(now))
        return len(paths)
