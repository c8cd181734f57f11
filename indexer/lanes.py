"""In which order repos are served: lanes, and what is known of the hosts that wait in them.

Tracked repos and new ones are served apart, so that a flood of new accounts takes nothing from the
repos that are held. Within a lane hosts take turns; among the tracked each host, among the new each
group of hosts, because one operator can make as many of them as he likes. Of the tracked repos of
a host those whose identity is in doubt have a turn of their own: they may have left it.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from indexer.claims import given_back, identified
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
    IN_DOUBT = 3
    """No host: it is the directory that is asked first, whatever became of the host."""


NOWHERE = ""
"""The host of repos whose host is not known yet: first in the order of hosts."""

DOUBT = "?"


def doubt(host: str) -> str:
    """Whose turn it is for tracked repos last seen at a host, while their identity is in doubt."""
    return DOUBT + host


def put_back(repo: Repo, *, has_moved: bool, now: float) -> Repo:
    """The claim dropped because there is no place at the repo's host.

    One that is found at another host than before (`has_moved`) waits longer each time, or it could
    move about for ever. A new one that nobody has asked for goes on waiting among the new.
    """
    left = given_back(repo)
    if has_moved:
        attempts = repo.attempts + 1
        return replace(left, attempts=attempts, retry_at=now + throttle_s(attempts))
    if repo.rev is None and repo.state is RepoState.RESYNCING and repo.attempts == 0:
        return replace(left, state=RepoState.PENDING)
    return left


def left_alone(repo: Repo, *, until: float) -> Repo:
    """The claim dropped because its host is to be left alone until then (unix seconds)."""
    left = given_back(repo)
    return replace(left, retry_at=max(left.retry_at, until))


def kept_waiting(repo: Repo, *, closed_s: float, has_moved: bool, now: float) -> Repo:
    """The claim dropped once it is known who the repo is: what its host is asked for has to wait.

    A host that is closed for so long holds all its tracked repos up; for a new one nobody else of
    its group waits.
    """
    known = identified(repo)
    if closed_s > 0.0 and repo.rev is None:
        return left_alone(known, until=now + closed_s)
    return put_back(known, has_moved=has_moved and closed_s == 0.0, now=now)
