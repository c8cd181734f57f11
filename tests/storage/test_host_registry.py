"""The registry of hosts: who holds one, when it is due, and what is counted once."""

from __future__ import annotations

import itertools
import sqlite3

import pytest

from indexer.hosts import (
    LEASE_S,
    RETRY_S_MAX,
    RETRY_S_MIN,
    HostOutcome,
    HostPass,
    HostSource,
    HostState,
    PageTaken,
    ScanLimits,
    StrangerOutcome,
    retry_s,
)
from indexer.ingest.attempts import Result, Resync
from indexer.listings import Listed, ListingPage
from indexer.model import (
    AccountStatus,
    Json,
    Operation,
    OperationMode,
    OperationStatus,
    OperationType,
    Scope,
    SettledUnit,
)
from indexer.operations.host_pass import HostScan, ScanParts
from indexer.operations.operation import Context
from storage.hosts import HostStore
from storage.leftovers import HOSTS, ROWS_AT_ONCE, LeftoverUpkeep
from storage.operation_units import OperationUnits
from storage.operations import OperationStore
from storage.scans import DAY_S, ScanStore
from tests.storage.conftest import DID, World, add_repos, commit, put, walk, writer_steps

URL = "https://pds.example.com"
OTHER = "https://other.example.com"
LIMITS = ScanLimits(
    interval_s=86_400.0,
    interval_empty_s=604_800.0,
    asked_max=3,
    ask_again_days=30,
    remembered_max=1000,
    scope_id="scope",
)


_REPOS = """
WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT ?1)
INSERT INTO repo (did, pds_url, state, account_status, account_at, identity_at, wanted, claimed,
                  claim, priority, retry_at, attempts, desyncs, synced_at, verified_at,
                  tracked_since, updated_at)
SELECT 'did:plc:' || value, ?2, 'active', 'active', 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, '', '' FROM n
"""


async def change(world: World, sql: str, *parameters: object) -> None:
    await world.database.write(lambda connection: connection.execute(sql, parameters).rowcount)


class Registry:
    """The stores of one world, and operations that hold hosts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts = HostStore(world.database, limits=LIMITS, clock=world.clock)
        self.scans = ScanStore(world.database, limits=LIMITS, clock=world.clock)
        self.operations = OperationStore(world.database, clock=world.clock)

    async def operation(self, identifier: str, key: str = "*") -> str:
        await self.operations.insert(
            Operation(
                id=identifier, type=OperationType.PDS_SCAN, key=key,
                mode=OperationMode.SUPPLEMENT, phase="queued", params={},
                status=OperationStatus.RUNNING, started_at=self.world.clock.at,
                completed_at=None, started_by=None, records_processed=0, total_records=None,
                unit="repo", units_processed=0, total_units=None, outcomes={}, checkpoint=None,
                error=None, cancel_requested=False,
            ),
            running_max=10,
        )  # fmt: skip
        return identifier

    async def claim(self, operation_id: str, url: str | None = None, *in_hand: int):
        return await self.hosts.claim(
            operation_id, url, due_at=self.world.clock.at, in_hand=in_hand
        )

    async def held(self, operation_id: str, url: str = URL) -> HostPass:
        found = await self.claim(operation_id, url)
        assert found is not None
        return found

    async def end(self, held: HostPass, error: str | None = None) -> None:
        outcome = HostOutcome.SCANNED if error is None else HostOutcome.UNREACHABLE
        unit = SettledUnit(unit=held.url, outcome=outcome, records=0, is_failed=error is not None)
        await self.hosts.end_pass(held, unit, error=error)

    async def row(self):
        (row,) = await self.hosts.hosts(after="", limit=10)
        return row


@pytest.fixture
async def registry(world: World) -> Registry:
    made = Registry(world)
    await made.hosts.register([URL], HostSource.RELAY)
    return made


async def test_holding_a_host_costs_the_same_however_many_repos_are_elsewhere(world: World):
    registry, steps = Registry(world), itertools.count()
    await change(world, _REPOS, 1000, OTHER)
    await registry.hosts.register([URL, OTHER], HostSource.RELAY)
    operation = await registry.operation("one")
    await world.database.write(lambda c: c.set_progress_handler(lambda: next(steps) < 0, 1))
    held = [await registry.claim(operation, url) for url in (URL, OTHER)]
    await world.database.write(lambda c: c.set_progress_handler(None, 1))
    assert [each.has_repos for each in held] == [False, True]
    assert next(steps) < 1000


async def test_a_host_is_held_by_one_operation_until_it_lets_go(registry: Registry):
    first, second = await registry.operation("one"), await registry.operation("two", URL)
    held = await registry.held(first)
    assert (await registry.row()).status is HostState.SCANNING
    assert await registry.claim(second, URL) is None
    assert await registry.claim(second) is None
    assert await registry.claim(first, None, held.host_id) is None
    await registry.hosts.release(first)
    assert (await registry.row()).status is HostState.PENDING
    assert await registry.claim(second, URL) is not None


async def test_a_lease_runs_out(registry: Registry):
    await registry.held(await registry.operation("one"))
    second = await registry.operation("two", URL)
    registry.world.clock.at += LEASE_S
    assert await registry.claim(second, URL) is not None


async def test_the_lease_of_an_operation_that_has_ended_holds_nobody_up(registry: Registry):
    first, second = await registry.operation("one"), await registry.operation("two", URL)
    await registry.held(first)
    await registry.operations.end(first, OperationStatus.FAILED, "no")
    held = await registry.claim(second, URL)
    assert held is not None and held.pages == 0


async def test_an_interrupted_pass_goes_on_and_another_operation_begins_anew(registry: Registry):
    first = await registry.operation("one")
    held = await registry.held(first)
    page = PageTaken(outcomes={"current": 2}, records=9, cursor="next", is_last=False)
    row = await registry.scans.advance(held, page)
    assert row is not None and (row.units_processed, row.records_processed) == (2, 9)
    again = await registry.claim(first)
    assert again is not None and (again.cursor, again.pages) == ("next", 1)
    await registry.hosts.release(first)
    other = await registry.held(await registry.operation("two", URL))
    assert (other.cursor, other.pages) == (None, 0)
    assert await registry.scans.advance(held, page) is None, "the pass is no longer its own"


async def test_what_an_operation_has_settled_counts_once_and_at_its_host_as_well(
    registry: Registry,
):
    operation = await registry.operation("one")
    held = await registry.held(operation)
    unit = SettledUnit(unit=DID, outcome="fetched", records=4)
    await OperationUnits(registry.world.database).settle(operation, unit)
    assert await registry.scans.settled(operation, [DID, "did:web:a.example"]) == {DID}
    page = PageTaken(
        outcomes={}, records=0, cursor=None, is_last=True,
        outcomes_before={"current": 1}, records_before=4,
    )  # fmt: skip
    row = await registry.scans.advance(held, page)
    assert row is not None and (row.units_processed, row.records_processed) == (1, 4)
    await registry.end(held)
    host = await registry.row()
    assert (host.records, host.outcomes) == (4, {"current": 1})


async def test_a_host_that_is_covered_is_not_said_to_be_scanned(registry: Registry):
    held = await registry.held(await registry.operation("one"))
    assert held.is_relayed
    unit = SettledUnit(unit=held.url, outcome=HostOutcome.COVERED, records=0)
    await registry.hosts.end_pass(held, unit, error=None)
    host = await registry.row()
    assert (host.status, host.scanned_at) == (HostState.PENDING, None)
    assert host.next_scan_at == registry.world.clock.at + LIMITS.interval_empty_s


async def test_a_failed_pass_is_no_scan_and_is_tried_later_each_time(registry: Registry):
    operation = await registry.operation("one")
    for failures, delay_s in enumerate((600.0, 1200.0, 2400.0), start=1):
        await registry.end(await registry.held(operation), "it hangs")
        row = await registry.row()
        assert (row.status, row.error, row.scanned_at) == (
            HostState.UNREACHABLE, "it hangs", None
        )  # fmt: skip
        assert (row.failures, row.failures_total) == (failures, failures)
        assert row.next_scan_at == registry.world.clock.at + delay_s
        assert await registry.claim(operation) is None, "it is not due"
    await registry.end(await registry.held(operation))
    row = await registry.row()
    assert (row.status, row.failures, row.failures_total, row.error) == (
        HostState.EMPTY, 0, 3, None
    )  # fmt: skip


@pytest.mark.parametrize("error", [None, "it hangs"])
async def test_a_host_is_listed_once_by_a_scan_though_the_clock_was_set_back(
    registry: Registry, error: str | None
):
    clock = registry.world.clock
    due_at = clock.at + 30 * DAY_S  # the start of the scan, by a clock that was ahead
    operation = await registry.operation("one")
    held = await registry.hosts.claim(operation, None, due_at=due_at, in_hand=())
    assert held is not None
    await registry.end(held, error)
    assert (await registry.row()).next_scan_at < due_at
    assert await registry.hosts.claim(operation, None, due_at=due_at, in_hand=()) is None
    other = await registry.operation("two", URL)
    assert await registry.hosts.claim(other, None, due_at=due_at, in_hand=()) is not None


def test_the_delay_of_a_host_that_fails_is_bounded():
    assert retry_s(1) == RETRY_S_MIN and retry_s(1000) == RETRY_S_MAX


async def test_a_host_with_records_is_due_the_next_day_and_one_without_the_next_week(
    registry: Registry,
):
    world = registry.world
    operation = await registry.operation("one")
    await registry.end(await registry.held(operation))
    row = await registry.row()
    assert (row.status, row.next_scan_at) == (HostState.EMPTY, world.clock.at + 604_800)
    await world.apply(commit("3kaaaaaaaaa22", None, put("a", "bafy1")))
    await change(world, "UPDATE repo SET pds_url = ?", URL)
    await change(
        world,
        "INSERT INTO record (repo_id, path, cid, rev, source, indexed_at)"
        " SELECT id, 'pub.chive.eprint.userTag/a', 'bafy', '', 'live', '' FROM repo",
    )
    await registry.end(await registry.held(operation))
    row = await registry.row()
    assert (row.status, row.next_scan_at, row.repos) == (
        HostState.ACTIVE, world.clock.at + 86_400, 1
    )  # fmt: skip


async def test_the_host_that_a_did_document_names_is_known_from_then_on(world: World):
    registry = Registry(world)
    await world.apply(commit("3kaaaaaaaaa22", None, put("a", "bafy1")))
    for _ in range(2):
        await change(world, "UPDATE repo SET pds_url = ?", OTHER)
    assert await world.rows("SELECT url, source, status FROM host") == [(OTHER, "repo", "pending")]
    assert await world.rows("SELECT url, status FROM pds_hosts") == [(OTHER, "pending")]
    assert (await registry.hosts.totals())[0] == {"pending": 1}


async def test_only_the_newest_candidates_are_kept_and_the_others_are_counted_once(
    registry: Registry,
):
    held = await registry.held(await registry.operation("one"))
    for _ in range(2):  # a page that is read again after a crash
        await registry.scans.add_candidates(
            held, [(f"did:web:{n}.example", f"3k{n}") for n in range(5)]
        )
    page = PageTaken(outcomes={}, records=0, cursor=None, is_last=True)
    row = await registry.scans.advance(held, page)
    assert row is not None and row.outcomes == {"unasked": 2}
    assert await registry.scans.candidates(held, 10) == [
        f"did:web:{n}.example" for n in (4, 3, 2)
    ]  # fmt: skip
    for _ in range(2):
        row = await registry.scans.dismiss(
            held, "did:web:4.example", StrangerOutcome.OUT_OF_SCOPE, is_answer=True
        )
    assert row is None, "counted before"
    row = await registry.scans.leave(held)
    assert row is not None
    assert row.outcomes == {"unasked": 4, "out_of_scope": 1} and row.units_processed == 5
    assert await registry.scans.candidates(held, 10) == []


async def test_an_answer_is_believed_for_a_month_and_of_its_own_host_alone(registry: Registry):
    held = await registry.held(await registry.operation("one"))
    await registry.scans.add_candidates(held, [(DID, "3k")])
    await registry.scans.dismiss(held, DID, StrangerOutcome.OUT_OF_SCOPE, is_answer=True)
    assert await registry.scans.asked_before(URL, [DID]) == {DID}
    assert await registry.scans.asked_before(OTHER, [DID]) == set()
    registry.world.clock.at += 30 * DAY_S
    assert await registry.scans.asked_before(URL, [DID]) == {DID}
    registry.world.clock.at += DAY_S
    assert await registry.scans.asked_before(URL, [DID]) == set()
    await registry.scans.tidy()
    assert await registry.world.rows("SELECT count(*) FROM asked_repo") == [(0,)]


async def test_an_answer_of_a_day_to_come_is_not_believed(registry: Registry):
    held = await registry.held(await registry.operation("one"))
    await registry.scans.add_candidates(held, [(DID, "3k")])
    await registry.scans.dismiss(held, DID, StrangerOutcome.OUT_OF_SCOPE, is_answer=True)
    registry.world.clock.at -= DAY_S
    assert await registry.scans.asked_before(URL, [DID]) == set()


async def test_answers_are_kept_within_bounds_and_the_oldest_go_first(registry: Registry):
    today = int(registry.world.clock.at // DAY_S)
    await registry.world.database.write(
        lambda connection: (
            connection.executemany(
                "INSERT INTO asked_repo (hash, asked_on) VALUES (?, ?)",
                [(n, today - 5 if n < 700 else today) for n in range(1700)],
            )
            and None
        )
    )
    await registry.scans.tidy()
    rows = await registry.world.rows("SELECT count(*), sum(asked_on = ?) FROM asked_repo", today)
    assert rows[0][0] <= LIMITS.remembered_max and rows[0][1] >= 700


async def test_what_ended_operations_have_left_is_forgotten(registry: Registry):
    operation = await registry.operation("one")
    held = await registry.held(operation)
    await registry.scans.add_candidates(held, [(DID, "3k")])
    await registry.scans.nominate(operation, [DID])
    await registry.scans.tidy()
    assert await registry.scans.nominated(operation, [DID, "did:web:a.example"]) == {DID}
    assert await registry.scans.candidates(held, 10) == [DID]
    await registry.operations.end(operation, OperationStatus.CANCELLED, None)
    await registry.scans.tidy()
    assert await registry.scans.nominated(operation, [DID]) == set()
    assert await registry.scans.candidates(held, 10) == []


async def test_the_first_completed_scan_of_all_hosts_is_remembered(registry: Registry):
    await registry.operations.end(
        await registry.operation("one", URL), OperationStatus.COMPLETED, None
    )
    await registry.operations.end(await registry.operation("two"), OperationStatus.FAILED, "no")
    assert not await registry.hosts.has_completed_scan()
    for name, is_whole in (("three", False), ("four", True)):
        assert not await registry.hosts.has_completed_scan()
        operation = await registry.operation(name)
        lists: dict[str, Json] = {"are_hosts_read": True, "are_lists_whole": is_whole}
        await registry.scans.keep(operation, lists)
        await registry.operations.end(operation, OperationStatus.COMPLETED, None)
    assert await registry.hosts.has_completed_scan()


async def test_the_end_of_a_pass_costs_the_writer_no_look_at_the_repos_of_the_host(
    world: World, registry: Registry
):
    await add_repos(world.database, 5_000, pds_url=f"'{URL}'")
    operation = await registry.operation("one")
    await registry.hosts.register([URL], HostSource.RELAY)
    held = await registry.claim(operation)
    assert held is not None
    unit = SettledUnit(unit=URL, outcome=HostOutcome.SCANNED, records=0)
    ending = registry.hosts.end_pass(held, unit, error=None)
    assert await writer_steps(world.database, ending) < 20
    assert await world.rows("SELECT status FROM host") == [("empty",)]


async def test_a_claim_costs_the_writer_no_look_at_the_hosts_that_are_done(
    world: World, registry: Registry
):
    operation = await registry.operation("one")
    done = [f"https://h{number}.example" for number in range(5_000)]
    await registry.hosts.register([URL, *done], HostSource.RELAY)
    await change(
        world,
        "UPDATE host SET operation_id = ?, next_scan_at = 1e12 WHERE url <> ?", operation, URL,
    )  # fmt: skip
    assert await writer_steps(world.database, registry.claim(operation)) < 20
    assert await world.rows("SELECT url FROM host WHERE is_open = 1") == [(URL,)]


class SlowFetches:
    """A host that has all of these repos at one rev, and takes ten minutes to give one."""

    def __init__(self, world: World, dids: list[str]) -> None:
        self.world, self.dids = world, dids

    async def of_host(self, pds_url: str, cursor: str | None, *, repos_max: int) -> ListingPage:
        words = [Listed(did, AccountStatus.ACTIVE, "r1") for did in self.dids]
        return ListingPage(tuple(words), None)

    async def sync_listed(self, did: str, *, on_compared: object) -> Resync:
        self.world.clock.at += 600.0
        return Resync(result=Result.CURRENT, reason=None)


async def scan_slowly(registry: Registry) -> None:
    """A pass over a host of which one of two repos is as we hold it."""
    world = registry.world
    await change(world, _REPOS, 2, URL)
    scope = Scope(("pub.chive.*",))
    await change(
        world,
        "UPDATE repo SET rev = 'r1', data = 'root', scope_id = ?,"
        " state = iif(id = 1, 'active', 'desynchronized')",
        scope.scope_id,
    )
    operation = await registry.operations.load(await registry.operation("one"))
    assert operation is not None
    host = SlowFetches(world, [f"did:plc:{number}" for number in (1, 2)])
    parts = ScanParts(
        registry=registry.hosts, rows=registry.scans, pages=registry.scans,
        candidates=registry.scans, lists=host, documents=host, repos=host, scope=scope,
        is_denied=lambda _: False, stream_at=lambda: None, clock=world.clock,
    )  # fmt: skip
    context = Context(operation, OperationUnits(world.database), lambda *_: None, clock=world.clock)

    async def are_collections_listed() -> bool:
        return True

    held = await registry.held("one")
    await HostScan(parts, context, held, are_collections_listed=are_collections_listed).run()


async def test_a_list_of_one_page_without_a_cursor_is_read(registry: Registry):
    """As the lexicon allows it; the reference host gives a cursor with each page that has repos."""
    await scan_slowly(registry)
    assert (await registry.row()).outcomes == {"current": 2}


async def test_hosts_that_an_account_names_one_after_the_other_are_not_kept(registry: Registry):
    world = registry.world
    await change(world, _REPOS, 1, "https://first.example.com")
    names = [f"https://made-up-{number}.example.com" for number in range(ROWS_AT_ONCE + 5)]

    def name_all(connection: sqlite3.Connection) -> None:
        connection.executemany("UPDATE repo SET pds_url = ?", [(name,) for name in names])

    await world.database.write(name_all)
    await registry.hosts.register(names[:1], HostSource.OPERATOR)
    await registry.hosts.register(names[1:2], HostSource.RELAY)
    held = await registry.held(await registry.operation("o1"), names[2])
    upkeep = LeftoverUpkeep(world.database, HOSTS, clock=world.clock)
    await walk(world, upkeep)
    kept = [url for (url,) in await world.rows("SELECT url FROM host ORDER BY id")]
    assert kept == [URL, names[0], names[2], names[-1]]

    await registry.end(held)
    await change(world, "UPDATE repo SET pds_url = ?", OTHER)
    await walk(world, upkeep)
    kept = [url for (url,) in await world.rows("SELECT url FROM host ORDER BY id")]
    assert kept == [URL, names[0], OTHER]


async def test_the_id_of_a_host_that_is_not_kept_is_given_to_no_other(registry: Registry):
    world = registry.world
    await change(world, _REPOS, 1, "https://first.example.com")
    await change(world, "UPDATE repo SET pds_url = ?", OTHER)
    [(last,)] = await world.rows("SELECT max(id) FROM host")
    await change(world, "UPDATE repo SET pds_url = ?", URL)
    await walk(world, LeftoverUpkeep(world.database, HOSTS, clock=world.clock))
    await change(world, "UPDATE repo SET pds_url = ?", "https://third.example.com")
    assert (await world.rows("SELECT max(id) FROM host"))[0][0] > last
