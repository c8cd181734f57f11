"""What gaps ask and wait for, as rows: no survey restarts another, and no wait is for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from indexer.claims import Fetched, ended, failed
from indexer.gaps import SURVEY_S_MIN
from indexer.listings import Listed, Question
from indexer.model import AccountStatus, GapReason, GapSeen, RepoState, Wanted
from indexer.planning import EventBatch
from storage.gap_closing import ATTEMPTS_MAX, GAPS_KEPT, LET_GO_S
from storage.gap_repair import HOSTS_AT_ONCE, GapRepairStore
from tests.storage.conftest import DID, World, add_repos, commit, writer_steps
from tests.storage.test_repo_limits import HOST, claimed, fetch, follow

URL = HOST.pds_url


@pytest.fixture
def repair(world: World) -> GapRepairStore:
    return GapRepairStore(world.database, world.tracked, clock=world.clock, room=world.room)


async def lose(world: World, reason: GapReason = GapReason.OUTDATED_CURSOR) -> None:
    world.seq += 100
    gap = GapSeen(reason=reason, after_seq=world.seq, before_seq=world.seq + 7)
    await world.live.apply(
        EventBatch(url="ws://relay", events=(), seq=world.seq + 8, event_at=None, gaps=(gap,))
    )


async def surveyed(world: World, repair: GapRepairStore) -> Question:
    """The question for the only host, after a loss."""
    world.clock.at += SURVEY_S_MIN
    await lose(world)
    assert await repair.survey([])
    (question,) = await repair.questions()
    assert (question.kind, question.target) == ("host", URL)
    return question


def ahead(rev: str = "r9") -> Listed:
    return Listed(DID, AccountStatus.ACTIVE, rev)


async def gaps(world: World) -> list[tuple[int, int]]:
    """(repaired or not, unreachable) of each."""
    return await world.rows("SELECT repaired_at IS NOT NULL, unreachable FROM gap ORDER BY id")


async def fail_once(world: World) -> None:
    """An attempt that comes to nothing, and the time until the next is due."""
    claim = await claimed(world)
    ending = await world.resyncs.settle(
        claim, lambda repo: failed(repo, "down", delay_s=3600.0, now=world.clock.at)
    )
    world.clock.at = ending.retry_at


async def test_a_gap_that_comes_later_lets_a_list_be_read_on_and_then_once_more(
    world: World, repair: GapRepairStore
):
    await follow(world)
    question = await surveyed(world, repair)
    read = replace(question, cursor="c1", pages=1)
    await repair.compare((), read)
    world.clock.at += SURVEY_S_MIN
    await lose(world)
    assert await repair.survey([])
    assert await repair.questions() == [read]
    world.clock.at += 5
    await repair.settle(read)
    assert await repair.close_gaps() == [0] and await gaps(world) == [(1, 0), (0, 0)]
    (again,) = await repair.questions()
    assert (again.cursor, again.pages, again.since) == (None, 0, world.clock.at)
    await repair.settle(again)
    assert await repair.questions() == []
    assert await repair.close_gaps() == [0] and await gaps(world) == [(1, 0), (1, 0)]


async def test_what_has_not_been_asked_yet_is_asked_once_for_all_gaps(
    world: World, repair: GapRepairStore
):
    await follow(world)
    first = await surveyed(world, repair)
    await repair.put_off(replace(first, failures=1), delay_s=600.0)
    await surveyed_again(world, repair)
    await repair.settle(first)  # an answer from before the second gap
    assert await world.rows("SELECT failures, again_at, wanted_at < since FROM gap_question") == [
        (1, None, 1)
    ]
    assert await repair.close_gaps() == []
    world.clock.at += 600
    (question,) = await repair.questions()
    await repair.settle(question)
    assert await repair.close_gaps() == [0, 0]


async def surveyed_again(world: World, repair: GapRepairStore) -> None:
    world.clock.at += SURVEY_S_MIN
    await lose(world)
    assert await repair.survey([])


@pytest.mark.parametrize("is_begun", [False, True])
async def test_a_gap_is_not_repaired_while_it_waits_for_what_a_fast_clock_has_asked(
    world: World, repair: GapRepairStore, is_begun: bool
):
    await follow(world)
    now = world.clock.at
    world.clock.at += 80_000_000
    question = await surveyed(world, repair)
    if is_begun:
        await repair.compare([ahead()], replace(question, cursor="c1", pages=1))
    world.clock.at = now
    await surveyed_again(world, repair)
    assert await repair.close_gaps() == [] and await gaps(world) == [(0, 0), (0, 0)]
    (question,) = await repair.questions()
    await repair.compare([ahead()], replace(question, cursor="c1", pages=1))
    await repair.settle(question)
    for again in await repair.questions():
        await repair.settle(again)
    assert await repair.close_gaps() == [] and await gaps(world) == [(0, 0), (0, 0)]
    await fetch(world, await world.resyncs.claim_repo(DID), rev="r9")
    world.clock.at += 1
    assert await repair.close_gaps() == [0, 0]


async def test_a_gap_is_not_repaired_before_the_second_reading_that_a_fast_clock_has_wanted(
    world: World, repair: GapRepairStore
):
    await follow(world)
    question = await surveyed(world, repair)
    read = replace(question, cursor="c1", pages=1)
    await repair.compare((), read)
    now = world.clock.at
    world.clock.at += 80_000_000
    await surveyed_again(world, repair)
    world.clock.at = now
    await surveyed_again(world, repair)
    await repair.settle(read)
    assert await repair.close_gaps() == [0]
    assert await gaps(world) == [(1, 0), (0, 0), (0, 0)]
    (again,) = await repair.questions()
    await repair.settle(again)
    assert await repair.close_gaps() == [0, 0]


async def test_gaps_that_come_in_a_flood_are_surveyed_together(
    world: World, repair: GapRepairStore
):
    await follow(world)
    await repair.settle(await surveyed(world, repair))
    for _ in range(5):
        await lose(world, GapReason.QUARANTINED)
        assert not await repair.survey([])
        world.clock.at += 1
    world.clock.at += SURVEY_S_MIN
    assert await repair.survey([]) and not await repair.survey([])
    assert await world.rows("SELECT count(*) FROM gap_question") == [(1,)]


async def test_a_repo_that_had_used_up_its_attempts_before_the_gap_is_waited_for(
    world: World, repair: GapRepairStore
):
    await follow(world)
    await world.database.write(lambda c: c.execute("UPDATE repo SET attempts = 9"))
    question = await surveyed(world, repair)
    await repair.compare((ahead(),), question)
    await repair.settle(question)
    assert await repair.close_gaps() == []
    world.clock.at += 86_400
    await fetch(world, await claimed(world), "r9", "a")
    assert await repair.close_gaps() == [0] and await gaps(world) == [(1, 0)]


async def test_a_repo_that_was_wanted_before_the_gap_is_waited_for_too(
    world: World, repair: GapRepairStore
):
    await follow(world)
    await world.apply(commit("r7", "r6"))
    assert (await world.repo())[4] == Wanted.CONTENT
    question = await surveyed(world, repair)
    assert not await repair.compare((ahead(),), question)  # no work that was not known
    await repair.settle(question)
    assert await repair.close_gaps() == []
    await fetch(world, await claimed(world), "r9", "a")
    assert await repair.close_gaps() == [0]


async def test_a_repo_that_differs_is_no_verified_one_and_is_not_asked_about_twice(
    world: World, repair: GapRepairStore
):
    await follow(world)
    question = await surveyed(world, repair)
    before = await world.rows("SELECT verified_at FROM repo")
    asked = replace(question, after_id=0)
    assert [did for _, did in await repair.uncompared(asked)] == [DID]
    await repair.compare((ahead(),), asked)
    assert await world.rows("SELECT verified_at FROM repo") == before
    assert await repair.uncompared(asked) == []


async def test_a_repo_whose_fetch_began_before_a_loss_is_asked_about_after_it(
    world: World, repair: GapRepairStore
):
    await follow(world)
    await world.apply(commit("r7", "r6"))
    claim = await world.resyncs.save_identity(await claimed(world), HOST)
    claim = await world.resyncs.begin_fetch(claim)
    question = replace(await surveyed(world, repair), after_id=0)
    world.clock.at += 60.0
    fetched = Fetched(rev="r7", data="root-r7", host_rev="r7", scope_id="scope")
    await world.resyncs.finish(claim, fetched, None, (), upto_id=0, is_confirmed=True)
    assert (await world.repo())[0] == "active"
    assert [did for _, did in await repair.uncompared(question)] == [DID]


async def test_a_repo_that_breaks_its_chain_again_does_not_keep_the_gap_open(
    world: World, repair: GapRepairStore
):
    await follow(world)
    question = await surveyed(world, repair)
    await repair.compare((ahead(),), question)
    await repair.settle(question)
    world.clock.at += 1
    await fetch(world, await claimed(world), "r9", "a")
    await world.apply(commit("s2", "s1"))
    assert (await world.repo())[0] == "desynchronized"
    assert await repair.close_gaps() == [0] and await gaps(world) == [(1, 0)]


async def test_a_repo_that_its_host_did_not_know_is_waited_for_when_it_is_back(
    world: World, repair: GapRepairStore
):
    await follow(world)
    await world.database.write(lambda c: c.execute("UPDATE repo SET state = 'not_found'"))
    question = await surveyed(world, repair)
    await repair.compare((ahead(),), question)
    await repair.settle(question)
    assert await repair.close_gaps() == []
    await fetch(world, await claimed(world), "r9", "a")
    assert await repair.close_gaps() == [0]


async def test_a_terminal_state_that_an_attempt_ended_in_is_an_answer(
    world: World, repair: GapRepairStore
):
    await follow(world)
    question = await surveyed(world, repair)
    await repair.compare((ahead(),), question)
    await repair.settle(question)
    claim = await claimed(world)
    await world.apply(commit("s2", "s1"))
    await world.resyncs.settle(
        claim,
        lambda repo: ended(
            replace(repo, wanted=Wanted.CONTENT), RepoState.INVALID, "broken",
            host_rev="r9", now=world.clock.at,
        ),
    )  # fmt: skip
    assert await repair.close_gaps() == [0] and await gaps(world) == [(1, 0)]


async def test_a_repo_that_fails_again_and_again_is_let_go_and_the_gap_says_so(
    world: World, repair: GapRepairStore
):
    await follow(world)
    question = await surveyed(world, repair)
    await repair.compare((ahead(),), question)
    await repair.settle(question)
    for _ in range(ATTEMPTS_MAX):
        assert await repair.close_gaps() == []
        await fail_once(world)
    assert await repair.close_gaps() == [1] and await gaps(world) == [(1, 1)]
    assert (await world.repo())[4] & Wanted.CONTENT  # the resync goes on


async def test_repos_of_a_host_that_does_not_answer_are_let_go_after_a_time(
    world: World, repair: GapRepairStore
):
    """They were never attempted: the host was left alone after another one's failure."""
    await follow(world)
    question = await surveyed(world, repair)
    await repair.compare((Listed(DID, None, None),), question, is_answered=False)
    await repair.settle(question)
    world.clock.at += LET_GO_S
    assert await repair.close_gaps() == []  # it may be slow, as long as it does not fail
    await world.database.write(
        lambda c: c.execute("INSERT INTO turn VALUES (?, 2, 1e12, 0, 2)", (URL,))
    )
    assert await repair.close_gaps() == [1] and await gaps(world) == [(1, 1)]


async def test_repaired_gaps_are_kept_up_to_a_number(world: World, repair: GapRepairStore):
    await follow(world)
    await world.database.write(
        lambda c: c.executemany(
            "INSERT INTO gap (url, reason, detected_at, surveyed_at, repaired_at)"
            " VALUES ('ws://relay', 'quarantined', 1, 1, ?)",
            ((None if n == 3 else 1.0,) for n in range(GAPS_KEPT + 20)),
        )
    )
    assert await repair.close_gaps() == [0]
    assert await world.rows("SELECT count(*), max(id) FROM gap") == [(GAPS_KEPT, GAPS_KEPT + 20)]


async def test_new_repos_are_waited_for_until_they_were_fetched(
    world: World, repair: GapRepairStore
):
    await follow(world)
    question = await surveyed(world, repair)
    stranger = "did:plc:zzzzzzzzzzzzzzzzzzzzzzzz"
    assert await repair.discover((Listed(stranger, AccountStatus.ACTIVE, "r1"),), question)
    await repair.settle(question)
    assert await repair.close_gaps() == []
    claim = await claimed(world)
    assert claim.did == stranger
    await fetch(world, claim, "r1")
    assert await repair.close_gaps() == [0]


async def test_a_word_on_one_repo_costs_the_writer_no_look_at_the_others_of_its_host(
    world: World, repair: GapRepairStore
):
    await add_repos(world.database, 5_000, pds_url=f"'{URL}'")
    question = await surveyed(world, repair)
    word = Listed("did:plc:" + "1".zfill(24), AccountStatus.ACTIVE, "r9")
    assert await writer_steps(world.database, repair.compare((word,), question)) < 50
    assert await world.rows("SELECT repo_id FROM gap_repo") == [(1,)]


async def test_a_gap_that_waits_for_many_repos_costs_the_writer_no_look_at_them(
    world: World, repair: GapRepairStore
):
    await add_repos(world.database, 5_000, pds_url=f"'{URL}'")
    question = await surveyed(world, repair)
    while left := await repair.uncompared(question):
        question = replace(question, after_id=left[-1][0])
        words = [Listed(did, None, None) for _, did in left]
        await repair.compare(words, question, is_answered=False)
    await repair.settle(question)
    assert await world.rows("SELECT count(*) FROM gap_repo") == [(5_000,)]
    assert await writer_steps(world.database, repair.close_gaps()) < 50
    assert await gaps(world) == [(0, 0)]


async def test_many_hosts_are_put_down_in_short_transactions(world: World, repair: GapRepairStore):
    hosts = 5 * HOSTS_AT_ONCE
    await add_repos(world.database, hosts, pds_url="printf('https://h%d.example', at)")
    await lose(world)
    assert await writer_steps(world.database, repair.survey(["a.b.c"])) < HOSTS_AT_ONCE
    (question,) = [each for each in await repair.questions() if each.kind == "collection"]
    asking = repair.ask_hosts([URL], question, is_cut=True)
    assert await writer_steps(world.database, asking) < HOSTS_AT_ONCE
    counts = await world.rows("SELECT kind, count(*) FROM gap_question GROUP BY kind")
    assert counts == [("collection", 1), ("host", hosts), ("newcomers", hosts + 1)]
    assert await world.rows("SELECT unread FROM gap WHERE surveyed_at IS NOT NULL") == [(1,)]


async def test_a_gap_that_comes_while_hosts_are_put_down_is_left_to_the_next_survey(
    world: World, repair: GapRepairStore
):
    """Of what was compared with a host meanwhile, some was before that loss."""
    await follow(world)
    await lose(world)
    write, has_come = world.database.write, False

    async def write_and_lose(change, **how):
        nonlocal has_come
        done = await write(change, **how)
        if not has_come:
            has_come = True
            world.clock.at += 1.0
            await lose(world)
        return done

    world.database.write = write_and_lose
    assert await repair.survey([])
    which = "SELECT surveyed_at IS NOT NULL FROM gap ORDER BY id"
    assert has_come and await world.rows(which) == [(1,), (0,)]
    world.clock.at += SURVEY_S_MIN
    assert await repair.survey([])
    assert await world.rows(which) == [(1,), (1,)]
