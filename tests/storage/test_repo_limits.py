"""What strangers may take: of one repo, of new repos, of the store; and that it is told."""

from __future__ import annotations

import os
import resource
import threading
from functools import partial
from pathlib import Path

import msgspec
import pytest

from indexer.claims import ROUNDS_MAX, Claim, Fetched, Identity, SnapshotChunk, ended, failed
from indexer.errors import LocalBusy, RepoLimited
from indexer.gaps import SURVEY_S_MIN
from indexer.lanes import NEW, Lane
from indexer.limits import DAY_S, Limit, Limits, day_of
from indexer.model import GapReason, RepoState, Wanted
from indexer.planning import IdentitySeen
from storage.admissions import AdmissionStore
from storage.author_index import AuthorIndex
from storage.gap_repair import GapRepairStore
from storage.room import WALK_S_MIN
from storage.room_upkeep import ATTEMPTS_MIN, EMPTY_S_MAX, WAITED_S, Reserve, RoomUpkeep
from storage.status import StatusStore
from tests.storage.conftest import (
    DID,
    KEY,
    POST,
    World,
    add_repos,
    commit,
    gone,
    put,
    writer_steps,
)

HOST = Identity(handle=None, signing_key=KEY, pds_url="https://one.pds.example")


def stranger(number: int) -> str:
    return f"did:plc:{number:024}"


async def discover(world: World, *numbers: int):
    return await world.apply(
        *(commit("r0", None, put("a", "c0"), did=stranger(n), key=None) for n in numbers)
    )


async def claimed(world: World) -> Claim:
    claim = await world.resyncs.claim_next()
    assert claim is not None
    return claim


async def fetch(world: World, claim: Claim, rev: str, *rkeys: str, commits=(), upto: int = 0):
    """A snapshot in one chunk, and the end of the claim."""
    claim = await world.resyncs.save_identity(claim, HOST)
    claim = await world.resyncs.begin_fetch(claim)
    records = {f"{POST}/{rkey}": put(rkey, f"c-{rkey}").record for rkey in rkeys}
    leaves = tuple((path, record.cid) for path, record in sorted(records.items()))
    chunk = SnapshotChunk(after="", upto=None, leaves=leaves, records=records, rev=rev)
    fetched = Fetched(rev=rev, data=f"root-{rev}", host_rev=rev, scope_id="scope")
    return await world.resyncs.finish(
        claim, fetched, chunk, commits, upto_id=upto, is_confirmed=True
    )


async def follow(world: World, rev: str = "r1", *rkeys: str) -> None:
    await world.apply(commit("r0", None, put("first", "c0"), key=None))
    finish = await fetch(world, await claimed(world), rev, *rkeys)
    assert finish.repo.state is RepoState.ACTIVE


async def sizes(world: World) -> tuple[int, int]:
    """(records, bytes) of the repo as counted, which is what they are."""
    counted = await world.rows("SELECT records, record_bytes FROM repo")
    true = await world.rows(
        "SELECT count(*), coalesce(sum(length(CAST(value AS BLOB))), 0) FROM record"
    )
    assert counted == true
    return counted[0]


async def test_records_and_bytes_of_a_repo_are_counted_in_whatever_transaction(world: World):
    await follow(world, "r1", "a", "b")
    assert (await sizes(world))[0] == 2
    await world.apply(commit("r2", "r1", put("c", "longer"), gone("a"), put("b", "other")))
    assert (await sizes(world))[0] == 2
    await world.resyncs.purge(await world.resyncs.claim_repo(DID), "gone")
    assert await sizes(world) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (Limits(records_per_repo=3), Limit.RECORDS_PER_REPO),
        (Limits(bytes_per_repo=200), Limit.BYTES_PER_REPO),
    ],
)
async def test_a_repo_that_grows_too_large_is_limited_and_keeps_its_rows(
    world: World, limits: Limits, limit: Limit
):
    await follow(world, "r1", "a", "b")
    world.room.limits = limits
    applied = await world.apply(commit("r2", "r1", *(put(f"n{n}", f"c{n}") for n in range(5))))
    assert applied.refused == {limit: 1}
    assert await world.rows("SELECT state, reason, wanted FROM repo") == [
        ("limited", f"over limits.{limit}", 0)
    ]
    held, _ = await sizes(world)
    ignored = await world.apply(commit("r3", "r2", put("more", "c9")))
    assert ignored.outcomes == {"ignored": 1} and (await sizes(world))[0] == held == 7
    # didSync is an operator's word that the repo is wanted as it is.
    finish = await fetch(world, await world.resyncs.claim_repo(DID), "r3", "a", "b", "c", "d", "e")
    assert finish.repo.state is RepoState.ACTIVE
    assert (await world.repo())[0] == "active"
    await world.apply(commit("r4", "r3", *(put(f"m{n}", f"c{n}") for n in range(5))))
    assert (await world.repo())[0] == "active" and (await sizes(world))[0] == 10


async def buffered(world: World):
    """(commits, bytes by the repos' rows, bytes by the tally) that wait."""
    return await world.rows(
        "SELECT (SELECT count(*) FROM pending_commit), (SELECT sum(pending_bytes) FROM repo),"
        " (SELECT total FROM tally WHERE kind = 'pending_bytes')"
    )


async def test_nothing_stays_buffered_for_a_repo_that_a_fetch_has_made_too_large(world: World):
    await follow(world, "r1", "a")
    await world.apply(commit("r7", "r6"))
    world.room.limits = Limits(records_per_repo=2)
    claim = await world.resyncs.save_identity(await claimed(world), HOST)
    claim = await world.resyncs.begin_fetch(claim)
    late = commit("r8", "r7", put("b", "c"))
    await world.apply(late, IdentitySeen(did=DID, seq=1, time=world.clock.at))
    assert (await buffered(world))[0][0] == 1
    ((upto, _),) = await world.resyncs.load_pending(claim, 0)
    await fetch(world, claim, "r7", "a", "b", "c", commits=[late], upto=upto)
    assert (await world.repo())[0] == "limited"
    assert await buffered(world) == [(0, 0, 0)]


async def test_nothing_stays_buffered_for_a_repo_that_has_grown_too_large(world: World):
    await follow(world, "r1", "a")
    world.room.limits = Limits(records_per_repo=2)
    await world.apply(
        commit("r2", "r1", *(put(f"n{n}", f"c{n}") for n in range(5))),
        IdentitySeen(did=DID, seq=1, time=world.clock.at),
        commit("r3", "r2", put("z", "c9")),
    )
    assert (await world.repo())[0] == "limited"
    assert await buffered(world) == [(0, 0, 0)]


async def test_a_snapshot_beyond_the_limit_is_refused_chunk_by_chunk(world: World):
    world.room.limits = Limits(records_per_repo=3)
    await discover(world, 1)
    claim = await world.resyncs.begin_fetch(
        await world.resyncs.save_identity(await claimed(world), HOST)
    )
    paths = [f"{POST}/{n}" for n in range(6)]
    for first, last in ((0, 3), (3, 6)):
        part = paths[first:last]
        chunk = SnapshotChunk(
            after=paths[first - 1] if first else "",
            upto=part[-1],
            leaves=tuple((path, "c") for path in part),
            records={
                path: msgspec.structs.replace(put("x", "c").record, path=path) for path in part
            },
            rev="r1",
        )
        if first == 0:
            await world.resyncs.apply_chunk(claim, chunk)
        else:
            with pytest.raises(RepoLimited, match="records_per_repo"):
                await world.resyncs.apply_chunk(claim, chunk)
    assert await world.rows("SELECT count(*) FROM record") == [(3,)]


async def test_a_flood_of_throwaway_accounts_costs_less_than_a_kilobyte_each(world: World):
    world.room.limits = Limits(pending_max=2000)
    await follow(world, "r1", "a")
    used = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    before = (await world.rows(used))[0][0]
    refused = opened = 0
    for start in range(0, 3000, 100):
        applied = await discover(world, *range(start, start + 100))
        refused += applied.refused[Limit.PENDING_MAX]
        opened += applied.gaps[GapReason.DISCOVERY]
    grown = (await world.rows(used))[0][0] - before
    assert await world.rows("SELECT count(*) FROM repo WHERE state = 'pending'") == [(2000,)]
    assert (refused, opened) == (1000, 1)
    assert grown / 2000 < 1000, f"{grown / 2000:.0f} bytes each"
    # Repos that are held are served as if nothing had happened.
    await world.apply(commit("r2", "r1", put("b", "c2")), commit("r9", "r8"))
    assert (await claimed(world)).did == DID


async def test_new_repos_of_a_host_are_so_many_a_day_and_the_others_wait_or_are_forgotten(
    world: World,
):
    world.room.limits = Limits(new_repos_per_host_day=3)
    admissions = AdmissionStore(world.database, world.room, clock=world.clock)
    await discover(world, *range(8))
    outcomes = []
    for _ in range(8):
        claim = await world.resyncs.claim_next(NEW)
        assert claim is not None
        outcomes.append(await admissions.admit(claim, HOST, ("domain pds.example", "address 1")))
        if outcomes[-1]:
            await fetch(world, claim, "r1", "a")
    assert outcomes == [True] * 3 + [False] * 5
    assert await world.rows("SELECT state, count(*) FROM repo GROUP BY 1 ORDER BY 1") == [
        ("active", 3), ("limited", 3),
    ]  # fmt: skip
    assert await world.rows("SELECT reason FROM gap") == [("discovery",)]
    assert await world.resyncs.claim_next(NEW) is None
    world.clock.at += DAY_S
    claim = await world.resyncs.claim_next(NEW)
    assert claim is not None
    assert await admissions.admit(claim, HOST, ("domain pds.example", "address 1"))
    assert await admissions.admit(claim, HOST, ("domain pds.example", "address 1"))  # once
    assert await world.rows("SELECT host_group, repos FROM admission") == [
        ("address 1", 1), ("domain pds.example", 1),
    ]  # fmt: skip


async def test_a_repo_with_rows_is_not_a_new_one_though_it_was_never_fetched_whole(world: World):
    world.room.limits = Limits(new_repos_per_host_day=1)
    admissions = AdmissionStore(world.database, world.room, clock=world.clock)
    claim = await world.resyncs.save_identity(await world.resyncs.claim_repo(DID), HOST)
    claim = await world.resyncs.begin_fetch(claim)
    record = put("a", "c").record
    first = SnapshotChunk(
        after="", upto=record.path, leaves=((record.path, record.cid),),
        records={record.path: record}, rev="r1",
    )  # fmt: skip
    await world.resyncs.apply_chunk(claim, first)
    broken = partial(
        ended, state=RepoState.INVALID, reason="broken", host_rev="r1", now=world.clock.at
    )
    await world.resyncs.settle(claim, broken)
    await discover(world, 1, 2)
    strangers = [await world.resyncs.save_identity(await claimed(world), HOST) for _ in range(2)]
    groups = ("domain pds.example",)
    assert [await admissions.admit(each, HOST, groups) for each in strangers] == [True, False]
    await world.apply(commit("r2", "r1", put("b", "c2")))
    world.clock.at += 60
    again = await claimed(world)
    assert again.did == DID and again.repo.rev is None
    assert await admissions.admit(again, HOST, groups)
    assert await world.rows("SELECT records FROM repo WHERE did = ?", DID) == [(1,)]


async def test_other_domains_at_the_same_address_share_its_quota(world: World):
    world.room.limits = Limits(new_repos_per_host_day=1)
    admissions = AdmissionStore(world.database, world.room, clock=world.clock)
    await discover(world, 1, 2)
    first, second = await claimed(world), await claimed(world)
    assert await admissions.admit(first, HOST, ("domain a.example", "address 1"))
    assert not await admissions.admit(second, HOST, ("domain b.example", "address 1"))


async def test_near_the_end_of_the_store_new_repos_stop_first_and_held_ones_last(world: World):
    limits = Limits(db_bytes_max=1000, db_bytes_reserve=100)
    world.room.limits = limits
    await follow(world, "r1", "a")
    await discover(world, 1)
    world.room.db_bytes = 950
    applied = await discover(world, 2)
    assert applied.refused == {Limit.DB_BYTES_MAX: 1}
    assert applied.gaps == {GapReason.DISCOVERY: 1}
    assert "db_bytes_max" in world.room.notes()["discovery"]
    assert await world.resyncs.claim_next() is None  # what waits is new
    await world.apply(commit("r2", "r1", put("b", "c2")))
    assert await world.rows("SELECT count(*) FROM record") == [(2,)]
    world.room.db_bytes = 1000
    with pytest.raises(LocalBusy, match="db_bytes_max"):
        await world.apply(commit("r3", "r2", put("c", "c3")))
    assert (await world.repo())[2] == "r2"
    world.room.db_bytes = 0
    await world.apply(commit("r3", "r2", put("c", "c3")))
    assert (await claimed(world)).did == stranger(1)
    await world.apply(commit("r9", "r8"))
    world.room.db_bytes = 1000
    assert await world.resyncs.claim_next() is None  # what it fetched could not be stored
    world.room.db_bytes = 950
    assert (await claimed(world)).did == DID


@pytest.mark.parametrize("is_store_full", [False, True])
async def test_an_author_has_no_new_repo_taken_in_while_none_is(world: World, is_store_full: bool):
    index = AuthorIndex(
        world.database, world.tracked, world.room, on_work=lambda: None, clock=world.clock
    )
    assert await index.want(stranger(1))
    if is_store_full:
        world.room.db_bytes = world.room.limits.db_bytes_max
    else:
        world.room.limits = Limits(pending_max=1)
    assert not await index.want(stranger(2))
    assert await world.rows("SELECT did FROM repo") == [(stranger(1),)]
    assert stranger(2) not in world.tracked
    assert await index.want(stranger(1)), "it is held already"


async def test_refused_repos_are_looked_for_once_there_is_room_and_one_walk_at_a_time(
    world: World,
):
    world.room.limits = Limits(pending_max=2)
    repair = GapRepairStore(world.database, world.tracked, clock=world.clock, room=world.room)
    await discover(world, 1, 2, 3)
    assert not await repair.survey([POST]) and await repair.has_open_gaps()
    for _ in range(2):
        await fetch(world, await claimed(world), "r1", "a")
    assert await repair.survey([POST])
    (question,) = await repair.questions()
    assert (question.kind, question.target) == ("collection", POST)
    # A second flood neither restarts the walk nor is forgotten.
    await discover(world, 4, 5, 6)
    assert await world.rows("SELECT count(*), count(surveyed_at) FROM gap") == [(1, 0)]
    assert await repair.questions() == [] and not await repair.survey([POST])
    for _ in range(2):
        await fetch(world, await claimed(world), "r1", "a")
    await repair.settle(question)
    assert await repair.close_gaps() == []
    assert not await repair.survey([POST])  # so soon after the last one
    world.clock.at += WALK_S_MIN
    assert await repair.survey([POST])
    (question,) = await repair.questions()
    await repair.settle(question)
    assert await repair.close_gaps() == [0]


async def test_what_a_days_quota_refused_is_looked_for_on_the_next_day_and_not_before(
    world: World,
):
    world.room.limits = Limits(new_repos_per_host_day=1)
    admissions = AdmissionStore(world.database, world.room, clock=world.clock)
    repair = GapRepairStore(world.database, world.tracked, clock=world.clock, room=world.room)
    tomorrow = (day_of(world.clock.at) + 1) * DAY_S
    for numbers in (range(5), range(5, 9)):
        await discover(world, *numbers)
        while (claim := await world.resyncs.claim_next(NEW)) is not None:
            if await admissions.admit(claim, HOST, ("domain pds.example",)):
                await fetch(world, claim, "r1", "a")
        assert await world.rows("SELECT reason, not_before, surveyed_at FROM gap") == [
            ("discovery", tomorrow, None)
        ]
        assert not await repair.survey([POST])
        world.clock.at += SURVEY_S_MIN
    status = StatusStore(world.database, clock=world.clock, collections=())
    world.clock.at = tomorrow - 1
    assert not await repair.survey([POST])
    assert (await status.counts()).open_gaps == 0, "nobody is alarmed by it meanwhile"
    world.clock.at = tomorrow
    assert (await status.counts()).open_gaps == 1
    assert await repair.survey([POST])


async def upkeep_of(world: World, reserve: Reserve) -> RoomUpkeep:
    return RoomUpkeep(
        world.database, world.tracked, world.room, reserve, clock=world.clock,
        on_look=lambda _: None,
    )  # fmt: skip


async def test_a_repo_without_rows_for_thirty_days_is_not_tracked_any_more(world: World):
    upkeep = await upkeep_of(world, Reserve(world.path, size=4096))
    await follow(world, "r1", "a")
    await discover(world, 1)
    await fetch(world, await claimed(world), "r1")
    await upkeep.step()
    world.clock.at += EMPTY_S_MAX - 10
    assert await upkeep.step() == 0
    world.clock.at += 11
    assert await upkeep.step() == 1
    assert await world.rows("SELECT did FROM repo") == [(DID,)]
    assert (await discover(world, 1)).tracked == [stranger(1)]
    # Rows that go start the time anew.
    await world.apply(commit("r2", "r1", gone("a")))
    await upkeep.step()
    world.clock.at += EMPTY_S_MAX - 10
    assert await upkeep.step() == 0


async def test_a_repo_without_rows_whose_host_is_gone_is_not_asked_for_without_end(world: World):
    upkeep = await upkeep_of(world, Reserve(world.path, size=4096))
    await discover(world, 1)
    await fetch(world, await claimed(world), "r1")
    await upkeep.step()
    world.clock.at += EMPTY_S_MAX - 10
    await world.apply(IdentitySeen(did=stranger(1), seq=2, time=world.clock.at))
    world.clock.at += WAITED_S
    assert await upkeep.step() == 0
    for _ in range(ATTEMPTS_MIN):
        assert await upkeep.step() == 0
        claim = await claimed(world)
        await world.resyncs.settle(
            claim, partial(failed, reason="gone", delay_s=60.0, now=world.clock.at)
        )
        world.clock.at += 61
    assert await upkeep.step() == 1
    assert await world.rows("SELECT did FROM repo") == []


def test_a_reserve_that_cannot_be_opened_is_not_held_and_is_no_fault(tmp_path: Path):
    reserve = Reserve(tmp_path / "index.db", size=4096)
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        assert not reserve.hold()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert reserve.hold()
    assert reserve.is_held


def test_a_reserve_that_is_freed_while_it_is_taken_up_is_no_fault(tmp_path: Path):
    """The writer meets the disk that this has filled, and may free it before this gives it up."""
    reserve = Reserve(tmp_path / "index.db", size=4096)
    is_over = threading.Event()

    def free_again_and_again() -> None:
        while not is_over.is_set():
            reserve.free()

    writer = threading.Thread(target=free_again_and_again)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer.start()
    try:
        for size in 2000 * [0, 4096]:  # no room for it, or room
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            reserve.hold()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        is_over.set()
        writer.join()
    assert reserve.hold()


def test_a_reserve_of_which_a_dead_process_left_only_the_name_is_taken_up_again(tmp_path: Path):
    (tmp_path / "index.db.reserve").touch()
    reserve = Reserve(tmp_path / "index.db", size=4096)
    assert not reserve.is_held
    assert reserve.hold()
    assert (tmp_path / "index.db.reserve").stat().st_size == 4096


async def test_the_reserve_is_freed_on_a_full_disk_and_taken_again(world: World):
    reserve = Reserve(world.path, size=4096)
    upkeep = await upkeep_of(world, reserve)
    await upkeep.look()
    assert reserve.is_held and world.room.problem is None
    assert world.room.db_bytes > 0
    world.room.is_disk_full = True
    reserve.free()
    assert not reserve.is_held
    with pytest.raises(LocalBusy, match="full"):
        await discover(world, 1)
    assert await world.database.write(lambda c: c.execute("DELETE FROM dead_letter").rowcount) == 0
    await upkeep.look()
    assert reserve.is_held and world.room.problem is None
    await discover(world, 1)


async def outrun_once(world: World, claim: Claim, host_rev: str, first: int):
    """Eight commits of 3 kB come while the repo is fetched at `host_rev`; 10 kB are kept."""
    claim = await world.resyncs.save_identity(claim, HOST)
    claim = await world.resyncs.begin_fetch(claim)
    late = [commit(f"r{n}", f"r{n - 1}", frame=bytes(3000)) for n in range(first, first + 8)]
    await world.apply(*late)
    pending = await world.resyncs.load_pending(claim, 0)
    assert len(pending) == 3
    return await fetch(world, claim, host_rev, "a", commits=late[-3:], upto=pending[-1][0])


async def test_a_full_buffer_has_the_repo_fetched_again_at_once_and_fails_after_three_rounds(
    world: World,
):
    await follow(world, "r100", "a")
    await world.apply(commit("r102", "r101"))
    letters = await world.rows("SELECT count(*) FROM dead_letters")
    finish = await outrun_once(world, await claimed(world), "r103", 110)
    for rounds in range(1, ROUNDS_MAX + 1):
        state, *_ = await world.repo()
        assert (state, finish.repo.retry_at) == ("desynchronized", world.clock.at), rounds
        finish = await outrun_once(world, await claimed(world), "r103", 110 + 10 * rounds)
    assert (await world.repo())[0] == "error"
    assert finish.repo.retry_at >= world.clock.at + 60
    assert finish.repo.wanted & Wanted.CONTENT
    # Nobody broke a chain: the buffer did.
    assert await world.rows("SELECT count(*) FROM dead_letters") == letters
    world.clock.at = finish.repo.retry_at
    await outrun_once(
        world, await claimed(world), "r200", 210
    )  # a newer rev: as if for the first time
    assert (await world.repo())[0] == "desynchronized"
    done = await fetch(world, await claimed(world), "r300", "a")
    assert done.repo.state is RepoState.ACTIVE


async def test_a_hole_that_the_snapshot_covers_costs_nothing(world: World):
    await follow(world, "r100", "a")
    await world.apply(commit("r102", "r101"))
    finish = await outrun_once(world, await claimed(world), "r115", 110)
    assert finish.repo.state is RepoState.ACTIVE and finish.repo.rev == "r117"


async def test_all_buffers_together_are_bounded_and_the_largest_gives_way(world: World):
    world.room.limits = Limits(buffer_bytes_max=12_000)
    await discover(world, *range(4))
    for _ in range(4):
        await claimed(world)
    for size in (9000, 3000, 3000, 2000):
        did = stranger(size // 1000 % 4)
        frames = [commit(f"r{n}", None, did=did, frame=bytes(1000)) for n in range(size // 1000)]
        await world.apply(*frames)
    kept = await world.rows("SELECT sum(length(frame)) FROM pending_commit")
    assert 6_000 <= kept[0][0] <= 12_000
    assert await world.rows("SELECT total FROM tally WHERE kind = 'pending_bytes'") == kept
    assert await world.rows("SELECT sum(pending_bytes) FROM repo") == kept


async def test_buffers_of_one_commit_each_are_bounded_too(world: World):
    """Whose only commit gives way is compared with its host once more."""
    world.room.limits = Limits(buffer_bytes_max=12_000)
    await discover(world, *range(20))
    for _ in range(20):
        await claimed(world)
    for n in range(20):
        await world.apply(commit("r1", None, did=stranger(n), frame=bytes(1000)))
    kept = await world.rows("SELECT sum(length(frame)) FROM pending_commit")
    assert kept == [(12_000,)]
    assert await world.rows("SELECT total FROM tally WHERE kind = 'pending_bytes'") == kept
    wanted = "SELECT count(*) FROM repo WHERE pending_bytes = 0 AND wanted & ?"
    assert await world.database.read(wanted, (Wanted.CONTENT,)) == [(8,)]


async def test_lanes_are_served_as_the_rows_say_whoever_wrote_them(world: World):
    await follow(world, "r1", "a")
    await discover(world, 1, 2)
    newest = await claimed(world)
    assert newest.did == stranger(2)  # the newest first
    await world.apply(commit("r9", "r8"))
    assert (await world.resyncs.claim_next([Lane.REPAIR])).did == DID
    assert await world.resyncs.claim_next([Lane.REPAIR]) is None
    assert (await claimed(world)).did == stranger(1)


async def test_empty_repos_that_stay_cost_the_writer_nothing(world: World):
    upkeep = await upkeep_of(world, Reserve(world.path, size=4096))
    await add_repos(world.database, 5_000)
    await world.database.write(
        lambda connection: connection.execute(
            "UPDATE repo SET empty_since = 0, account_status = 'denied'"
        )
    )
    assert await writer_steps(world.database, upkeep.step()) < 20
    assert await world.rows("SELECT count(*) FROM repo") == [(5_000,)]
