"""Power loss: what a daemon writes is recorded, cut anywhere, and opened as the machine left it.

Owns the model of a disk. What was written before the last sync of a file is there. Of what was
written since, a cut leaves nothing, all, or any sectors of it: a disk promises no order. Names that
are made or removed are taken for durable at once, which SQLite sees to where it matters. The index
of the log is memory, and never survives.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.database import open_database
from tests.crash.history import RememberingDevnet, check_past
from tests.crash.kills import catch_up
from tests.crash.process import Life, check_file, configure, settings
from tests.crash.requests import TRIGGER, Requests
from tests.crash.vfs import Layer
from tests.devnet import Activity
from tests.e2e.daemon import running_daemon
from tests.oracle import wait_until_equal

SECTOR = 512
LEFT = ("nothing", "everything", "some sectors")
"""What is left of the writes after the last sync."""

COMMITTED = "committed"
PROMISED = "promised"
MOMENTS = {"after-commit": COMMITTED, "after-sync": PROMISED}
ACCOUNTS = 8
RECORDS = 150  # of one repo that comes at once
DEEDS = 60
OPERATIONS: tuple[dict[str, Any], ...] = (
    {"type": "fullReindex", "mode": "pause"},
    {"type": "freshnessScan"},
)

State = tuple[int | None, tuple[tuple[str, str | None, str], ...]]
"""Where a store stands: its cursor, and each repo as (DID, rev, state)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of SQLite's file layer, or the moment in which the daemon took a commit for done.

    A commit that was promised is one that no loss of power may take.
    """

    call: str  # write | truncate | sync | delete | committed | promised
    file: str = ""
    at: int = 0  # offset of a write, length of a truncation
    data: bytes = b""


@dataclass(slots=True)
class Losses:
    """What one recording came to."""

    steps: int = 0
    syncs: int = 0
    commits: int = 0
    promises: int = 0
    cuts: dict[str, int] = field(default_factory=dict)  # what was left -> states opened
    states: int = 0  # different ones among them, by the cursor and the commits of the repos
    caught_up: int = 0
    took_s: float = 0.0


class Disk:
    """The files of a store, as a sequence of steps leaves them."""

    def __init__(self) -> None:
        self._durable: dict[str, bytearray] = {}
        self._pending: dict[str, list[Step]] = {}
        self._has_written = False  # to the log, since the last commit
        self._has_changed = False  # with that commit

    def take(self, step: Step) -> None:
        """Do what the step says. A commit that is promised and not durable fails."""
        match step.call:
            case "delete":
                self._durable.pop(step.file, None)
                self._pending.pop(step.file, None)
            case "sync":
                content = self._durable.setdefault(step.file, bytearray())
                for each in self._pending.pop(step.file, ()):
                    _put(content, each)
            case "committed":
                self._has_changed, self._has_written = self._has_written, False
            case "promised":
                unsynced = [name for name in self._pending if name.endswith("-wal")]
                assert not (unsynced and self._has_changed), "a promise came before its sync"
            case _:
                self._has_written |= step.file.endswith("-wal")
                self._pending.setdefault(step.file, []).append(step)

    def leave(self, folder: Path, left: str, rng: random.Random) -> None:
        """Write the files as a cut in power leaves them now."""
        for name in self._durable.keys() | self._pending.keys():
            content = bytearray(self._durable.get(name, b""))
            for step in self._pending.get(name, ()):
                for part in _parts(step, left, rng):
                    _put(content, part)
            (folder / name).write_bytes(content)


def _put(content: bytearray, step: Step) -> None:
    if step.call == "truncate":
        del content[step.at :]
        return
    content.extend(bytes(max(step.at - len(content), 0)))
    content[step.at : step.at + len(step.data)] = step.data


def _parts(step: Step, left: str, rng: random.Random) -> list[Step]:
    """What reached the disk of one write or truncation."""
    if left == "everything":
        return [step]
    if left == "nothing":
        return []
    if step.call == "truncate":
        return [step] if rng.random() < 0.5 else []
    return [
        Step(step.call, step.file, step.at + at, step.data[at : at + SECTOR])
        for at in range(0, len(step.data), SECTOR)
        if rng.random() < 0.5
    ]


async def run_power(
    seed: int, folder: Path, *, cuts_max: int, caught_up_max: int, lives: int = 2
) -> Losses:
    """Record a daemon's writes, and open what so many cuts in power leave of them."""
    began = time.monotonic()
    losses = Losses()
    rng = random.Random(seed)
    async with RememberingDevnet(seed) as net:
        steps = await _record(net, folder / "recorded", lives)
        losses.steps = len(steps)
        calls = Counter(step.call for step in steps)
        losses.syncs = calls["sync"]
        losses.commits, losses.promises = calls[COMMITTED], calls[PROMISED]
        chosen = _choose(steps, cuts_max, rng)
        caught_up = set(rng.sample(sorted(chosen), min(caught_up_max, len(chosen))))
        cuts: Counter[str] = Counter()
        found: set[State] = set()
        disk = Disk()
        for number, step in enumerate(steps):
            if number in chosen:
                left = LEFT[sum(cuts.values()) % len(LEFT)]
                place = folder / f"cut-{number}"
                place.mkdir()
                disk.leave(place, left, rng)
                found.add(await _check(net, place / "index.db"))
                cuts[left] += 1
                if number in caught_up:
                    await _catch_up(net, place, rng)
                    losses.caught_up += 1
                shutil.rmtree(place)
            disk.take(step)
    losses.cuts, losses.states = dict(cuts), len(found)
    losses.took_s = time.monotonic() - began
    return losses


def _choose(steps: list[Step], most: int, rng: random.Random) -> set[int]:
    """Places of cuts: before and after syncs, and between them."""
    syncs = [number for number, step in enumerate(steps) if step.call == "sync"]
    places = {*syncs, *(number + 1 for number in syncs if number + 1 < len(steps))}
    places.update(rng.sample(range(len(steps)), min(len(syncs), len(steps))))
    return set(rng.sample(sorted(places), min(most, len(places))))


async def _record(net: RememberingDevnet, folder: Path, lives: int) -> list[Step]:
    """A daemon's lives with traffic, resyncs and operations; every step of its store."""
    steps: list[Step] = []
    ours = ("index.db", "index.db-wal", "index.db-journal")

    def hook(call: str, path: str, at: int, data: bytes) -> None:
        name = Path(path).name
        if Path(path).parent == folder and name in ours and call not in ("open", "lock"):
            steps.append(Step(call, name, at, data))

    def reach(moment: str) -> None:
        if moment in MOMENTS:
            steps.append(Step(MOMENTS[moment]))

    activity = Activity(net, accounts_max=ACCOUNTS, is_calm=True)
    await activity.steps(DEEDS)
    values = settings(folder, net)
    with Layer(hook).installed():
        for life in range(lives):
            rng = random.Random(net.seed + life)  # names operations
            net.import_records(await net.create_account(), RECORDS)
            async with running_daemon(folder, values, rng=rng, reach=reach) as daemon:
                for operation in OPERATIONS:
                    await activity.steps(DEEDS)
                    status, answer = await daemon.call(TRIGGER, **operation)
                    assert status == 200, answer
                    await activity.steps(DEEDS)
                    await wait_until_equal(net, daemon.database, 60.0)
    assert not (folder / "index.db-wal").exists(), "the last step is not the end of the store"
    return steps


async def _check(net: RememberingDevnet, database: Path) -> State:
    """Open the store as a start does; it must be sound and a past of the network. Which one."""
    async with open_database(database):
        pass
    check_file(database)
    check_past(net, database)
    with closing(sqlite3.connect(database)) as db:
        (cursor,) = db.execute("SELECT max(seq) FROM firehose_cursor").fetchone()
        return cursor, tuple(db.execute("SELECT did, rev, state FROM repo ORDER BY did"))


async def _catch_up(net: RememberingDevnet, folder: Path, rng: random.Random) -> None:
    """A daemon started on what is left becomes equal to the network."""
    requests = Requests(net, rng)
    async with Life(configure(folder, net)) as life:
        url = await life.started()
        assert url is not None, life.text[-3000:]
        await catch_up(net, requests, url, folder / "index.db")
        await life.stop()
    check_file(folder / "index.db")
