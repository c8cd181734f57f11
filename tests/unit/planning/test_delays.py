"""The table of waits: each grows, ends, and is no longer than it says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexer.delays import WAITS, Trouble, throttle_s, wait_s

TROUBLES = st.sampled_from(Trouble)
TIMES = st.integers(0, 10**6)
JITTERS = st.floats(0.0, 1.0, exclude_max=True)
ASKED_S = st.none() | st.floats(min_value=0.0, allow_nan=False)


def test_every_trouble_has_its_wait():
    assert set(WAITS) == set(Trouble)
    assert all(0.0 < wait.first_s <= wait.most_s <= 86_400.0 for wait in WAITS.values())


def test_waits_grow_and_end():
    assert [throttle_s(n) for n in (0, 1, 2, 3, 100)] == [0, 0, 60, 120, 86400]
    assert wait_s(Trouble.FAILED) == 60.0
    assert wait_s(Trouble.FAILED, 51, jitter=0.999) < 5400.0
    assert wait_s(Trouble.FAILED, asked_s=300.0) == 300.0
    assert wait_s(Trouble.FAILED, asked_s=1e9) == 3600.0


@given(TROUBLES, TIMES, JITTERS, ASKED_S)
def test_a_wait_is_within_its_bounds(
    trouble: Trouble, times: int, jitter: float, asked_s: float | None
):
    wait = WAITS[trouble]
    found = wait_s(trouble, times, jitter=jitter, asked_s=asked_s)
    assert 0.0 <= found <= wait.most_s * (1.0 + wait.jitter)
    if times > wait.free:
        assert found >= wait.first_s
    elif asked_s is None:
        assert found == 0.0
    if asked_s is not None:
        assert found >= min(asked_s, wait.most_s)


@given(TROUBLES, TIMES, ASKED_S)
def test_a_wait_without_jitter_never_shrinks(trouble: Trouble, times: int, asked_s: float | None):
    assert wait_s(trouble, times, asked_s=asked_s) <= wait_s(trouble, times + 1, asked_s=asked_s)


@given(TROUBLES, TIMES, JITTERS)
def test_jitter_only_lengthens_a_wait_and_by_no_more_than_its_share(
    trouble: Trouble, times: int, jitter: float
):
    shortest = wait_s(trouble, times)
    longest = shortest * (1.0 + WAITS[trouble].jitter)
    assert shortest <= wait_s(trouble, times, jitter=jitter) <= longest
