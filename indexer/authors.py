"""What an author may ask of the index: how a record stands, and a look at its host. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from indexer.delays import throttle_s
from indexer.model import Priority, RepoState, Wanted
from indexer.planning import Repo

AUTHOR_INTERVAL_S = 60.0
"""A repo is compared at an author's wish no sooner after the last look at its identity."""

UNASKABLE = frozenset({RepoState.TOO_LARGE, RepoState.LIMITED, RepoState.FOREIGN, RepoState.DENIED})
"""States that only an operator ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordState:
    """How a record stands in the index."""

    cid: str | None  # None: no visible row
    indexed_at: str | None  # ISO text
    is_current: bool  # whether its repo is followed, and nothing says that more is to come
    compared_at: float  # when the repo was last found equal to its host, unix seconds; 0: never
    pds_url: str | None


def asked_for(repo: Repo, *, now: float) -> Repo:
    """The repo wanted, soon; what is put off already is not hurried.

    Whoever looks resolves the DID document in any case. That it be resolved is not asked for: until
    it was, live commits would wait in the buffer.
    """
    if repo.state in UNASKABLE or repo.wanted & Wanted.CONTENT:
        return repo
    is_given_up = repo.state in {RepoState.NOT_FOUND, RepoState.INVALID, RepoState.DELETED}
    wait_s = throttle_s(repo.attempts) if is_given_up else 0.0
    due_at = max(now + wait_s, repo.identity_at + AUTHOR_INTERVAL_S, repo.fetch_at)
    return replace(
        repo,
        wanted=repo.wanted | Wanted.ACCOUNT | Wanted.CONTENT,
        priority=min(repo.priority, Priority.REPAIR),
        retry_at=min(repo.retry_at, due_at) if repo.wanted else due_at,
    )
