"""Whose clock is wrong: that of accounts whose revs lie in the future, or ours.

Revs from the future of more than `SUSPECTS_MAX` DIDs within a minute mean ours. Then the stream is
only looked at and its cursor stays: nobody is judged by a clock that is in doubt. The doubt ends
when those revs have become believable, or when more DIDs than not are seen to commit at what we
take for the present; after that a few accounts cannot raise it again for an hour.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import structlog

from indexer.clock import Clock
from indexer.delays import CLOCK_DOUBT_S
from indexer.protocol.commit import REV_AHEAD_S_MAX
from indexer.protocol.frame import Frame
from indexer.protocol.syntax import is_tid, tid_timestamp_us

log = structlog.get_logger(__name__)

SUSPECTS_MAX = 3
WITNESSES_MAX = 1000
"""DIDs counted on either side while the clock is in doubt."""

PRESENT_S = 300.0
"""A rev no older than this speaks for our clock; older ones would speak for a slow one too."""

TRUSTED_S = 3600.0


class ClockDoubt:
    """Gathers revs; `on_change` is told 1 when a doubt begins and 0 when it ends."""

    def __init__(self, clock: Clock, *, on_change: Callable[[int], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._suspects: OrderedDict[str, tuple[float, float]] = OrderedDict()  # DID -> (when, rev)
        self._early: set[str] = set()  # while in doubt: DIDs with revs from the future
        self._present: set[str] = set()  # and those with revs of our present
        self._trusted_until = -1.0  # monotonic
        self.is_raised = False
        """Whether our clock is in doubt."""

    @property
    def reason(self) -> str | None:
        """What to tell an operator, or None."""
        if not self.is_raised:
            return None
        return (
            f"the revs of {len(self._suspects)} repos lie in the future: is this machine's clock"
            " slow? Nothing is taken from the stream until they are believable"
        )

    def suspect(self, revs: Iterable[tuple[str, str]]) -> None:
        """Revs, as (DID, rev), that lie ahead of our clock."""
        now = self._clock.monotonic()
        for did, rev in revs:
            self._suspects[did] = (now, _made_at(rev))
            self._suspects.move_to_end(did)
            if len(self._suspects) > WITNESSES_MAX:
                self._suspects.popitem(last=False)
        if self.is_raised:
            return
        while self._suspects and next(iter(self._suspects.values()))[0] < now - CLOCK_DOUBT_S:
            self._suspects.popitem(last=False)
        if len(self._suspects) > SUSPECTS_MAX and now >= self._trusted_until:
            self.is_raised = True
            self._early, self._present = set(), set()
            self._on_change(1)
            log.error("clock.doubted", reason=self.reason)

    def weigh(self, frame: Frame) -> None:
        """Let a commit seen while in doubt speak for or against our clock."""
        rev = frame.body.get("rev")
        if frame.type != "#commit" or frame.did is None or not isinstance(rev, str):
            return
        if not is_tid(rev):
            return
        ahead_s = _made_at(rev) - self._clock.now()
        side = self._early if ahead_s > REV_AHEAD_S_MAX else self._present
        if ahead_s >= -PRESENT_S and len(side) < WITNESSES_MAX:
            side.add(frame.did)

    def is_over(self) -> bool:
        """Whether a doubt that was raised has just come to its end."""
        if not self.is_raised:
            return False
        latest = self._clock.now() + REV_AHEAD_S_MAX
        is_believable = sum(rev > latest for _, rev in self._suspects.values()) <= SUSPECTS_MAX
        is_outvoted = len(self._present) > max(len(self._early), SUSPECTS_MAX)
        if not (is_believable or is_outvoted):
            return False
        if is_outvoted:
            self._trusted_until = self._clock.monotonic() + TRUSTED_S
        self.is_raised = False
        self._suspects.clear()
        self._on_change(0)
        log.warning("clock.trusted", is_outvoted=is_outvoted)
        return True


def _made_at(rev: str) -> float:
    """Unix seconds at which a rev says that it was made."""
    return tid_timestamp_us(rev) / 1e6
