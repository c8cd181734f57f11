"""A freshness scan over a real store: how little it asks, in which order, and what a restart keeps."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from indexer.errors import LocalBusy, Unavailable
from indexer.listings import Listed, ListingPage
from indexer.metrics import Metrics
from indexer.model import AccountStatus, Operation, OperationStatus
from indexer.operations.freshness_scan import FreshnessScan
from storage.freshness import FreshnessStore
from tests.storage.conftest import World
from tests.storage.test_operations import Engine, engine, until

SCOPE = "scope"
REV = "3kaaaaaaaaa22"
PAGE = 1000
HOST_A, HOST_B = "https://a.example", "https://b.example"


class Hosts:
    """Hosts that know all their repos at the same rev, page by page, or one by one."""

    def __init__(self, repos: dict[str, list[str]], *, lists: bool = True) -> None:
        self.repos = repos
        self.lists = lists
        self.pages: Counter[str] = Counter()
        self.asked: list[str] = []
        self.gate = asyncio.Semaphore(10**6)  # single questions that are answered
        self.failures = 0  # of lists, to come
        self.shortages = 0  # of this machine, to come

    async def of_host(self, pds_url: str, cursor: str | None) -> ListingPage | None:
        self._connect()
        self.pages[pds_url] += 1
        if self.failures:
            self.failures -= 1
            raise Unavailable("no answer")
        if not self.lists:
            return None
        start = int(cursor or 0)
        page = self.repos[pds_url][start : start + PAGE]
        return ListingPage(
            tuple(Listed(did, AccountStatus.ACTIVE, REV) for did in page),
            str(start + PAGE) if page else None,
        )

    async def fetch_status(self, pds_url: str, did: str) -> Listed | None:
        self._connect()
        await self.gate.acquire()
        self.asked.append(did)
        known = did in self.repos[pds_url]
        return Listed(did, AccountStatus.ACTIVE, REV) if known else None

    async def sync_listed(self, did: str, on_compared: object) -> object:
        raise AssertionError(f"{did} is current")

    def _connect(self) -> None:
        if self.shortages:
            self.shortages -= 1
            raise LocalBusy("no socket: Too many open files")


def dids(host: str, count: int) -> list[str]:
    return [f"did:web:{host}{number:05}.example" for number in range(count)]


def track(world: World, pds_url: str, names: list[str], *, verified_at: float = 1.0) -> None:
    """Complete repos at `REV`."""
    with closing(sqlite3.connect(world.path)) as connection, connection:
        connection.executemany(
            "INSERT INTO repo (did, state, account_status, account_at, pds_url, identity_at, rev,"
            " data, scope_id, wanted, claimed, claim, priority, retry_at, attempts, desyncs,"
            " synced_at, verified_at, tracked_since, updated_at)"
            " VALUES (?, 'active', 'active', 0, ?, 0, ?, 'root', ?, 0, 0, 0, 2, 0, 0, 0, 0, ?,"
            " '2026', '2026')",
            [(did, pds_url, REV, SCOPE, verified_at + at) for at, did in enumerate(names)],
        )


def scan_of(world: World, hosts: Hosts) -> FreshnessScan:
    scan = FreshnessScan(
        FreshnessStore(world.database, clock=world.clock), hosts, hosts, hosts,
        scope_id=SCOPE, stream_at=lambda: world.clock.at, clock=world.clock,
    )  # fmt: skip
    scan.metrics = Metrics()
    return scan


async def verified(world: World) -> int:
    return (await world.rows("SELECT count(*) FROM repo WHERE verified_at >= ?", world.clock.at))[
        0
    ][0]


async def test_a_host_of_many_unchanged_repos_is_asked_for_its_list_alone(world: World):
    names = dids("a", 3 * PAGE)
    track(world, HOST_A, names)
    hosts = Hosts({HOST_A: [*dids("others", 10), *names]})
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(await one.runner.start("freshnessScan", {}, started_by=None))
    assert ended.status is OperationStatus.COMPLETED, ended.error
    assert ended.outcomes == {"current": len(names)}
    assert (ended.units_processed, ended.total_units) == (len(names), len(names))
    assert (hosts.pages[HOST_A], hosts.asked) == (4, [])
    assert await verified(world) == len(names)


async def test_few_repos_at_a_large_host_are_asked_for_one_by_one_oldest_first(world: World):
    names = dids("a", 3)
    track(world, HOST_A, names[::-1])
    hosts = Hosts({HOST_A: [*dids("others", 5 * PAGE), *names]})
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(await one.runner.start("freshnessScan", {}, started_by=None))
    assert ended.outcomes == {"current": 3}
    assert (hosts.pages[HOST_A], hosts.asked) == (1, names[::-1])


async def test_a_restart_asks_about_nothing_that_was_settled_and_reads_lists_on(world: World):
    names = {HOST_A: dids("a", 40), HOST_B: dids("b", 40)}
    for number, (url, of_host) in enumerate(names.items()):
        track(world, url, of_host, verified_at=100.0 * number)
    hosts = Hosts(names, lists=False)
    hosts.gate = asyncio.Semaphore(30)
    async with engine(world, scan_of(world, hosts)) as one:
        operation = await one.runner.start("freshnessScan", {}, started_by=None)

        async def is_stuck() -> bool:
            row = await one.rows.load(operation.id)
            return row is not None and row.units_processed == 30

        await until(is_stuck)
    assert len(hosts.asked) == 30
    hosts.gate = asyncio.Semaphore(10**6)
    async with engine(world, scan_of(world, hosts)) as two:
        ended = await two.ended(operation)
    assert ended.outcomes == {"current": 80}
    assert sorted(hosts.asked) == sorted(names[HOST_A] + names[HOST_B])  # each once
    assert hosts.pages == {HOST_A: 1, HOST_B: 1}


async def test_every_repo_is_visited_before_any_is_visited_twice_though_scans_are_cancelled(
    world: World,
):
    names = {HOST_A: dids("a", 20), HOST_B: dids("b", 20)}
    for url, of_host in names.items():
        track(world, url, of_host)
    hosts = Hosts(names, lists=False)
    for visited in (15, 30):
        hosts.gate = asyncio.Semaphore(15)
        async with engine(world, scan_of(world, hosts)) as one:
            cut = await one.runner.start("freshnessScan", {}, started_by=None)

            async def is_stuck(cut: Operation = cut, one: Engine = one) -> bool:
                row = await one.rows.load(cut.id)
                return row is not None and row.units_processed == 15

            await until(is_stuck)
            assert len(hosts.asked) == len(set(hosts.asked)) == visited
            assert await one.runner.cancel(cut.id)
            await one.ended(cut)
        world.clock.at += 100
    hosts.gate = asyncio.Semaphore(10**6)
    before = len(hosts.asked)
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(await one.runner.start("freshnessScan", {}, started_by=None))
    assert ended.outcomes == {"current": 40}
    assert Counter(hosts.asked[before:]) == Counter(names[HOST_A] + names[HOST_B])
    # Of each host, too, those that no scan had come to came before the others.
    for of_host in names.values():
        asked = [did for did in hosts.asked if did in of_host]
        assert set(asked[:20]) == set(of_host)


async def test_a_repo_that_was_verified_in_the_future_is_visited_as_if_never_verified(
    world: World,
):
    """The clock that wrote the time was ahead, and was set while nothing ran."""
    names = dids("a", 3)
    track(world, HOST_A, names[:1])
    track(world, HOST_A, names[1:], verified_at=world.clock.at + 1.0)
    hosts = Hosts({HOST_A: names}, lists=False)
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(await one.runner.start("freshnessScan", {}, started_by=None))
    assert (ended.outcomes, sorted(hosts.asked)) == ({"current": 3}, names)


async def test_a_repo_that_others_have_compared_does_not_count_as_compared_when_it_is_settled(
    world: World,
):
    """A loss may have come in between: what its repair need not ask about is told by that time."""
    compared, left = dids("a", 1), dids("b", 3)
    compared_at = world.clock.at
    track(world, HOST_A, compared, verified_at=compared_at)
    track(world, HOST_B, left)
    hosts = Hosts({HOST_A: compared, HOST_B: left}, lists=False)
    hosts.gate = asyncio.Semaphore(0)
    async with engine(world, scan_of(world, hosts)) as one:
        operation = await one.runner.start("freshnessScan", {}, started_by=None)
        async with asyncio.timeout(5):
            while not hosts.pages[HOST_B]:
                await asyncio.sleep(0.005)
        world.clock.at += 100.0
        for _ in left:
            hosts.gate.release()
        ended = await one.ended(operation)
    assert (ended.outcomes, sorted(hosts.asked)) == ({"current": 4}, left)
    asked_at = [(world.clock.at,)] * len(left)
    assert await world.rows("SELECT verified_at FROM repo ORDER BY id") == [
        (compared_at,),
        *asked_at,
    ]


async def test_a_host_that_fails_for_a_moment_is_asked_again(world: World):
    names = dids("a", 5)
    track(world, HOST_A, names)
    hosts = Hosts({HOST_A: names})
    hosts.failures = 1
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(await one.runner.start("freshnessScan", {}, started_by=None))
    assert (ended.outcomes, hosts.pages[HOST_A], hosts.asked) == ({"current": 5}, 2, [])


@pytest.mark.parametrize(("repos", "asked_singly"), [(3, 0), (1, 1)])
async def test_a_short_shortage_of_descriptors_fails_no_scan(
    world: World, repos: int, asked_singly: int
):
    """Neither over the list of a host nor over a question about a single repo."""
    names = dids("a", repos)
    track(world, HOST_A, names)
    hosts = Hosts({HOST_A: names})
    hosts.shortages = 1
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(await one.runner.start("freshnessScan", {}, started_by=None))
    assert (ended.status, ended.outcomes) == (OperationStatus.COMPLETED, {"current": repos})
    assert (len(hosts.asked), hosts.shortages) == (asked_singly, 0)


async def test_repos_of_others_and_new_ones_are_no_units_of_a_scan(world: World):
    track(world, HOST_A, dids("a", 4))
    track(world, HOST_B, dids("b", 1))
    hosts = Hosts({HOST_A: [*dids("b", 1), *dids("a", 4)], HOST_B: []})

    async def nothing(did: str, on_compared: object) -> object:
        hosts.asked.append(f"attempt at {did}")
        return None

    hosts.sync_listed = nothing
    hosts.gate = asyncio.Semaphore(0)
    async with engine(world, scan_of(world, hosts)) as one:
        operation = await one.runner.start("freshnessScan", {}, started_by=None)

        async def are_settled() -> bool:
            row = await one.rows.load(operation.id)
            return row is not None and row.units_processed == 4

        await until(are_settled)  # the word of A on the repo of B has settled nothing
        track(world, HOST_B, dids("c", 1))
        hosts.gate.release()
        await until(lambda: attempted(hosts))
        assert hosts.asked == [*dids("b", 1), f"attempt at {dids('b', 1)[0]}"]
        assert await one.runner.cancel(operation.id)
        row = await one.ended(operation)
    assert (row.units_processed, row.total_units) == (4, 5)


async def attempted(hosts: Hosts) -> bool:
    return len(hosts.asked) == 2


AT_WORK = "SELECT unit FROM operation_unit_begun WHERE is_at_work"


async def test_a_repo_over_which_the_process_ends_twice_is_poisoned(world: World):
    names = dids("a", 2)
    track(world, HOST_A, names)
    hosts = Hosts({HOST_A: names[:1]}, lists=False)
    attempts: list[str] = []

    async def hang(did: str, on_compared: object) -> object:
        attempts.append(did)
        return await asyncio.Event().wait()

    hosts.sync_listed = hang
    for number in (1, 2):
        async with engine(world, scan_of(world, hosts)) as one:
            operation = await one.runner.start("freshnessScan", {}, started_by=None)

            async def is_under_way(number: int = number) -> bool:
                return len(attempts) == number

            await until(is_under_way)
            assert await world.rows(AT_WORK) == [(names[1],)]
        with closing(sqlite3.connect(world.path)) as connection, connection:  # as a kill leaves it
            connection.execute("UPDATE operation_unit_begun SET is_at_work = 1")
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(operation)
    assert ended.outcomes == {"current": 1, "poisoned": 1}
    assert (ended.units_failed, attempts) == (1, [names[1]] * 2)


async def test_nothing_is_poisoned_by_what_a_repo_waits_for_after_its_attempt(world: World):
    names = dids("a", 1)
    track(world, HOST_A, names)
    hosts = Hosts({HOST_A: []}, lists=False)

    async def come_to_nothing(did: str, on_compared: object) -> object:
        hosts.asked.append(f"attempt at {did}")
        return None

    hosts.sync_listed = come_to_nothing
    async with engine(world, scan_of(world, hosts)) as one:
        await one.runner.start("freshnessScan", {}, started_by=None)
        await until(lambda: attempted(hosts))

        async def is_put_down() -> bool:
            return await world.rows(AT_WORK) == []

        await until(is_put_down)
        assert await world.rows("SELECT count(*) FROM operation_unit") == [(0,)]


async def test_a_repo_that_is_tracked_no_more_is_not_waited_for(world: World):
    names = dids("a", 2)
    track(world, HOST_A, names)
    hosts = Hosts({HOST_A: names[:1]}, lists=False)

    async def forget(did: str, on_compared: object) -> object:
        with closing(sqlite3.connect(world.path)) as connection, connection:
            connection.execute("DELETE FROM repo WHERE did = ?", (did,))
        hosts.asked.append(f"attempt at {did}")
        return None

    hosts.sync_listed = forget
    async with engine(world, scan_of(world, hosts)) as one:
        ended = await one.ended(await one.runner.start("freshnessScan", {}, started_by=None))
    assert hosts.asked == [*names, f"attempt at {names[1]}"]
    assert (ended.status, ended.outcomes) == (OperationStatus.COMPLETED, {"current": 1})
