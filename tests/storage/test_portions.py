"""Chunks of a snapshot are written in portions that together are the chunk."""

from __future__ import annotations

import asyncio
import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from indexer.claims import CHUNK_ROWS, SnapshotChunk
from indexer.model import PreparedRecord
from storage.records import PORTION_BYTES, PORTION_ROWS, portions
from tests.storage.conftest import DID, POST, World, commit, put
from tests.storage.test_live_store import IDENTITY, cids, finish_fetch

LENGTHS = st.none() | st.just(1) | st.integers(0, 2 * PORTION_BYTES)


def chunk_of(lengths: list[int | None], upto: str | None) -> SnapshotChunk:
    """A chunk with values of these lengths; None: the row is as it should be."""
    paths = [f"a.b.c/{at:04}" for at in range(len(lengths))]
    return SnapshotChunk(
        after="a.b.c/",
        upto=upto,
        leaves=tuple((path, "cid") for path in paths),
        records={
            path: PreparedRecord(path, "cid", bytes(length), None)
            for path, length in zip(paths, lengths, strict=True)
            if length is not None
        },
        rev="r1",
    )


@given(st.lists(LENGTHS, max_size=2 * PORTION_ROWS), st.sampled_from([None, "a.b.c/9999"]))
def test_portions_are_the_chunk_and_each_is_small_or_of_one_record(lengths, upto):
    chunk = chunk_of(lengths, upto)
    parts = list(portions(chunk))
    assert sum((part.leaves for part in parts), ()) == chunk.leaves
    assert [part.after for part in parts] == [chunk.after, *(part.upto for part in parts[:-1])]
    assert parts[-1].upto == upto
    for part in parts:
        assert all(part.after < path <= (part.upto or "b") for path, _ in part.leaves)
        written = [len(chunk.records[p].value) for p, _ in part.leaves if p in chunk.records]
        assert len(written) <= PORTION_ROWS
        assert sum(written) <= PORTION_BYTES or len(written) == 1


async def test_others_write_between_the_portions_of_the_end_of_a_snapshot(world: World):
    await world.apply(commit("r0", None, put("first", "c0"), key=None))
    claim = await world.resyncs.claim_next()
    assert claim is not None
    claim = await world.resyncs.save_identity(claim, IDENTITY)
    await world.resyncs.begin_fetch(claim)
    leaves = [(f"{at:03}", f"c{at}") for at in range(CHUNK_ROWS)]
    seen: list[tuple[int, str]] = []

    def look(connection: sqlite3.Connection) -> None:
        seen.extend(connection.execute("SELECT (SELECT count(*) FROM record), state FROM repo"))

    async with asyncio.TaskGroup() as group:
        finishing = group.create_task(finish_fetch(world, claim, "r1", *leaves))
        while not finishing.done():
            await world.database.write(look, urgent=True)
    assert finishing.result().applied.records[POST, "create"] == CHUNK_ROWS
    between = {rows for rows, state in seen if state == "resyncing"} - {0}
    assert between
    assert between <= set(range(PORTION_ROWS, CHUNK_ROWS, PORTION_ROWS))
    assert await cids(world) == dict(leaves)
    assert await world.rows("SELECT state FROM repo WHERE did = ?", DID) == [("active",)]
