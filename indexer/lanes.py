"""In which order repos are served: lanes, and what is known of the hosts that wait in them.

Tracked repos and new ones are served apart, so that a flood of new accounts takes nothing from the
repos that are held. Within a lane hosts take turns; among the tracked each host, among the new each
group of hosts, because one operator can make as many of them as he likes.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from indexer.claims import given_back
from indexer.delays import throttle_s
from indexer.model import RepoState
from indexer.planning import Repo


class Lane(IntEnum):
    """A queue of hosts. The first three are priorities of repos, too."""

    OPERATOR = 0
    REPAIR = 1
    LATER = 2
    """New repos that were asked for in vain, by the time at which they are due."""
    DISCOVERY = 3
    """New repos that nobody asked for yet, the newest first."""


TRACKED = (Lane.OPERATOR, Lane.REPAIR)
NEW = (Lane.DISCOVERY, Lane.LATER)


class Standing(IntEnum):
    """What is known of a host, or of the last host of a group."""

    UNKNOWN = 0
    ANSWERS = 1
    FAILED = 2
    """The last attempt there came to nothing."""


def put_back(repo: Repo, *, pds_url: str | None, now: float) -> Repo:
    """The claim dropped because the repo lives elsewhere than where its turn had come.

    `pds_url` is the host that it was claimed for. A new repo of which the host was not known goes
    on waiting among the new. One that moves about waits longer each time.
    """
    left = given_back(repo)
    if pds_url is not None:
        attempts = repo.attempts + 1
        return replace(left, attempts=attempts, retry_at=now + throttle_s(attempts))
    if repo.rev is None and repo.state is RepoState.RESYNCING and repo.attempts == 0:
        return replace(left, state=RepoState.PENDING)
    return left


def left_alone(repo: Repo, *, until: float) -> Repo:
    """The claim dropped because its host is to be left alone until then (unix seconds)."""
    left = given_back(repo)
    return replace(left, retry_at=max(left.retry_at, until))
