"""The short form of the simulation campaign; the long one is `python -m tests.simulation`."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.seed import Report, run_seed

SEEDS = 10
EVENTS = 150


@pytest.mark.slow
def test_the_store_ends_equal_to_the_network_whatever_fault_happens():
    """Every seed ends with the oracle's records and heads, and its faults have happened."""
    fired: Counter[str] = Counter()
    failures: list[str] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        outcomes = pool.map(run_seed, range(1, SEEDS + 1), [EVENTS] * SEEDS, [True] * SEEDS)
        for outcome in outcomes:
            if isinstance(outcome, Report):
                fired.update(kind.value for kind in outcome.fired)
            else:
                failures.append(outcome)
    assert not failures, "\n".join(failures)
    assert len(fired) >= 25
