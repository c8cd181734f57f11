"""A gap as people see it: what was missed, and how far its repair is."""

from __future__ import annotations

from dataclasses import dataclass

SURVEY_S_MIN = 60.0
"""Gaps that come faster than this are surveyed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A durable gap. Times are unix seconds; None: not known, or not yet."""

    id: int
    url: str
    reason: str
    after_seq: int | None
    after_at: float | None
    before_seq: int | None
    before_at: float | None
    detected_at: float
    surveyed_at: float | None  # when its repair began
    repaired_at: float | None
    not_before: float = 0.0  # its repair does not begin earlier
    unreachable: int = 0  # repos that it waited for in vain
    unread: int = 0  # hosts whose lists were not read to their end
