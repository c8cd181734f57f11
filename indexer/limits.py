"""What strangers may take of this machine: the bounds, and the names under which refusals count.

An attacker has millions of throwaway accounts. What is refused is counted, and either a state of
its repo or a gap that is repaired once there is room: nothing is dropped in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DAY_S = 86_400.0


class Limit(StrEnum):
    """A bound that was met: label of `chive_limits_refused_total`, named as its setting."""

    RECORDS_PER_REPO = "records_per_repo"
    BYTES_PER_REPO = "bytes_per_repo"
    NEW_REPOS_PER_HOST_DAY = "new_repos_per_host_day"
    PENDING_MAX = "pending_max"
    DB_BYTES_MAX = "db_bytes_max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds, as the settings have them."""

    records_per_repo: int = 200_000
    """In-scope records of one repo."""
    bytes_per_repo: int = 256 * 1024 * 1024
    """Their values as JSON text."""
    new_repos_per_host_day: int = 2_000
    """Repos of one host group that are fetched for the first time, in a day of UTC."""
    pending_max: int = 200_000
    """Repos that are known and were never fetched."""
    buffer_bytes_max: int = 32 * 1024 * 1024
    """Live commits kept for all repos together that are being fetched."""
    db_bytes_max: int = 64 * 1024**3
    """The store's size in use."""
    db_bytes_reserve: int = 1024**3
    """What is left for repos that are held when new ones are no longer taken in."""

    def exceeded_by(self, records: int, record_bytes: int) -> Limit | None:
        """The bound that a repo of this size is over."""
        if records > self.records_per_repo:
            return Limit.RECORDS_PER_REPO
        if record_bytes > self.bytes_per_repo:
            return Limit.BYTES_PER_REPO
        return None


def day_of(now: float) -> int:
    """The day of UTC that unix seconds fall into, counted from 1970."""
    return int(now // DAY_S)
