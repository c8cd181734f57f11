"""One transaction's worth of planned changes: every write of repo content goes through here."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from indexer.denials import is_passed_over
from indexer.model import Applied, DeadLetterDraft, Source, Wanted, utc_text
from indexer.planning import Change, Event, Outcome, Policy, Repo, plan
from storage.dead_letters import insert_dead_letters
from storage.records import RecordTable, RowWrite
from storage.repos import insert_repo, load_repos, update_repos
from storage.room import Room

_BUFFERED = "SELECT total FROM tally WHERE kind = 'pending_bytes'"

_MOST_BUFFERED = """
SELECT id, pending_bytes FROM repo INDEXED BY repo_buffering WHERE pending_bytes > 0
ORDER BY pending_bytes DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """What all sessions have in common."""

    records: RecordTable
    policy: Policy
    pending_bytes_max: int  # of the buffered commits of a repo
    room: Room

    def open(self, connection: sqlite3.Connection, source: Source, now: float) -> Session:
        """One for the transaction that the connection is in; `now` in unix seconds."""
        return Session(
            connection,
            self.records,
            self.policy,
            source=source,
            now=now,
            at=utc_text(now),
            pending_bytes_max=self.pending_bytes_max,
            room=self.room,
        )


class Session:
    """Plans events against repo rows as they are in this transaction, and writes the result.

    Events of one repo build upon each other; what they leave is written once, by `flush`.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        records: RecordTable,
        policy: Policy,
        *,
        source: Source,
        now: float,
        at: str,  # `now` as ISO text
        pending_bytes_max: int,
        room: Room,
    ) -> None:
        self._connection = connection
        self._records = records
        self._policy = policy
        self._source = source
        self._now = now
        self._at = at
        self._pending_bytes_max = pending_bytes_max
        self._room = room
        self._loaded: dict[str, Repo] = {}
        self._repos: dict[str, Repo] = {}
        self._writes: dict[tuple[int, str], RowWrite] = {}
        self._frames: list[tuple[int, bytes]] = []
        self._letters: list[DeadLetterDraft] = []
        self.applied = Applied()

    def load(self, dids: Iterable[str]) -> None:
        """Read the rows of these DIDs; they must be loaded before their events are planned."""
        found = load_repos(self._connection, dids)
        self._loaded.update(found)
        self._repos.update(found)

    def repo(self, did: str) -> Repo | None:
        """The repo as it stands after the changes staged so far."""
        return self._repos.get(did)

    def expect(self, did: str) -> Repo:
        """The repo of a DID that is known to be stored."""
        return self._repos[did]

    def replace(self, repo: Repo) -> None:
        """Set a stored repo as it becomes, apart from any event."""
        self._repos[repo.did] = repo

    def plan(self, event: Event) -> Change:
        """Decide one event and stage what follows."""
        repo = self._repos.get(event.did) if event.did is not None else None
        if is_passed_over(event, repo):
            change = Change(Outcome.IGNORED)
        else:
            change = plan(event, repo, self._policy, now=self._now)
        self.stage(change)
        return change

    def stage(self, change: Change) -> None:
        """Take a planned change into this transaction."""
        applied = self.applied
        applied.outcomes[change.outcome] += 1
        if change.failed_check is not None:
            applied.checks[change.failed_check] += 1
        if change.dead_letter is not None:
            self._letters.append(change.dead_letter)
        repo = change.repo
        if repo is None:
            return
        if repo.id is None:
            refusal = self._room.refusal(self._connection)
            if refusal is not None:
                applied.refused[refusal] += 1
                return
            repo = replace(repo, id=insert_repo(self._connection, repo, at=self._at))
            self._loaded[repo.did] = repo
            applied.tracked.append(repo.did)
            applied.is_work_added = True
        previous = self._repos.get(repo.did)
        if repo.wanted and (previous is None or repo.wanted != previous.wanted):
            applied.is_work_added = True
        self._repos[repo.did] = repo
        if repo.id is not None:
            for write in change.writes:
                self._writes[repo.id, write.path] = RowWrite(repo.did, repo.rev or "", write.record)
            if change.buffered is not None:
                self._frames.append((repo.id, change.buffered))

    def flush(self) -> Applied:
        """Write everything staged; the transaction may then commit."""
        update_repos(
            self._connection,
            (
                (self._loaded[did], repo)
                for did, repo in self._repos.items()
                if repo is not self._loaded[did]
            ),
            at=self._at,
        )
        self.applied.records += self._records.write(
            self._connection, self._writes, source=self._source, at=self._at, now=self._now
        )
        insert_dead_letters(self._connection, self._letters, now=self._now)
        if self._frames:
            self._buffer()
        grown = {key[0] for key, write in self._writes.items() if write.record is not None}
        self.applied.refused += self._room.limit_repos(self._connection, grown)
        return self.applied

    def _buffer(self) -> None:
        """Keep raw commits for the claim holders, the newest within each repo's byte cap."""
        self._connection.executemany(
            "INSERT INTO pending_commit (repo_id, frame) VALUES (?, ?)", self._frames
        )
        added: Counter[int] = Counter()
        for repo_id, frame in self._frames:
            added[repo_id] += len(frame)
        for repo_id, size in added.items():
            total = self._connection.execute(
                "UPDATE repo SET pending_bytes = pending_bytes + ? WHERE id = ?"
                " RETURNING pending_bytes",
                (size, repo_id),
            ).fetchone()[0]
            if total > self._pending_bytes_max:
                self._drop_oldest(repo_id, total, self._pending_bytes_max)
        while self._buffered() > self._room.limits.buffer_bytes_max:
            repo_id, total = self._connection.execute(_MOST_BUFFERED).fetchone()
            if not self._drop_oldest(repo_id, total, total // 2):
                self._drop_only(repo_id)

    def _buffered(self) -> int:
        """Bytes kept for all repos together."""
        found = self._connection.execute(_BUFFERED).fetchone()
        return 0 if found is None else int(found[0])

    def _drop_only(self, repo_id: int) -> None:
        """Forget the one commit of a repo: its host has to tell what is missing then."""
        self._connection.execute("DELETE FROM pending_commit WHERE repo_id = ?", (repo_id,))
        self._connection.execute(
            "UPDATE repo SET pending_bytes = 0, is_holed = 1, wanted = wanted | ? WHERE id = ?",
            (Wanted.CONTENT, repo_id),
        )
        self.applied.is_work_added = True

    def _drop_oldest(self, repo_id: int, total: int, most: int) -> bool:
        """Make room in a repo's buffer; the newest commit stays, and tells what is missing."""
        frames = self._connection.execute(
            "SELECT id, length(frame) FROM pending_commit WHERE repo_id = ?1 AND id <"
            " (SELECT max(id) FROM pending_commit WHERE repo_id = ?1) ORDER BY id",
            (repo_id,),
        )
        last = 0
        for identifier, size in frames:
            if total <= most:
                break  # the cursor is left behind: most of the buffer is never looked at
            last, total = identifier, total - size
        self._connection.execute(
            "DELETE FROM pending_commit WHERE repo_id = ? AND id <= ?", (repo_id, last)
        )
        self._connection.execute(
            "UPDATE repo SET pending_bytes = ?, is_holed = 1 WHERE id = ?", (total, repo_id)
        )
        return last > 0
