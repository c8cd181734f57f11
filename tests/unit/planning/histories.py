"""An account, its host, and an index that has nothing but the pure decisions.

Owns the truth (`Host`) and a store of dicts (`Index`) that does with a change what the real one
does with it. What the tests check is whether the decisions keep the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from indexer.claims import (
    Fetched,
    ended,
    failed,
    hidden,
    missing,
    purged,
    purging,
    released,
    resumed,
)
from indexer.errors import Check, InvalidUpstream
from indexer.model import AccountStatus, PreparedRecord, RepoState, Wanted
from indexer.planning import (
    AccountSeen,
    Change,
    CommitSeen,
    Event,
    IdentitySeen,
    Outcome,
    Policy,
    RecordWrite,
    Repo,
    SyncSeen,
    plan,
    plan_buffered,
)

DID = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
KEY = "key-{}"
SCOPE = "scope"
POLICY = Policy(identity_refresh_s=60.0)
EVIL = "evil"


def record(path: str, cid: str) -> PreparedRecord:
    return PreparedRecord(path, cid, "{}", None)


@dataclass
class Host:
    """The account's own PDS: signed states, and the events that it has sent."""

    rows: dict[str, str] = field(default_factory=dict)  # path -> CID
    states: list[dict[str, str]] = field(default_factory=list)  # rows of every commit
    events: list[Event] = field(default_factory=list)
    key: int = 0
    is_active: bool = True
    is_deleted: bool = False
    time: float = 1_000_000.0

    @property
    def rev(self) -> str:
        return f"r{len(self.states):06}"

    @property
    def data(self) -> str:
        return f"root-{sorted(self.rows.items())}"

    def state_at(self, rev: str) -> dict[str, str]:
        return self.states[int(rev[1:]) - 1]

    def commit(self, writes: dict[str, str | None]) -> CommitSeen:
        since, prev_data = (self.rev, self.data) if self.states else (None, None)
        for path, cid in writes.items():
            if cid is None:
                self.rows.pop(path, None)
            else:
                self.rows[path] = cid
        self.states.append(dict(self.rows))
        event = CommitSeen(
            did=DID,
            seq=len(self.events) + 1,
            rev=self.rev,
            since=since,
            frame=b"",
            data=self.data,
            prev_data=prev_data,
            signing_key=KEY.format(self.key),
            writes=tuple(
                RecordWrite(path, None if cid is None else record(path, cid))
                for path, cid in writes.items()
            ),
            brings_records=any(writes.values()),
        )
        return self.sent(event)

    def forge(self, kind: Check) -> CommitSeen:
        """What somebody else makes of the newest commit; the index must never show it."""
        event = CommitSeen(
            did=DID,
            seq=len(self.events) + 1,
            rev=f"{self.rev}x",
            since=self.rev if self.states else None,
            frame=b"",
            data="root-evil",
            prev_data=self.data,
            writes=(RecordWrite("c/evil", record("c/evil", EVIL)),),
            brings_records=True,
            error=InvalidUpstream(kind, "forged"),
        )
        return self.sent(event)

    def sync(self) -> SyncSeen:
        event = SyncSeen(
            did=DID,
            seq=len(self.events) + 1,
            rev=self.rev,
            data=self.data,
            signing_key=KEY.format(self.key),
        )
        return self.sent(event)

    def rotate(self) -> IdentitySeen:
        self.key += 1
        return self.sent(IdentitySeen(did=DID, seq=len(self.events) + 1, time=self.tick()))

    def turn(self, *, active: bool) -> AccountSeen:
        self.is_active = active
        return self.sent(
            AccountSeen(
                did=DID,
                seq=len(self.events) + 1,
                time=self.tick(),
                active=active,
                status=None if active else "deactivated",
            )
        )

    def delete(self) -> AccountSeen:
        self.is_deleted, self.is_active = True, False
        event = AccountSeen(
            did=DID, seq=len(self.events) + 1, time=self.tick(), active=False, status="deleted"
        )
        return self.sent(event)

    def tick(self) -> float:
        self.time += 1.0
        return self.time

    def sent(self, event):
        self.events.append(event)
        return event


@dataclass
class Index:
    """A store of one repo: the row, its records, its buffer."""

    host: Host
    repo: Repo | None = None
    rows: dict[str, str] = field(default_factory=dict)
    buffer: list[CommitSeen] = field(default_factory=list)
    snapshot: tuple[str, dict[str, str], int] | None = None  # (rev, rows, key) that was fetched
    is_merging: bool = False
    answer: tuple[AccountStatus | None, str | None] | None = None  # the host's, as it was asked

    @property
    def now(self) -> float:
        return self.host.time

    def see(self, event: Event) -> Change:
        """Apply a live event, as the live path does: verified with the key that the row holds."""
        if isinstance(event, CommitSeen | SyncSeen) and event.error is None and self.repo:
            event = self.verified(event)
        change = plan(event, self.repo, POLICY, now=self.now)
        self.apply(change)
        if change.buffered is not None:
            assert isinstance(event, CommitSeen)
            self.buffer.append(event)
        return change

    def verified(self, event):
        """The event as a verifier with the row's key sees it."""
        assert self.repo is not None
        if self.repo.signing_key is None:
            return msgspec.structs.replace(event, signing_key=None, **self.unread(event))
        if event.signing_key != self.repo.signing_key:
            bad = InvalidUpstream(Check.SIGNATURE, "another key")
            return msgspec.structs.replace(
                event, signing_key=self.repo.signing_key, error=bad, **self.unread(event)
            )
        return event

    @staticmethod
    def unread(event) -> dict[str, object]:
        return {"data": None, "writes": ()} if isinstance(event, CommitSeen) else {"data": None}

    def apply(self, change: Change) -> None:
        if change.repo is None:
            assert not change.writes
            return
        self.repo = replace(change.repo, id=1)
        for write in change.writes:
            if write.record is None:
                self.rows.pop(write.path, None)
            else:
                self.rows[write.path] = write.record.cid

    # What a worker does, in the steps between which anything may happen.

    def claim(self) -> bool:
        """Take the repo's work on, if there is any that is due."""
        repo = self.repo
        if repo is None or not repo.wanted or repo.claimed or repo.retry_at > self.now:
            return False
        state = repo.state
        if repo.wanted & Wanted.CONTENT and state is not RepoState.ACTIVE:
            state = RepoState.RESYNCING
        self.repo = replace(
            repo, claim=repo.claim + 1, claimed=repo.wanted, wanted=Wanted.NOTHING, state=state
        )
        self.snapshot, self.is_merging, self.answer = None, False, None
        return True

    def resolve(self) -> None:
        """Read the DID document and ask the host."""
        assert self.repo is not None
        self.repo = replace(self.repo, signing_key=KEY.format(self.host.key), identity_at=self.now)
        if self.host.is_deleted:
            self.answer = (None, None)
        else:
            word = AccountStatus.ACTIVE if self.host.is_active else AccountStatus.DEACTIVATED
            self.answer = (word, self.host.rev)

    def fetch(self) -> None:
        """Begin to buffer, then take the host's repo as it is."""
        assert self.repo is not None
        self.repo = replace(self.repo, state=RepoState.RESYNCING)
        self.snapshot = (self.host.rev, dict(self.host.rows), self.host.key)

    def merge_half(self) -> None:
        """Bring in the first half of the snapshot's keys."""
        assert self.repo is not None and self.snapshot is not None
        self.repo = replace(self.repo, scope_id=None)
        self.is_merging = True
        for path, cid in self.snapshot[1].items():
            if path < "c/m":
                self.rows[path] = cid
        for path in [path for path in self.rows if path < "c/m"]:
            if path not in self.snapshot[1]:
                del self.rows[path]

    def end(self) -> None:
        """End the claim by what was learned."""
        assert self.repo is not None and self.answer is not None
        status, rev = self.answer
        asked = self.repo.claimed & (Wanted.ACCOUNT | Wanted.CONTENT)
        if asked and status is None:
            self.end_gone()
        elif asked and status is not AccountStatus.ACTIVE:
            self.settle(hidden(self.repo, status, now=self.now))
        elif self.snapshot is not None:
            fetched_rev, rows, _ = self.snapshot
            if self.repo.rev is not None and fetched_rev < self.repo.rev:
                self.settle(failed(self.repo, "older", delay_s=60.0, now=self.now))
                return
            self.rows = dict(rows)
            data = f"root-{sorted(rows.items())}"
            self.finish(Fetched(rev=fetched_rev, data=data, host_rev=rev, scope_id=SCOPE))
        elif asked and (rev != self.repo.rev or self.repo.scope_id is None):
            self.settle(failed(self.repo, "not fetched", delay_s=60.0, now=self.now))
        else:
            self.finish(None)

    def end_gone(self) -> None:
        assert self.repo is not None
        if self.repo.account_status is AccountStatus.DELETED:
            self.repo = purging(self.repo, "gone")
            self.rows, self.buffer = {}, []
            self.repo = purged(self.repo, now=self.now)
        else:
            self.settle(missing(self.repo, "gone", is_hiding=True, now=self.now))

    def break_off(self, how: str) -> None:
        """The attempt fails."""
        assert self.repo is not None
        if how == "invalid":
            self.settle(ended(self.repo, RepoState.INVALID, "broken", host_rev=None, now=self.now))
        else:
            self.settle(failed(self.repo, "unavailable", delay_s=60.0, now=self.now))

    def settle(self, repo: Repo) -> None:
        self.repo = repo
        if not repo.is_key_stale:
            self.buffer = []

    def finish(self, fetched: Fetched | None) -> None:
        assert self.repo is not None
        asked = bool(self.repo.claimed & (Wanted.ACCOUNT | Wanted.CONTENT))
        self.repo = resumed(self.repo, fetched, is_confirmed=asked, now=self.now)
        for event in self.buffer:
            self.apply(plan_buffered(self.rechecked(event), self.repo, now=self.now))
        self.buffer = []
        self.repo = released(self.repo, look_again_at=None, now=self.now)

    def rechecked(self, event: CommitSeen) -> CommitSeen:
        """A buffered commit verified anew, from the frame that was kept, with the current key."""
        assert self.repo is not None
        original = self.host.events[event.seq - 1]
        assert isinstance(original, CommitSeen)
        return original if original.error is not None else self.verified(original)

    def work_off(self) -> None:
        """Let time pass and workers work until nothing is left to do."""
        for _ in range(40):
            self.host.time += 100_000.0
            if not self.claim():
                return
            self.resolve()
            if self.answer == (AccountStatus.ACTIVE, self.host.rev):
                self.fetch()
            self.end()
        raise AssertionError("the repo never comes to rest")


def is_settled(index: Index) -> bool:
    """Whether the index claims to be exactly at a signed commit."""
    return index.repo is not None and index.repo.state is RepoState.ACTIVE


__all__ = ["DID", "EVIL", "Host", "Index", "Outcome", "is_settled"]
