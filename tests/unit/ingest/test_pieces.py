"""A chunk of records is prepared piece by piece, so that one of large records is no long turn."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from indexer.claims import CHUNK_ROWS
from indexer.ingest.giving_way import PIECE_S
from indexer.ingest.snapshot import CHUNK_BYTES, RepoSnapshot, open_snapshot, prepare_chunk
from indexer.model import PreparedRecord, Scope
from indexer.protocol.cid import cid_text
from indexer.protocol.keys import VerifyingKey
from tests.devnet.cbor import encode
from tests.devnet.clock import ManualClock, TidClock
from tests.devnet.keys import derive_key, multibase
from tests.devnet.repo import Repo

DID = "did:plc:abcdefghijklmnopqrstuvwx"
KEY = derive_key("k256", "pieces", "account")
BLOCKS = {f"pub.chive.a/r{n:03}": encode({"n": n}) for n in range(CHUNK_ROWS)}


def snapshot() -> RepoSnapshot:
    repo = Repo(DID, KEY, TidClock(ManualClock(), 7))
    repo.bulk_put(list(BLOCKS.items()))
    return open_snapshot(
        repo.commit_cid, lambda cid: repo.blocks[cid].data, did=DID,
        key=VerifyingKey.parse(multibase(KEY)), scope=Scope(("pub.chive.*",)),
        known=(None, None), now_s=1_790_000_100.0,
    )  # fmt: skip


class Turns:
    """Turns that are counted, and what was prepared in each."""

    def __init__(self) -> None:
        self.prepared: list[list[str]] = []

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        self.prepared.append([])
        yield

    def cheap(self, did: str, path: str, text: str, block: bytes) -> PreparedRecord:
        self.prepared[-1].append(path)
        return PreparedRecord(path, text, block, None)

    def costly(self, did: str, path: str, text: str, block: bytes) -> PreparedRecord:
        ends = time.thread_time() + 0.6 * PIECE_S
        while time.thread_time() < ends:
            pass
        return self.cheap(did, path, text, block)


async def test_records_that_take_long_are_prepared_in_many_turns_and_all_of_them():
    fetched, turns = snapshot(), Turns()
    leaves = fetched.next_leaves()
    ready, beyond, texts, records = await prepare_chunk(
        fetched, leaves, {}, turns.costly, turn=turns.turn
    )
    assert (ready, beyond) == (leaves, None)
    assert texts == tuple((path, cid_text(cid)) for path, cid in leaves.items)
    assert records == {path: PreparedRecord(path, cid, BLOCKS[path], None) for path, cid in texts}
    assert [path for piece in turns.prepared for path in piece] == list(BLOCKS)
    assert max(map(len, turns.prepared)) == 2


@pytest.mark.parametrize("held", [0, CHUNK_ROWS - 3, CHUNK_ROWS])
async def test_only_what_differs_from_our_rows_is_prepared(held: int):
    fetched, turns = snapshot(), Turns()
    leaves = fetched.next_leaves()
    ours = {path: cid_text(cid) for path, cid in leaves.items[:held]}
    _, _, _, records = await prepare_chunk(fetched, leaves, ours, turns.cheap, turn=turns.turn)
    assert list(records) == list(BLOCKS)[held:]
    assert bool(turns.prepared) is (held < CHUNK_ROWS)  # no turn is asked for in vain


async def test_a_chunk_of_large_records_is_made_ready_as_far_as_memory_is_given_to_it():
    def large(did: str, path: str, text: str, block: bytes) -> PreparedRecord:
        ends = time.thread_time() + PIECE_S
        while time.thread_time() < ends:
            pass
        return PreparedRecord(path, text, bytes(CHUNK_BYTES // 4), None)

    fetched, turns = snapshot(), Turns()
    leaves = fetched.next_leaves()
    ready, beyond, texts, records = await prepare_chunk(fetched, leaves, {}, large, turn=turns.turn)
    assert beyond is not None
    assert list(records) == [path for path, _ in texts] == list(BLOCKS)[:4]
    assert (ready.after, ready.upto, beyond.after) == (leaves.after, texts[-1][0], ready.upto)
    assert beyond.upto == leaves.upto
    assert ready.items + beyond.items == leaves.items
