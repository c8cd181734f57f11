"""The one decision: what we have and what we verified -> what changes.

Every way into the store (live event, buffered commit, snapshot) ends in a function of this module,
called by the writer inside its transaction with the repo row as it is then. Nothing has effects.

A commit that does not continue the stored chain changes no rows: it raises `wanted` for a resync.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

import msgspec

from indexer.delays import Trouble, throttle_s, wait_s
from indexer.errors import Check, InvalidUpstream
from indexer.model import (
    AccountStatus,
    DeadLetterDraft,
    GapSeen,
    PreparedRecord,
    Priority,
    RepoState,
    Wanted,
    account_status,
)

DIRECTORY_LAG_S = 5.0
"""A document resolved this long after an event certainly shows what the event announced."""

EVENT_TIME_AHEAD_S_MAX = 300.0
"""An event's claimed time counts at most this far ahead of our clock."""

DOUBTFUL = frozenset({Check.SIGNATURE, Check.FUTURE_REV})
"""Failed checks that say as much about us, our key or our clock, as about the event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """The part of a repo row that decisions read and change."""

    id: int | None  # None: not stored yet
    did: str
    state: RepoState
    account_status: AccountStatus = AccountStatus.ACTIVE
    account_at: float = 0.0  # time of the applied #account event, unix seconds
    signing_key: str | None = None  # multibase
    identity_at: float = 0.0  # when the DID document was last asked for
    rev: str | None = None  # of the last verified commit block
    data: str | None = None  # MST root of that commit, base32 text
    host_rev: str | None = None  # what the host called its rev when our rows were last complete
    scope_id: str | None = None  # scope under which the rows are complete; None: incomplete
    wanted: Wanted = Wanted.NOTHING  # raised since the last claim
    claimed: Wanted = Wanted.NOTHING  # what the current claim holder took on
    claim: int = 0  # number of the current or last claim
    priority: int = Priority.DISCOVERY
    retry_at: float = 0.0  # not to be claimed before
    fetch_at: float = 0.0  # nor its content to be fetched before, whatever else is asked of it
    attempts: int = 0  # attempts in a row that came to nothing
    refusals: int = 0  # those of them at which an answer was there, and wrong
    desyncs: int = 0  # fetches in a row, each soon after the pause of another
    synced_at: float = 0.0  # when its content was last fetched
    reason: str | None = None  # why it is not active

    @property
    def is_key_stale(self) -> bool:
        """Whether the stored key waits for a fresh DID document."""
        return bool((self.wanted | self.claimed) & Wanted.IDENTITY)

    @property
    def is_visible(self) -> bool:
        """Whether the account is active, by what we know."""
        return self.account_status is AccountStatus.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that decisions depend on."""

    identity_refresh_s: float = 60.0  # a DID document is resolved at most once in this time


class RecordWrite(msgspec.Struct, frozen=True, array_like=True):
    """What becomes of one record path; `record` None deletes it."""

    path: str
    record: PreparedRecord | None


class CommitSeen(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A live or buffered commit of one repo, with the result of verifying it off the writer."""

    did: str
    seq: int
    rev: str  # empty: not readable
    since: str | None
    frame: bytes  # raw, for the buffer
    data: str | None = None
    prev_data: str | None = None
    signing_key: str | None = None  # the key it was verified with; None: not verified
    writes: tuple[RecordWrite, ...] = ()  # in scope, verified
    error: InvalidUpstream | None = None  # why verification refused it
    brings_records: bool = False  # whether its ops, verified or not, create or update in scope


class SyncSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A `#sync`: the host's claim to be at `rev`, and the commit block it showed."""

    did: str
    seq: int
    rev: str
    commit_rev: str | None = None  # of the commit block; older than `rev` after an import
    data: str | None = None
    signing_key: str | None = None
    error: InvalidUpstream | None = None


class IdentitySeen(msgspec.Struct, frozen=True, kw_only=True):
    """An `#identity`: something about the DID may have changed; `time` in unix seconds."""

    did: str
    seq: int
    time: float


class AccountSeen(msgspec.Struct, frozen=True, kw_only=True):
    """An `#account`: the status that a host asserts; `time` in unix seconds."""

    did: str
    seq: int
    time: float
    active: bool
    status: str | None
    error: InvalidUpstream | None = None  # why it could not be read: the rest means nothing then


class FrameRefused(msgspec.Struct, frozen=True, kw_only=True):
    """A frame of no repo that we could make nothing of; kept as a dead letter."""

    did: None
    seq: int | None
    frame: bytes
    error: InvalidUpstream


Event: TypeAlias = CommitSeen | SyncSeen | IdentitySeen | AccountSeen | FrameRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Events of one stream in order, and the cursor that is true once they are applied."""

    url: str
    events: Sequence[Event]
    seq: int | None  # of the last event, relevant to us or not; None leaves the cursor alone
    event_at: float | None  # its `time`, unix seconds
    gaps: Sequence[GapSeen] = ()  # noticed between the events
    began_at: float | None = None  # `time` of the first event that came with them, unix seconds


class Outcome(StrEnum):
    """What a planned event came to; counted per batch."""

    APPLIED = "applied"
    REPLAYED = "replayed"
    BUFFERED = "buffered"
    DISCOVERED = "discovered"
    DESYNCHRONIZED = "desynchronized"
    IGNORED = "ignored"
    UNTRACKED = "untracked"
    NOTED = "noted"


@dataclass(frozen=True, slots=True)
class Change:
    """Everything that one event does to the store."""

    outcome: Outcome
    repo: Repo | None = None  # the row as it becomes; None: no repo is touched
    writes: tuple[RecordWrite, ...] = ()
    buffered: bytes | None = None  # frame to keep for the claim holder
    dead_letter: DeadLetterDraft | None = None
    failed_check: Check | None = None


def plan(event: Event, repo: Repo | None, policy: Policy, *, now: float) -> Change:
    """Decide what `event` changes, given the repo row as it is in this transaction.

    `now` is wall-clock unix seconds. A repo of None is not tracked.
    """
    match event:
        case CommitSeen():
            return _plan_commit(event, repo, policy, now)
        case SyncSeen():
            return _plan_sync(event, repo, policy, now)
        case IdentitySeen():
            return _plan_identity(event, repo, policy, now)
        case AccountSeen():
            return _plan_account(event, repo, policy, now)
        case FrameRefused():
            letter = DeadLetterDraft(event.error.check, event.error.detail, seq=event.seq)
            return Change(Outcome.IGNORED, dead_letter=letter, failed_check=event.error.check)


def plan_discovery(did: str) -> Change:
    """Start to track a DID of which nothing is known: its repo waits to be fetched."""
    repo = Repo(id=None, did=did, state=RepoState.PENDING, wanted=Wanted.IDENTITY | Wanted.CONTENT)
    return Change(Outcome.DISCOVERED, repo)


def desynchronized(repo: Repo, reason: str, *, now: float) -> Repo:
    """The repo marked for a resync, which comes as soon as its content may be fetched again."""
    due_at = max(now, repo.fetch_at)
    return replace(
        repo,
        state=RepoState.DESYNCHRONIZED,
        wanted=repo.wanted | Wanted.CONTENT,
        priority=min(repo.priority, Priority.REPAIR),
        retry_at=min(repo.retry_at, due_at) if repo.wanted else due_at,
        reason=reason,
    )


def plan_buffered(event: CommitSeen, repo: Repo, *, now: float) -> Change:
    """Decide a buffered commit, verified with the key that the claim holder has just resolved.

    It is applied only upon complete rows: once one commit has failed, those behind it are nothing
    that the next fetch would not bring. Those of an active repo are, though a record of it be read
    again. Unlike on the live path a bad signature is final here.
    """
    is_being_fetched = repo.state is RepoState.RESYNCING and repo.scope_id is not None
    if not is_being_fetched and repo.state is not RepoState.ACTIVE:
        return Change(Outcome.IGNORED, repo)
    if _is_replay(event, repo):
        return Change(Outcome.REPLAYED, repo)
    if event.error is not None:
        return _refused(event, repo, event.error, now)
    if not _is_proven(event, repo):
        mismatch = InvalidUpstream(Check.SIGNATURE, "verified with a key that has since changed")
        return _refused(event, repo, mismatch, now)
    return follow_chain(event, repo, now=now)


def _plan_commit(  # noqa: PLR0911 - a table of cases, first match wins
    event: CommitSeen, repo: Repo | None, policy: Policy, now: float
) -> Change:
    if repo is None:
        if event.brings_records and event.did.startswith(("did:plc:", "did:web:")):
            return plan_discovery(event.did)
        return Change(Outcome.UNTRACKED)
    if repo.state is RepoState.RESYNCING:
        return Change(Outcome.BUFFERED, repo, buffered=event.frame)
    if not repo.is_visible and repo.state is not RepoState.NOT_FOUND:
        return _missed_while_inactive(repo, policy, now)
    if repo.state is not RepoState.ACTIVE:
        return Change(Outcome.IGNORED, _revived(repo, policy, now, event.rev))
    if _is_replay(event, repo):
        return Change(Outcome.REPLAYED, repo)
    if repo.is_key_stale:
        return Change(Outcome.BUFFERED, repo, buffered=event.frame)
    if event.error is not None and event.error.check not in DOUBTFUL:
        return _refused(event, repo, event.error, now)
    if not _is_proven(event, repo):
        return _unproven(event, repo, policy, now)
    return follow_chain(event, repo, now=now)


def follow_chain(event: CommitSeen, repo: Repo, *, now: float) -> Change:
    """Apply a commit verified with the repo's key if it continues the stored commit."""
    if event.since == repo.rev and event.prev_data == repo.data:
        known = repo.host_rev if (repo.host_rev or "") <= event.rev else None  # it was wrong
        moved = replace(repo, rev=event.rev, data=event.data, host_rev=known)
        return Change(Outcome.APPLIED, moved, writes=event.writes)
    detail = f"commit {event.rev} follows {event.since}, we hold {repo.rev}"
    return _refused(event, repo, InvalidUpstream(Check.CHAIN, detail), now)


def _is_proven(event: CommitSeen | SyncSeen, repo: Repo) -> bool:
    """Whether the event was verified, and with the very key that the row holds now."""
    is_verified = event.error is None and event.signing_key is not None
    return is_verified and event.signing_key == repo.signing_key


def _is_replay(event: CommitSeen | SyncSeen, repo: Repo) -> bool:
    """Whether the event is no newer than what we hold. One without a readable rev never is."""
    return repo.rev is not None and event.rev != "" and event.rev <= repo.rev


def _refused(
    event: CommitSeen | SyncSeen | AccountSeen, repo: Repo, error: InvalidUpstream, now: float
) -> Change:
    letter = DeadLetterDraft(error.check, error.detail, did=repo.did, seq=event.seq)
    return Change(
        Outcome.DESYNCHRONIZED,
        desynchronized(repo, error.check, now=now),
        # What honest servers produce too (a path listed twice) is repaired without a complaint.
        dead_letter=None if error.check is Check.NOT_INVERTIBLE else letter,
        failed_check=error.check,
    )


def _unproven(event: CommitSeen, repo: Repo, policy: Policy, now: float) -> Change:
    """A signature that the stored key does not prove: perhaps the key has changed.

    Once per interval the DID document is asked, with the commit in the buffer; a document that
    was just resolved leaves no doubt. A rev from the future is judged only when it is known
    whether our clock is to blame.
    """
    is_early = _is_early(event)
    if is_early or now - repo.identity_at >= policy.identity_refresh_s or event.error is None:
        stale = replace(
            repo,
            wanted=repo.wanted | Wanted.IDENTITY,
            priority=min(repo.priority, Priority.REPAIR),
            retry_at=now + wait_s(Trouble.FUTURE_REV) if is_early else min(repo.retry_at, now),
        )
        return Change(Outcome.BUFFERED, stale, buffered=event.frame)
    return _refused(event, repo, event.error, now)


def _is_early(event: CommitSeen | SyncSeen) -> bool:
    return event.error is not None and event.error.check is Check.FUTURE_REV


def _missed_while_inactive(repo: Repo, policy: Policy, now: float) -> Change:
    """A commit of a hidden account is not applied, so its rows can no longer be current.

    An account that writes may be active after all (a directory replica that lagged behind a
    migration had its former host asked): its own host is asked again, more rarely each time.
    """
    if repo.state is RepoState.ACTIVE:
        repo = replace(repo, state=RepoState.DESYNCHRONIZED, wanted=repo.wanted | Wanted.CONTENT)
    if not repo.wanted and not repo.claimed:
        due_at = _due_at(repo, policy, now + throttle_s(repo.attempts))
        repo = replace(repo, wanted=Wanted.IDENTITY | Wanted.ACCOUNT, retry_at=due_at)
    return Change(Outcome.IGNORED, repo)


def _revived(repo: Repo, policy: Policy, now: float, rev: str = "") -> Repo:
    """A sign of life of a repo that is not followed: ask for it again, where nobody does yet.

    Each time in vain makes the next wait longer. What was invalid at `rev` already is no sign.
    """
    is_known = repo.state is RepoState.INVALID and "" < rev <= (repo.host_rev or "")
    is_given_up = repo.state in {RepoState.NOT_FOUND, RepoState.INVALID} and not is_known
    if not is_given_up and not (repo.state is RepoState.DELETED and repo.is_visible):
        return repo
    due_at = _due_at(repo, policy, now + throttle_s(repo.attempts))
    return replace(
        repo,
        state=RepoState.DESYNCHRONIZED,
        wanted=repo.wanted | Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT,
        retry_at=min(repo.retry_at, due_at) if repo.wanted else due_at,
    )


def raised(
    repo: Repo, work: Wanted, policy: Policy, now: float, *, is_hurried: bool = False
) -> Repo:
    """The repo with `work` for a worker, who resolves the DID document not more often than allowed.

    A fetch that was put off is not hurried by it, except after its first failure: a host that has
    just been left answers no more, often before the stream says so. Where `is_hurried` somebody
    looks all the same, and fetches nothing before `fetch_at`.
    """
    due_at = _due_at(repo, policy, now)
    is_put_off = repo.state is not RepoState.ACTIVE and bool(repo.wanted & Wanted.CONTENT)
    has_just_failed = repo.state is RepoState.ERROR and repo.attempts <= 1
    is_sooner = is_hurried or has_just_failed or (work & ~repo.wanted and not is_put_off)
    if repo.wanted:
        due_at = min(repo.retry_at, due_at) if is_sooner else repo.retry_at
    return replace(
        repo,
        wanted=repo.wanted | work,
        priority=min(repo.priority, Priority.REPAIR),
        retry_at=due_at,
    )


def _due_at(repo: Repo, policy: Policy, at: float) -> float:
    """When to look: then, or when its DID document may be resolved again."""
    return max(at, repo.identity_at + policy.identity_refresh_s)


def _plan_sync(  # noqa: PLR0911 - a table of cases, first match wins
    event: SyncSeen, repo: Repo | None, policy: Policy, now: float
) -> Change:
    if repo is None:
        return Change(Outcome.UNTRACKED)
    if repo.state is RepoState.RESYNCING:
        if event.error is None and _is_replay(event, repo):
            return Change(Outcome.REPLAYED, repo)
        # What is being fetched may be older than this: look once more afterwards.
        due_at = _due_at(repo, policy, max(now, repo.fetch_at))
        retry_at = repo.retry_at if repo.wanted else due_at
        noted = replace(repo, wanted=repo.wanted | Wanted.CONTENT, retry_at=retry_at)
        return Change(Outcome.NOTED, noted)
    if not repo.is_visible and repo.state is not RepoState.NOT_FOUND:
        return _missed_while_inactive(repo, policy, now)
    if repo.state is not RepoState.ACTIVE:
        return Change(Outcome.IGNORED, _revived(repo, policy, now, event.rev))
    if event.error is None and _is_replay(event, repo):
        return Change(Outcome.REPLAYED, repo)
    if event.error is not None and event.error.check not in DOUBTFUL:
        return _refused(event, repo, event.error, now)
    if not _is_proven(event, repo):
        # It may show a commit by an earlier key (after a migration), or be forged. Either way it
        # only asks for a look at the repo, at the account's own host.
        at = now + wait_s(Trouble.FUTURE_REV) if _is_early(event) else now
        return Change(Outcome.NOTED, raised(repo, Wanted.IDENTITY | Wanted.CONTENT, policy, at))
    if event.data == repo.data:  # the host's next commit names the one shown here
        shown = event.commit_rev or ""
        rev = shown if (repo.rev or "") < shown <= event.rev else repo.rev
        return Change(Outcome.NOTED, replace(repo, rev=rev, host_rev=event.rev))
    return Change(Outcome.DESYNCHRONIZED, desynchronized(repo, "sync", now=now))


def _plan_identity(event: IdentitySeen, repo: Repo | None, policy: Policy, now: float) -> Change:
    if repo is None:
        return Change(Outcome.UNTRACKED)
    if event.time + DIRECTORY_LAG_S < repo.identity_at:
        return Change(Outcome.REPLAYED, repo)  # the document we hold is newer than the event
    return Change(Outcome.NOTED, raised(_revived(repo, policy, now), Wanted.IDENTITY, policy, now))


def _plan_account(event: AccountSeen, repo: Repo | None, policy: Policy, now: float) -> Change:
    if repo is None:
        return Change(Outcome.UNTRACKED)
    if event.error is not None:  # what it was to say its own host knows
        asked = raised(repo, Wanted.ACCOUNT, policy, now)
        return replace(_refused(event, repo, event.error, now), outcome=Outcome.NOTED, repo=asked)
    time = min(event.time, now + EVENT_TIME_AHEAD_S_MAX)
    status = account_status(active=event.active, status=event.status)
    if time < repo.account_at or (time == repo.account_at and status is repo.account_status):
        return Change(Outcome.REPLAYED, repo)
    work = Wanted.NOTHING
    if status is not AccountStatus.ACTIVE or repo.claimed & Wanted.ACCOUNT:
        work = Wanted.ACCOUNT
    if status is AccountStatus.ACTIVE and not repo.is_visible:
        work = Wanted.ACCOUNT | Wanted.CONTENT
    noted = replace(repo, account_status=status, account_at=time)
    if not work:
        return Change(Outcome.NOTED, noted)
    # What is hidden or shown on a host's word is confirmed soon, however long a fetch is put off.
    # A repo that is looked for has its second look when that proves something.
    is_hurried = status is not repo.account_status and repo.state is not RepoState.NOT_FOUND
    return Change(Outcome.NOTED, raised(noted, work, policy, now, is_hurried=is_hurried))
