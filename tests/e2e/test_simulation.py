"""The short form of the simulation campaign; the long one is `python -m tests.simulation`."""

from __future__ import annotations

import pytest

from tests.simulation.campaign import run_campaign

SEEDS = 50
EVENTS = 60


@pytest.mark.slow
def test_the_store_ends_equal_to_the_network_whatever_fault_happens():
    """Every seed ends with the oracle's records and heads, and its faults have happened."""
    outcome = run_campaign(range(1, SEEDS + 1), EVENTS, processes=2)
    assert not outcome.failures, "\n".join(outcome.failures.values())
    assert len(outcome.fired) == len(outcome.kinds), outcome.table()
