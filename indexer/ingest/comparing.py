"""A host's word on a repo's rev against what we hold: whether anything needs to be fetched."""

from __future__ import annotations

from indexer.planning import Repo
from indexer.protocol.commit import REV_AHEAD_S_MAX
from indexer.protocol.syntax import is_tid, tid_timestamp_us

STREAM_GRACE_S = 60.0
"""How far the stream must have passed a commit before its absence counts as a loss."""


def may_yet_come(host_rev: str | None, stream_at: float | None, *, now: float) -> bool:
    """Whether the live stream, which may lag, could still bring the host's newest commit.

    Fetching whatever a lagging stream has not brought yet would be a storm of fetches.
    """
    if host_rev is None or stream_at is None or not is_tid(host_rev):
        return False
    made_at = tid_timestamp_us(host_rev) / 1e6
    is_honest = made_at < now + REV_AHEAD_S_MAX
    return is_honest and stream_at < made_at + STREAM_GRACE_S


def is_current(repo: Repo, host_rev: str | None, scope_id: str) -> bool:
    """Whether equal revs prove that nothing needs to be fetched."""
    if repo.scope_id != scope_id or repo.data is None:
        return False
    # The host's own word outlives the commit it was about only until the next commit.
    known = repo.rev if repo.host_rev is None else max(repo.rev or "", repo.host_rev)
    return host_rev is not None and host_rev == known
