"""Live batches against a real file: chain, replay, buffer, visibility, cursor."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import msgspec
import pytest

from indexer.claims import Fetched, Identity, SnapshotChunk, StaleClaim
from indexer.errors import Check, InvalidUpstream, LocalFault
from indexer.model import RepoState, Wanted
from indexer.planning import IdentitySeen, SyncSeen
from storage.dead_letter_queue import DeadLetterStore
from tests.storage.conftest import (
    DID,
    KEY,
    POST,
    World,
    account,
    commit,
    gone,
    put,
    writer_steps,
)

IDENTITY = Identity(handle="a.test", signing_key=KEY, pds_url="https://pds.example")


async def activate(world: World, rev: str = "r1", *leaves: tuple[str, str]) -> None:
    """Discover the repo and fetch it at `rev`."""
    await world.apply(commit("r0", None, put("first", "c0"), key=None))
    claim = await world.resyncs.claim_next()
    assert claim is not None
    claim = await world.resyncs.save_identity(claim, IDENTITY)
    await world.resyncs.begin_fetch(claim)
    finish = await finish_fetch(world, claim, rev, *leaves)
    assert finish.is_done and finish.repo.state is RepoState.ACTIVE


async def finish_fetch(world: World, claim, rev: str, *leaves: tuple[str, str], commits=(), upto=0):
    records = {f"{POST}/{k}": put(k, c).record for k, c in leaves}
    chunk = SnapshotChunk(
        after="",
        upto=None,
        leaves=tuple((f"{POST}/{k}", c) for k, c in sorted(leaves)),
        records=records,
        rev=rev,
    )
    fetched = Fetched(rev=rev, data=f"root-{rev}", host_rev=rev, scope_id="scope")
    return await world.resyncs.finish(
        claim, fetched, chunk, commits, upto_id=upto, is_confirmed=True
    )


async def cids(world: World) -> dict[str, str]:
    return {row[0]: row[1] for row in await world.rows("SELECT rkey, cid FROM records")}


async def test_an_unknown_repo_with_an_in_scope_record_is_tracked_and_wanted(world: World):
    applied = await world.apply(commit("r0", None, put("a", "c1"), key=None))
    assert applied.tracked == [DID] and applied.is_work_added
    assert (await world.repo())[0] == "pending"
    assert world.live.is_tracked(DID)
    assert await cids(world) == {}


async def test_a_repo_of_a_did_that_no_account_can_have_is_not_tracked(world: World):
    """Nobody could be asked for it: it would be looked for in vain, and take a place meanwhile."""
    event = commit("r0", None, put("a", "c1"), key=None)
    applied = await world.apply(msgspec.structs.replace(event, did="did:key:zQ3shokFTS3brHcDQrn82"))
    assert applied.outcomes == {"untracked": 1} and applied.tracked == []
    assert await world.rows("SELECT count(*) FROM repo") == [(0,)]
    web = msgspec.structs.replace(event, did="did:web:a.example")
    assert (await world.apply(web)).tracked == ["did:web:a.example"]


async def test_commits_that_chain_change_rows_and_cursor_together(world: World):
    await activate(world, "r1", ("a", "c1"), ("b", "c2"))
    applied = await world.apply(
        commit("r2", "r1", put("c", "c3")), commit("r3", "r2", put("a", "c9"), gone("b"))
    )
    assert await cids(world) == {"a": "c9", "c": "c3"}
    assert applied.records == {(POST, "create"): 1, (POST, "update"): 1, (POST, "delete"): 1}
    assert (await world.repo())[2:4] == ("r3", "root-r3")
    assert await world.live.load_cursor("ws://relay") == world.seq
    assert await world.rows("SELECT total FROM tally WHERE kind='collection'") == [(2,)]


async def test_a_replayed_batch_changes_nothing(world: World):
    await activate(world, "r1", ("a", "c1"))
    events = [commit("r2", "r1", put("b", "c2")), commit("r3", "r2", gone("a"))]
    await world.apply(*events)
    before = await cids(world)
    applied = await world.apply(*events)
    assert applied.outcomes == {"replayed": 2} and not applied.records
    assert await cids(world) == before


async def test_two_records_with_one_cid_live_and_die_apart(world: World):
    await activate(world, "r1", ("a", "same"), ("b", "same"))
    await world.apply(commit("r2", "r1", gone("a")))
    assert await cids(world) == {"b": "same"}


async def test_a_broken_chain_keeps_rows_and_wants_a_fetch(world: World):
    await activate(world, "r1", ("a", "c1"))
    applied = await world.apply(commit("r3", "r2", put("b", "c2")))
    assert applied.checks == {Check.CHAIN: 1}
    state, _, rev, _, wanted, *_ = await world.repo()
    assert (state, rev, wanted) == ("desynchronized", "r1", Wanted.CONTENT)
    assert await cids(world) == {"a": "c1"}
    assert await world.rows("SELECT reason, did FROM dead_letters") == [("chain", DID)]


async def test_of_two_commits_upon_the_same_the_first_counts_and_the_second_desynchronizes(
    world: World,
):
    await activate(world, "r1", ("a", "c1"))
    first = commit("r2", "r1", put("a", "first"))
    second = commit("r3", "r1", put("a", "second"), put("b", "c2"))
    applied = await world.apply(first, second)
    assert applied.outcomes == {"applied": 1, "desynchronized": 1}
    assert await cids(world) == {"a": "first"}
    assert (await world.repo())[:3] == ("desynchronized", "active", "r2")


async def test_a_delete_of_what_we_do_not_hold_changes_no_row(world: World):
    await activate(world, "r1", ("a", "c1"))
    applied = await world.apply(commit("r2", "r1", gone("never-held")))
    assert applied.outcomes == {"applied": 1} and not applied.records
    assert await cids(world) == {"a": "c1"}
    assert (await world.repo())[2] == "r2"
    assert await world.rows("SELECT total FROM tally WHERE kind='collection'") == [(1,)]


async def test_commits_during_a_fetch_are_buffered_and_replayed_on_the_snapshot(world: World):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(commit("r3", "r2", put("x", "cx")))
    claim = await world.resyncs.claim_next()
    assert (await world.repo())[0] == "resyncing"
    late = [commit("r4", "r3", put("y", "cy")), commit("r5", "r4", gone("a"))]
    applied = await world.apply(*late)
    assert applied.outcomes == {"buffered": 2}
    assert await cids(world) == {"a": "c1"}
    pending = await world.resyncs.load_pending(claim, 0)
    assert [frame for _, frame in pending] == [b"frame r4", b"frame r5"]
    finish = await finish_fetch(
        world, claim, "r4", ("a", "c1"), ("x", "cx"), ("y", "cy"),
        commits=late, upto=pending[-1][0],
    )  # fmt: skip
    assert finish.is_done and finish.applied.outcomes == {"replayed": 1, "applied": 1}
    assert await cids(world) == {"x": "cx", "y": "cy"}
    assert (await world.repo())[:4] == ("active", "active", "r5", "root-r5")


async def test_commits_buffered_after_the_last_look_keep_the_claim_open(world: World):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(commit("r3", "r2"))
    claim = await world.resyncs.claim_next()
    await world.apply(commit("r4", "r3", put("y", "cy")))
    finish = await finish_fetch(world, claim, "r3", ("a", "c1"))
    assert not finish.is_done and (await world.repo())[0] == "resyncing"
    pending = await world.resyncs.load_pending(claim, 0)
    finish = await world.resyncs.finish(
        claim, None, None, [commit("r4", "r3", put("y", "cy"))],
        upto_id=pending[-1][0], is_confirmed=True,
    )  # fmt: skip
    assert finish.is_done and (await world.repo())[0] == "active"
    assert await cids(world) == {"a": "c1", "y": "cy"}


async def test_a_superseded_claim_writes_nothing(world: World):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(commit("r3", "r2"))
    old = await world.resyncs.claim_next()
    new = await world.resyncs.claim_repo(DID)
    with pytest.raises(StaleClaim):
        await finish_fetch(world, old, "r9", ("z", "cz"))
    assert await cids(world) == {"a": "c1"}
    assert (await finish_fetch(world, new, "r3", ("b", "cb"))).is_done
    assert await cids(world) == {"b": "cb"}


async def test_rows_of_two_states_of_a_repo_pass_for_no_state_of_it(world: World):
    """A fetch that ends half-way leaves them: what the host says is equal then proves nothing."""
    await activate(world, "r1", ("a", "c1"), ("z", "c2"))
    await world.apply(commit("r3", "r2"))
    claim = await world.resyncs.begin_fetch(await world.resyncs.claim_next())
    upto = f"{POST}/m"
    half = SnapshotChunk(after="", upto=upto, leaves=(), records={}, rev="r3")
    assert await world.resyncs.apply_chunk(claim, half) == {(POST, "delete"): 1}
    assert await cids(world) == {"z": "c2"}
    late = commit("r4", "r3", gone("z"))
    assert (await world.apply(late)).outcomes == {"buffered": 1}
    await world.resyncs.give_back_all()
    again = await world.resyncs.claim_next()
    assert again is not None and (again.repo.rev, again.repo.scope_id) == ("r1", None)


async def test_a_trigger_during_the_fetch_keeps_the_repo_out_of_active(world: World):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(commit("r3", "r2"))
    claim = await world.resyncs.claim_next()
    await world.apply(SyncSeen(did=DID, seq=1, rev="r7", data="root-r7", signing_key=KEY))
    finish = await finish_fetch(world, claim, "r3", ("a", "c1"))
    assert finish.is_done
    state, _, _, _, wanted, claimed, *_ = await world.repo()
    assert (state, wanted, claimed) == ("desynchronized", Wanted.CONTENT, 0)


async def test_a_sync_at_the_known_root_is_no_gap(world: World):
    await activate(world, "r1", ("a", "c1"))
    applied = await world.apply(
        SyncSeen(did=DID, seq=1, rev="r1", data="root-r1", signing_key=KEY),
        SyncSeen(did=DID, seq=2, rev="r2", data="root-r1", signing_key=KEY),
    )
    assert applied.outcomes == {"replayed": 1, "noted": 1}
    assert (await world.repo())[0] == "active"
    assert (await world.rows("SELECT rev, host_rev FROM repo")) == [("r1", "r2")]


@pytest.mark.parametrize(
    ("shown", "rev"), [("r0", "r1"), ("r1", "r1"), ("r2", "r2"), ("r3", "r3"), ("r4", "r1")]
)
async def test_a_newer_commit_that_a_sync_shows_of_the_known_root_is_what_the_next_follows(
    world: World, shown: str, rev: str
):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(
        SyncSeen(did=DID, seq=1, rev="r3", commit_rev=shown, data="root-r1", signing_key=KEY)
    )
    assert (await world.rows("SELECT rev, host_rev FROM repo")) == [(rev, "r3")]


async def test_a_sync_to_another_root_desynchronizes(world: World):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(SyncSeen(did=DID, seq=1, rev="r2", data="root-zzz", signing_key=KEY))
    assert (await world.repo())[0] == "desynchronized"


async def test_a_bad_signature_asks_for_the_key_once_and_then_desynchronizes(world: World):
    bad = InvalidUpstream(Check.SIGNATURE, "does not verify")
    await activate(world, "r1", ("a", "c1"))
    world.clock.at += 3600
    event = commit("r2", "r1", put("evil", "c6"), error=bad)
    applied = await world.apply(event)
    assert applied.outcomes == {"buffered": 1}
    assert (await world.repo())[0] == "active"
    claim = await world.resyncs.claim_next()
    claim = await world.resyncs.save_identity(claim, IDENTITY)
    pending = await world.resyncs.load_pending(claim, 0)
    finish = await world.resyncs.finish(
        claim, None, None, [event], upto_id=pending[-1][0], is_confirmed=False
    )
    assert finish.applied.checks == {Check.SIGNATURE: 1}
    assert (await world.repo())[0] == "desynchronized"
    assert await cids(world) == {"a": "c1"}


async def test_commits_wait_while_the_key_is_stale(world: World):
    await activate(world, "r1", ("a", "c1"))
    world.clock.at += 3600
    await world.apply(IdentitySeen(did=DID, seq=1, time=world.clock.at))
    applied = await world.apply(commit("r2", "r1", put("b", "c2")))
    assert applied.outcomes == {"buffered": 1} and await cids(world) == {"a": "c1"}
    claim = await world.resyncs.claim_next()
    assert claim is not None and claim.repo.claimed == Wanted.IDENTITY
    claim = await world.resyncs.save_identity(claim, IDENTITY)
    pending = await world.resyncs.load_pending(claim, 0)
    await world.resyncs.finish(
        claim, None, None, [commit("r2", "r1", put("b", "c2"))],
        upto_id=pending[-1][0], is_confirmed=False,
    )  # fmt: skip
    assert await cids(world) == {"a": "c1", "b": "c2"}
    assert (await world.repo())[0] == "active"


async def test_commits_that_come_while_a_letter_is_tried_again_are_none_the_worse_for_it(
    world: World,
):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(commit("r2", "r1", put("b", "c2", "float")))
    letters = DeadLetterStore(
        world.database, world.tracked, on_work=lambda: None, clock=world.clock
    )
    assert await letters.retry_all(None) == 1
    late = commit("r3", "r2", put("c", "c3"))
    assert (await world.apply(late)).outcomes == {"buffered": 1}
    claim = await world.resyncs.claim_next()
    claim = await world.resyncs.save_identity(claim, IDENTITY)
    ((row, _),) = await world.resyncs.load_pending(claim, 0)
    done = await world.resyncs.catch_up(claim, [late], upto_id=row)
    assert done.applied.outcomes == {"applied": 1}
    assert (await world.apply(commit("r4", "r3", gone("c")))).outcomes == {"applied": 1}


async def test_a_letter_retried_behind_a_fetch_is_read_again_by_the_next_one(world: World):
    """The fetch has compared the refused record before anybody asked for it to be read again."""
    await activate(world, "r1", ("a", "c1"))
    await world.apply(commit("r2", "r1", put("b", "c2", "float")))
    claim = await world.resyncs.claim_repo(DID)
    claim = await world.resyncs.begin_fetch(await world.resyncs.save_identity(claim, IDENTITY))
    ours = await world.resyncs.cids_between(claim, "", None)
    letters = DeadLetterStore(
        world.database, world.tracked, on_work=lambda: None, clock=world.clock
    )
    assert await letters.retry_all(None) == 1
    chunk = SnapshotChunk(after="", upto=None, leaves=tuple(ours.items()), records={}, rev="r3")
    fetched = Fetched(rev="r3", data="root-r3", host_rev="r3", scope_id="scope")
    done = await world.resyncs.finish(claim, fetched, chunk, (), upto_id=0, is_confirmed=True)
    assert done.is_done and done.repo.wanted & Wanted.CONTENT
    assert done.repo.scope_id is None, "equal revs would pass for a look at the record"
    world.clock.at += 1000
    claim = await world.resyncs.claim_next()
    assert claim is not None and "" in (await world.resyncs.cids_between(claim, "", None)).values()


@pytest.mark.parametrize("is_finishing", [True, False])
async def test_no_commit_is_judged_by_a_key_that_is_in_doubt_again(world: World, is_finishing):
    """The document was resolved, then the key rotated: the next look judges what came since."""
    await activate(world, "r1", ("a", "c1"))
    world.clock.at += 1000
    await world.apply(IdentitySeen(did=DID, seq=world.seq + 1, time=world.clock.now()))
    claim = await world.resyncs.claim_next()
    claim = await world.resyncs.save_identity(claim, IDENTITY)
    await world.apply(IdentitySeen(did=DID, seq=world.seq + 1, time=world.clock.now() + 1))
    revoked = commit("r2", "r1", gone("a"))
    assert (await world.apply(revoked)).outcomes == {"buffered": 1}
    ((row, _),) = await world.resyncs.load_pending(claim, 0)
    if is_finishing:
        done = await world.resyncs.finish(
            claim, None, None, [revoked], upto_id=row, is_confirmed=False
        )
    else:
        done = await world.resyncs.catch_up(claim, [revoked], upto_id=row)
    assert done.is_done
    assert await cids(world) == {"a": "c1"}

    world.clock.at += 1000
    claim = await world.resyncs.claim_next()
    claim = await world.resyncs.save_identity(claim, replace(IDENTITY, signing_key="zNew"))
    refused = msgspec.structs.replace(
        revoked, writes=(), signing_key="zNew", error=InvalidUpstream(Check.SIGNATURE, "another")
    )
    done = await world.resyncs.catch_up(claim, [refused], upto_id=row)
    assert done.is_done
    assert done.repo.state is RepoState.DESYNCHRONIZED
    assert await cids(world) == {"a": "c1"}


async def test_an_unverified_commit_is_never_applied(world: World):
    await activate(world, "r1", ("a", "c1"))
    applied = await world.apply(commit("r2", "r1", put("b", "c2"), key=None))
    assert applied.outcomes == {"buffered": 1} and await cids(world) == {"a": "c1"}


async def test_an_inactive_account_is_hidden_in_the_events_own_transaction(world: World):
    await activate(world, "r1", ("a", "c1"))
    await world.apply(account(active=False, status="deactivated", time=world.clock.at))
    assert await cids(world) == {}
    assert await world.rows("SELECT count(*) FROM record") == [(1,)]
    applied = await world.apply(commit("r2", "r1", put("b", "c2")))
    assert applied.outcomes == {"ignored": 1}
    assert (await world.repo())[0] == "desynchronized"
    older = account(active=True, status=None, time=world.clock.at - 10)
    await world.apply(older)
    assert await cids(world) == {}
    await world.apply(account(active=True, status=None, time=world.clock.at + 1))
    assert await cids(world) == {"a": "c1"}
    assert (await world.repo())[4] & Wanted.CONTENT


async def test_an_invalid_record_is_a_row_and_a_letter_until_it_is_mended(world: World):
    await activate(world, "r1")
    applied = await world.apply(
        commit("r2", "r1", put("bad", "c1", "tag: missing"), put("f", "c2", "float"))
    )
    assert applied.records == {(POST, "create"): 2, (POST, "refuse"): 2}
    rows = await world.rows("SELECT rkey, valid, value IS NULL FROM records ORDER BY rkey")
    assert rows == [("bad", 0, 0), ("f", 0, 1)]
    letters = await world.rows("SELECT uri, message FROM dead_letters ORDER BY id")
    assert letters[0] == (f"at://{DID}/{POST}/bad", "tag: missing")
    await world.apply(commit("r3", "r2", put("bad", "c3"), gone("f")))
    assert await world.rows("SELECT count(*) FROM dead_letters") == [(0,)]


async def test_the_buffer_keeps_the_newest_within_its_cap(world: World):
    await activate(world, "r1")
    await world.apply(commit("r3", "r2"))
    claim = await world.resyncs.claim_next()
    frames = [commit(f"r{n}", f"r{n - 1}", frame=bytes(3000)) for n in range(4, 9)]
    await world.apply(*frames)
    assert await world.rows("SELECT count(*), sum(length(frame)) FROM pending_commit") == [
        (3, 9000)
    ]
    assert await world.rows("SELECT pending_bytes, is_holed FROM repo") == [(9000, 1)]
    assert claim is not None


async def test_a_purge_removes_every_row_and_what_would_pass_for_completeness(world: World):
    leaves = [(f"k{n:04}", f"c{n}") for n in range(600)]
    await activate(world, "r1", *leaves)
    claim = await world.resyncs.claim_repo(DID)
    deleted = await world.resyncs.purge(claim, "deleted by its owner")
    assert sum(deleted.values()) == 600
    assert await world.rows("SELECT count(*) FROM record") == [(0,)]
    assert (await world.repo())[:4] == ("deleted", "deleted", None, None)
    assert await world.rows("SELECT scope_id, host_rev FROM repo") == [(None, None)]


async def test_a_boot_gives_back_what_was_claimed(world: World):
    await activate(world, "r1")
    await world.apply(commit("r3", "r2"))
    assert await world.resyncs.claim_next() is not None
    assert await world.resyncs.claim_next() is None
    await world.apply(account(active=False, status="deactivated", time=world.clock.at))
    await world.resyncs.give_back_all()
    state, _, _, _, wanted, claimed, *_ = await world.repo()
    assert (state, wanted, claimed) == ("desynchronized", Wanted.CONTENT | Wanted.ACCOUNT, 0)
    world.clock.at += 1000
    assert await world.resyncs.claim_next() is not None


async def test_what_was_read_under_another_scope_is_not_complete_under_any_later_one(world: World):
    await activate(world, "r1", ("a", "c1"))
    assert await world.resyncs.enter_scope("scope") == 0
    assert (await world.repo())[0] == "active"
    assert await world.resyncs.enter_scope("narrower") == 1
    assert (await world.repo())[0] == "active"
    assert await world.resyncs.enter_scope("scope") == 0
    claim = await world.resyncs.claim_next()
    assert claim is not None and claim.repo.scope_id is None
    assert claim.repo.claimed & Wanted.CONTENT
    await finish_fetch(world, claim, "r1", ("a", "c1"), ("b", "c2"))
    assert await cids(world) == {"a": "c1", "b": "c2"}
    await world.apply(account(active=False, status="deactivated", time=world.clock.at))
    assert await world.resyncs.enter_scope("narrower") == 1
    hidden = await world.rows("SELECT state, wanted, scope_id FROM repo")
    assert hidden == [("active", Wanted.ACCOUNT, None)]


async def test_a_repo_that_waits_to_be_read_under_another_scope_goes_on_with_the_stream(
    world: World,
):
    await activate(world, "r1", ("a", "c1"))
    assert await world.resyncs.enter_scope("wider") == 1
    await world.apply(commit("r2", "r1", put("b", "c2")))
    assert await cids(world) == {"a": "c1", "b": "c2"}
    state, _, rev, _, wanted, *_ = await world.repo()
    assert (state, rev, wanted) == ("active", "r2", Wanted.CONTENT)
    assert await world.rows("SELECT scope_id FROM repo") == [(None,)]


@pytest.mark.parametrize("state", [RepoState.LIMITED, RepoState.TOO_LARGE])
async def test_a_repo_that_only_an_operator_fetches_is_not_fetched_for_moving_to_and_fro(
    world: World, state: RepoState
):
    await activate(world, "r1")
    end = "UPDATE repo SET state = ?, wanted = 0, scope_id = NULL"
    await world.database.write(lambda connection: connection.execute(end, (state,)).rowcount)
    for number in range(4):
        world.clock.at += 100
        await world.apply(IdentitySeen(did=DID, seq=1, time=world.clock.at))
        claim = await world.resyncs.claim_next()
        assert claim is not None
        moved = replace(IDENTITY, pds_url=f"https://{'ab'[number % 2]}.example")
        await world.resyncs.save_identity(claim, moved)
        await world.resyncs.finish(claim, None, None, (), upto_id=0, is_confirmed=False)
        assert (await world.repo())[0] == state
        assert await world.resyncs.claim_next() is None


async def test_an_account_that_had_no_host_for_a_while_is_asked_about_at_its_next_one(
    world: World,
):
    await activate(world, "r1")
    for pds_url in (None, "https://new.example"):
        world.clock.at += 100
        await world.apply(IdentitySeen(did=DID, seq=1, time=world.clock.at))
        claim = await world.resyncs.claim_next()
        assert claim is not None and claim.repo.claimed == Wanted.IDENTITY
        await world.resyncs.save_identity(claim, replace(IDENTITY, pds_url=pds_url))
        await world.resyncs.finish(claim, None, None, (), upto_id=0, is_confirmed=False)
    assert (await world.repo())[4] == Wanted.ACCOUNT | Wanted.CONTENT


async def test_a_failing_transaction_leaves_nothing(world: World):
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO firehose_cursor VALUES ('x', 1, NULL, 'now')")
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(LocalFault):
        await world.database.write(half)
    assert await world.live.load_cursor("x") is None


async def test_readers_see_a_whole_batch_or_nothing(world: World):
    await activate(world, "r1")
    with closing(sqlite3.connect(f"file:{world.path}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (0,)
        await world.apply(commit("r2", "r1", put("a", "c1")))
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (0,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (1,)


async def test_a_batch_costs_as_much_however_many_records_are_denied(world: World):
    await activate(world)
    denied = [(f"at://did:plc:other/{POST}/{number}",) for number in range(5_000)]
    await world.database.write(
        lambda connection: connection.executemany(
            "INSERT INTO denial (subject, kind, reason, denied_by, denied_at, purge)"
            " VALUES (?, 'record', '', '', 0, 'no')",
            denied,
        )
    )
    assert await writer_steps(world.database, world.apply(commit("r2", "r1", put("b", "c")))) < 50
