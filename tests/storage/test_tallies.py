"""Strangers may make up names of collections without end: none stays, and none is counted apart."""

from __future__ import annotations

from indexer.model import UNTYPED, PreparedRecord
from indexer.planning import RecordWrite
from storage.leftovers import ROWS_AT_ONCE, TOTALS, LeftoverUpkeep
from storage.status import ROLLED_BACK_REPOS, StatusStore
from tests.storage.conftest import POST, World, add_repos, commit, put, walk, writer_steps
from tests.storage.test_live_store import activate

MADE_UP = ROWS_AT_ONCE + 10

COLLECTIONS = "SELECT name, total FROM tally WHERE kind = 'collection' ORDER BY name"


def path_in(number: int) -> str:
    return f"pub.chive.stranger{number:05}.one/a"


def wrote(number: int) -> RecordWrite:
    path = path_in(number)
    return RecordWrite(path, PreparedRecord(path, "c0", "{}", "no lexicon"))


async def test_a_collection_without_records_is_forgotten_once_it_is_empty(world: World):
    strange = [wrote(number) for number in range(MADE_UP)]
    await activate(world, "r1", ("a", "c0"))
    await world.apply(commit("r2", "r1", *strange))
    upkeep = LeftoverUpkeep(world.database, TOTALS, clock=world.clock)
    assert await walk(world, upkeep) == 0
    assert len(await world.rows(COLLECTIONS)) == MADE_UP + 1

    emptied = [RecordWrite(path_in(number), None) for number in range(MADE_UP) if number != 7]
    await world.apply(commit("r3", "r2", *emptied))
    assert await walk(world, upkeep) == MADE_UP - 1
    assert await world.rows(COLLECTIONS) == [(POST, 1), ("pub.chive.stranger00007.one", 1)]

    await world.apply(commit("r4", "r3", wrote(8), RecordWrite(path_in(7), None)))
    await walk(world, upkeep)
    assert await world.rows(COLLECTIONS) == [(POST, 1), ("pub.chive.stranger00008.one", 1)]


async def test_collections_without_a_type_are_one_total(world: World):
    await activate(world, "r1", ("a", "c0"))
    await world.apply(commit("r2", "r1", put("b", "c0"), *map(wrote, range(50))))
    status = StatusStore(world.database, clock=world.clock, collections=[POST])
    counts = await status.counts()
    assert counts.records == {POST: 2, UNTYPED: 50}
    assert counts.repos["active"] == counts.accounts["active"] == 1


async def test_repos_that_were_rolled_back_are_counted_without_a_look_at_all_repos(world: World):
    await add_repos(world.database, 5_000)
    looking = world.database.write(
        lambda connection: connection.execute(ROLLED_BACK_REPOS).fetchall()
    )
    assert await writer_steps(world.database, looking) < 5
