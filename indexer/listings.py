"""What a host says of all its repos at once, and what follows for ours.

A listing proves nothing and changes no state: it only says which repos are worth a look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from indexer.delays import throttle_s
from indexer.model import AccountStatus, Priority, RepoState, Wanted
from indexer.planning import Repo

OUT_OF_BOUNDS = frozenset(
    {RepoState.TOO_LARGE, RepoState.LIMITED, RepoState.FOREIGN, RepoState.DENIED}
)
"""States that only an operator ends."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A host's word on one repo; a status of None means that it does not know it."""

    did: str
    status: AccountStatus | None
    rev: str | None


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Part of a listing; a cursor of None ends it."""

    repos: tuple[Listed, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a gap's repair still has to ask. Times are unix seconds."""

    kind: str  # host | collection | newcomers
    target: str  # URL of a PDS, or an NSID
    since: float  # what was compared after this time needs no second look
    cursor: str | None  # of the next page
    after_id: int | None  # repos up to this row were asked for one by one; None: pages are read
    pages: int  # read so far
    failures: int  # in a row
    wanted_at: float  # when the first of the gaps that wait for it was surveyed


def compared(repo: Repo, listed: Listed, *, now: float) -> Repo:
    """The repo with work raised where its host's word differs from what we hold."""
    work = _work(repo, listed) & ~repo.wanted
    if not work:
        return repo
    retry_at = repo.retry_at
    if not repo.wanted:
        retry_at = max(now + throttle_s(repo.attempts), repo.fetch_at)
    return replace(
        repo,
        wanted=repo.wanted | work,
        priority=min(repo.priority, Priority.REPAIR),
        retry_at=retry_at,
    )


def differs(repo: Repo, listed: Listed) -> bool:
    """Whether a host's word differs from what we hold, be it known already or not."""
    return bool(_work(repo, listed))


def _work(repo: Repo, listed: Listed) -> Wanted:
    if repo.state in OUT_OF_BOUNDS:
        return Wanted.NOTHING
    is_gone = repo.state in {RepoState.DELETED, RepoState.NOT_FOUND}
    if listed.status is not AccountStatus.ACTIVE:
        if is_gone or listed.status is repo.account_status:
            return Wanted.NOTHING
        return Wanted.ACCOUNT | (Wanted.CONTENT if listed.status is None else Wanted.NOTHING)
    if is_gone or not repo.is_visible:
        return Wanted.ACCOUNT | Wanted.CONTENT
    # The host's own word outlives the commit it was about only until the next commit.
    known = repo.rev if repo.host_rev is None else max(repo.rev or "", repo.host_rev)
    return Wanted.NOTHING if listed.rev == known else Wanted.CONTENT
