"""One soak: devnet, crowd and mischief in this process, the daemon and its watcher beside it."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.bench.daemon import command, free_ports
from tests.crash.process import check_derived
from tests.devnet import Devnet, FaultKind
from tests.e2e.daemon import PASSWORD, to_toml, wait_until
from tests.oracle import assert_heads_equal, assert_no_bugs, assert_store_equals, is_equal
from tests.simulation.faults import PLACES
from tests.soak.crowd import Crowd, CrowdedStream, foreign_frames
from tests.soak.mischief import Mischief, Pace
from tests.soak.sampling import Latencies, Sample, Sampler, append
from tests.soak.traffic import Traffic

READY_S = 60.0
STOP_S = 60.0
SETTLE_POLL_S = 1.0
LINE_BYTES_MAX = 4_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a soak is."""

    seconds: float
    rate: float  # events a second, the crowd's among them
    tracked_share: float
    accounts: int
    records: int  # of each account
    foreign_frames: int  # distinct ones
    sample_s: float
    pace: Pace
    window: int  # tracked events that the relay can replay
    settle_s: float
    idle_s: float
    kinds: Sequence[FaultKind] = tuple(PLACES)
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What it came to. Reaching it means that the store ended equal to the oracle,
    and its derived rows to its records."""

    samples: list[Sample]
    fired: dict[str, int]
    unfired: list[str]
    mishaps: dict[str, int]
    operations: dict[str, int] = field(default_factory=dict)  # "type status" -> number
    deeds: dict[str, int] = field(default_factory=dict)
    records: int = 0
    settled_s: float = 0.0
    exit_code: int = 0


async def soak(plan: Plan, folder: Path, cache: Path) -> Outcome:
    """Run a plan with a store in `folder`, which is emptied; samples are in `samples.jsonl`.

    Fails where the store does not become equal to the network's truth within `settle_s`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(plan.seed)
    crowd = Crowd(foreign_frames(cache, plan.foreign_frames), round(1 / plan.tracked_share) - 1)
    async with Devnet(plan.seed, window=plan.window) as net:
        stream = CrowdedStream(plan.window, crowd)
        net.relay.stream = net.relay.subscriptions.stream = stream
        net.relay.subscriptions.between = crowd.after
        traffic = Traffic(
            net,
            accounts=plan.accounts,
            records=plan.records,
            rate=plan.rate * plan.tracked_share,
        )
        await traffic.settle_in()
        stream.sent.clear()
        async with (
            _daemon(plan, net, folder) as daemon,
            aiohttp.ClientSession(headers=_credentials()) as session,
        ):
            await _ready(net, daemon, session, plan)
            mischief = Mischief(net, traffic, _calling(session, daemon), rng)
            async with _watcher(daemon.database) as watcher:
                outcome = await _live(plan, folder, daemon, watcher, session, traffic, mischief)
            outcome.settled_s = await _settle(net, daemon.database, plan.settle_s)
            outcome.operations = _operations(daemon.database)
            outcome.records = sum(1 for _ in _rows(daemon.database, "SELECT 1 FROM records"))
            daemon.process.send_signal(signal.SIGTERM)
            outcome.exit_code = await asyncio.wait_for(daemon.process.wait(), STOP_S)
        await check_derived(folder / "config.toml")
    return outcome


@dataclass(frozen=True, slots=True)
class _Daemon:
    process: asyncio.subprocess.Process
    database: Path
    admin_url: str
    metrics_url: str


async def _live(
    plan: Plan,
    folder: Path,
    daemon: _Daemon,
    watcher: asyncio.subprocess.Process,
    session: aiohttp.ClientSession,
    traffic: Traffic,
    mischief: Mischief,
) -> Outcome:
    """The hours themselves."""
    net = traffic.net
    stream = net.relay.stream
    assert isinstance(stream, CrowdedStream)
    latencies = Latencies(stream)
    sampler = Sampler(daemon.process.pid, daemon.database, daemon.metrics_url, latencies)
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(traffic.run(), name="soak.traffic"),
            group.create_task(mischief.run(plan.pace, plan.kinds), name="soak.mischief"),
            group.create_task(_listen(watcher, latencies), name="soak.watcher"),
        ]
        ends = time.monotonic() + plan.seconds
        while time.monotonic() < ends:
            await asyncio.sleep(plan.sample_s)
            assert daemon.process.returncode is None, "the daemon has ended"
            sample = await sampler.sample(session)
            sample["faults"] = net.faults.fired.total()
            samples.append(sample)
            append(folder / "samples.jsonl", sample)
        for task in tasks:
            task.cancel()
    return Outcome(
        samples,
        fired={kind.value: times for kind, times in sorted(net.faults.fired.items())},
        unfired=mischief.unfired(),
        mishaps=dict(mischief.happened),
        deeds=dict(traffic.done),
    )


async def _listen(watcher: asyncio.subprocess.Process, latencies: Latencies) -> None:
    assert watcher.stdout is not None
    while line := await watcher.stdout.readline():
        latencies.see(json.loads(line)["sightings"])
    raise RuntimeError("the watcher has ended")


async def _ready(net: Devnet, daemon: _Daemon, session: aiohttp.ClientSession, plan: Plan) -> None:
    """Wait until the store holds what was there before."""
    async with asyncio.timeout(READY_S):
        while True:
            try:
                async with session.get(f"{daemon.admin_url}/livez"):
                    break
            except aiohttp.ClientConnectorError:
                assert daemon.process.returncode is None, "the daemon has ended at its start"
                await asyncio.sleep(0.05)
    await wait_until(
        lambda: is_equal(net, daemon.database), what="the first fetch", deadline_s=plan.settle_s,
        poll_s=SETTLE_POLL_S,
    )  # fmt: skip


async def _settle(net: Devnet, database: Path, settle_s: float) -> float:
    """Honest last deeds, no more faults; seconds until the store equals the truth."""
    net.faults.clear()
    for account in net.accounts.values():
        if net.is_visible(account):
            net.apply_writes(account, [])
            net.emit_sync(account)
    began = time.monotonic()
    while time.monotonic() - began < settle_s and not is_equal(net, database, heads=True):
        await asyncio.sleep(SETTLE_POLL_S)
    assert_store_equals(net, database)
    assert_heads_equal(net, database)
    assert_no_bugs(database)
    return time.monotonic() - began


def _credentials() -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth("admin", PASSWORD)}


def _calling(session: aiohttp.ClientSession, daemon: _Daemon):
    url = f"{daemon.admin_url}/xrpc/pub.chive.admin.triggerBackfill"

    async def call(kind: str, **named: object) -> None:
        body = {"type": kind, **named}
        async with asyncio.timeout(30), session.post(url, json=body) as answer:
            # 503 where the daemon has no room now, which is an answer as good as another.
            assert answer.status in {200, 503}, await answer.text()

    return call


def _operations(database: Path) -> dict[str, int]:
    query = "SELECT type || ' ' || status, count(*) FROM operations GROUP BY 1 ORDER BY 1"
    return dict(_rows(database, query))


def _rows(database: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as reader:
        return reader.execute(query).fetchall()


@asynccontextmanager
async def _daemon(plan: Plan, net: Devnet, folder: Path) -> AsyncIterator[_Daemon]:
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    database = folder / "index.db"
    admin, metrics = free_ports(2)
    config = folder / "config.toml"
    config.write_text(
        to_toml(
            {
                "storage": {"path": str(database)},
                "admin": {"port": admin, "password_file": str(password)},
                "metrics": {"port": metrics},
                "firehose": {"url": net.relay_url, "start": "oldest", "idle_s": plan.idle_s},
                "identity": {
                    "plc_url": net.plc_url,
                    "handle_resolver_url": net.handle_resolver_url,
                },
                "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
                "citations": {"crossref_url": "", "semantic_scholar_url": ""},
                "log": {"format": "json", "level": "warning"},
            }
        )
    )
    with (folder / "daemon.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command(), "run", "--config", str(config), stdout=log, stderr=log
        )
    try:
        yield _Daemon(
            process, database, f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{metrics}/metrics"
        )
    finally:
        await _end(process)


@asynccontextmanager
async def _watcher(database: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.soak.watcher", str(database),
        stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES_MAX,
    )  # fmt: skip
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
