"""How long the same trouble is left alone when it has come several times in a row."""

from __future__ import annotations

THROTTLE_S_MIN = 60.0
THROTTLE_S_MAX = 86400.0

CLOCK_DOUBT_S = 60.0
"""A rev from the future waits so long: those of others may show that our clock is wrong."""


def throttle_s(times: int) -> float:
    """Seconds to wait when the same trouble has come `times` in a row: 0, 60, 120 ... a day."""
    if times <= 1:
        return 0.0
    return min(THROTTLE_S_MIN * 2.0 ** min(times - 2, 20), THROTTLE_S_MAX)
