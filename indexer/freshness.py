"""What a host's word on a repo means for a scan, and what becomes of those sent to the resync.

A host's word proves nothing: it ends the work on a repo only where it is the same as ours, and
otherwise sends the repo to the resync, which asks again and verifies. While the live stream may
still bring what the host has, nothing is fetched. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from indexer.listings import OUT_OF_BOUNDS, Listed
from indexer.model import AccountStatus, Priority, RepoState, Wanted
from indexer.planning import Repo
from indexer.protocol.commit import REV_AHEAD_S_MAX
from indexer.protocol.syntax import is_tid, tid_timestamp_us

STREAM_GRACE_S = 60.0
"""How far the stream must have passed a commit before its absence counts as a loss."""

LAG_S_MAX = 60.0
"""A stream further behind than this is not waited for."""

WAIT_S_MAX = 120.0
"""How long a scan waits for what the stream may bring, or for an attempt to begin."""

SENT_DUE_S = 60.0
"""The scan makes the attempt itself; if it does not come to it, the queue has it after this."""

SOON_S = 5.0
"""Work that is due within this time is waited for."""

PATIENCE_SHARE = 8
"""One page in so many repos may be read in vain."""

GONE = frozenset({RepoState.DELETED, RepoState.NOT_FOUND})
WORK = Wanted.ACCOUNT | Wanted.CONTENT


class Outcome(StrEnum):
    """What a scan's look at a repo came to."""

    CURRENT = "current"
    FETCHED = "fetched"
    HIDDEN = "hidden"
    DELETED = "deleted"
    NOT_FOUND = "not_found"
    PUT_OFF = "put_off"  # the stream may yet bring what the host has, or the resync's queue will
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    LIMITED = "limited"
    FOREIGN = "foreign"
    DENIED = "denied"
    FAILED = "failed"


VERIFIED = frozenset(
    {Outcome.CURRENT, Outcome.FETCHED, Outcome.HIDDEN, Outcome.DELETED, Outcome.NOT_FOUND}
)
"""Outcomes that say: what we have is what the network has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a decision depends on besides the repo. Times are unix seconds."""

    scope_id: str  # today's
    stream_at: float | None  # how far the live stream has come
    is_held: bool  # whether the operation holds the stream
    is_page: bool  # whether the word is from a list, which may be older than our row
    now: float

    @property
    def is_lagging(self) -> bool:
        """Whether the stream is so late that most differences are only on their way."""
        return self.stream_at is not None and self.now - self.stream_at > LAG_S_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a scan waits for: with `claim` an attempt after that one, else a rev from the stream."""

    since: float
    claim: int | None = None
    rev: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The repo as it becomes, and how it ends for the scan, or what for it waits.

    Neither an outcome nor a wait: the repo is to be asked about by itself.
    """

    repo: Repo
    outcome: Outcome | None = None
    is_failed: bool = False
    wait: Wait | None = None


def is_list_worthwhile(*, tracked: int, pages: int, covered: int) -> bool:
    """Whether a further page of a host's list is cheaper than a question for each repo left.

    `tracked` repos of ours are there, `covered` of them were on the `pages` read so far. Pages go
    on as long as each tells of one of ours on the average, with some patience at first, because a
    list is in an order of its own: a host where we track three repos of a million is left after
    one page, and one where we track all 10,000 is read to its end.
    """
    return tracked - covered > 1 and pages < 1 + covered + tracked // PATIENCE_SHARE


def may_yet_come(host_rev: str | None, *, stream_at: float | None, now: float) -> bool:
    """Whether the live stream, which may lag, could still bring the commit that a host names.

    Fetching whatever a lagging stream has not brought yet would be a storm of fetches.
    """
    if host_rev is None or stream_at is None or not is_tid(host_rev):
        return False
    made_at = tid_timestamp_us(host_rev) / 1e6
    is_honest = made_at < now + REV_AHEAD_S_MAX
    return is_honest and stream_at < made_at + STREAM_GRACE_S


def heard(repo: Repo, word: Listed, at: Circumstances) -> Decision:  # noqa: PLR0911 - a table of cases, first match wins
    """Decide upon the word of the repo's own host; a status of None: it does not know it."""
    if repo.state in OUT_OF_BOUNDS:
        return Decision(repo=repo, outcome=Outcome(repo.state))
    if word.status is not AccountStatus.ACTIVE:
        if repo.state in GONE:
            return Decision(repo=repo, outcome=Outcome(repo.state))
        if word.status is repo.account_status:
            return Decision(repo=repo, outcome=Outcome.HIDDEN)
        return sent(repo, at.now)
    if repo.state is RepoState.INVALID and word.rev == repo.host_rev:
        return Decision(repo=repo, outcome=Outcome.INVALID)
    is_complete = repo.data is not None and repo.scope_id == at.scope_id
    if repo.state is not RepoState.ACTIVE or not repo.is_visible or not is_complete:
        return sent(repo, at.now)
    # The host's own word outlives the commit it was about only until the next commit.
    known = max(repo.rev or "", repo.host_rev or "")
    if word.rev == known:
        return Decision(repo=repo, outcome=Outcome.CURRENT)
    if word.rev is None or word.rev < known:
        return Decision(repo=repo) if at.is_page else sent(repo, at.now)
    return _ahead(repo, word.rev, at)


def _ahead(repo: Repo, rev: str, at: Circumstances) -> Decision:
    if not may_yet_come(rev, stream_at=at.stream_at, now=at.now):
        return sent(repo, at.now)
    if at.is_held:
        # The stream goes on only after the scan: the resync compares then.
        return Decision(repo=raised(repo, at.now + STREAM_GRACE_S), outcome=Outcome.PUT_OFF)
    if at.is_lagging:
        return Decision(repo=repo, outcome=Outcome.PUT_OFF)
    return Decision(repo=repo, wait=Wait(since=at.now, rev=rev))


def sent(repo: Repo, now: float) -> Decision:
    """Have the resync look at the repo; its host has been heard, or should have been."""
    if repo.state in OUT_OF_BOUNDS:
        return Decision(repo=repo, outcome=Outcome(repo.state))
    # An attempt under way counts as the one that is waited for.
    claim = repo.claim - 1 if repo.claimed & WORK else repo.claim
    return Decision(repo=raised(repo, now + SENT_DUE_S), wait=Wait(since=now, claim=claim))


def raised(repo: Repo, due_at: float) -> Repo:
    """The repo with work for the resync, due at `due_at`, or sooner where it was."""
    if repo.claimed & WORK:
        return repo
    retry_at = min(repo.retry_at, due_at) if repo.wanted & Wanted.CONTENT else due_at
    return replace(
        repo,
        wanted=repo.wanted | WORK,
        priority=min(repo.priority, Priority.REPAIR),
        retry_at=retry_at,
    )


def waited(repo: Repo, wait: Wait, at: Circumstances) -> Decision:
    """Look at a repo that is waited for."""
    if wait.claim is None:
        return _watched(repo, wait, at)
    if repo.claimed:
        return Decision(repo=repo, wait=wait)
    if repo.wanted & Wanted.CONTENT:
        is_untouched = repo.claim == wait.claim
        if at.now - wait.since < WAIT_S_MAX and (is_untouched or repo.retry_at < at.now + SOON_S):
            return Decision(repo=repo, wait=wait)
        if is_untouched:
            return Decision(repo=repo, outcome=Outcome.PUT_OFF)
    return as_compared(repo, since=wait.since)


def _watched(repo: Repo, wait: Wait, at: Circumstances) -> Decision:
    if repo.state is not RepoState.ACTIVE or not repo.is_visible:
        return sent(repo, at.now)
    if max(repo.rev or "", repo.host_rev or "") >= wait.rev:
        return Decision(repo=repo, outcome=Outcome.CURRENT)
    if not may_yet_come(wait.rev, stream_at=at.stream_at, now=at.now):
        return sent(repo, at.now)
    if at.is_held or at.now - wait.since > WAIT_S_MAX:
        return Decision(repo=raised(repo, at.now + STREAM_GRACE_S), outcome=Outcome.PUT_OFF)
    return Decision(repo=repo, wait=wait)


def as_compared(repo: Repo, *, since: float) -> Decision:
    """How a repo stands that was compared after `since` by somebody else."""
    if repo.state in GONE or repo.state in OUT_OF_BOUNDS or repo.state is RepoState.INVALID:
        outcome = Outcome(repo.state)
        return Decision(repo=repo, outcome=outcome, is_failed=outcome not in VERIFIED)
    if not repo.is_visible:
        return Decision(repo=repo, outcome=Outcome.HIDDEN)
    if repo.wanted & Wanted.CONTENT and not repo.attempts:
        # Whatever its state is, no attempt has failed: it waits for its turn at the directory.
        return Decision(repo=repo, outcome=Outcome.PUT_OFF)
    if repo.state is RepoState.ACTIVE and not repo.wanted & Wanted.CONTENT:
        is_new = repo.synced_at >= since
        return Decision(repo=repo, outcome=Outcome.FETCHED if is_new else Outcome.CURRENT)
    return Decision(repo=repo, outcome=Outcome.FAILED, is_failed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One pass over all repos that were tracked when it began."""

    operation_id: str
    upto: int  # the newest of them, by row id
    since: float  # when it began, unix seconds: what was verified later needs no visit


@dataclass(frozen=True, slots=True)
class WaitingHost:
    """A host with repos that a scan has not come to."""

    pds_url: str
    oldest: float  # when the one that has waited longest was verified, unix seconds
    repos: int
    is_open: bool  # whether any of them may be asked about: not all are denied


@dataclass(frozen=True, slots=True)
class WaitingRepo:
    """A repo that a scan has not come to."""

    id: int
    did: str
    verified_at: float  # unix seconds
    is_compared: bool  # by others since the scan began
