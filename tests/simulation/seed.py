"""One seed: a network, a daemon, traffic with faults, and the comparisons at the end.

The truth is the devnet's, and the oracle knows nothing of the indexer's code. That derived rows
agree with their records is asked of the indexer itself, as `verify` does it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sqlite3
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from indexer.records.prepare import prepare_stored
from indexer.records.projection import SEARCH
from indexer.records.registry import load_registry
from storage.reading import open_reader
from storage.verification import Verification, check_search_index
from tests.devnet import Activity, Devnet
from tests.devnet.faults import Fault, FaultKind
from tests.devnet.records import FOREIGN
from tests.e2e.daemon import wait_until
from tests.oracle import assert_heads_equal, assert_no_bugs, assert_store_equals, is_equal
from tests.simulation.clock import SimulatedLoop
from tests.simulation.faults import DIALS, DOCUMENTS, LISTS, choose_mishaps, schedule_faults
from tests.simulation.mishaps import Mishap, Mishaps
from tests.simulation.subject import Subject

ACCOUNTS = 12
LARGE_REPO = 0.3
"""Share of the seeds with an account whose many foreign records make the sparse walk worth it."""

LARGE_REPO_RECORDS = 600
TOLD_OF_A_LOSS = 0.5
"""Share of the seeds in which most accounts stay silent at the end: the relay says that something
was lost, and the repair of that gap must find all of it."""

PAUSES_S = (0.0, 0.0, 0.0, 0.01, 0.3, 5.0)
LOOKS_MAX = 4000
SETTLE_S = 4 * 3600.0
SETTLING_STEP_S = 20.0
LOOK_S = 1.0
CONSENT_S = 600.0
"""How long an operator waits before he looks after what does not settle by itself."""

REAL_S_MAX = 300
"""A seed that takes longer on a real clock hangs."""

DIFFERENCES_SHOWN = 5
TRACEBACK_LINES = 30
REGISTRY = load_registry()
STORES = Path("/dev/shm")
"""Memory where there is any: a campaign asks for no power cut, and the disk is everybody's."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a seed did."""

    seed: int
    fired: Counter[str]  # kind of fault or mishap -> times
    events: int
    settled_s: float  # simulated
    simulated_s: float


def run_seed(seed: int, events: int, is_quiet: bool) -> Report | str:
    """The report, or what went wrong."""
    if is_quiet:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    stores = STORES if STORES.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=stores) as folder, _alarm():
        try:
            with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
                return runner.run(simulate(seed, events, Path(folder)))
        except BaseException as error:
            lines = "".join(traceback.format_exception(error)).splitlines()
            return f"seed {seed}: {lines[-1]}\n" + "\n".join(lines[-TRACEBACK_LINES:])


async def simulate(seed: int, events: int, folder: Path) -> Report:
    """Run one seed in `folder`. Fails where the store differs, or a fault never happened."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    began = loop.time()
    rng = random.Random(seed)
    async with Devnet(seed=seed, now=loop.clock.now) as net:
        faults = schedule_faults(net.faults, rng, events)
        mishaps = choose_mishaps(rng, events)
        activity = Activity(net, accounts_max=ACCOUNTS)
        await activity.steps(events // 10)
        if rng.random() < LARGE_REPO:
            large = rng.choice([a for a in net.accounts.values() if net.is_visible(a)])
            net.import_records(large, LARGE_REPO_RECORDS, [FOREIGN])
        async with Subject(folder, _settings(net), clock=loop.clock, rng=rng) as subject:
            async with asyncio.TaskGroup() as group:
                happening = Mishaps(net, subject, rng, group)
                await _traffic(activity, happening, mishaps, events, rng)
                await happening.over()
            await _until_fired(activity, subject)
            unfired = [fault.kind.value for fault in net.faults.unfired()]
            assert not unfired, f"never happened: {unfired}"
            net.faults.clear()
            loop.clock.step_s = SETTLING_STEP_S
            believed = FaultKind.FUTURE_REV in net.faults.fired and Mishap.CLOCK_WRONG in {
                kind for _, kind in mishaps
            }
            is_told = rng.random() < TOLD_OF_A_LOSS
            settled_s = await _settle(net, subject, is_told=is_told, has_believed=believed)
            assert not subject.daemon.task.done(), "the daemon has ended"
    _assert_derived_rows_agree(subject.database)
    assert {fault.kind for fault in faults} <= set(net.faults.fired)
    fired = Counter({kind.value: times for kind, times in net.faults.fired.items()})
    fired.update({kind.value: times for kind, times in happening.happened.items()})
    return Report(seed, fired, net.relay.stream.last_seq, settled_s, loop.time() - began)


def _settings(net: Devnet) -> dict[str, dict[str, object]]:
    return {
        "firehose": {
            "url": net.relay_url,
            "start": "oldest",
            "idle_s": 60,
            "on_future_cursor": "live",
        },
        "identity": {"plc_url": net.plc_url, "handle_resolver_url": net.handle_resolver_url},
        "network": {"allow_private_hosts": True},
    }


async def _traffic(
    activity: Activity,
    happening: Mishaps,
    mishaps: list[tuple[int, Mishap]],
    events: int,
    rng: random.Random,
) -> None:
    """Deeds in bursts, with pauses in which the daemon may come between, and what befalls it."""
    waiting = list(mishaps)
    deadline = activity.net.relay.stream
    while deadline.last_seq < events or waiting:
        await activity.steps(rng.randrange(1, 12))
        await asyncio.sleep(rng.choice(PAUSES_S) * rng.random())
        if waiting and deadline.last_seq >= waiting[0][0]:
            await happening.happen(waiting.pop(0)[1])


async def _until_fired(activity: Activity, subject: Subject) -> None:
    """Go on until the last fault has happened; what awaits a fetch or a dial is brought on."""
    net = activity.net
    subscriptions = net.relay.subscriptions
    dropped = 0  # the connection that was ended for the sake of the next one
    for number in range(LOOKS_MAX):
        unfired = net.faults.unfired()
        if not unfired:
            return
        if not subscriptions.open:
            await asyncio.sleep(LOOK_S)
            continue
        await activity.steps(2)
        if number % 8 == 0:
            _bring_on(net, unfired)
        if any(map(_awaits_fetch, unfired)):
            account = net.rng.choice(list(net.accounts.values()))
            await subject.daemon.call(
                "pub.chive.admin.triggerBackfill", type="didSync", did=account.did
            )
        await asyncio.sleep(LOOK_S)
        if any(map(_awaits_dial, unfired)) and subscriptions.connections > dropped:
            dropped = subscriptions.connections
            net.relay.server.drop_connections()


def _awaits_fetch(fault: Fault) -> bool:
    return fault.where.get("service") in ("pds", "plc") or fault.kind in DOCUMENTS


def _awaits_dial(fault: Fault) -> bool:
    return "at" in fault.where or fault.kind in DIALS


def _bring_on(net: Devnet, unfired: list[Fault]) -> None:
    """Move faults whose moment went by unseen to one that comes."""
    newest = net.relay.stream.last_seq
    for fault in unfired:
        fault.skip = 0
        seq = fault.where.get("seq")
        if isinstance(seq, int):
            fault.where["seq"] = newest + 2
        if "at" in fault.where:
            fault.where["at"] = 1
        if fault.where.get("endpoint") == "plc.export":
            # The log is read once in a long while, a document for every account that is asked for.
            fault.where["endpoint"] = "plc.document"
    if not LISTS.isdisjoint(fault.kind for fault in unfired):
        net.faults.schedule(FaultKind.INFO_FRAME)


async def _settle(net: Devnet, subject: Subject, *, is_told: bool, has_believed: bool) -> float:
    """Honest last deeds, one an account, or one alone and the news of a loss; then equality.

    With `has_believed` an account may have signed a rev of the future when our clock was there, too.
    """
    visible = [account for account in net.accounts.values() if net.is_visible(account)]
    told = net.faults.schedule(FaultKind.INFO_FRAME, times=None) if is_told and visible else None
    for number, account in enumerate(visible[: 1 if told else None]):
        net.create(
            account,
            "pub.chive.eprint.userTag",
            {
                "$type": "pub.chive.eprint.userTag",
                "eprintUri": f"at://{account.did}/pub.chive.eprint.submission/x",
                "tag": f"last {number}",
                "createdAt": "2026-01-01T00:00:00Z",
            },
        )
        await asyncio.sleep(0)
    try:
        settled_s = await _until_equal(net, subject, has_believed=has_believed)
    except AssertionError as error:
        error.add_note("\n".join(_unsettled(subject)))
        raise
    if told is not None:
        # A resync may have brought the last deed before the stream did.
        await net.faults.wait_fired(told, timeout_s=SETTLE_S)
        await wait_until(_is_gap_known(subject), what="the gap")
    return settled_s


async def _until_equal(net: Devnet, subject: Subject, *, has_believed: bool) -> float:
    """Wait until the store equals the truth, looking whenever the file has changed."""
    now = asyncio.get_running_loop().time
    database = subject.database
    began = asked = now()
    seen = None
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        while now() - began < SETTLE_S:
            version = reader.execute("PRAGMA data_version").fetchone()
            if version != seen and is_equal(net, database, heads=True):
                break
            seen = version
            if has_believed and now() - asked > CONSENT_S:
                await _consent(net, subject)
                asked = now()
            await asyncio.sleep(LOOK_S)
    assert_store_equals(net, database)
    assert_heads_equal(net, database)
    assert_no_bugs(database)
    return now() - began


def _assert_derived_rows_agree(database: Path) -> None:
    """What the oracle does not know: typed rows, search rows and totals are what the records say."""
    prepare = partial(prepare_stored, registry=REGISTRY)
    with open_reader(database) as reader:
        found = list(Verification(reader, REGISTRY.types, SEARCH, prepare).differences())
    assert not found, found[:DIFFERENCES_SHOWN]
    broken = check_search_index(database, SEARCH)
    assert broken is None, broken


async def _consent(net: Devnet, subject: Subject) -> None:
    """Accept as an operator what a host serves that is older than a rev which we have believed.

    For us such a host was set back, and nobody else may decide that what we hold is to go.
    """
    for did, rev in subject.daemon.rows("SELECT did, rev FROM repo WHERE rev IS NOT NULL"):
        account = net.accounts.get(did)
        if account is not None and net.is_visible(account) and rev > (net.repo(account).rev or ""):
            await subject.daemon.call(
                "pub.chive.admin.triggerBackfill", type="didSync", did=did, acceptRollback=True
            )


def _is_gap_known(subject: Subject) -> Callable[[], bool]:
    query = "SELECT 1 FROM gaps WHERE reason = 'outdated_cursor'"
    return lambda: bool(subject.daemon.rows(query))


def _unsettled(subject: Subject) -> list[str]:
    """Every repo that is not simply active: for the reader of a failure."""
    rows = subject.daemon.rows(
        "SELECT did, state, account_status, wanted, claimed, attempts, desyncs,"
        " round(retry_at - ?), rev, reason FROM repo"
        " WHERE state <> 'active' OR account_status <> 'active' OR wanted OR claimed",
        subject.clock.now(),
    )
    return [
        "did, state, status, wanted, claimed, attempts, desyncs, due in, rev, reason",
        *map(str, rows),
    ]


@contextmanager
def _alarm() -> Iterator[None]:
    """End what hangs, so that its seed is named and the campaign goes on."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"more than {REAL_S_MAX} s of real time")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(REAL_S_MAX)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
