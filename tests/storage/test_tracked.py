"""What is kept in memory of tracked repos, and that it follows the file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.claims import Identity
from storage.tracked import HashSet, TrackedRepos
from tests.storage.conftest import DID, KEY, World, commit, put

OTHER_KEY = "zQ3shZc2QzApp2oymGvQbzP8eKheVshBHbU4ZYjeXqwSKEn6N"


@given(
    st.lists(st.text(max_size=12), max_size=60),
    st.lists(st.text(max_size=12), max_size=60),
    st.lists(st.text(max_size=12), max_size=20),
)
def test_the_hash_set_holds_what_a_set_would(
    members: list[str], at_once: list[str], others: list[str]
):
    found, expected = HashSet(), {*members, *at_once}
    for text in members:
        found.add(text)
    found.update(at_once)
    members += at_once
    assert len(found) == len(expected)
    assert all(text in found for text in members)
    assert [text in found for text in others] == [text in expected for text in others]


def one_by_one(found: HashSet, names: list[str]) -> None:
    for name in names:
        found.add(name)


@pytest.mark.parametrize("expected", [0, 20_000])
@pytest.mark.parametrize("fill", [one_by_one, HashSet.update])
def test_the_hash_set_grows_and_stays_small(
    expected: int, fill: Callable[[HashSet, list[str]], None]
):
    found = HashSet(expected)
    names = [f"did:plc:{n:024}" for n in range(20_000)]
    fill(found, names)
    assert len(found) == 20_000
    assert all(name in found for name in names)
    assert not any(f"did:web:{n}.example" in found for n in range(20_000))
    assert sys.getsizeof(found._slots) <= 32 * 1.7 * 20_000


async def test_a_cancelled_operator_leaves_the_repo_tracked_in_memory_too(world: World):
    task = asyncio.create_task(world.resyncs.claim_repo(DID))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await world.database.write(lambda _: None)
    assert await world.rows("SELECT count(*) FROM repo") == [(1,)]
    assert world.live.is_tracked(DID)


async def test_a_new_key_is_read_after_it_was_saved(world: World):
    await world.apply(commit("r0", None, put("a", "c1"), key=None))
    claim = await world.resyncs.claim_next()
    assert claim is not None
    for key in (KEY, OTHER_KEY):
        identity = Identity(handle=None, signing_key=key, pds_url="https://pds.example")
        claim = await world.resyncs.save_identity(claim, identity)
        assert await world.live.signing_keys([DID]) == {DID: key}


async def test_a_key_that_was_read_before_its_change_is_not_kept(world: World):
    await world.apply(commit("r0", None, put("a", "c1"), key=None))
    claim = await world.resyncs.claim_next()
    assert claim is not None
    first = Identity(handle=None, signing_key=KEY, pds_url="https://pds.example")
    claim = await world.resyncs.save_identity(claim, first)
    reading = asyncio.create_task(world.live.signing_keys([DID]))
    await asyncio.sleep(0)
    second = Identity(handle=None, signing_key=OTHER_KEY, pds_url="https://pds.example")
    saving = asyncio.create_task(world.resyncs.save_identity(claim, second))
    await asyncio.gather(reading, saving)
    assert await world.live.signing_keys([DID]) == {DID: OTHER_KEY}


async def test_a_restart_knows_every_tracked_repo(world: World):
    dids = [f"did:plc:{n:024}" for n in range(50)]
    await world.apply(*(commit("r0", None, put("a", "c1"), did=did, key=None) for did in dids))
    again = TrackedRepos(world.database)
    await again.load()
    assert all(did in again for did in dids)
    assert DID not in again


async def test_who_is_tracked_while_all_are_read_again_stays_known(world: World):
    """The set is read anew beside the stream, to be rid of those that are tracked no more."""
    await world.apply(commit("r0", None, put("a", "c1"), key=None))
    read, late = world.database.read, "did:plc:" + "b" * 24

    async def read_before_another_commit(sql: str, parameters: tuple[object, ...] = ()):
        rows = await read(sql, parameters)
        if not rows:  # behind the last page
            await world.apply(commit("r0", None, put("a", "c1"), did=late, key=None))
        return rows

    world.database.read = read_before_another_commit
    await world.tracked.load()
    assert DID in world.tracked and late in world.tracked
    assert len(world.tracked) == 2
