"""What a change in the DID directory's log means for a repo that we track.

The log proves nothing by itself: it makes a key stale, and the DID is resolved as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from indexer.model import Wanted
from indexer.planning import DIRECTORY_LAG_S, Policy, Repo, raised
from indexer.protocol.plc_export import ExportedOperation


@dataclass(frozen=True, slots=True)
class Reading:
    """How far the log was read."""

    after_ms: int  # unix milliseconds of the directory's clock


def noticed(
    repo: Repo,
    operation: ExportedOperation,
    *,
    handle: str | None,
    pds_url: str | None,
    policy: Policy,
    now: float,
) -> Repo:
    """The repo with work raised where the operation is news to us; `handle` and `pds_url` are ours.

    A tombstone has the account asked about too: its rows go once the directory has confirmed it.
    """
    made_at = operation.made_ms / 1000
    if made_at + DIRECTORY_LAG_S < repo.identity_at:
        return repo  # the document that we hold is newer
    if operation.is_tombstone:
        return raised(repo, Wanted.IDENTITY | Wanted.ACCOUNT, policy, now)
    ours = (repo.signing_key, pds_url, handle)
    if ours == (operation.signing_key, operation.pds_url, operation.handle):
        return repo
    return raised(repo, Wanted.IDENTITY, policy, now)
