"""Reading ranges of a tree whose blocks come in bit by bit."""

from __future__ import annotations

import hashlib
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_repos import assert_refused

from indexer.errors import Check
from indexer.protocol.mst import Frontier, MissingBlock, estimated_leaves, key_height, walk
from tests.devnet import mst
from tests.devnet.cbor import Link, cid_of, encode

VALUE = cid_of(b"\xa0")
NAMES = ("app.bsky.feed.post", "com.example.a", "pub.chive.a.b", "pub.chive.c.d", "pub.chivez.e")
paths = st.builds(
    lambda name, number: f"{name}/r{number:04}".encode(),
    st.sampled_from(NAMES),
    st.integers(0, 9999),
)


def tree_of(keys) -> tuple[bytes, dict[bytes, bytes]]:
    tree = mst.build((key, VALUE) for key in keys)
    tree.seal()
    return tree.root.cid, {node.cid: node.block for node in tree.nodes()}


class Held:
    """The blocks that have come in."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}

    def __call__(self, cid: bytes) -> bytes:
        if cid not in self.blocks:
            raise MissingBlock(cid)
        return self.blocks[cid]


def brought(root: bytes, blocks: dict[bytes, bytes], ranges) -> tuple[Held, Frontier, int]:
    """What is held once nothing is missing, and in how many rounds it came."""
    held, frontier, rounds = Held(), Frontier(root, ranges), 0
    while missing := frontier.advance(held):
        assert not held.blocks.keys() & set(missing)
        held.blocks |= {cid: blocks[cid] for cid in missing}
        rounds += 1
    return held, frontier, rounds


@settings(max_examples=60)
@given(st.sets(paths, max_size=80), st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
def test_what_was_brought_is_exactly_what_reading_the_ranges_needs(keys, names):
    root, blocks = tree_of(keys)
    ranges = [(f"{name}/".encode(), f"{name}0".encode()) for name in sorted(names)]
    held, frontier, _ = brought(root, blocks, ranges)
    found = list(walk(root, held, ranges))
    assert found == list(walk(root, blocks.__getitem__, ranges))
    assert frontier.expected_leaves == len(found)
    for cid in held.blocks:
        less = Held()
        less.blocks = {other: block for other, block in held.blocks.items() if other != cid}
        with pytest.raises(MissingBlock):
            list(walk(root, less, ranges))


def test_each_round_goes_one_level_down_at_most():
    keys = [f"com.example.a/r{number:05}".encode() for number in range(5000)]
    root, blocks = tree_of(keys)
    _, _, rounds = brought(root, blocks, [(b"com.example.a/", b"com.example.a0")])
    assert rounds == max(map(key_height, keys)) + 1


def test_a_subtree_inside_a_range_is_expected_to_hold_what_its_height_says():
    keys = [f"com.example.a/r{number:05}".encode() for number in range(5000)]
    root, blocks = tree_of(keys)
    held = Held()
    held.blocks[root] = blocks[root]
    inside = Frontier(root, [(b"com.example.a/", b"com.example.a0")])
    missing = inside.advance(held)
    top = max(map(key_height, keys))
    edges = 2
    assert inside.expected_leaves == len(missing) - edges + 1 + (len(missing) - edges) * 4**top
    outside = Frontier(root, [(b"pub.chive.", b"pub.chive/")])
    assert len(outside.advance(held)) == 1
    assert outside.expected_leaves == 0


def test_a_broken_node_is_refused_when_it_comes_in():
    keys = [f"com.example.a/r{number:05}".encode() for number in range(50)]
    root, blocks = tree_of(keys)
    frontier, held = Frontier(root, [(b"", b"\xff")]), Held()
    held.blocks[root] = blocks[root]
    for cid in frontier.advance(held):
        wrong = encode({"e": [], "l": Link(cid)})
        held.blocks[cid] = wrong
    assert_refused(Check.MST, frontier.advance, held)


@pytest.mark.parametrize("count", [0, 1, 7, 100, 2000])
def test_a_path_tells_the_size_of_a_tree_to_its_order(count):
    """Of most trees: one path is a sample."""
    estimates = []
    for seed in range(15):
        keys = [
            f"com.example.a/{hashlib.sha256(f'{seed} {number}'.encode()).hexdigest()}".encode()
            for number in range(count)
        ]
        root, blocks = tree_of(keys)
        estimates.append(estimated_leaves(root, b"com.example.a/8", blocks.__getitem__))
    assert count / 4 <= statistics.median(estimates) <= count * 4


def test_a_high_key_makes_no_small_tree_a_large_one():
    numbers = (f"com.example.a/r{number:06}".encode() for number in range(100_000))
    high = next(key for key in numbers if key_height(key) >= 6)
    keys = [high, *(f"com.example.a/x{number}".encode() for number in range(5))]
    root, blocks = tree_of(keys)
    assert estimated_leaves(root, b"com.example.a/y", blocks.__getitem__) <= 16 * len(keys)


def test_a_path_that_breaks_off_counts_as_far_as_it_goes():
    keys = [f"com.example.a/r{number:05}".encode() for number in range(500)]
    root, blocks = tree_of(keys)
    whole = estimated_leaves(root, keys[100], blocks.__getitem__)
    held = Held()
    with pytest.raises(MissingBlock):
        estimated_leaves(root, keys[100], held)
    held.blocks[root] = blocks[root]
    assert estimated_leaves(root, keys[100], held) in {1, whole}
