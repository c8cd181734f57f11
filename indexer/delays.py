"""How long things are left alone: the one table of waits, by what has happened.

Every time at which a repo falls due is `now` plus a wait of this table, or later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

HOUR_S = 3600.0
DAY_S = 86_400.0
DOUBLINGS_MAX = 40


class Trouble(StrEnum):
    """What a wait follows upon."""

    FAILED = "failed"
    """An attempt came to nothing for a passing reason."""
    REPEATED = "repeated"
    """A repo was fetched, ended in a state, or was asked for in vain: once more is free."""
    HIDDEN = "hidden"
    """Its own host called an account inactive: the directory may have named a former host."""
    SAME_DOCUMENT = "same_document"
    """A document is what it was though a change was announced: a copy of the directory may lag."""
    NEW_UNKNOWN = "new_unknown"
    """A new repo is not known where it should be: copies of directory and host may lag."""
    UNKNOWN = "unknown"
    """A repo with rows is not known any more. It is hidden, or purged, if it is not known then."""
    ROLLED_BACK = "rolled_back"
    """A host was set back for good: it is looked at now and then."""
    FUTURE_REV = "future_rev"
    """A rev lies in the future: those of others may show that our clock is wrong."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds: `first_s`, twice as long each further time, and no longer than `most_s`."""

    first_s: float
    most_s: float
    free: int = 0  # times, at first, that are followed by none
    jitter: float = 0.0  # share of the wait by which it may be longer


WAITS: Mapping[Trouble, Wait] = MappingProxyType(
    {
        Trouble.FAILED: Wait(60.0, HOUR_S, jitter=0.5),
        Trouble.REPEATED: Wait(60.0, DAY_S, free=1),
        Trouble.HIDDEN: Wait(60.0, 60.0),
        Trouble.SAME_DOCUMENT: Wait(60.0, 60.0),
        Trouble.NEW_UNKNOWN: Wait(60.0, 60.0),
        Trouble.UNKNOWN: Wait(HOUR_S, HOUR_S),
        Trouble.ROLLED_BACK: Wait(6 * HOUR_S, 6 * HOUR_S),
        Trouble.FUTURE_REV: Wait(60.0, 60.0),
    }
)


def wait_s(
    trouble: Trouble, times: int = 1, *, jitter: float = 0.0, asked_s: float | None = None
) -> float:
    """Seconds to wait when it has happened `times` in a row.

    `jitter` is a random number in [0, 1). What a host asked for (`asked_s`) is a lower bound of the
    wait before its jitter, clamped like it.
    """
    wait = WAITS[trouble]
    counted = times - wait.free - 1
    delay_s = 0.0
    if counted >= 0:
        delay_s = min(wait.first_s * 2.0 ** min(counted, DOUBLINGS_MAX), wait.most_s)
    if asked_s is not None:
        delay_s = max(delay_s, min(asked_s, wait.most_s))
    return delay_s * (1.0 + wait.jitter * jitter)


def throttle_s(times: int) -> float:
    """Seconds to wait after the same trouble `times` in a row: 0, 60, 120 ... a day."""
    return wait_s(Trouble.REPEATED, times)
