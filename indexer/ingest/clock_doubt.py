"""Whose clock is wrong: that of accounts whose revs lie in the future, or ours.

Revs from the future of more than `SUSPECTS_MAX` DIDs within a minute mean ours. Then the stream is
only looked at and its cursor stays: nobody is judged by a clock that is in doubt. The doubt ends
when those revs have become believable, or when more hosts than not are seen to be at what we take
for the present: a host speaks with the majority of its accounts, so that whoever makes accounts by
the thousand at one has one voice. Where that decides nothing, it ends after some minutes if anybody
still commits at our present, as nobody honest would if our clock were slow. After that it cannot be
raised again for an hour.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping

import structlog

from indexer.clock import Clock
from indexer.delays import Trouble, wait_s
from indexer.protocol.commit import REV_AHEAD_S_MAX
from indexer.protocol.frame import Frame
from indexer.protocol.syntax import is_tid, tid_timestamp_us

log = structlog.get_logger(__name__)

SUSPECTS_MAX = 3
WITNESSES_MAX = 1000
"""DIDs counted on either side while the clock is in doubt, the latest ones."""

DOUBT_S_MAX = 600.0
"""After this time a few who commit at our present outweigh any number that do not."""

PRESENT_S = 300.0
"""A rev no older than this speaks for our clock; older ones would speak for a slow one too."""

TRUSTED_S = 3600.0


class ClockDoubt:
    """Gathers revs; `on_change` is told 1 when a doubt begins and 0 when it ends."""

    def __init__(self, clock: Clock, *, on_change: Callable[[int], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._suspects: OrderedDict[str, tuple[float, float]] = OrderedDict()  # DID -> (when, rev)
        self._early: OrderedDict[str, float] = OrderedDict()  # in doubt: DID -> last rev ahead
        self._present: OrderedDict[str, float] = OrderedDict()  # and of our present
        self._raised_at = 0.0  # monotonic, as are those
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
        while self._suspects and next(iter(self._suspects.values()))[0] < now - wait_s(
            Trouble.FUTURE_REV
        ):
            self._suspects.popitem(last=False)
        if len(self._suspects) > SUSPECTS_MAX and now >= self._trusted_until:
            self.is_raised, self._raised_at = True, now
            self._early.clear()
            self._present.clear()
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
        if ahead_s >= -PRESENT_S:
            side[frame.did] = self._clock.monotonic()
            side.move_to_end(frame.did)
            if len(side) > WITNESSES_MAX:
                side.popitem(last=False)

    @property
    def witnesses(self) -> tuple[str, ...]:
        """DIDs that speak for or against our clock."""
        return (*self._present, *self._early)

    def is_over(self, groups: Mapping[str, str]) -> bool:
        """Whether a doubt that was raised has just come to its end.

        `groups` are the groups of hosts at which the witnesses are; those that are not tracked make
        one together.
        """
        if not self.is_raised:
            return False
        latest = self._clock.now() + REV_AHEAD_S_MAX
        is_believable = sum(rev > latest for _, rev in self._suspects.values()) <= SUSPECTS_MAX
        is_outvoted = len(self._present) > SUSPECTS_MAX and (
            self._is_outvoted(groups) or self._is_worn_out()
        )
        if not (is_believable or is_outvoted):
            return False
        if is_outvoted:
            self._trusted_until = self._clock.monotonic() + TRUSTED_S
        self.is_raised = False
        self._suspects.clear()
        self._on_change(0)
        log.warning("clock.trusted", is_outvoted=is_outvoted)
        return True

    def _is_outvoted(self, groups: Mapping[str, str]) -> bool:
        """Whether more groups speak for our clock; where as many do, whether more DIDs."""
        balance = Counter(groups.get(did, "") for did in self._present)
        balance.subtract(groups.get(did, "") for did in self._early)
        votes = sum((voice > 0) - (voice < 0) for voice in balance.values())
        return votes > 0 or (votes == 0 and len(self._present) > len(self._early))

    def _is_worn_out(self) -> bool:
        """Whether the doubt is old, and some still speak for our clock."""
        now = self._clock.monotonic()
        recent = sum(now - at <= wait_s(Trouble.FUTURE_REV) for at in self._present.values())
        return now - self._raised_at >= DOUBT_S_MAX and recent > SUSPECTS_MAX


def _made_at(rev: str) -> float:
    """Unix seconds at which a rev says that it was made."""
    return tid_timestamp_us(rev) / 1e6
