"""The short forms of the crash campaigns; the long ones are `python -m tests.crash`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.deaths import run_points
from tests.crash.failing import FAMILIES
from tests.crash.nth import run_family
from tests.crash.points import POINTS
from tests.crash.power import LEFT, run_power

SEED = 20_261_126


@pytest.mark.slow
async def test_a_death_at_any_named_moment_leaves_a_past_of_the_network(tmp_path: Path):
    """Each point is come to, and after the last the store becomes equal to the network."""
    deaths = await run_points(SEED, tmp_path)
    assert deaths.fired == dict.fromkeys(deaths.fired, 1)
    assert deaths.fired.keys() == POINTS.keys()
    assert deaths.repos_compared > 0


@pytest.mark.parametrize("name", FAMILIES)
async def test_one_failed_call_ends_in_a_declared_way_and_loses_nothing(tmp_path: Path, name: str):
    """Of SQLite, of a file or of a socket: the daemon goes on, or ends so that its next start does."""
    first = FAMILIES[name].usual
    failures = await run_family(name, SEED, tmp_path, first=first, stride=1, runs_max=1)
    assert failures.fired == 1, failures


async def test_a_loss_of_power_leaves_a_past_of_the_network_and_every_promise(
    tmp_path: Path,
):
    """Recorded writes are cut at syncs and between, with what was unsynced gone, there, or torn."""
    losses = await run_power(SEED, tmp_path, cuts_max=12, caught_up_max=1, lives=1)
    assert losses.cuts == dict.fromkeys(LEFT, 4)
    assert losses.caught_up == 1
    assert losses.commits > 50
    assert 0 < losses.promises < losses.commits  # live batches come again, and are not synced
    assert losses.states > 3  # the cuts have not met a store at rest
