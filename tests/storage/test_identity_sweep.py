"""Old identities become stale, slowly."""

from __future__ import annotations

from indexer.claims import Identity
from indexer.lanes import Standing
from indexer.planning import Policy
from storage.identity_sweep import (
    AGE_S_MAX,
    IS_BUSY,
    MARKED_AT_ONCE,
    NAMELESS_S_MAX,
    PAUSE_S,
    WAITING_MAX,
    IdentitySweep,
)
from storage.turns import TurnQueue
from tests.storage.conftest import KEY, SteppedClock, World, account, add_repos, writer_steps

STALE = "SELECT count(*) FROM repo WHERE wanted & 1"


async def with_repos(
    world: World, count: int, *, handle: str | None = "a.example", is_handle_unasked: bool = False
) -> IdentitySweep:
    for number in range(count):
        claim = await world.resyncs.claim_repo(f"did:plc:{number:024}")
        identity = Identity(
            handle=handle,
            signing_key=KEY,
            pds_url="https://pds.example",
            is_handle_unasked=is_handle_unasked,
        )
        claim = await world.resyncs.save_identity(claim, identity)
        await world.resyncs.settle(claim, lambda repo: repo)
    await world.database.write(
        lambda connection: connection.execute("UPDATE repo SET claimed = 0, priority = 2")
    )
    return IdentitySweep(world.database, Policy(), clock=world.clock)


async def test_an_identity_of_a_month_ago_is_looked_at_again_a_few_at_a_time(
    world: World, clock: SteppedClock
):
    sweep = await with_repos(world, 10)
    await sweep.step()
    assert await world.rows(STALE) == [(0,)]
    clock.at += AGE_S_MAX + 1
    marked = []
    for _ in range(4):
        await sweep.step()
        marked += (await world.rows(STALE))[0]
    assert marked == [MARKED_AT_ONCE, 2 * MARKED_AT_ONCE, 10, 10]


async def test_a_handle_that_nobody_could_be_asked_about_is_missed_for_a_week_at_most(
    world: World, clock: SteppedClock
):
    sweep = await with_repos(world, 1, is_handle_unasked=True)
    assert await world.rows("SELECT handle FROM repo") == [(None,)]
    await world.database.write(lambda connection: connection.execute("UPDATE repo SET rev = 'r1'"))
    clock.at += NAMELESS_S_MAX - 1
    await sweep.step()
    assert await world.rows(STALE) == [(0,)]
    clock.at += PAUSE_S
    await sweep.step()
    assert await world.rows(STALE) == [(1,)]


async def test_what_is_gone_is_left_alone_and_urgent_work_goes_first(
    world: World, clock: SteppedClock
):
    sweep = await with_repos(world, WAITING_MAX + 2)
    gone = account(active=False, status="deleted", time=clock.at, did=f"did:plc:{0:024}")
    await world.apply(gone)
    await world.database.write(
        lambda connection: connection.execute(
            "UPDATE repo SET wanted = 4, priority = 1, rev = 'r1' WHERE account_status = 'active'"
        )
    )
    clock.at += AGE_S_MAX + 1
    await sweep.step()
    assert await world.rows(STALE + " AND wanted & 4") == [(0,)]
    await world.database.write(
        lambda connection: connection.execute("UPDATE repo SET wanted = 0, priority = 2")
    )
    for _ in range(WAITING_MAX):
        await sweep.step()
    assert await world.rows(STALE) == [(WAITING_MAX + 1,)]


async def test_what_waits_for_a_host_that_is_gone_for_good_does_not_end_the_sweep(
    world: World, clock: SteppedClock
):
    sweep = await with_repos(world, WAITING_MAX + 20)
    clock.at += AGE_S_MAX + 1
    await world.database.write(
        lambda connection: connection.execute(
            "UPDATE repo SET identity_at = ?, wanted = 4, priority = 1, rev = 'r1', state = 'desynchronized',"
            " pds_url = 'https://gone.example' WHERE id <= ?",
            (clock.at, WAITING_MAX + 10),
        )
    )
    await sweep.step()
    assert await world.rows(STALE) == [(0,)], "the host is not known to be away"
    queue = TurnQueue(world.database, world.room, clock=clock)
    await queue.judge("https://gone.example", Standing.FAILED, until=clock.at + 600)
    for _ in range(3):
        await sweep.step()
    assert await world.rows(STALE + " AND pds_url = 'https://pds.example'") == [(10,)]


async def test_whether_anything_waits_is_seen_without_a_look_at_all_repos(world: World):
    await add_repos(world.database, 5_000)
    looking = world.database.write(lambda connection: connection.execute(IS_BUSY, (1,)).fetchall())
    assert await writer_steps(world.database, looking) < 5
