"""What an operator keeps out: hidden at once, whoever writes, until it is allowed."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from pathlib import Path

import pytest

from indexer.claims import DELETED_ROWS, Fetched, HostDenied, Identity, SnapshotChunk, StaleClaim
from indexer.denials import DeniedHosts, parse_subject
from indexer.errors import LocalBusy, RequestRefused
from indexer.model import DeadLetterDraft, Priority
from indexer.planning import IdentitySeen, SyncSeen
from storage.dead_letter_queue import DeadLetterStore
from storage.dead_letters import insert_dead_letters
from storage.denials import STEP_REPOS, DenialStore
from storage.export import exported_records
from storage.reading import open_reader
from storage.records import RecordTable
from storage.tracked import TrackedRepos
from tests.storage.conftest import KEY, add_repos, writer_steps
from tests.storage.typed_world import ALICE, BOB, TypedWorld, typed_world
from tests.unit.records.record_examples import full

ADMIN = "did:web:indexer.example"
TAG = "pub.chive.eprint.userTag"
EPRINT = "pub.chive.eprint.submission"
URI = f"at://{ALICE}/{EPRINT}/1"


class Denying(TypedWorld):
    """A typed world with denials."""

    def open(self) -> None:
        """As a new process does, with what is durable."""
        self.denials = DenialStore(
            self.database, self.tracked, RecordTable(self.projections), clock=self.clock
        )
        self.woken = 0
        self.denials.on_work = self.wake

    def wake(self) -> None:
        self.woken += 1

    async def deny(self, subject: str, *, purge: bool = False) -> int | None:
        return await self.denials.deny(subject, "spam", purge=purge, by=ADMIN)

    async def seen(self, did: str) -> dict[str, int]:
        """What a reader finds of an account, by where it looks."""
        await self.settle()
        like = f"at://{did}/%"
        return {
            "records": await self.one("SELECT count(*) FROM records WHERE did = ?", did),
            "typed": await self.one("SELECT count(*) FROM eprint_submission WHERE did = ?", did),
            "tags": await self.one("SELECT count(*) FROM eprint_user_tag WHERE uri LIKE ?", like),
            "search": await self.one(
                "SELECT count(*) FROM eprint_search JOIN record ON record.id = eprint_search.rowid"
                " JOIN repo ON repo.id = record.repo_id WHERE repo.did = ?", did,
            ),
        }  # fmt: skip

    async def repo(self, did: str):
        columns = "state, account_status, wanted, claimed, rev, scope_id"
        return (await self.rows(f"SELECT {columns} FROM repo WHERE did = ?", did))[0]


NOTHING = {"records": 0, "typed": 0, "tags": 0, "search": 0}
ALL = {"records": 2, "typed": 1, "tags": 1, "search": 1}


def example(collection: str) -> dict:
    return full(collection)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Denying]:
    async with typed_world(tmp_path) as plain:
        world = Denying(plain.database, plain.path, plain.clock, plain.registry)
        world.open()
        for did in (ALICE, BOB):
            await world.fetch(did, values())
        yield world


def values() -> dict[str, dict]:
    return {f"{EPRINT}/1": example(EPRINT), f"{TAG}/1": example(TAG)}


async def test_a_denied_account_is_hidden_at_once_everywhere_and_others_are_not(world: Denying):
    assert await world.seen(ALICE) == ALL
    assert await world.deny(ALICE) == 2
    assert await world.seen(ALICE) == NOTHING
    assert await world.seen(BOB) == ALL
    assert await world.one("SELECT count(*) FROM record") == 4, "nothing was purged"
    assert world.live.is_denied(ALICE) and not world.live.is_denied(BOB)
    assert await world.rows("SELECT subject, kind, reason, denied_by, purged FROM denials") == [
        (ALICE, "account", "spam", ADMIN, 0)
    ]


async def test_nothing_but_allow_leads_out_of_a_denial(world: Denying):
    await world.deny(ALICE)
    hidden = ("denied", "denied", 0, 0)
    await world.set_account(ALICE, active=True)
    await world.commit(ALICE, {f"{TAG}/2": example(TAG)})
    await world.apply(
        IdentitySeen(did=ALICE, seq=1, time=world.clock.at),
        SyncSeen(did=ALICE, seq=1, rev="r999999999"),
    )
    letters = DeadLetterStore(
        world.database, world.tracked, on_work=lambda: None, clock=world.clock
    )
    await world.database.write(
        lambda connection: (
            connection.execute(
                "INSERT INTO dead_letter (reason, did, message, retry_count, created_at)"
                " VALUES ('chain', ?, '', 0, 0)",
                (ALICE,),
            ).rowcount
        )
    )
    assert await letters.retry_all(None) == 1
    claim = await world.resyncs.claim_repo(ALICE)
    assert not claim.repo.claimed
    with pytest.raises(StaleClaim):
        await world.resyncs.begin_fetch(claim)
    assert await world.resyncs.claim_next() is None
    await world.resyncs.give_back_all()
    assert (await world.repo(ALICE))[:4] == hidden
    assert await world.seen(ALICE) == NOTHING
    assert await world.one("SELECT count(*) FROM pending_commit") == 0


async def test_a_claim_held_when_the_account_is_denied_is_void(world: Denying):
    claim = await world.resyncs.claim_repo(ALICE)
    identity = Identity(handle=None, signing_key=KEY, pds_url="https://pds.example")
    claim = await world.resyncs.begin_fetch(await world.resyncs.save_identity(claim, identity))
    await world.deny(ALICE)
    chunk = SnapshotChunk(after="", upto=None, leaves=(), records={}, rev="r9")
    fetched = Fetched(rev="r9", data="root", host_rev="r9", scope_id="scope")
    with pytest.raises(StaleClaim):
        await world.resyncs.apply_chunk(claim, chunk)
    with pytest.raises(StaleClaim):
        await world.resyncs.finish(claim, fetched, chunk, (), upto_id=0, is_confirmed=True)
    assert await world.one("SELECT count(*) FROM record") == 4


async def test_an_account_that_is_denied_before_it_is_known_stays_out(world: Denying):
    carol = "did:plc:carolaaaaaaaaaaaaaaaaaaa"
    assert await world.deny(carol) == 0
    await world.apply(world.commit_event(carol, values(), key=None))
    assert (await world.repo(carol))[:3] == ("denied", "denied", 0)
    assert await world.resyncs.claim_next() is None
    assert await world.denials.allow(carol)
    assert (await world.resyncs.claim_next()).did == carol


async def test_an_allowed_account_stays_hidden_until_it_was_fetched(world: Denying):
    await world.deny(ALICE)
    assert await world.denials.allow(ALICE)
    assert world.woken == 1
    assert not world.live.is_denied(ALICE)
    assert await world.seen(ALICE) == NOTHING
    claim = await world.resyncs.claim_next()
    assert claim.did == ALICE and claim.repo.priority == Priority.REPAIR
    await world.fetch(ALICE, values())
    assert await world.seen(ALICE) == ALL
    assert not await world.denials.allow(ALICE), "nothing is denied any more"


async def test_rows_are_purged_in_the_background_and_never_those_of_an_allowed_account(
    world: Denying,
):
    many = {f"{TAG}/{number}": example(TAG) for number in range(250)}
    await world.fetch(ALICE, many)
    await world.deny(ALICE, purge=True)
    assert await world.one("SELECT count(*) FROM record JOIN repo ON repo.id = repo_id"
                           " WHERE did = ?", ALICE) == 250  # fmt: skip
    steps = 0
    while await world.denials.step():
        steps += 1
    assert steps == math.ceil(250 / DELETED_ROWS)
    assert await world.one("SELECT count(*) FROM record") == 2
    assert (await world.repo(ALICE))[4:] == (None, None), "nothing can pass for completeness"
    assert (await world.denials.denials(before=None, limit=5))[0].is_purged
    await world.deny(BOB, purge=True)
    await world.denials.allow(BOB)
    assert await world.denials.step() == 0
    assert await world.one("SELECT count(*) FROM record") == 2


async def test_a_denied_record_has_no_row_that_anybody_sees_whatever_comes(world: Denying):
    assert await world.deny(URI) == 1
    assert await world.seen(ALICE) == {"records": 1, "typed": 0, "tags": 1, "search": 0}
    changed = example(EPRINT) | {"title": "Another title"}
    await world.commit(ALICE, {f"{EPRINT}/1": changed})
    assert await world.seen(ALICE) == {"records": 1, "typed": 0, "tags": 1, "search": 0}
    await world.commit(ALICE, {f"{EPRINT}/1": None})
    await world.commit(ALICE, {f"{EPRINT}/1": changed})
    await world.fetch(ALICE, values())
    assert await world.seen(ALICE) == {"records": 1, "typed": 0, "tags": 1, "search": 0}
    with open_reader(world.path) as reader:
        assert [each.uri for each in exported_records(reader, did=ALICE)] == [
            f"at://{ALICE}/{TAG}/1"
        ]
    assert await world.one("SELECT count(*) FROM dead_letter") == 0
    assert await world.rows("SELECT value, problem FROM record WHERE path LIKE '%submission/1'"
                            " AND repo_id = 1") == [(None, "denied")]  # fmt: skip
    assert await world.deny(URI) == 0, "it was empty already"


async def test_a_full_reindex_leaves_out_what_is_denied(world: Denying):
    await world.deny(URI)
    await world.deny(BOB)
    await world.settle()
    before = await world.derived()

    await world.reindex()
    await world.settle()
    assert await world.derived() == before
    assert (await world.seen(ALICE))["typed"] == (await world.seen(BOB))["typed"] == 0


async def test_an_allowed_record_comes_back_by_the_next_fetch(world: Denying):
    await world.deny(URI)
    assert await world.denials.allow(URI)
    state, _, wanted, _, _, scope = await world.repo(ALICE)
    assert (state, scope) == ("desynchronized", None) and wanted
    await world.fetch(ALICE, values())
    assert await world.seen(ALICE) == ALL


async def test_a_record_allowed_during_a_fetch_is_not_taken_for_complete(world: Denying):
    await world.deny(URI)
    claim = await world.resyncs.claim_repo(ALICE)
    identity = Identity(handle=None, signing_key=KEY, pds_url="https://pds.example")
    claim = await world.resyncs.begin_fetch(await world.resyncs.save_identity(claim, identity))
    await world.denials.allow(URI)
    with pytest.raises(StaleClaim):
        await world.resyncs.finish(claim, None, None, (), upto_id=0, is_confirmed=True)
    assert (await world.resyncs.claim_next()).did == ALICE


async def test_a_denied_host_hides_its_repos_and_those_that_come_to_it(world: Denying):
    assert await world.deny("pds.example") is None
    assert await world.seen(ALICE) == await world.seen(BOB) == NOTHING
    assert world.denials.is_denied_host("https://pds.example/xrpc/x")
    with pytest.raises(HostDenied):
        await world.fetch(ALICE, values())
    assert (await world.repo(ALICE))[:4] == ("denied", "denied", 0, 0)
    dave = "did:plc:daveaaaaaaaaaaaaaaaaaaaa"
    with pytest.raises(HostDenied):
        await world.fetch(dave, values())
    assert world.live.is_denied(dave)
    assert await world.denials.allow("https://pds.example")
    assert not world.denials.is_denied_host("https://pds.example")
    for did in (ALICE, BOB, dave):
        await world.fetch(did, values())
        assert await world.seen(did) == ALL


async def test_an_account_that_leaves_a_denied_host_comes_back(world: Denying):
    await world.deny("pds.example")
    world.clock.at += 1000
    await world.apply(IdentitySeen(did=ALICE, seq=1, time=world.clock.at))
    claim = await world.resyncs.claim_next()
    assert claim.did == ALICE
    moved = Identity(handle=None, signing_key=KEY, pds_url="https://other.test")
    claim = await world.resyncs.save_identity(claim, moved)
    assert claim.repo.claimed and not world.live.is_denied(ALICE)
    assert await world.seen(ALICE) == NOTHING
    await world.resyncs.finish(
        await world.resyncs.begin_fetch(claim), None, None, (), upto_id=0, is_confirmed=True
    )
    assert await world.seen(ALICE) == ALL
    assert await world.seen(BOB) == NOTHING


async def test_what_two_denials_hide_comes_back_when_both_are_lifted(world: Denying):
    await world.deny(ALICE)
    await world.deny("pds.example")
    assert await world.denials.allow(ALICE)
    assert world.live.is_denied(ALICE)
    assert (await world.repo(ALICE))[:2] == ("denied", "denied")
    await world.deny(ALICE)
    assert await world.denials.allow("pds.example")
    assert world.live.is_denied(ALICE) and not world.live.is_denied(BOB)
    assert await world.denials.allow(ALICE)
    assert not world.live.is_denied(ALICE)


async def test_a_host_with_many_repos_is_hidden_in_short_transactions_and_resumed(world: Denying):
    count = STEP_REPOS + 100

    def add(connection):
        connection.executemany(
            "INSERT INTO repo (did, state, account_status, account_at, pds_url, identity_at, rev,"
            " wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at,"
            " verified_at, tracked_since, updated_at) VALUES (?, 'active', 'active', 0, ?, 0, 'r',"
            " 0, 0, 0, 2, 0, 0, 0, 0, 0, '', '')",
            [(f"did:plc:{number:024}", "https://big.test") for number in range(count)],
        )

    await world.database.write(add)
    slowest = 0.0
    observe = world.database._observe_s

    def note(seconds: float) -> None:
        nonlocal slowest
        slowest = max(slowest, seconds)
        observe(seconds)

    world.database._observe_s = note
    await world.deny("big.test")
    hidden = "SELECT count(*) FROM repo WHERE account_status = 'denied'"
    assert await world.one(hidden) == count
    print(f"slowest transaction {slowest * 1000:.0f} ms")
    assert slowest < 0.5, "a loose bound: the machine may be busy"
    # As if killed before the rest was shown again.
    await world.database.write(lambda c: c.execute("DELETE FROM denial").rowcount)
    world.tracked = TrackedRepos(world.database)
    await world.tracked.load()
    world.open()
    await world.denials.load()
    assert await world.one(hidden) == 0
    assert await world.one("SELECT count(*) FROM repo WHERE wanted <> 0") == count


@pytest.mark.parametrize("subject", [ALICE, "pds.example", URI])
async def test_what_a_call_could_not_carry_out_is_made_up_for(world: Denying, subject: str):
    """Another program takes the write lock as soon as the denial itself is lifted, or stored."""
    for did in (ALICE, BOB):
        await world.database.write(
            lambda c, did=did: (
                c.execute(
                    "UPDATE repo SET pds_url = 'https://pds.example' WHERE did = ?", (did,)
                ).rowcount
            )
        )
    await world.database.write(lambda c: c.execute("PRAGMA busy_timeout=50").fetchall())
    with closing(
        sqlite3.connect(world.path, isolation_level=None, check_same_thread=False)
    ) as other:

        def lock(point: str) -> None:
            if point == "after-commit":
                other.execute("BEGIN IMMEDIATE")

        async def interrupted(call: Awaitable[object]) -> None:
            world.database._reach = lock
            with pytest.raises(LocalBusy):
                await call
            world.database._reach = lambda _: None
            other.execute("ROLLBACK")

        if subject == "pds.example":
            await interrupted(world.deny(subject))
        else:
            await world.deny(subject)
        await world.denials.step()
        assert world.denials.is_denied_host("https://pds.example") == (subject == "pds.example")
        assert (await world.seen(ALICE))["typed"] == 0
        await interrupted(world.denials.allow(subject))
    assert not await world.denials.allow(subject), "nothing is left to lift"
    woken = world.woken
    assert await world.denials.step() and not await world.denials.step()
    assert world.woken > woken
    assert not await world.one("SELECT count(*) FROM repo WHERE account_status = 'denied'")
    assert (await world.repo(ALICE))[2] != 0, "it is wanted"
    assert not world.denials.is_denied_host("https://pds.example")


async def test_denials_outlive_the_process(world: Denying):
    await world.deny(ALICE)
    await world.deny("pds.example")
    await world.deny("did:plc:carolaaaaaaaaaaaaaaaaaaa")
    world.tracked = TrackedRepos(world.database)
    await world.tracked.load()
    world.open()
    await world.denials.load()
    for did in (ALICE, BOB, "did:plc:carolaaaaaaaaaaaaaaaaaaa"):
        assert world.tracked.is_denied(did)
    assert world.denials.is_denied_host("https://x.pds.example")


async def test_rows_of_a_denied_host_are_purged_and_of_no_other(world: Denying):
    await world.database.write(
        lambda c: (
            c.execute("UPDATE repo SET pds_url = 'https://x.test' WHERE did = ?", (BOB,)).rowcount
        )
    )
    await world.fetch(ALICE, {f"{TAG}/{number}": example(TAG) for number in range(150)})
    await world.deny(BOB)  # who is denied himself, and not to be purged
    await world.deny("pds.example", purge=True)
    while await world.denials.step():
        pass
    assert (await world.repo(ALICE))[4:] == (None, None)
    assert await world.rows("SELECT DISTINCT did FROM record JOIN repo ON repo.id = repo_id") == [
        (BOB,)
    ]
    assert (await world.denials.denials(before=None, limit=1))[0].is_purged


async def test_denials_are_listed_page_by_page_and_said_again_with_another_reason(world: Denying):
    for subject in (ALICE, BOB, "a.example"):
        await world.deny(subject)
    await world.denials.deny(ALICE, "worse", purge=True, by=ADMIN)
    first = await world.denials.denials(before=None, limit=2)
    rest = await world.denials.denials(before=first[-1].id, limit=2)
    found = [(each.subject, each.reason, each.kind) for each in (*first, *rest)]
    assert found == [
        ("a.example", "spam", "host"), (BOB, "spam", "account"), (ALICE, "worse", "account"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (ALICE, ALICE),
        ("did:web:example.com", "did:web:example.com"),
        (URI, URI),
        ("Evil.Example", "evil.example"),
        ("evil.example.", "evil.example"),
        ("https://evil.example/", "evil.example"),
        ("https://evil.example:443", "evil.example"),
        ("http://evil.example:3000", "evil.example:3000"),
        ("localhost:2583", "localhost:2583"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("[2001:DB8:0:0:0:0:0:1]", "[2001:db8::1]"),
        ("http://[2001:db8:0::1]:80/", "[2001:db8::1]"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("[::ffff:192.0.2.7]:81", "192.0.2.7:81"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
    ],
)
def test_a_subject_has_one_spelling(text: str, stored: str):
    assert parse_subject(text).text == stored
    assert parse_subject(stored).text == stored


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "did:", "did:plc:", "at://", f"at://{ALICE}", f"at://{ALICE}/{TAG}",
        f"at://alice.example/{TAG}/1", "com", "evil", "a b.example", "evil.example/path",
        "ftp://evil.example", "user@evil.example", "https://evil.example?x", "evil.example:x",
        "evil.example:99999", "ev\nil.example", "evil.example\n", "evil.example\t", "\revil.example",
        "evil.example..", "fe80::1%eth0", "[fe80::1%25eth0]", f"{ALICE}\n", f"{URI}\n",
        f" {ALICE}", "DID:PLC:abc", "AT://did:plc:abc/a.b.c/d", "127.1", "2130706433",
        "*.example", "[::1", "\0", "é.example", "." * 9,
    ],
)  # fmt: skip
def test_what_is_no_subject_is_refused_with_what_is_allowed(text: str):
    with pytest.raises(RequestRefused, match="input subject: "):
        parse_subject(text)


@pytest.mark.parametrize(
    ("subject", "url", "is_covered"),
    [
        ("evil.example", "https://evil.example", True),
        ("evil.example", "https://EVIL.example.:8443/x", True),
        ("evil.example", "https://a.b.evil.example", True),
        ("evil.example", "https://notevil.example", False),
        ("evil.example", "https://evil.example.org", False),
        ("evil.example:443", "https://evil.example", True),
        ("evil.example:443", "http://evil.example", False),
        ("localhost:1", "http://localhost:1/xrpc", True),
        ("localhost:1", "http://localhost:2", False),
        ("192.0.2.7", "https://192.0.2.7", True),
        ("2.7", "https://192.0.2.7", False),
        ("[2001:db8::1]", "https://[2001:db8::1]:443", True),
        ("[2001:db8::1]", "https://[2001:DB8:0:0::1]", True),
        ("[2001:db8::1]:443", "https://[2001:DB8:0:0::1]", True),
        ("192.0.2.7", "https://[::ffff:192.0.2.7]", True),
        ("evil.example", "https://[", False),
    ],
)
def test_a_host_stands_for_itself_and_all_below_it(subject: str, url: str, is_covered: bool):
    assert DeniedHosts([subject]).covers(url) is is_covered


async def test_who_is_allowed_while_all_repos_are_read_again_is_followed(world: Denying):
    """The page with the account had been read before: what it said is no longer so."""
    await world.deny(ALICE)
    read, is_allowed = world.database.read, False

    async def read_before_allow(sql: str, parameters: tuple[object, ...] = (), **how: bool):
        nonlocal is_allowed
        rows = await read(sql, parameters, **how)
        if not is_allowed and any(ALICE in row for row in rows):
            is_allowed = True
            assert await world.denials.allow(ALICE)
        return rows

    world.database.read = read_before_allow
    await world.tracked.load()
    assert is_allowed
    assert not world.live.is_denied(ALICE)


@pytest.mark.parametrize("subject", [ALICE, "pds.example"])
async def test_nothing_is_purged_of_whom_an_operator_allows_at_that_moment(
    world: Denying, subject: str
):
    await world.deny(subject, purge=True)
    read, is_allowed = world.database.read, False

    async def read_before_allow(sql: str, parameters: tuple[object, ...] = (), **how: bool):
        nonlocal is_allowed
        rows = await read(sql, parameters, **how)
        if not is_allowed:
            is_allowed = True
            assert await world.denials.allow(subject)
        return rows

    world.database.read = read_before_allow
    while await world.denials.step():
        pass
    assert is_allowed
    held = "SELECT count(*) FROM record JOIN repo ON repo.id = record.repo_id WHERE did = ?"
    assert [await world.one(held, did) for did in (ALICE, BOB)] == [2, 2]


async def test_what_was_said_of_a_denied_record_goes_with_its_content(world: Denying):
    uris = [f"at://{ALICE}/{TAG}/{rkey}" for rkey in ("1", "2")]
    drafts = [DeadLetterDraft("tag", "said of it", did=ALICE, uri=uri) for uri in uris]
    await world.database.write(lambda c: insert_dead_letters(c, drafts, now=world.clock.at))
    await world.deny(uris[0])
    assert await world.rows("SELECT uri FROM dead_letter") == [(uris[1],)]


async def test_what_is_hidden_of_a_host_already_costs_the_writer_nothing(world: Denying):
    await add_repos(world.database, 5_000)
    await world.deny("crowd.example")
    hidden = "SELECT count(*) FROM repo WHERE account_status = 'denied'"
    assert await world.one(hidden) == 5_000
    await world.database.write(lambda connection: connection.execute("DELETE FROM denial"))
    hiding = world.denials.deny("crowd.example", "again", purge=False, by=ADMIN)
    assert await writer_steps(world.database, hiding) < 100
    assert await world.one(hidden) == 5_000
