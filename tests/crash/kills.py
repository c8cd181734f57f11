"""Kills at random moments: a daemon with everything running is killed, started, killed ...

Owns one store's way through its kills. After some the file is looked at as the kill has left it,
and after a round of them the daemon may catch up and must equal the truth.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.history import RememberingDevnet, check_past
from tests.crash.process import Life, check_derived, check_file, configure, converge
from tests.crash.requests import TYPES, Requests
from tests.devnet import Activity, Fault, FaultKind
from tests.documents import styles
from tests.documents.layout import Paragraph, set_pages
from tests.documents.pdf import write_pdf
from tests.documents.works import works
from tests.e2e.daemon import wait_until

KILLS_PER_ROUND = 18
LOSSES = 4  # repos that miss an event in a round, so that resyncs are under way at a kill
ACCOUNTS = 12
LARGE_REPO_RECORDS = 700  # more than a chunk: merges are killed half-way
RATE = 20.0
STARTED_SHARE = 0.7
LIFE_S_MAX = 0.5
LIFE_SHARE = 0.5  # of what its start took: as much is under way at a kill on a slow machine
LOOKS_SHARE = 0.3
ANSWERED_SHARE = 0.5
"""Of the lives that do not end before a request was answered, however slow the machine is."""


@dataclass(slots=True)
class Toll:
    """What one store has been through."""

    kills: int = 0
    started: int = 0  # of daemons that had come up
    looks: int = 0  # at the file as a kill had left it
    repos_compared: int = 0
    rounds: int = 0  # each ended equal to the truth
    answered: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0


async def run_store(
    seed: int, kills: int, folder: Path, *, per_round: int = KILLS_PER_ROUND
) -> Toll:
    """One store through at least so many kills. Fails where it is no past of the network."""
    rng = random.Random(seed)
    began = time.monotonic()
    toll = Toll()
    async with RememberingDevnet(seed) as net:
        documents = [document(net.rng) for _ in range(2)]
        activity = Activity(
            net, rate=RATE, accounts_max=ACCOUNTS, is_calm=True, documents=documents
        )
        await activity.steps(40)
        large = await net.create_account()
        net.import_records(large, LARGE_REPO_RECORDS)
        requests = Requests(net, rng)
        config = configure(folder / str(seed), net, governance={"did": large.did})
        spared: set[str] = set()
        while toll.kills < kills:
            await _round(net, activity, config, rng, toll, spared, requests, per_round)
            activity.accounts_max += LOSSES
    toll.answered = dict(requests.answered)
    toll.took_s = time.monotonic() - began
    assert not (missing := set(TYPES) - set(toll.answered)), f"never asked for: {missing}"
    return toll


async def _round(
    net: RememberingDevnet,
    activity: Activity,
    config: Path,
    rng: random.Random,
    toll: Toll,
    spared: set[str],
    requests: Requests,
    kills: int,
) -> None:
    database = config.with_name("index.db")
    traffic = asyncio.create_task(activity.run())
    lost = _lose_events(net, spared, LOSSES)
    for _ in range(kills):
        toll.started += await _kill_one(config, rng, requests)
        toll.kills += 1
        if rng.random() < LOOKS_SHARE:
            toll.looks += 1
            toll.repos_compared += check_past(net, database)
    assert any(fault.fired for fault in lost), "nothing had to be fetched again"
    net.faults.clear()
    traffic.cancel()
    await asyncio.wait([traffic])
    for account in net.accounts.values():
        net.emit_sync(account)  # what was swallowed last is announced by nothing else
    async with Life(config) as life:
        url = await life.started()
        assert url is not None, life.text[-3000:]
        await catch_up(net, requests, url, database)
        await life.stop()
    check_file(database)
    await check_derived(config)
    toll.rounds += 1


async def catch_up(net: RememberingDevnet, requests: Requests, url: str, database: Path) -> None:
    """Wait until the store of the daemon at `url` equals the truth."""
    hurrying = asyncio.create_task(requests.hurry(url, database))
    await converge(net, database)
    hurrying.cancel()
    await asyncio.wait([hurrying])
    check_past(net, database)


async def _kill_one(config: Path, rng: random.Random, requests: Requests) -> bool:
    """One life; whether it had come up before it was killed."""
    async with Life(config) as life:
        if rng.random() >= STARTED_SHARE:
            await asyncio.sleep(rng.uniform(0.0, LIFE_S_MAX))  # the moment of the kill
            life.kill()
            return False
        began = time.monotonic()
        url = await life.started()
        assert url is not None, life.text[-3000:]
        life_s_max = max(LIFE_S_MAX, LIFE_SHARE * (time.monotonic() - began))
        answered = requests.answered.total()
        asking = asyncio.create_task(requests.run(url))
        if rng.random() < ANSWERED_SHARE:
            await wait_until(
                lambda: asking.done() or requests.answered.total() > answered,
                what=lambda: f"an answer: {life.text[-3000:]}",
                deadline_s=60.0,
                poll_s=0.01,
            )
        await asyncio.sleep(rng.uniform(0.0, life_s_max))  # the moment of the kill
        life.kill()
        await asking
        return True


def _lose_events(net: RememberingDevnet, spared: set[str], count: int) -> list[Fault]:
    """Let so many repos miss a commit: each once, since a second time is made up for later."""
    chosen = [did for did in net.accounts if did not in spared][:count]
    spared.update(chosen)
    return [net.faults.schedule(FaultKind.SWALLOW_FRAME, did=did, type="#commit") for did in chosen]


def document(rng: random.Random) -> bytes:
    """A PDF with a list of references."""
    entries = [
        Paragraph(f"[{at}] {styles.ieee(work)}", 0, 18) for at, work in enumerate(works(rng, 4), 1)
    ]
    return write_pdf(set_pages([Paragraph("A study"), Paragraph("References"), *entries]))
