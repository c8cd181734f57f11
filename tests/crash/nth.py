"""Nth-failure loops: the daemon follows a network while its N-th call of a family fails.

Owns the loop over N, which ends with the first run that has fewer calls than N. Each run must end
in a declared way: the process goes on and becomes equal to the network by itself, or it ends with
a declared exit code and the next start does.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.failing import MARKER, fail_nth
from tests.crash.history import RememberingDevnet, check_past
from tests.crash.kills import catch_up
from tests.crash.process import STOPPED_S, Life, check_file, configure, copied
from tests.crash.requests import Requests
from tests.devnet import Activity, FaultKind
from tests.e2e.daemon import wait_until
from tests.oracle import is_equal

STARTED = "daemon.started"
EXIT_CLEAN, EXIT_STORAGE, EXIT_CONFIGURATION = 0, 74, 78
RUN_S = 40.0
DEEDS = 25
ACCOUNTS = 4
OUTPUT_SHOWN = 3000


@dataclass(slots=True)
class Failures:
    """What one family came to."""

    runs: int = 0
    fired: int = 0
    last_fired: int = 0  # the greatest N that failed
    outcomes: dict[str, int] = field(default_factory=dict)  # how the runs ended
    took_s: float = 0.0


async def run_family(
    name: str, seed: int, folder: Path, *, first: int, stride: int, runs_max: int
) -> Failures:
    """N = first, first + stride ... until a run does without its failure, or so many are made."""
    began = time.monotonic()
    failures = Failures()
    outcomes: Counter[str] = Counter()
    async with RememberingDevnet(seed) as net:
        activity = Activity(net, accounts_max=ACCOUNTS, is_calm=True)
        await activity.steps(DEEDS)
        lost = net.faults.schedule(FaultKind.SWALLOW_FRAME, type="#commit")
        await activity.steps(DEEDS)
        assert lost.fired, "nothing has to be fetched"
        for number in range(first, first + stride * runs_max, stride):
            config = configure(folder / name, net)
            try:
                outcome = await _run(net, config, name, number, random.Random(seed))
            except Exception as error:
                error.add_note(f"{name}, call {number}")
                raise
            failures.runs += 1
            outcomes[outcome] += 1
            if outcome == "without":
                break
            failures.fired += 1
            failures.last_fired = number
            shutil.rmtree(config.parent)
    failures.outcomes = dict(outcomes)
    failures.took_s = time.monotonic() - began
    return failures


async def _run(
    net: RememberingDevnet, config: Path, name: str, number: int, rng: random.Random
) -> str:
    """One run; how it ended. Fails where that is not declared, or the store is wrong."""
    database = config.with_name("index.db")
    requests = Requests(net, rng)
    case = f"{name}, call {number}"
    goes_on = False
    async with Life(config, fail_nth, name, number) as life:
        url = await life.started()
        if url is not None:
            hurrying = asyncio.create_task(requests.hurry(url, database))
            await wait_until(
                lambda: not life.is_alive or is_equal(net, database, heads=True),
                what=lambda: f"{case}: the end or equality: {life.text[-OUTPUT_SHOWN:]}",
                deadline_s=RUN_S, poll_s=0.01,
            )  # fmt: skip
            hurrying.cancel()
            await asyncio.wait([hurrying])
            goes_on = life.is_alive
            life.terminate()
        code = await life.ended(STOPPED_S + RUN_S)
        has_failed = MARKER in life.text
        # An end that nobody asked for is none that may be called clean.
        clean = {EXIT_CLEAN} if goes_on else set()
        is_declared = code in (
            {EXIT_STORAGE, *clean} if url is not None else {EXIT_STORAGE, EXIT_CONFIGURATION}
        )
        assert is_declared, f"{case}: exit code {code}: {life.text[-OUTPUT_SHOWN:]}"
        assert has_failed or code == EXIT_CLEAN, f"{case}: {life.text[-OUTPUT_SHOWN:]}"
    if not has_failed:
        return "without"
    with copied(database) as copy:
        check_past(net, copy)
    if code != EXIT_CLEAN:
        async with Life(config) as life:
            url = await life.started()
            assert url is not None, f"{case}: {life.text[-OUTPUT_SHOWN:]}"
            await catch_up(net, requests, url, database)
            await life.stop()
    with copied(database) as copy:
        check_file(copy)
    return "went on" if code == EXIT_CLEAN else f"exit {code}"
