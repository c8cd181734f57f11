from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import COLLECTION, assert_refused, value_or_refusal

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.mst import (
    HEIGHT_MAX,
    KEY_BYTES_MAX,
    NODE_BYTES_MAX,
    NODE_ENTRIES_MAX,
    MissingBlock,
    decode_node,
    key_height,
    walk,
)
from tests.devnet import mst
from tests.devnet.cbor import RAW, Link, Value, cid_of, encode

VALUE = cid_of(b"\xa0")


def keys_of_height(height: int, count: int) -> list[bytes]:
    """The first record paths of a height, ascending."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        key = f"{COLLECTION}/k{number:07}".encode()
        if mst.key_height(key) == height:
            found.append(key)
        number += 1
    return found


LINKED = Link(VALUE)


def entry(suffix: bytes, shared: int = 0, tree: bytes | None = None, value=LINKED) -> Value:
    return {"k": suffix, "p": shared, "t": None if tree is None else Link(tree), "v": value}


def node(*entries: Value, left: bytes | None = None) -> bytes:
    return encode({"e": list(entries), "l": None if left is None else Link(left)})


class Blocks:
    """Blocks by CID, as `walk` loads them, and which of them it asked for."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = {cid_of(block): block for block in blocks}
        self.loaded: list[bytes] = []

    def add(self, block: bytes) -> bytes:
        self.blocks[cid_of(block)] = block
        return cid_of(block)

    def __call__(self, cid: bytes) -> bytes:
        self.loaded.append(cid)
        if cid not in self.blocks:
            raise MissingBlock(cid)
        return self.blocks[cid]


def blocks_of(tree: mst.Tree) -> Blocks:
    tree.seal()
    return Blocks(*(each.block for each in tree.nodes()))


def leaves(root: bytes, load: Blocks, ranges=None) -> list[tuple[str, bytes]]:
    return list(walk(root, load, ranges))


def test_height_is_leading_zero_bit_pairs_of_the_hash():
    for number in range(2000):
        key = str(number).encode()
        digest = "".join(f"{byte:08b}" for byte in hashlib.sha256(key).digest())
        assert key_height(key) == (len(digest) - len(digest.lstrip("0"))) // 2


A, B = b"com.example.record/aaa", b"com.example.record/aab"

MALFORMED = {
    "not-cbor": b"\xff",
    "a-list": encode([]),
    "no-l": encode({"e": []}),
    "no-e": encode({"l": None}),
    "one-field-more": encode({"e": [], "l": None, "x": 1}),
    "e-is-a-map": encode({"e": {}, "l": None}),
    "an-entry-is-a-list": node([]),
    "an-entry-lacks-t": node({"k": A, "p": 0, "v": Link(VALUE)}),
    "an-entry-has-another-field": node({"k": A, "p": 0, "x": None, "v": Link(VALUE)}),
    "an-entry-has-one-more": node({"k": A, "p": 0, "t": None, "v": Link(VALUE), "x": 0}),
    "k-is-text": node({**entry(A), "k": "text"}),
    "p-is-text": node({**entry(A), "p": "0"}),
    "p-is-true": node({**entry(A), "p": False}),
    "p-is-negative": node(entry(A), entry(B, -1)),
    "p-beyond-the-previous-key": node(entry(A), entry(b"b", len(A) + 1)),
    "p-of-the-first-entry": node(entry(A, 1)),
    "p-not-maximal": node(entry(A), entry(B[10:], 10)),
    "p-of-zero-not-maximal": node(entry(A), entry(B)),
    "keys-equal": node(entry(A), entry(b"", len(A))),
    "keys-descending": node(entry(B), entry(b"a", len(A) - 1)),
    "a-prefix-second": node(entry(A), entry(b"", len(A) - 1)),
    "an-empty-key": node(entry(b"")),
    "a-long-key": node(entry(b"k" * (KEY_BYTES_MAX + 1))),
    "v-is-null": node(entry(A, value=None)),
    "v-is-bytes": node(entry(A, value=VALUE)),
    "v-is-no-cid": node(entry(A, value=Link(b"\0" * 36))),
    "t-is-bytes": node({**entry(A), "t": VALUE}),
    "t-is-raw": node(entry(A, tree=cid_of(b"", RAW))),
    "l-is-bytes": encode({"e": [], "l": VALUE}),
    "l-is-raw": node(left=cid_of(b"", RAW)),
    "too-many-entries": node(
        entry(b"k000"),
        *(
            entry(text[shared:], shared)
            for text, before in ((b"k%03d" % n, b"k%03d" % (n - 1)) for n in range(1, 600))
            for shared in [next(i for i in range(4) if text[i] != before[i])]
        ),
    ),
    "too-many-bytes": encode({"e": ["x" * NODE_BYTES_MAX], "l": None}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_node_is_refused(name):
    check = Check.CBOR if name == "not-cbor" else Check.MST
    assert_refused(check, decode_node, MALFORMED[name])


def test_a_node_of_the_most_entries_and_the_longest_key_is_read():
    names = [b"k%03d" % number for number in range(NODE_ENTRIES_MAX - 1)]
    before = b""
    entries = []
    for name in [*names, b"z" * KEY_BYTES_MAX]:
        shared = next((i for i in range(len(before)) if before[i] != name[i]), len(before))
        entries.append(entry(name[shared:], shared))
        before = name
    assert decode_node(node(*entries)).keys == [*names, b"z" * KEY_BYTES_MAX]


def test_a_node_of_the_most_items_that_it_may_have_is_read():
    def name(number: int) -> bytes:
        return b"%04d" % number + b"k" * 60

    entries = [entry(name(0), tree=VALUE)]
    for number in range(1, NODE_ENTRIES_MAX):
        shared = next(i for i in range(4) if name(number)[i] != name(number - 1)[i])
        entries.append(entry(name(number)[shared:], shared, tree=VALUE))
    block = node(*entries, left=VALUE)
    assert len(decode_node(block).children) == NODE_ENTRIES_MAX + 1


def test_a_node_of_very_many_items_is_refused_before_they_are_made():
    block = encode({"e": [[]] * (NODE_BYTES_MAX - 100), "l": None})
    tracemalloc.start()
    try:
        assert_refused(Check.MST, decode_node, block)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_record_may_be_linked_by_any_cid():
    sha512 = b"\xd8\x2a\x58\x45\x00\x01\x71\x13\x40" + b"x" * 64
    block = node(entry(A)).replace(b"\xd8\x2a\x58\x25\x00" + VALUE, sha512)
    assert decode_node(block).values == [sha512[5:]]


def test_an_empty_tree_has_no_leaves():
    assert leaves(mst.EMPTY.cid, Blocks(mst.EMPTY.block)) == []


LOW = keys_of_height(0, 40)
MIDDLE = keys_of_height(1, 4)[1:]
HIGH = keys_of_height(2, 2)


def shared_entries(*items: tuple[bytes, bytes | None]) -> list[Value]:
    """Entries of (key, subtree after it) with maximal prefixes."""
    before, entries = b"", []
    for key, tree in items:
        shared = 0
        while shared < min(len(before), len(key)) and before[shared] == key[shared]:
            shared += 1
        entries.append(entry(key[shared:], shared, tree))
        before = key
    return entries


def keyed(*items: bytes | tuple[bytes, bytes | None], left: bytes | None = None) -> bytes:
    pairs = [item if isinstance(item, tuple) else (item, None) for item in items]
    return node(*shared_entries(*pairs), left=left)


def test_trees_that_break_a_rule_are_refused():
    small, large = LOW[0], LOW[-1]
    assert small < MIDDLE[0] < large
    leaf_small, leaf_large = keyed(small), keyed(large)
    empty_child = node()
    trees = {
        "a bare root": [node(left=cid_of(leaf_small)), leaf_small],
        "a key below its height": [keyed(MIDDLE[0], *[k for k in LOW if k > MIDDLE[0]][:1])],
        "a child of the wrong height": [
            keyed((HIGH[0], cid_of(keyed(next(k for k in LOW if k > HIGH[0]))))),
            keyed(next(k for k in LOW if k > HIGH[0])),
        ],
        "a subtree below height 0": [keyed((small, cid_of(leaf_large))), leaf_large],
        "an empty child": [keyed(MIDDLE[0], left=cid_of(empty_child)), empty_child],
        "a left subtree above its key": [keyed(MIDDLE[0], left=cid_of(leaf_large)), leaf_large],
        "a right subtree below its key": [
            keyed((MIDDLE[0], cid_of(leaf_small))),
            leaf_small,
        ],
        "one subtree twice": [
            keyed((MIDDLE[0], cid_of(leaf_large)), left=cid_of(leaf_large)),
            leaf_large,
        ],
    }
    for name, blocks in trees.items():
        load = Blocks(*blocks)
        with pytest.raises(InvalidUpstream) as refusal:
            leaves(cid_of(blocks[0]), load)
        assert refusal.value.check is Check.MST, name


def test_a_key_out_of_its_grandparents_bounds_is_refused():
    load = Blocks()
    stray = next(key for key in reversed(LOW) if key > HIGH[0])
    bottom = load.add(keyed(stray))
    middle = load.add(node(left=bottom))
    root = load.add(keyed(HIGH[0], left=middle))
    assert_refused(Check.MST, leaves, root, load)


def test_a_missing_node_is_said_to_be_missing():
    tree = mst.build((key, VALUE) for key in (*LOW, *MIDDLE, *HIGH))
    load = blocks_of(tree)
    for gone in list(load.blocks):
        block = load.blocks.pop(gone)
        with pytest.raises(MissingBlock) as refusal:
            leaves(tree.root.cid, load)
        assert (refusal.value.check, refusal.value.cid) == (Check.NOT_INVERTIBLE, gone)
        load.blocks[gone] = block


def test_a_bomb_of_shared_subtrees_ends_at_the_first_repetition():
    """Each level links twice to the one below; bare levels between them make the chain long."""
    load = Blocks()
    leaf = f"{COLLECTION}/a".encode()
    assert mst.key_height(leaf) == 0
    child = load.add(keyed(leaf))
    for height in range(1, 6):
        child = load.add(keyed((keys_of_height(height, 1)[0], child), left=child))
    assert_refused(Check.MST, leaves, child, load)
    assert len(load.loaded) <= 7


def test_a_tower_of_bare_nodes_ends_at_height_zero():
    load = Blocks()
    child = load.add(node())
    for _ in range(100):
        child = load.add(node(left=child))
    root = load.add(keyed(HIGH[0], left=child))
    assert_refused(Check.MST, leaves, root, load)
    assert len(load.loaded) <= HEIGHT_MAX


def test_a_leaf_that_is_no_record_path_is_refused_within_the_ranges_and_skipped_outside():
    for bad in (b"\xff\xfe", b"nopath", b"a.b.c/", b"a.b.c/x/y", b"a.b.c/\0", "a.b.c/é".encode()):
        tree = mst.build([(bad, VALUE), (LOW[0], VALUE)])
        load = blocks_of(tree)
        assert_refused(Check.MST, leaves, tree.root.cid, load)
        only = [(COLLECTION.encode(), COLLECTION.encode() + b"0")]
        assert leaves(tree.root.cid, load, only) == [(LOW[0].decode(), VALUE)]


paths = st.builds(
    "{}.{}/{}".format,
    st.sampled_from(["com.a", "com.example", "pub.chive"]),
    st.sampled_from(["x", "eprint", "zz"]),
    st.text("abcdef234", min_size=1, max_size=6),
)


@given(st.sets(paths, max_size=60), st.lists(st.sampled_from("abcdefgzyp"), max_size=4))
def test_a_tree_of_an_independent_writer_is_read_in_order_and_by_range(keys, cuts):
    pairs = [(key.encode(), cid_of(key.encode())) for key in keys]
    tree = mst.build(pairs)
    load = blocks_of(tree)
    ordered = [(key.decode(), value) for key, value in sorted(pairs)]

    assert leaves(tree.root.cid, load) == ordered
    bounds = sorted({cut.encode() for cut in cuts})
    ranges = list(zip(bounds[::2], bounds[1::2], strict=False))
    inside = [
        (key, value)
        for key, value in ordered
        if any(start <= key.encode() < end for start, end in ranges)
    ]
    assert leaves(tree.root.cid, load, ranges) == inside


def test_a_range_loads_only_the_nodes_that_overlap_it():
    keys = [f"com.example.post/p{number:05}".encode() for number in range(3000)]
    mine = [f"{COLLECTION}/m{number}".encode() for number in range(5)]
    tree = mst.build((key, VALUE) for key in (*keys, *mine))
    load = blocks_of(tree)

    found = leaves(tree.root.cid, load, [(COLLECTION.encode(), COLLECTION.encode() + b"0")])

    assert [key for key, _ in found] == [key.decode() for key in mine]
    assert len(load.loaded) <= 2 * tree.height + len(mine)


def test_the_range_of_one_key_needs_the_nodes_on_its_way_alone():
    tree = mst.build((key, VALUE) for key in (*LOW, *MIDDLE, *HIGH))
    whole = blocks_of(tree)
    for key in (*LOW, *MIDDLE, *HIGH):
        proof = Blocks(*(each.block for each in tree.path_to(key)))
        assert leaves(tree.root.cid, proof, [(key, key + b"\0")]) == [(key.decode(), VALUE)]
        assert len(proof.blocks) < len(whole.blocks)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_node_or_refused(block):
    value_or_refusal(decode_node, block)


@given(st.data())
def test_a_changed_byte_in_a_node_is_another_tree_or_refused(data):
    tree = mst.build((key, VALUE) for key in (*LOW, *MIDDLE, *HIGH))
    load = blocks_of(tree)
    cid = data.draw(st.sampled_from(sorted(load.blocks)))
    block = bytearray(load.blocks[cid])
    block[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
    load.blocks[cid] = bytes(block)  # as a loader that checks no hashes would give it

    found = value_or_refusal(leaves, tree.root.cid, load)
    assert found is None or found == sorted(found)
