"""What a claim is and how it ends: the pure half of the resync.

A resync worker claims a repo, asks its host, and comes back with one of the endings below. Each
is a function from the row as it is *then* to the row as it becomes; the store checks beforehand
that the claim is still the current one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from indexer.delays import Trouble, throttle_s, wait_s
from indexer.errors import ChiveIndexerError
from indexer.listings import OUT_OF_BOUNDS
from indexer.model import AccountStatus, Applied, PreparedRecord, Priority, RepoState, Wanted
from indexer.planning import Repo
from indexer.protocol.hosts import host_group

ROUNDS_MAX = 3
"""Fetches in a row that may be outrun by the stream without any of them showing a newer rev."""

CALM_S = 3600.0
"""A repo that stayed in sync this long after its pause starts again with the shortest one."""

ROLLED_BACK = "rolled_back"
"""Why a repo is in state `error` that its host has set back."""

ROLLBACK_S = 86_400.0
"""So long a host must have shown nothing newer before it counts as set back."""

GIVE_BACK_S = 2.0
"""Time for a cancelled attempt to release its claim; a stop must not wait for a busy store."""

CHUNK_ROWS = 240
"""Leaves of a snapshot, and rows of ours beside them, that are compared and made ready at once."""

DELETED_ROWS = 120
"""Rows that one transaction deletes: that costs about 0.2 ms each, and the writer may be held for
50 ms."""


Ending: TypeAlias = Callable[[Repo], Repo]
"""How the row becomes with which an attempt ends."""


class StaleClaim(ChiveIndexerError):
    """The repo was claimed anew, purged or denied meanwhile: what was fetched is not wanted."""


class HostDenied(StaleClaim):
    """The account's host, by the document just resolved, is denied: the claim has been ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to change one repo's rows, until the repo's claim number moves on."""

    repo: Repo  # as claimed: `repo.claim` is the number, `repo.claimed` the work
    pds_url: str | None  # as of the last resolved DID document
    is_new: bool = False  # whether it is an operator's, for a DID that nobody had named before

    @property
    def did(self) -> str:
        """Whose repo it is."""
        return self.repo.did


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The parts of a freshly resolved DID document that the store keeps."""

    handle: str | None
    signing_key: str | None  # multibase
    pds_url: str | None
    age_s: float = 0.0  # since it was asked for
    is_handle_unasked: bool = False  # nobody could be asked: it counts if it is the one we hold

    @property
    def host_group(self) -> str:
        """Under what the host's use of us is counted; empty without a host."""
        return "" if self.pds_url is None else host_group(self.pds_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The verified commit whose records have been brought in."""

    rev: str
    data: str  # base32 text
    host_rev: str | None
    scope_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotChunk:
    """Consecutive in-scope leaves of a snapshot, in key order.

    It covers the keys after `after` up to and including `upto` (None: to the end): rows of ours
    in that range that are not among `leaves` are gone from the repo.
    """

    after: str
    upto: str | None
    leaves: tuple[tuple[str, str], ...]  # (path, CID text)
    records: dict[str, PreparedRecord]  # path -> content, for leaves that differ from our rows
    rev: str  # of the snapshot


@dataclass(frozen=True, slots=True)
class Finish:
    """How far the end of a resync came."""

    applied: Applied
    repo: Repo
    records: int  # in-scope rows of the repo
    is_done: bool  # False: more commits were buffered meanwhile; bring them, verified


def looked_up(
    repo: Repo, signing_key: str | None, *, is_news: bool, has_moved: bool, now: float
) -> Repo:
    """The repo with the key that its DID document names now.

    Where it has moved, what we hold and whether it is hidden rest on its former host's word, and
    the lists of the new one may have been read before: that one is asked. Nothing is asked about a
    repo whose state only an operator ends: whoever moves it about would have it fetched each time.

    A document that says nothing new, though something was said to have changed, may come from a
    replica that lags: there is a second look, during which live commits are not held up.
    """
    known = replace(repo, signing_key=signing_key, identity_at=now)
    is_asked = bool(repo.claimed & (Wanted.ACCOUNT | Wanted.CONTENT))
    if has_moved and not is_asked and repo.state not in OUT_OF_BOUNDS:
        return replace(
            known,
            wanted=repo.wanted | Wanted.ACCOUNT | Wanted.CONTENT,
            priority=min(repo.priority, Priority.REPAIR),
            retry_at=min(repo.retry_at, now) if repo.wanted else now,
        )
    if is_news or repo.wanted or repo.claimed != Wanted.IDENTITY:
        return known
    return replace(
        known,
        wanted=Wanted.ACCOUNT,
        priority=Priority.REPAIR,
        retry_at=now + wait_s(Trouble.SAME_DOCUMENT),
    )


def identified(repo: Repo) -> Repo:
    """The claim without its question about the identity, which has been answered.

    What is left of it is asked of the host, and the repo follows the stream meanwhile.
    """
    return replace(repo, claimed=repo.claimed & ~Wanted.IDENTITY)


def resumed(repo: Repo, fetched: Fetched | None, *, is_confirmed: bool, now: float) -> Repo:
    """The repo with complete rows of a known commit, ready to follow its chain.

    Without `fetched` the rows were found to be current. `is_confirmed` says that the account's
    own host called it active; an event that arrived since the claim outweighs that.
    """
    if is_confirmed:
        repo = _with_status(repo, AccountStatus.ACTIVE)
    if fetched is None:
        return repo
    return replace(
        _counted(repo, now=now),
        rev=fetched.rev,
        data=fetched.data,
        host_rev=_believed(repo, fetched),
        scope_id=fetched.scope_id,
        attempts=0,
        refusals=0,
    )


def _counted(repo: Repo, *, now: float) -> Repo:
    """The repo whose content has just been fetched, and when it may be fetched again.

    After the first fetch that is at once, after the following in 1 minute, 2, 4 ... up to a day, so
    that a repo which keeps breaking its own chain, and a host which keeps showing another state,
    cost little. Whatever is heard of the repo meanwhile does not shorten the pause. A fetch that an
    operator asked for says nothing of the repo, and lengthens no pause.
    """
    calm_at = repo.synced_at + throttle_s(repo.desyncs + 1) + CALM_S
    desyncs = repo.desyncs + (repo.priority is not Priority.OPERATOR) if now < calm_at else 0
    return replace(repo, desyncs=desyncs, synced_at=now, fetch_at=now + throttle_s(desyncs + 1))


def released(repo: Repo, *, look_again_at: float | None, now: float) -> Repo:
    """The claim given back with its work done.

    A trigger raised since the claim keeps the repo out of `active`: what was fetched may be
    older than what it announced. With `look_again_at` the content is compared once more then.
    Whatever is left, an operator's wish is fulfilled.
    """
    priority = max(repo.priority, Priority.REPAIR)
    left = replace(repo, claimed=Wanted.NOTHING, priority=priority)
    if repo.state is RepoState.RESYNCING:
        if look_again_at is not None or repo.wanted & Wanted.CONTENT:
            due_at = _second_look_at(repo, now) if look_again_at is None else look_again_at
            # Where nothing was fetched, a host that was set back still is.
            is_set_back = look_again_at is not None and repo.reason == ROLLED_BACK
            state = RepoState.ERROR if is_set_back else RepoState.DESYNCHRONIZED
            return _owing(replace(left, state=state), due_at)
        left = replace(left, state=RepoState.ACTIVE)
    if left.state is RepoState.ACTIVE:
        left = replace(left, attempts=0, refusals=0, reason=None)
        if look_again_at is not None:
            return _owing(left, look_again_at)
    elif left.state in {RepoState.DESYNCHRONIZED, RepoState.ERROR}:
        if not repo.is_visible or repo.wanted & Wanted.CONTENT:
            return left
        # The claim was for its account or key alone: without this nobody would fetch it again.
        return _owing(left, max(now, repo.fetch_at))
    return replace(
        left,
        priority=Priority.DISCOVERY if not repo.wanted else priority,
        retry_at=max(now, repo.fetch_at) if repo.wanted == Wanted.CONTENT else repo.retry_at,
    )


def _second_look_at(repo: Repo, now: float) -> float:
    """When to look again because of what was announced during a fetch, or instead of one.

    Where the host itself had nothing new, whoever goes on announcing it is not hurried after.
    """
    was_fetched = repo.synced_at >= repo.identity_at
    due_at = now if was_fetched else repo.identity_at + wait_s(Trouble.SAME_DOCUMENT)
    return max(due_at, repo.fetch_at)


def _owing(repo: Repo, due_at: float) -> Repo:
    """The repo to be compared with its host then, or together with what else is wanted of it."""
    return replace(
        repo,
        wanted=repo.wanted | Wanted.CONTENT,
        retry_at=min(repo.retry_at, due_at) if repo.wanted & ~Wanted.CONTENT else due_at,
    )


def outrun(repo: Repo, rounds: int, *, now: float) -> Repo:
    """Commits came faster than the buffer could keep them while the repo was fetched.

    What was fetched holds, and the next fetch follows at once: most of the repo is known by then.
    `rounds` is how often in a row this has brought no newer rev; beyond a few it is a failure.
    """
    is_failure = rounds > ROUNDS_MAX
    delay_s = wait_s(Trouble.FAILED, rounds - ROUNDS_MAX) if is_failure else 0.0
    return replace(
        repo,
        state=RepoState.ERROR if is_failure else RepoState.DESYNCHRONIZED,
        wanted=repo.wanted | Wanted.CONTENT,
        priority=min(repo.priority, Priority.REPAIR),
        retry_at=now + delay_s,
        fetch_at=now + delay_s,
        reason="more commits came during the fetch than are kept",
    )


def failed(
    repo: Repo, reason: str, *, delay_s: float, now: float, is_refusal: bool = False
) -> Repo:
    """The attempt came to nothing for a passing reason: the same work again after `delay_s`.

    Sooner where an event since the claim says that the account or its host is not what it was; but
    after the first failure nothing is fetched sooner. With `is_refusal` there was an answer, and it
    was wrong; only so many of those lead to a verdict.
    """
    state = RepoState.ERROR if repo.state is RepoState.RESYNCING else repo.state
    retry_at = now + delay_s
    if repo.wanted & (Wanted.IDENTITY | Wanted.ACCOUNT):
        retry_at = min(retry_at, max(now, repo.retry_at))
    is_fetch_put_off = bool(repo.claimed & Wanted.CONTENT) and repo.attempts > 0
    return replace(
        repo,
        state=state,
        wanted=repo.wanted | repo.claimed,
        claimed=Wanted.NOTHING,
        retry_at=retry_at,
        fetch_at=max(repo.fetch_at, now + delay_s) if is_fetch_put_off else repo.fetch_at,
        attempts=repo.attempts + 1,
        refusals=repo.refusals + is_refusal,
        reason=reason,
    )


def retry_delay_s(attempts: int, jitter: float, retry_after_s: float | None = None) -> float:
    """Seconds until a failed fetch is tried again."""
    return wait_s(Trouble.FAILED, attempts + 1, jitter=jitter, asked_s=retry_after_s)


def rolled_back(repo: Repo, *, now: float) -> Repo:
    """Its own host has shown an older state than ours for a day: only an operator may follow it.

    It is looked at now and then, since a commit of today outranks what was lost.
    """
    look_at = now + wait_s(Trouble.ROLLED_BACK)
    return replace(
        repo,
        state=RepoState.ERROR,
        wanted=repo.wanted | Wanted.CONTENT,
        claimed=Wanted.NOTHING,
        retry_at=look_at,
        fetch_at=look_at,
        attempts=repo.attempts + 1,
        reason=ROLLED_BACK,
    )


def given_back(repo: Repo) -> Repo:
    """The claim dropped before anything was decided: the same work waits for another worker."""
    state = RepoState.DESYNCHRONIZED if repo.state is RepoState.RESYNCING else repo.state
    return replace(repo, state=state, wanted=repo.wanted | repo.claimed, claimed=Wanted.NOTHING)


def ended(repo: Repo, state: RepoState, reason: str, *, host_rev: str | None, now: float) -> Repo:
    """A terminal state: nothing more is done until something new is observed.

    What was observed since the claim stays wanted, later each time that it comes to this. The
    host's rev is kept, so that the same repo is not tried again; it vouches for no row of ours.
    """
    attempts = repo.attempts + 1
    return replace(
        repo,
        state=state,
        host_rev=host_rev,
        scope_id=None,
        claimed=Wanted.NOTHING,
        priority=max(repo.priority, Priority.REPAIR),
        retry_at=now + throttle_s(attempts),
        fetch_at=max(repo.fetch_at, now + throttle_s(attempts)),
        attempts=attempts,
        reason=reason,
    )


def hidden(repo: Repo, status: AccountStatus, *, now: float) -> Repo:
    """Its own host says that the account is not active: rows stay, unseen, until it is.

    The first such answer is confirmed once more: the directory may have named a former host.
    """
    state = RepoState.DESYNCHRONIZED if repo.state is RepoState.RESYNCING else repo.state
    reason = f"account {status}"
    is_news = repo.reason != reason and not repo.wanted
    return replace(
        _with_status(repo, status),
        state=state,
        wanted=Wanted.IDENTITY | Wanted.ACCOUNT if is_news else repo.wanted,
        claimed=Wanted.NOTHING,
        retry_at=now + wait_s(Trouble.HIDDEN) if is_news else repo.retry_at,
        attempts=repo.attempts + 1,
        reason=reason,
    )


def missing(repo: Repo, reason: str, *, is_hiding: bool, now: float) -> Repo:
    """Somebody who should know the repo does not, and nobody announced a deletion.

    There is a second look later: copies of the directory lag behind it, above all for a new DID.
    Without rows at stake that one is the last; with them there are others, at longer and longer
    intervals. Without `is_hiding` rows are hidden only when the answer is the same again at the
    time of the second look: asking more often proves nothing.
    """
    is_news = repo.reason != reason
    if not (is_news or is_hiding) and now < repo.retry_at:
        again = Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT
        return replace(
            repo, state=RepoState.NOT_FOUND, wanted=repo.wanted | again, claimed=Wanted.NOTHING
        )
    is_asked_again = is_news or repo.rev is not None
    second_look_s = wait_s(Trouble.NEW_UNKNOWN if repo.rev is None else Trouble.UNKNOWN)
    if is_hiding or not is_news:
        repo = _with_status(repo, AccountStatus.DELETED)
    look = Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT if is_asked_again else Wanted.NOTHING
    attempts = repo.attempts + 1
    return replace(
        repo,
        state=RepoState.NOT_FOUND,
        wanted=repo.wanted | look,
        claimed=Wanted.NOTHING,
        retry_at=now + max(throttle_s(attempts), 0.0 if repo.wanted else second_look_s),
        attempts=attempts,
        reason=reason,
    )


def is_forgotten(claim: Claim, repo: Repo) -> bool:
    """Whether the ended claim leaves nothing to track: an operator named what nobody knows."""
    if not claim.is_new or repo.rev is not None:
        return False
    is_unresolved = repo.state is RepoState.ERROR and repo.signing_key is None
    return is_unresolved or repo.state is RepoState.NOT_FOUND


def purging(repo: Repo, reason: str) -> Repo:
    """The rows are about to go; the claim is held until the last one is gone.

    Nothing of the old chain is kept that could pass for completeness.
    """
    return replace(
        _with_status(repo, AccountStatus.DELETED),
        state=RepoState.DELETED,
        rev=None,
        data=None,
        host_rev=None,
        scope_id=None,
        reason=reason,
    )


def purged(repo: Repo, *, now: float) -> Repo:
    """All rows are gone. What was observed since the claim, such as a return, stays wanted.

    It counts as an attempt that came to nothing: whoever goes on committing in the name of such an
    account has it looked for more rarely each time.
    """
    due_at = max(now, repo.retry_at)
    return replace(repo, claimed=Wanted.NOTHING, retry_at=due_at, attempts=repo.attempts + 1)


def _with_status(repo: Repo, status: AccountStatus) -> Repo:
    """The status that the account's own host gives now, unless an event came since the claim.

    It outranks the event that it was asked about, should that be heard again.
    """
    if repo.wanted & Wanted.ACCOUNT or repo.account_status is status:
        return repo
    at = math.nextafter(repo.account_at, math.inf)
    return replace(repo, account_status=status, account_at=at)


def _believed(repo: Repo, fetched: Fetched) -> str | None:
    """The host's rev of the commit that it served, as far as it may vouch for our rows.

    One ahead of the commit is that of an import, of a copy that lags behind, or wrong. It counts
    once it comes with a commit that was held before: what lagged has caught up then.
    """
    if fetched.host_rev is None or fetched.host_rev <= fetched.rev:
        return fetched.host_rev
    is_held = (fetched.rev, fetched.data) == (repo.rev, repo.data)
    return fetched.host_rev if is_held else None
