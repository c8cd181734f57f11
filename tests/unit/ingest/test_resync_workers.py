"""The workers of the resync among hosts that answer, hang and refuse."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Self

import pytest

from indexer.ingest.admission import DailyAdmission
from indexer.ingest.places import AT_HOST, PLACES
from indexer.ingest.resync_workers import ResyncWorkers
from indexer.lanes import Standing
from indexer.model import Wanted
from storage.admissions import AdmissionStore
from storage.room import Room
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.keys import derive_key
from tests.devnet.plc import Identity
from tests.oracle import assert_store_equals
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(11)
DEADLINE_S = 60.0

AT_HOST_ONLY = Wanted.ACCOUNT | Wanted.CONTENT


class SilentHosts:
    """Hosts that accept connections and say nothing."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = AsyncExitStack()
        self.urls: list[str] = []
        self.asked: set[int] = set()
        self.waiting = 0
        self.waiting_max = 0

    async def __aenter__(self) -> Self:
        for number in range(self._count):
            server = await asyncio.start_server(self._hang(number), "127.0.0.1", 0)
            self._stack.push_async_callback(server.wait_closed)
            self._stack.callback(server.close)
            self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _hang(self, number: int):
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked.add(number)
            self.waiting += 1
            self.waiting_max = max(self.waiting_max, self.waiting)
            try:
                while await reader.read(65536):
                    pass
            except ConnectionError:
                pass
            finally:
                self.waiting -= 1
                writer.close()

        return hang


@asynccontextmanager
async def working(rig: Rig, *, workers: int = 4, room: Room | None = None) -> AsyncIterator[None]:
    crew = ResyncWorkers(
        rig.resyncer,
        rig.store,
        rig.hosts,
        workers=workers,
        discovery_per_s=10_000.0,
        clock=rig.clock,
        is_held=lambda: False,
        admission=DailyAdmission(
            AdmissionStore(rig.database, room or Room(), clock=rig.clock), rig.hosts, rig.metrics
        ),
    )
    task = asyncio.create_task(crew.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()
        # As the next start does. Not before what they have left in the writer's queue, though they
        # were cancelled: a claim among it would be of a repo that came later, and nobody's.
        await rig.store.give_back_all()


async def until_active(rig: Rig, accounts: Sequence[Account]) -> None:
    wanted = {account.did for account in accounts}
    async with asyncio.timeout(DEADLINE_S):
        while True:
            rows = await rig.rows("SELECT did FROM repo WHERE state = 'active' AND wanted = 0")
            if wanted <= {row[0] for row in rows}:
                return
            await asyncio.sleep(0.02)


async def followed(net: Devnet, rig: Rig, hosts: int, each: int) -> list[Account]:
    accounts = [await net.create_account(pds) for _ in range(each) for pds in range(hosts)]
    for account in accounts:
        net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    return accounts


def change_unheard(net: Devnet, accounts: Sequence[Account]) -> None:
    for account in accounts:
        net.import_records(account, 2, [TAG])


async def strand(rig: Rig, urls: Sequence[str], each: int, wanted: Wanted = AT_HOST_ONLY) -> None:
    """Tracked repos at these hosts, due for longer than any other."""
    net = rig.net
    rows = []
    for number in range(len(urls) * each):
        did, url = net.plc.new_did(100_000 + number), urls[number % len(urls)]
        net.plc.publish(Identity(did, None, derive_key("p256", 1, number), url))
        rows.append((did, url, wanted))

    def insert(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO repo (did, pds_url, host_group, state, account_status, account_at,"
            " identity_at, rev, wanted, claimed, claim, priority, retry_at, attempts, desyncs,"
            " synced_at, verified_at, is_admitted, tracked_since, updated_at)"
            " VALUES (?, ?, '', 'desynchronized', 'active', 0, 0, '3kaaaaaaaaaaa', ?, 0, 0, 1, 1,"
            " 0, 0, 0, 0, 1, '2026-01-01T00:00:00Z', '')",
            rows,
        )

    await rig.database.write(insert)


@pytest.mark.parametrize("wanted", [AT_HOST_ONLY, AT_HOST_ONLY | Wanted.IDENTITY])
async def test_repos_of_hosts_that_answer_do_not_wait_for_five_hundred_that_hang(
    tmp_path: Path, wanted: Wanted
):
    """All places at unknown hosts are taken throughout, and none of them was needed."""
    async with (
        Devnet(seed=3, pds_count=20) as net,
        open_rig(net, tmp_path) as rig,
        SilentHosts(500) as silent,
    ):
        accounts = await followed(net, rig, 20, 2)
        async with working(rig):
            await until_active(rig, accounts)
            await strand(rig, silent.urls, 1, wanted)
            change_unheard(net, accounts)
            rig.resyncer.wake()
            async with asyncio.timeout(DEADLINE_S):
                while silent.waiting < PLACES[Standing.UNKNOWN] // 2:
                    await asyncio.sleep(0.005)
            await rig.hear()
            rig.resyncer.wake()
            await until_active(rig, accounts)
            asked = len(silent.asked)
        assert asked < 500
        assert silent.waiting_max <= PLACES[Standing.UNKNOWN] + PLACES[Standing.FAILED]
        await rig.database.write(
            lambda c: c.execute("DELETE FROM repo WHERE rev = '3kaaaaaaaaaaa'")
        )
        assert_store_equals(net, rig.path)


async def test_hosts_that_nobody_asked_yet_are_found_among_those_that_hang(tmp_path: Path):
    count = PLACES[Standing.UNKNOWN] + 40
    async with (
        Devnet(seed=4, pds_count=4) as net,
        open_rig(net, tmp_path) as rig,
        SilentHosts(count) as silent,
    ):
        await strand(rig, silent.urls, 1)
        accounts = await followed(net, rig, 4, 2)
        await rig.database.write(
            lambda c: c.execute(
                "UPDATE repo SET rev = '3k', priority = 1, state = 'error' WHERE rev IS NULL"
            )
        )
        async with working(rig):
            await until_active(rig, accounts)


async def test_a_host_that_refused_hears_nothing_until_its_window_ends(tmp_path: Path):
    async with Devnet(seed=5, pds_count=2) as net, open_rig(net, tmp_path) as rig:
        accounts = await followed(net, rig, 2, 12)
        refusal = net.faults.schedule(
            FaultKind.HTTP_429, service="pds", host=1, retry_after_s=2, skip=3
        )
        refused_at = None
        async with working(rig):
            async with asyncio.timeout(DEADLINE_S):
                while not refusal.fired:
                    await asyncio.sleep(0.001)
                refused_at = time.monotonic()
            await until_active(rig, [each for each in accounts if each.pds == 0])
            while time.monotonic() < refused_at + 1.5:
                await asyncio.sleep(0.05)
        late = [seen for seen in net.pds[1].server.seen if seen.at > refused_at + 0.1]
        assert not [seen for seen in late if seen.at < refused_at + 1.5]


async def test_one_host_has_few_attempts_at_a_time(tmp_path: Path):
    async with Devnet(seed=6, pds_count=2) as net, open_rig(net, tmp_path) as rig:
        accounts = await followed(net, rig, 2, 10)
        slow = net.faults.schedule(FaultKind.HTTP_DELAY, times=None, service="pds", seconds=0.02)
        async with working(rig, workers=8):
            await until_active(rig, accounts)
        assert slow.fired
        assert max(pds.server.busy_max for pds in net.pds) <= AT_HOST[Standing.ANSWERS]
        assert_store_equals(net, rig.path)


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_stop_gives_everything_back(tmp_path: Path, workers: int):
    async with Devnet(seed=7, pds_count=2) as net, open_rig(net, tmp_path) as rig:
        accounts = await followed(net, rig, 2, 6)
        hang = net.faults.schedule(FaultKind.HTTP_HANG, times=None, service="pds")
        async with working(rig, workers=workers):
            await net.faults.wait_fired(hang)
        left = await rig.rows("SELECT count(*) FROM repo WHERE claimed <> 0")
        assert left[0][0] <= 2  # what was just being claimed: the next start gives it back
        await rig.store.give_back_all()
        net.faults.clear()
        async with working(rig, workers=workers):
            await until_active(rig, accounts)


async def test_what_a_cancelled_operation_could_not_give_back_is_worked_on_once_the_store_is_free(
    tmp_path: Path,
):
    """Else the repo would be nobody's, and stay as it is until the next start."""
    async with Devnet(seed=8) as net, open_rig(net, tmp_path) as rig:
        accounts = await followed(net, rig, 1, 1)
        hang = net.faults.schedule(FaultKind.HTTP_HANG, endpoint="com.atproto.sync.getRepo")
        attempt = asyncio.create_task(rig.resyncer.sync_now(accounts[0].did))
        await net.faults.wait_fired(hang)
        await rig.database.write(lambda connection: connection.execute("PRAGMA busy_timeout=0"))
        with closing(sqlite3.connect(rig.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            attempt.cancel()
            await asyncio.wait([attempt])
        async with working(rig):
            await until_active(rig, accounts)
        assert_store_equals(net, rig.path)
