"""Repair of gaps between a devnet and a real store: what was lost is found, and little is asked."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from indexer.gaps import SURVEY_S_MIN
from indexer.listings import Listed, Question, compared
from indexer.model import FROM_NOW_ON, AccountStatus, GapReason, GapSeen, RepoState, Wanted
from indexer.network.listings import PAGE_REPOS, listing_page
from indexer.planning import EventBatch, Repo
from storage.denials import DenialStore
from storage.gap_repair import GapRepairStore
from storage.records import RecordTable
from storage.tracked import TrackedRepos
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.serving import Reply, json_reply
from tests.oracle import assert_heads_equal, assert_store_equals
from tests.unit.ingest.resync_rig import REGISTRY, NoProjections, Rig, open_rig
from tests.unit.ingest.scripted_relay import until

TAG = "pub.chive.eprint.userTag"
FOREIGN = "app.bsky.feed.post"
DAY_S = 86_400.0
RNG = random.Random(9)
REV = "3lbtqsrpyuk2a"
LATER = "3lbtqsrpyuk2b"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=8) as net, open_rig(net, tmp_path) as opened:
        yield opened


def tag(rig: Rig, account: Account) -> None:
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))


async def followed(rig: Rig, count: int) -> list[Account]:
    accounts = [await rig.net.create_account() for _ in range(count)]
    for account in accounts:
        tag(rig, account)
    await rig.hear()
    await rig.work()
    return accounts


async def lose(rig: Rig) -> None:
    """Everything since the last hearing is never heard; the relay says so."""
    rig.heard = rig.net.relay.stream.last_seq
    gap = GapSeen(reason=GapReason.OUTDATED_CURSOR, before_seq=rig.heard + 1)
    await rig.live.apply(
        EventBatch(url="ws://relay", events=(), seq=rig.heard, event_at=None, gaps=(gap,))
    )


async def repaired(rig: Rig) -> bool:
    return await rig.rows("SELECT count(*) FROM gaps WHERE repaired_at IS NULL") == [(0,)]


async def repair(rig: Rig) -> int:
    """Work until the gap is closed; how many repos were attempted."""
    attempts = 0
    for _ in range(10):
        await rig.repair.go_on()
        await rig.directory.go_on()
        if await repaired(rig):
            return attempts
        attempts += len(await rig.work(ahead_s=61.0))
    raise AssertionError(await rig.rows("SELECT * FROM gap_question"))


def assert_equal(rig: Rig) -> None:
    assert_store_equals(rig.net, rig.path)
    assert_heads_equal(rig.net, rig.path)


async def test_a_repo_that_moved_in_the_gap_to_a_host_that_has_been_asked_is_compared_there(
    tmp_path: Path,
):
    async with Devnet(seed=8, pds_count=2) as net, open_rig(net, tmp_path) as rig:
        moved, other = await net.create_account(0), await net.create_account(1)
        tag(rig, moved)
        tag(rig, other)
        await rig.hear()
        await rig.work()
        await rig.directory.go_on()
        net.migrate(moved, 1)
        tag(rig, moved)
        await lose(rig)
        away = net.faults.schedule(FaultKind.HTTP_STATUS, service="pds", host=0, status=500)
        await rig.repair.go_on()  # the new host tells of a repo that is not known to be there
        assert away.fired == 1
        rig.clock.monotonic_ahead_s += SURVEY_S_MIN
        await repair(rig)
        assert_equal(rig)


class RowsReadSlowly(GapRepairStore):
    """The answer to the second look comes when what the first one found has been dealt with."""

    looks = 0
    dealt_with: asyncio.Event

    async def questions(self) -> list[Question]:
        self.looks += 1
        look = self.looks
        if look == 1:
            self.dealt_with = asyncio.Event()
        found = await super().questions()
        if look == 2:
            await asyncio.wait_for(self.dealt_with.wait(), 10.0)
        return found

    async def settle(self, question: Question, *, is_cut: bool = False) -> None:
        await super().settle(question, is_cut=is_cut)
        self.dealt_with.set()


async def test_no_asker_goes_by_questions_read_before_another_had_dealt_with_one(tmp_path: Path):
    async with Devnet(seed=8) as net, open_rig(net, tmp_path, gap_rows=RowsReadSlowly) as rig:
        accounts = await followed(rig, 2)
        tag(rig, accounts[0])
        await lose(rig)
        await rig.repair.go_on()
        assert asked_of_relay(rig, "listReposByCollection") == len(REGISTRY.types)
        assert rig.asked("listRepos") == 2  # a page, and the empty one behind it
        assert len(await rig.work()) == 1
        assert_equal(rig)


def asked_of_relay(rig: Rig, method: str) -> int:
    return rig.net.relay.server.requests[f"com.atproto.sync.{method}"]


async def test_only_what_was_lost_is_fetched_and_the_gap_is_closed(rig: Rig):
    accounts = await followed(rig, 8)
    before = rig.asked("getRepo") + rig.asked("getBlocks"), rig.asked("getRepoStatus")
    for account in accounts[:2]:
        tag(rig, account)
    await lose(rig)
    states = "SELECT state FROM repo GROUP BY state"
    assert await rig.rows(states) == [("active",)]
    await rig.repair.go_on()
    assert await rig.rows(states) == [("active",)]
    assert await rig.rows("SELECT count(*) FROM repo WHERE wanted <> 0") == [(2,)]
    assert not await repaired(rig)
    assert await repair(rig) == 2
    assert_equal(rig)
    assert rig.asked("getRepo") + rig.asked("getBlocks") - before[0] <= 2
    assert rig.asked("getRepoStatus") - before[1] == 2
    assert rig.asked("listRepos") <= 2 * len(rig.net.pds)


def requests(rig: Rig) -> Counter[str]:
    """All that anybody was asked, without the lists of the relay."""
    servers = [pds.server for pds in rig.net.pds] + [rig.net.plc_server]
    return sum((server.requests for server in servers), Counter())


async def test_requests_are_proportional_to_what_changed_however_much_is_held(rig: Rig):
    """And gaps that come while one is repaired cost one more look at the lists together."""
    held = await followed(rig, 4)
    costs = []
    for more, changed, gaps in ((0, 1, 1), (6, 1, 1), (0, 0, 1), (0, 3, 1), (0, 3, 3)):
        held += await followed(rig, more)
        before = requests(rig)
        for account in held[:changed]:
            tag(rig, account)
        for _ in range(gaps):
            rig.clock.ahead_s += SURVEY_S_MIN
            await lose(rig)
            await rig.repair.go_on()
        await repair(rig)
        costs.append(requests(rig) - before)
    few, few_of_many, none, more, flood = costs
    assert few_of_many == few
    lists = "com.atproto.sync.listRepos"
    assert set(none) == {lists, "plc.export"} and none[lists] == few[lists] == more[lists]
    assert more.total() - none.total() == 3 * (few.total() - none.total()) > 0
    assert flood[lists] <= 3 * none[lists]
    assert flood.total() - flood[lists] - flood["plc.export"] == more.total() - none.total()
    assert_equal(rig)


async def test_an_account_that_appeared_unheard_is_discovered(rig: Rig):
    await followed(rig, 2)
    newcomer = await rig.net.create_account()
    tag(rig, newcomer)
    await rig.net.create_account()
    await lose(rig)
    await repair(rig)
    assert_equal(rig)
    assert await rig.rows("SELECT count(*) FROM repo") == [(3,)]


async def test_a_relay_without_lists_by_collection_does_not_keep_the_gap_open(rig: Rig):
    rig.net.relay.serves_collections = False
    accounts = await followed(rig, 2)
    tag(rig, accounts[0])
    await lose(rig)
    await repair(rig)
    assert_equal(rig)


async def test_without_lists_by_collection_newcomers_are_found_at_their_hosts(rig: Rig):
    """Only accounts of the gap are asked about, and only those in scope are tracked."""
    rig.net.relay.serves_collections = False
    for _ in range(3):
        account = await rig.net.create_account()
        rig.net.create(account, FOREIGN, realistic_record(RNG, FOREIGN, did=account.did))
    await followed(rig, 2)
    rig.clock.ahead_s += DAY_S
    await rig.database.write(
        lambda connection: connection.execute(
            "UPDATE firehose_cursor SET event_at = ?", (rig.clock.now(),)
        )
    )
    rig.net.now = rig.clock.now
    newcomer = await rig.net.create_account(pds=1)
    newcomer.tids._now = rig.clock.now
    tag(rig, newcomer)
    stranger = await rig.net.create_account(pds=1)
    stranger.tids._now = rig.clock.now
    rig.net.create(stranger, FOREIGN, realistic_record(RNG, FOREIGN, did=stranger.did))
    await lose(rig)
    await repair(rig)
    assert await rig.rows("SELECT count(*) FROM repo") == [(3,)]
    assert_equal(rig)
    described = sum(pds.server.requests["com.atproto.repo.describeRepo"] for pds in rig.net.pds)
    assert described == 2
    assert asked_of_relay(rig, "listHosts") == 1


async def test_the_repair_ends_when_it_is_cancelled_while_the_store_is_locked(rig: Rig):
    """Amid a page of newcomers: what was asked is still to be noted then, and cannot be."""
    rig.net.relay.serves_collections = False
    newcomer = await rig.net.create_account()
    tag(rig, newcomer)
    await lose(rig)
    hang = rig.net.faults.schedule(
        FaultKind.HTTP_HANG, service="pds", endpoint="com.atproto.repo.describeRepo"
    )
    repairing = asyncio.create_task(rig.repair.run())
    await until(lambda: hang.fired == 1)
    await rig.database.write(lambda connection: connection.execute("PRAGMA busy_timeout=50"))
    with closing(sqlite3.connect(rig.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        repairing.cancel()
        await asyncio.wait([repairing], timeout=2.0)
        assert repairing.cancelled()


async def test_a_host_that_never_lists_its_newcomers_does_not_keep_the_gap_open(rig: Rig):
    rig.net.relay.serves_collections = False
    await followed(rig, 1)
    down = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, times=None, service="pds", host=1, status=503
    )
    await lose(rig)
    for _ in range(12):
        await rig.repair.go_on()
        await rig.directory.go_on()
        if await repaired(rig):
            break
        await rig.work(ahead_s=3700.0)
    assert down.fired and await repaired(rig)


async def test_accounts_hidden_deleted_and_back_unheard_are_asked_about(rig: Rig):
    accounts = await followed(rig, 4)
    rig.net.set_account_status(accounts[0], "deactivated")
    await rig.hear()
    await rig.work(ahead_s=61.0)
    await rig.work(ahead_s=61.0)
    assert (await rig.repo(accounts[0]))[1] == "deactivated"
    rig.net.set_account_status(accounts[0], "active")
    rig.net.set_account_status(accounts[1], "takendown")
    rig.net.set_account_status(accounts[2], "deleted")
    await lose(rig)
    await repair(rig)
    assert (await rig.repo(accounts[0]))[:2] == ("active", "active")
    assert (await rig.repo(accounts[1]))[1] == "takendown"
    assert (await rig.repo(accounts[2]))[1] == "deleted"
    assert_store_equals(rig.net, rig.path)


async def test_a_list_that_goes_round_in_circles_is_left_and_its_repos_asked_singly(rig: Rig):
    accounts = await followed(rig, 6)
    loop = rig.net.faults.schedule(
        FaultKind.CURSOR_LOOP, times=None, endpoint="com.atproto.sync.listRepos"
    )
    bogus = rig.net.faults.schedule(FaultKind.BOGUS_DIDS, endpoint="com.atproto.sync.listRepos")
    tag(rig, accounts[0])
    await lose(rig)
    await repair(rig)
    assert loop.fired and bogus.fired
    assert rig.asked("listRepos") <= len(accounts) + len(rig.net.pds)
    assert await rig.rows("SELECT count(*) FROM repo") == [(6,)]
    assert_equal(rig)


async def fetches_of_a_repair(rig: Rig) -> int:
    before = rig.asked("getRepo") + rig.asked("getBlocks")
    await lose(rig)
    rig.clock.ahead_s += SURVEY_S_MIN
    await repair(rig)
    return rig.asked("getRepo") + rig.asked("getBlocks") - before


async def test_a_hosts_rev_ahead_of_its_commit_costs_a_look_or_two_and_then_nothing(rig: Rig):
    account, *_ = await followed(rig, 3)
    rig.net.repo(account).host_rev = account.tids.next()
    assert [await fetches_of_a_repair(rig) for _ in range(3)] == [1, 0, 0]
    assert_equal(rig)


async def test_a_rev_that_its_host_named_wrongly_hides_no_later_change(rig: Rig):
    account, *_ = await followed(rig, 3)
    far = "7" + "z" * 12
    rig.net.repo(account).host_rev = far
    assert await fetches_of_a_repair(rig) == 1
    assert await rig.rows(f"SELECT host_rev FROM repo WHERE did = '{account.did}'") == [(far,)]
    tag(rig, account)
    await rig.hear()  # its commit follows ours, and is from long before what the host said
    rig.net.repo(account).host_rev = far
    tag(rig, account)
    rig.net.repo(account).host_rev = far
    assert await fetches_of_a_repair(rig) == 1
    assert_store_equals(rig.net, rig.path)


async def test_a_list_that_ends_early_loses_no_repo_that_is_known(rig: Rig):
    """Nor do the unlisted ones count as compared; only theirs are single questions."""
    accounts = await followed(rig, 6)
    for pds in rig.net.pds:
        short = [pds.listing(did) for did in list(pds.hosted)[:1]]

        async def answer(_request: web.Request, repos: list = short) -> Reply:
            return json_reply({"repos": repos})

        name = "com.atproto.sync.listRepos"
        pds.server.route("GET", f"/xrpc/{name}", name, answer)
    for account in accounts[-2:]:
        tag(rig, account)
    rig.net.set_account_status(accounts[-3], "takendown")
    await lose(rig)
    await repair(rig)
    assert (await rig.repo(accounts[-3]))[1] == "takendown"
    assert await rig.rows("SELECT count(*) FROM repo") == [(6,)]
    assert await rig.rows("SELECT unreachable, unread FROM gaps") == [(0, 0)]
    assert_store_equals(rig.net, rig.path)


async def test_nobody_is_asked_about_a_denied_account(rig: Rig):
    denied, other = await followed(rig, 2)
    denials = DenialStore(
        rig.database, TrackedRepos(rig.database), RecordTable(NoProjections()), clock=rig.clock
    )
    await denials.deny(denied.did, "spam", purge=False, by="did:web:admin.example")
    await lose(rig)
    away = rig.net.faults.schedule(
        FaultKind.HTTP_BODY, endpoint="com.atproto.sync.listRepos", times=None, body=b'{"repos":[]}'
    )
    seen = rig.net.pds[denied.pds].server.seen
    seen.clear()
    await repair(rig)
    assert away.fired
    asked = {request.query.get("did") for request in seen}
    assert other.did in asked and denied.did not in asked


async def test_a_host_without_an_answer_is_asked_again_later_and_the_gap_waits(rig: Rig):
    accounts = await followed(rig, 2)
    down = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, times=2, endpoint="com.atproto.sync.listRepos", status=503
    )
    tag(rig, accounts[0])
    await lose(rig)
    await rig.repair.go_on()
    assert down.fired
    assert not await repaired(rig)
    await repair(rig)
    assert down.fired == 2
    assert_equal(rig)


async def test_a_relay_whose_list_is_away_for_months_is_asked_every_hour(rig: Rig):
    await followed(rig, 1)
    away = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS,
        times=None,
        endpoint="com.atproto.sync.listReposByCollection",
        status=503,
    )
    await lose(rig)
    await rig.repair.go_on()
    await rig.database.write(
        lambda connection: connection.execute(
            "UPDATE gap_question SET failures = 1500, retry_at = 0 WHERE kind = 'collection'"
        )
    )
    await rig.repair.go_on()
    assert away.fired and not await repaired(rig)
    put_off = await rig.rows("SELECT failures, retry_at FROM gap_question")
    assert put_off and {failures for failures, _ in put_off} == {1501}
    assert min(at for _, at in put_off) > rig.clock.now() + 3500.0


async def test_a_dead_host_leaves_its_repos_to_the_resync(rig: Rig):
    accounts = await followed(rig, 2)
    dead = rig.net.faults.schedule(FaultKind.HTTP_STATUS, times=None, service="pds", status=503)
    tag(rig, accounts[0])
    await lose(rig)
    for _ in range(40):
        await rig.repair.go_on()
        if await repaired(rig):
            break
        await rig.work(ahead_s=3700.0)
    assert dead.fired and await repaired(rig)
    assert await rig.rows("SELECT count(*) FROM repo WHERE wanted & 4") == [(2,)]
    assert await rig.rows("SELECT unreachable FROM gap") == [(2,)]


async def test_a_dead_host_that_the_resync_always_asks_first_is_given_up_too(rig: Rig):
    accounts = await followed(rig, 2)
    dead = rig.net.faults.schedule(FaultKind.HTTP_STATUS, times=None, service="pds", status=503)
    await lose(rig)
    for _ in range(100):
        await rig.database.write(
            lambda connection: connection.execute("UPDATE repo SET wanted = 4, retry_at = 0")
        )
        await rig.work(ahead_s=601.0)  # and its window is closed once more
        await rig.repair.go_on()
        if await repaired(rig):
            break
    assert dead.fired and await repaired(rig)
    assert await rig.rows("SELECT unreachable FROM gap") == [(len(accounts),)]


async def test_a_host_that_asks_for_an_hour_of_rest_is_not_given_up_meanwhile(rig: Rig):
    rig.net.relay.serves_collections = False
    accounts = await followed(rig, 1)
    asked = rig.net.faults.schedule(
        FaultKind.HTTP_429, endpoint="com.atproto.sync.listRepos", retry_after_s=3600
    )
    tag(rig, accounts[0])
    await lose(rig)
    for ahead_s in (0.0, 61.0, 121.0, 241.0, 481.0, 2700.0):
        rig.clock.ahead_s += ahead_s
        rig.clock.monotonic_ahead_s += ahead_s
        await rig.repair.go_on()
    assert asked.fired == 1
    await repair(rig)
    assert await rig.rows("SELECT unreachable, unread FROM gaps") == [(0, 0)]
    assert_equal(rig)


async def test_a_repair_goes_on_where_an_earlier_process_ended(rig: Rig):
    accounts = await followed(rig, 4)
    tag(rig, accounts[0])
    await lose(rig)
    down = rig.net.faults.schedule(
        FaultKind.HTTP_STATUS, endpoint="com.atproto.sync.listRepos", status=503
    )
    await rig.repair.go_on()
    assert down.fired == 1
    left = await rig.rows("SELECT kind, failures FROM gap_question")
    assert left == [("host", 1)]
    relay_requests = asked_of_relay(rig, "listReposByCollection")
    await repair(rig)
    assert asked_of_relay(rig, "listReposByCollection") == relay_requests
    assert_equal(rig)


def repo(**known: object) -> Repo:
    fields: dict = {"id": 1, "did": "did:plc:a", "state": RepoState.ACTIVE, "rev": REV}
    return Repo(**(fields | known))


def said(status: AccountStatus | None = AccountStatus.ACTIVE, rev: str | None = REV) -> Listed:
    return Listed("did:plc:a", status, rev)


@pytest.mark.parametrize(
    ("held", "listed", "work"),
    [
        (repo(), said(), Wanted.NOTHING),
        (repo(), said(rev=LATER), Wanted.CONTENT),
        (repo(host_rev=LATER), said(rev=LATER), Wanted.NOTHING),
        (repo(), said(AccountStatus.DEACTIVATED, LATER), Wanted.ACCOUNT),
        (repo(), said(None), Wanted.ACCOUNT | Wanted.CONTENT),
        (repo(state=RepoState.DELETED), said(None), Wanted.NOTHING),
        (repo(state=RepoState.DELETED), said(), Wanted.ACCOUNT | Wanted.CONTENT),
        (repo(state=RepoState.TOO_LARGE), said(rev=LATER), Wanted.NOTHING),
        (
            repo(account_status=AccountStatus.TAKENDOWN),
            said(AccountStatus.TAKENDOWN),
            Wanted.NOTHING,
        ),
    ],
)
def test_a_listing_raises_work_where_it_differs_and_never_changes_a_state(held, listed, work):
    after = compared(held, listed, now=5.0)
    assert after.wanted == work
    assert replace(after, wanted=held.wanted, priority=held.priority, retry_at=0.0) == held


def test_a_page_keeps_what_makes_sense_and_ends_where_it_is_empty():
    entry = {"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "rev": REV, "head": "x", "active": True}
    page = listing_page({"repos": [entry, {"did": "no"}, 7, None], "cursor": "c"})
    assert page is not None
    assert page.repos == (Listed(entry["did"], AccountStatus.ACTIVE, REV),)
    assert page.cursor == "c"
    many = listing_page({"repos": [entry] * (PAGE_REPOS + 5), "cursor": "c" * 5000})
    assert many is not None and (len(many.repos), many.cursor) == (PAGE_REPOS, None)
    assert listing_page({"repos": [], "cursor": "c"}).cursor is None
    assert listing_page({"repos": "x"}) is None and listing_page([]) is None


async def test_what_happens_until_the_stream_is_open_again_belongs_to_the_gap(rig: Rig):
    """A cursor that is given up opens its gap while nothing is connected: hosts asked then would
    not know what an account writes before the stream comes back."""
    [account] = await followed(rig, 1)
    await lose(rig)
    rig.connected.clear()
    await rig.repair.go_on()
    assert not await repaired(rig)
    tag(rig, account)
    rig.heard = rig.net.relay.stream.last_seq
    rig.connected.set()
    await repair(rig)
    assert await repaired(rig)
    assert_store_equals(rig.net, rig.path)


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_a_stream_dialled_again_while_its_gap_is_repaired_has_the_hosts_asked_once_more(
    tmp_path: Path, is_given_up: bool
):
    """One host that is away holds the repair up for hours, and the others have told all by then."""
    async with Devnet(seed=8, pds_count=2) as net, open_rig(net, tmp_path) as rig:
        told, away = await net.create_account(0), await net.create_account(1)
        for account in (told, away):
            tag(rig, account)
        await rig.hear()
        await rig.work()
        if is_given_up:
            await rig.live.reset_cursor("ws://relay", FROM_NOW_ON)
        else:
            await rig.database.write(lambda c: c.execute("DELETE FROM firehose_cursor").rowcount)
        assert await rig.live.begin_now("ws://relay") == (not is_given_up)
        down = net.faults.schedule(
            FaultKind.HTTP_STATUS, times=None, service="pds", host=1, status=503
        )
        await rig.repair.go_on()
        assert down.fired and not await repaired(rig)
        tag(rig, told)
        assert await rig.live.begin_now("ws://relay") == 1
        assert await rig.live.begin_now("ws://relay") == 0
        asked = rig.asked("listRepos")
        await rig.repair.go_on()
        assert rig.asked("listRepos") == asked, "the same hosts twice in a minute"
        down.cancel()
        await repair(rig)
        assert_equal(rig)
