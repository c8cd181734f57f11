"""The devnet's repos: trees, commits, and what their events carry, against the recording."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devnet_verifier import inverted
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.devnet.car import read_car
from tests.devnet.cbor import Link, cid_of, decode, decode_at, encode
from tests.devnet.clock import ManualClock, TidClock
from tests.devnet.keys import derive_key
from tests.devnet.mst import EMPTY, Tree, build, dropped_nodes
from tests.devnet.repo import Repo, Write

CORPUS = Path(__file__).parents[4] / "shared" / "corpus" / "real-pds"
VALUES = [cid_of(bytes([number])) for number in range(4)]
keys = st.integers(0, 400).map(lambda number: f"com.example.record/{number:04d}".encode())


def new_repo(did: str = "did:plc:test") -> Repo:
    repo = Repo(did, derive_key("k256", did), TidClock(ManualClock(), 1))
    repo.commit()
    return repo


def block(number: int) -> bytes:
    return encode({"$type": "com.example.record", "n": number})


@given(st.lists(st.tuples(keys, st.sampled_from([*VALUES, None])), max_size=60))
@settings(max_examples=150, deadline=None)
def test_incremental_tree_equals_the_tree_built_at_once(changes) -> None:
    tree, truth = Tree(), {}
    for key, value in changes:
        before = tree
        if value is not None:
            truth[key] = value
            tree = tree.put(key, value)
        elif key in truth:
            del truth[key]
            tree = tree.remove(key)
        fresh = tree.seal()
        made = {node.cid for node in fresh}
        gone = {node.cid for node in dropped_nodes(before, tree, fresh)} - made
        kept = {node.cid for node in before.nodes()} - gone
        assert kept | made | {tree.root.cid} == {node.cid for node in tree.nodes()}
    expected = build(truth.items())
    expected.seal()
    assert tree.root.cid == expected.root.cid
    assert list(tree.leaves()) == sorted(truth.items())


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_event_blocks_suffice_to_invert_any_batch(data) -> None:
    repo = new_repo()
    paths = [f"com.example.record/{number:03d}" for number in range(60)]
    start = data.draw(st.sets(st.sampled_from(paths)))
    repo.bulk_put((path, block(at)) for at, path in enumerate(sorted(start)))
    chosen = data.draw(st.lists(st.sampled_from(paths), unique=True, min_size=1, max_size=8))
    writes = []
    for at, path in enumerate(chosen):
        action = "create"
        if path in repo.records:
            action = data.draw(st.sampled_from(["update", "delete"]))
        body = None if action == "delete" else block(1000 + at)
        writes.append(Write(action, path, body))
    before = repo.data
    commit = repo.commit(writes)
    ops = [(op.path, op.cid, op.prev) for op in commit.ops]
    assert commit.prev_data == before
    assert inverted(commit.data, commit.blocks, ops) == before
    assert all(op.cid in commit.blocks for op in commit.ops if op.cid)
    assert_store_is_exact(repo)


def assert_store_is_exact(repo: Repo) -> None:
    """The host keeps the blocks of the current state, each once, and no others."""
    expected = {node.cid for node in repo.tree.nodes()}
    expected |= {repo.commit_cid, *repo.records.values()}
    assert set(repo.blocks) == expected
    assert all(cid_of(stored.data) == cid for cid, stored in repo.blocks.items())


def recorded_commits(name: str) -> Iterator[dict]:
    raw = (CORPUS / f"{name}.live.frames").read_bytes()
    at = 0
    while at < len(raw):
        (size,) = struct.unpack_from(">I", raw, at)
        frame = raw[at + 4 : at + 4 + size]
        at += 4 + size
        header, start = decode_at(frame, 0)
        if header["t"] == "#commit":
            yield decode_at(frame, start)[0]


@pytest.mark.skipif(not CORPUS.exists(), reason="the recording is not here")
def test_replaying_the_recorded_writes_gives_the_recorded_events() -> None:
    """Same roots, same `prev`, same set of blocks as the real PDS, but for the two commits whose
    records the recording does not hold (created and gone or replaced within the batch)."""
    repos: dict[str, Repo] = {}
    same = different = 0
    for name in ("pds1", "pds2"):
        for event in recorded_commits(name):
            did = event["repo"]
            repo = repos.setdefault(
                did, Repo(did, derive_key("k256", did), TidClock(ManualClock(), 1))
            )
            blocks = dict(read_car(event["blocks"])[1])
            ops, is_complete = net_writes(event["ops"], blocks)
            commit = repo.commit(ops)
            root = event["commit"].cid
            assert commit.data == decode(blocks[root])["data"].cid
            assert commit.prev_data == (event["prevData"].cid if "prevData" in event else None)
            if is_complete:
                assert [op.prev and Link(op.prev) for op in commit.ops] == [
                    op.get("prev") for op in event["ops"]
                ]
                assert set(commit.blocks) - {commit.cid} == set(blocks) - {root}
                same += 1
            else:
                different += 1
            assert_store_is_exact(repo)
    assert (same, different) == (485, 2)


def net_writes(ops: list[dict], blocks: dict[bytes, bytes]) -> tuple[list[Write], bool]:
    """The batch as writes; folded by hand where a record's block is absent."""
    missing = {op["path"] for op in ops if op["cid"] and op["cid"].cid not in blocks}
    writes = []
    for op in ops:
        body = op["cid"] and blocks.get(op["cid"].cid)
        if op["path"] not in missing:
            writes.append(Write(op["action"], op["path"], body))
        elif body:
            writes.append(Write("create", op["path"], body))
    return writes, not missing


def test_the_first_commit_is_of_an_empty_tree_and_has_two_blocks() -> None:
    repo = Repo("did:plc:x", derive_key("p256", 1), TidClock(ManualClock(), 1))
    commit = repo.commit()
    assert (commit.since, commit.prev_data, commit.ops) == (None, None, ())
    assert list(commit.blocks) == [EMPTY.cid, commit.cid]


def test_an_empty_commit_has_one_block_and_another_rev() -> None:
    repo = new_repo()
    first = repo.rev
    commit = repo.commit([])
    assert list(commit.blocks) == [commit.cid]
    assert commit.prev_data == commit.data
    assert commit.since == first
    assert commit.rev > first


def test_the_same_path_twice_lists_both_ops_as_the_real_pds_does() -> None:
    repo = new_repo()
    create = Write("create", "com.example.record/a", block(1))
    update = Write("update", "com.example.record/a", block(2))
    delete = Write("delete", "com.example.record/a")
    commit = repo.commit([create, update])
    assert [op.prev for op in commit.ops] == [None, None]
    assert cid_of(block(1)) not in commit.blocks
    commit = repo.commit([delete, create])
    assert [op.prev for op in commit.ops] == [cid_of(block(2))] * 2
    before = repo.data
    gone = [
        Write("create", "com.example.record/b", block(3)),
        Write("delete", "com.example.record/b"),
    ]
    commit = repo.commit(gone)
    assert [op.prev for op in commit.ops] == [None, None]
    assert commit.data == before
    assert cid_of(block(3)) not in commit.blocks


def test_identical_records_share_a_block_that_outlives_one_of_them() -> None:
    repo = new_repo()
    repo.commit([Write("create", "com.example.record/a", block(1))])
    second = repo.commit([Write("create", "com.example.record/b", block(1))])
    assert cid_of(block(1)) in second.blocks
    repo.commit([Write("delete", "com.example.record/a")])
    assert repo.block_of("com.example.record/b") == block(1)
    repo.commit([Write("update", "com.example.record/b", block(1))])
    assert_store_is_exact(repo)


@pytest.mark.parametrize(
    ("action", "path"), [("create", "a/1"), ("update", "a/2"), ("delete", "a/2")]
)
def test_an_impossible_write_changes_nothing(action, path) -> None:
    repo = new_repo()
    repo.commit([Write("create", "a/1", block(1))])
    before = (repo.data, repo.rev, dict(repo.records), set(repo.blocks))
    with pytest.raises(ValueError, match=f"cannot {action} {path}"):
        repo.commit([Write("create", "a/9", block(9)), Write(action, path, block(5))])
    assert (repo.data, repo.rev, dict(repo.records), set(repo.blocks)) == before


def test_since_selects_what_came_after_a_rev() -> None:
    repo = new_repo()
    repo.commit([Write("create", "a/1", block(1))])
    rev = repo.rev
    assert repo.snapshot(rev) == []
    repo.commit([Write("create", "a/2", block(2))])
    later = dict(repo.snapshot(rev))
    assert cid_of(block(2)) in later
    assert cid_of(block(1)) not in later
    assert dict(repo.snapshot()) == {cid: stored.data for cid, stored in repo.blocks.items()}


def test_a_proof_of_an_absent_record_holds_its_path_and_no_record() -> None:
    repo = new_repo()
    repo.bulk_put((f"a/{number}", block(number)) for number in range(300))
    proof = dict(repo.record_proof("a/nope"))
    assert next(iter(proof)) == repo.commit_cid
    nodes = {node.cid for node in repo.tree.nodes()}
    assert set(proof) - {repo.commit_cid} <= nodes
    assert len(dict(repo.record_proof("a/7"))) >= 3


def test_a_moved_repo_keeps_its_commit_and_gets_a_newer_host_rev() -> None:
    repo = new_repo()
    repo.commit([Write("create", "a/1", block(1))])
    moved = repo.moved_to(derive_key("k256", "new"))
    assert (moved.commit_cid, moved.rev) == (repo.commit_cid, repo.rev)
    assert moved.host_rev > repo.host_rev
    commit = moved.commit([Write("create", "a/2", block(2))])
    assert commit.since == repo.rev
    assert commit.rev > moved.rev or commit.rev == moved.rev
    assert "a/2" not in repo.records


def test_a_commit_in_a_repo_of_ten_thousand_records_takes_about_a_millisecond() -> None:
    repo = new_repo()
    repo.bulk_put((f"app.bsky.feed.post/{number:013d}", block(number)) for number in range(10_000))
    started = time.process_time()
    for number in range(100):
        repo.commit([Write("create", f"app.bsky.feed.post/{number:013d}x", block(number))])
    assert (time.process_time() - started) / 100 < 0.003
