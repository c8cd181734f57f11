from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_repos import assert_refused, value_or_refusal

from indexer.errors import Check
from indexer.protocol.mst import MissingBlock
from indexer.protocol.mst_inversion import (
    USUAL_OPS_MAX,
    USUAL_WAY_BYTES_MAX,
    NetOp,
    invert,
    invert_usual,
)
from tests.devnet import mst
from tests.devnet.cbor import cid_of, decode, encode

NEW, OLD, OTHER = cid_of(b"new"), cid_of(b"old"), cid_of(b"other")


def paths_of(height: int, count: int, name: str = "k") -> list[str]:
    """Record paths whose keys have this height, ascending."""
    found = []
    number = 0
    while len(found) < count:
        path = f"com.example.record/{name}{number:06}"
        if mst.key_height(path.encode()) == height:
            found.append(path)
        number += 1
    return found


def tree_of(paths, value: bytes = OLD) -> mst.Tree:
    tree = mst.build((path.encode(), value) for path in paths)
    tree.seal()
    return tree


def apply_ops(tree: mst.Tree, ops) -> mst.Tree:
    for op in ops:
        key = op.path.encode()
        tree = tree.remove(key) if op.cid is None else tree.put(key, op.cid)
    tree.seal()
    return tree


def proof_of(after: mst.Tree, before: mst.Tree, ops) -> dict[bytes, bytes]:
    """What an event carries: the new nodes, and those on the ways to the ops and their neighbours."""
    old = {node.cid for node in before.nodes()}
    blocks = {node.cid: node.block for node in after.nodes() if node.cid not in old}
    for op in ops:
        blocks.update((node.cid, node.block) for node in after.proof(op.path.encode()))
    return blocks


def random_ops(rng: random.Random, present: dict[str, bytes], pool, count: int) -> list[NetOp]:
    ops = []
    for path in rng.sample(pool, count):
        prev = present.get(path)
        if prev is None:
            ops.append(NetOp(path, NEW, None))
        else:
            ops.append(NetOp(path, rng.choice([None, None, NEW, prev]), prev))
    return ops


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120), st.integers(1, 12))
def test_commits_of_an_independent_tree_invert_to_its_previous_root(seed, size, count):
    rng = random.Random(seed)
    pool = [f"com.example.record/{rng.randrange(10**6):06}" for _ in range(size + count + 20)]
    pool = list(dict.fromkeys(pool))
    present = dict.fromkeys(rng.sample(pool, min(size, len(pool))), OLD)
    before = tree_of(present)
    ops = random_ops(rng, present, pool, min(count, len(pool)))
    after = apply_ops(before, ops)
    blocks = proof_of(after, before, ops)

    for order in (ops, ops[::-1], rng.sample(ops, len(ops))):
        assert invert(after.root.cid, blocks, order) == before.root.cid
        usual = invert_usual(after.root.cid, blocks, order)
        assert usual in (before.root.cid, None)
        assert usual is None or len(ops) <= USUAL_OPS_MAX


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(30, 300), st.integers(1, 4))
def test_commits_of_a_usual_size_are_mostly_inverted_the_cheaper_way(seed, size, count):
    rng = random.Random(seed)
    pool = [f"com.example.record/{number:06}" for number in range(2 * size)]
    usual = 0
    for _ in range(20):
        present = dict.fromkeys(rng.sample(pool, size), OLD)
        before = tree_of(present)
        ops = random_ops(rng, present, pool, count)
        after = apply_ops(before, ops)
        blocks = proof_of(after, before, ops)
        given_blocks = dict(blocks)
        usual += invert_usual(after.root.cid, blocks, ops) == before.root.cid
        assert blocks == given_blocks
    assert usual >= 8


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 6), st.data())
def test_a_false_claim_never_gives_the_previous_root(seed, size, count, data):
    rng = random.Random(seed)
    pool = [f"com.example.record/{number:06}" for number in range(size + count + 10)]
    present = dict.fromkeys(rng.sample(pool, size), OLD)
    before = tree_of(present)
    ops = random_ops(rng, present, pool, count)
    after = apply_ops(before, ops)
    if after.root.cid == before.root.cid:
        return
    blocks = proof_of(after, before, ops)
    at = data.draw(st.integers(0, len(ops) - 1))
    op = ops[at]
    lies = {
        "left out": [*ops[:at], *ops[at + 1 :]],
        "another path": [*ops[:at], NetOp(op.path + "x", op.cid, op.prev), *ops[at + 1 :]],
        "another cid": [*ops[:at], NetOp(op.path, OTHER, op.prev), *ops[at + 1 :]],
        "another prev": [*ops[:at], NetOp(op.path, op.cid, OTHER), *ops[at + 1 :]],
        "another action": [
            *ops[:at],
            NetOp(op.path, None if op.cid else NEW, op.prev or OTHER),
            *ops[at + 1 :],
        ],
        "one more": [*ops, NetOp("com.example.record/zzz", NEW, None)],
    }
    for name, claim in lies.items():
        if op.cid == op.prev and name == "left out":
            continue  # an update to the same content changes nothing: there is nothing to hide
        assert value_or_refusal(invert, after.root.cid, blocks, claim) != before.root.cid, name
        assert invert_usual(after.root.cid, blocks, claim) != before.root.cid, name


def test_nodes_stuffed_with_what_no_node_has_are_no_usual_way():
    low, middle = paths_of(0, 40), paths_of(1, 1)[0]
    below = [path for path in low if path > middle][:2]
    after = tree_of([middle, *below])
    ops = [NetOp(below[0], OLD, None)]
    plain = decode(after.root.block)
    for size, is_usual in ((100, True), (USUAL_WAY_BYTES_MAX, False)):
        stuffed = encode({**plain, "z": bytes(size)})
        blocks = {node.cid: node.block for node in after.nodes()} | {cid_of(stuffed): stuffed}
        assert (invert_usual(cid_of(stuffed), blocks, ops) is not None) is is_usual


@pytest.mark.parametrize("prefix", [b"\x01\x55\x12\x20", b"\x01\x70\x12\x20"])
def test_a_subtree_linked_by_another_name_of_its_block_is_seen(prefix: bytes):
    low, middle = paths_of(0, 40), paths_of(1, 1)[0]
    below = [path for path in low if path > middle][:2]
    before = tree_of([middle, below[1]])
    after = tree_of([middle, *below])
    leaf = next(node for node in after.nodes() if node.cid != after.root.cid)
    other_name = prefix + leaf.cid[4:]
    root = after.root.block.replace(leaf.cid, other_name)
    blocks = {cid_of(root): root, other_name: leaf.block}
    ops = [NetOp(below[0], OLD, None)]

    honest = {node.cid: node.block for node in after.nodes()}
    assert invert_usual(after.root.cid, honest, ops) == before.root.cid
    assert invert_usual(cid_of(root), blocks, ops) is None
    assert_refused(Check.MST, invert, cid_of(root), blocks, ops)


def test_each_contradiction_has_its_check():
    paths = paths_of(0, 8)
    before = tree_of(paths)
    after = apply_ops(before, [NetOp(paths[3], NEW, OLD)])
    root, blocks = after.root.cid, {node.cid: node.block for node in after.nodes()}
    absent = paths_of(0, 1, "absent")[0]
    high = paths_of(3, 1)[0]

    for op in (
        NetOp(paths[3], OTHER, OLD),
        NetOp(absent, NEW, None),
        NetOp(absent, NEW, OLD),
        NetOp(high, NEW, None),
        NetOp(paths[3], None, OLD),
        NetOp(paths[3], None, None),
    ):
        assert_refused(Check.OPS, invert, root, blocks, [op])
    assert_refused(Check.NOT_INVERTIBLE, invert, root, {}, [NetOp(paths[3], NEW, OLD)])
    broken = {root: b"\xa0"}
    assert_refused(Check.MST, invert, root, broken, [NetOp(paths[3], NEW, OLD)])


def test_no_ops_need_no_blocks():
    assert invert(OTHER, {}, []) == OTHER


def test_an_update_to_the_same_content_changes_nothing():
    tree = tree_of(paths_of(0, 4))
    blocks = {node.cid: node.block for node in tree.nodes()}
    assert invert(tree.root.cid, blocks, [NetOp(paths_of(0, 1)[0], OLD, OLD)]) == tree.root.cid


def test_the_first_and_the_last_record_of_a_repo():
    path = paths_of(2, 1)[0]
    one = tree_of([path])
    assert invert(one.root.cid, {one.root.cid: one.root.block}, [NetOp(path, OLD, None)]) == (
        mst.EMPTY.cid
    )
    empty = {mst.EMPTY.cid: mst.EMPTY.block}
    assert invert(mst.EMPTY.cid, empty, [NetOp(path, None, OLD)]) == one.root.cid


def test_a_proof_without_a_needed_node_is_not_invertible():
    low, high = paths_of(0, 40), paths_of(2, 3)
    before = tree_of([*low, *high[:2]])
    ops = [NetOp(high[2], NEW, None)]
    after = apply_ops(before, ops)
    blocks = proof_of(after, before, ops)
    for cid in blocks:
        rest = {each: block for each, block in blocks.items() if each != cid}
        with pytest.raises(MissingBlock):
            invert(after.root.cid, rest, ops)


# --- trees that hide a record: built by hand, since no honest writer makes them


def split_wrongly(before: mst.Tree, separator: str, *, cut: int) -> mst.Tree:
    """`before` (one node of height 0) under a new key, but with its keys cut at `cut`."""
    node = before.root
    halves = []
    for part in (slice(None, cut), slice(cut, None)):
        keys, values = node.keys[part], node.values[part]
        halves.append(mst.Node(keys, values, (None,) * (len(keys) + 1)) if keys else None)
    root = mst.Node((separator.encode(),), (NEW,), tuple(halves))
    tree = mst.Tree(root, 1)
    tree.seal()
    return tree


def test_a_record_on_the_wrong_side_of_a_new_key_is_seen():
    """Taking the key out gives the previous root, but a reader who searches misses a record."""
    separator = paths_of(1, 5)[4]
    low = [path for path in paths_of(0, 12) if path < separator][-3:]
    low += [path for path in paths_of(0, 40) if path > separator][:3]
    before = tree_of(low)
    ops = [NetOp(separator, NEW, None)]

    for cut in range(7):
        after = split_wrongly(before, separator, cut=cut)
        blocks = {node.cid: node.block for node in after.nodes()}
        if cut == 3:
            assert invert(after.root.cid, blocks, ops) == before.root.cid
        else:
            assert_refused(Check.MST, invert, after.root.cid, blocks, ops)
            assert invert_usual(after.root.cid, blocks, ops) is None
        assert merged_root(after) == before.root.cid  # the lie is in the order alone
        if cut in (0, 6):
            # Nothing is merged, yet the untouched side must be shown.
            assert_refused(
                Check.NOT_INVERTIBLE,
                invert,
                after.root.cid,
                {after.root.cid: after.root.block},
                ops,
            )


def merged_root(after: mst.Tree) -> bytes:
    """The root that taking out the only key of the root node leaves."""
    left, right = after.root.kids
    keys = (left.keys if left else ()) + (right.keys if right else ())
    values = (left.values if left else ()) + (right.values if right else ())
    tree = mst.Tree(mst.Node(keys, values, (None,) * (len(keys) + 1)), 0)
    tree.seal()
    return tree.root.cid


def test_a_record_hidden_two_levels_down_is_seen():
    separator = paths_of(2, 1)[0]
    above = [path for path in paths_of(0, 60) if path > separator][:2]
    below = [path for path in paths_of(0, 60) if path < separator][:1] or [
        path for path in paths_of(0, 60, "a") if path < separator
    ][:1]
    middle = next(path for path in paths_of(1, 40) if path > above[-1])
    before = tree_of([*below, *above, middle])
    leaf = mst.Node(
        tuple(path.encode() for path in (*below, *above)), (OLD,) * 3, (None,) * 4
    )  # `below` belongs to the left of the new key
    right = mst.Node((middle.encode(),), (OLD,), (leaf, None))
    after = mst.Tree(mst.Node((separator.encode(),), (NEW,), (None, right)), 2)
    after.seal()
    blocks = {node.cid: node.block for node in after.nodes()}

    assert before.root.cid == right.cid
    assert_refused(Check.MST, invert, after.root.cid, blocks, [NetOp(separator, NEW, None)])
    assert invert_usual(after.root.cid, blocks, [NetOp(separator, NEW, None)]) is None


def test_a_record_hidden_two_levels_down_on_the_other_side_is_seen():
    low, middle = paths_of(0, 300), paths_of(1, 1)[0]
    separator = next(
        path for path in paths_of(2, 20) if sum(middle < each < path for each in low) > 1
    )
    between = [path for path in low if middle < path < separator][:2]
    beyond = next(path for path in low if path > separator)
    before = tree_of([middle, *between, beyond])
    leaf = mst.Node(tuple(path.encode() for path in (*between, beyond)), (OLD,) * 3, (None,) * 4)
    left = mst.Node((middle.encode(),), (OLD,), (None, leaf))  # `beyond` belongs to its right
    after = mst.Tree(mst.Node((separator.encode(),), (NEW,), (left, None)), 2)
    after.seal()
    blocks = {node.cid: node.block for node in after.nodes()}

    assert before.root.cid == left.cid
    assert_refused(Check.MST, invert, after.root.cid, blocks, [NetOp(separator, NEW, None)])
    assert invert_usual(after.root.cid, blocks, [NetOp(separator, NEW, None)]) is None


def test_an_empty_node_left_behind_is_seen():
    low, middle = paths_of(0, 1)[0], paths_of(1, 1)[0]
    before = tree_of([low, middle])
    empty = mst.Node((), (), (None,))
    kids = (empty, None) if low < middle else (None, empty)
    after = mst.Tree(mst.Node((middle.encode(),), (OLD,), kids), 1)
    after.seal()
    blocks = {node.cid: node.block for node in after.nodes()}

    assert before.root.keys == (middle.encode(),)
    assert_refused(Check.MST, invert, after.root.cid, blocks, [NetOp(low, None, OLD)])
    assert invert_usual(after.root.cid, blocks, [NetOp(low, None, OLD)]) is None


def test_a_new_record_in_the_wrong_subtree_is_seen():
    separator = paths_of(1, 5)[4]
    low = [path for path in paths_of(0, 12) if path < separator][-3:]
    high = [path for path in paths_of(0, 60) if path > separator][:3]
    before = tree_of([*low, separator, *high[:2]])
    leaves = [
        mst.Node(tuple(path.encode() for path in paths), values, (None,) * (len(values) + 1))
        for paths, values in (((*low, high[2]), (OLD,) * 3 + (NEW,)), (high[:2], (OLD,) * 2))
    ]
    after = mst.Tree(mst.Node((separator.encode(),), (OLD,), tuple(leaves)), 1)
    after.seal()
    blocks = {node.cid: node.block for node in after.nodes()}

    # Taken out of the subtree in which it is, it would leave the previous tree.
    assert apply_ops(tree_of([*low, separator, *high]), [NetOp(high[2], None, OLD)]).root.cid == (
        before.root.cid
    )
    assert_refused(Check.OPS, invert, after.root.cid, blocks, [NetOp(high[2], NEW, None)])
    assert invert_usual(after.root.cid, blocks, [NetOp(high[2], NEW, None)]) is None


def test_a_root_without_keys_is_seen():
    low, middle = paths_of(0, 1)[0], paths_of(1, 1)[0]
    leaf = tree_of([low])
    after = mst.Tree(mst.Node((), (), (leaf.root,)), 1)
    after.seal()
    blocks = {node.cid: node.block for node in after.nodes()}
    assert_refused(Check.MST, invert, after.root.cid, blocks, [NetOp(middle, None, OLD)])


def test_a_key_at_the_wrong_height_is_seen():
    low, middle = paths_of(0, 2), paths_of(1, 1)[0]
    keys = tuple(sorted(path.encode() for path in (*low, middle)))
    after = mst.Tree(mst.Node(keys, (OLD,) * 3, (None,) * 4), 0)
    after.seal()
    blocks = {after.root.cid: after.root.block}
    assert_refused(Check.MST, invert, after.root.cid, blocks, [NetOp(low[0], OLD, None)])
