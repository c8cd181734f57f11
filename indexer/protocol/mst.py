"""The Merkle search tree of a repo: its nodes, and reading it in key order.

A key's height is the number of leading zero bit pairs of its SHA-256; all keys of a node share the
node's height, and a child is one lower. The same keys always make the same tree, so a node that
breaks a rule was made by a broken or hostile writer, and is refused: a key at the wrong height or
out of order could hide a record from one reader and show it to another.
Source: the repository specification, MST structure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple, cast

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.cbor import Link, decode_block, has_more_items
from indexer.protocol.cid import (
    DAG_CBOR_SHA256,
    SHA256_CID_BYTES,
    cid_text,
    is_cid,
    is_dag_cbor_sha256,
)
from indexer.protocol.syntax import is_nsid, is_rkey

KEY_BYTES_MAX = 1024
NODE_ENTRIES_MAX = 512
"""Of 5 x 200,000 random keys the longest node held 41 entries."""

NODE_BYTES_MAX = NODE_ENTRIES_MAX * (KEY_BYTES_MAX + 256)
_LARGE_NODE_BYTES = 16 * 1024
_NODE_ITEMS_MAX = 16 + 11 * NODE_ENTRIES_MAX
"""Items of CBOR: a map of four, its keys and values, and two tags an entry."""

HEIGHT_MAX = 32
"""Finding a key of height 11 takes a miner seconds, each further level four times as long."""

FANOUT = 4
"""One key in four has height 1 or more, one in sixteen 2 or more, and so on."""

_is_collection = lru_cache(maxsize=256)(is_nsid)  # a repo has thousands of keys, few collections

Load = Callable[[bytes], bytes]
"""CID -> block; raises `MissingBlock`."""


class MissingBlock(InvalidUpstream):
    """A block that is needed is not there: nothing can be said about the tree."""

    def __init__(self, cid: bytes) -> None:
        super().__init__(Check.NOT_INVERTIBLE, f"block {cid_text(cid)} is missing")
        self.cid = cid


class Node(NamedTuple):
    """A decoded node. `children[i]` holds the keys before `keys[i]`, the last those after all."""

    keys: list[bytes]
    values: list[bytes]  # record CIDs
    children: list[bytes | None]  # one more than keys

    @property
    def is_bare(self) -> bool:
        """Whether it holds no key itself."""
        return not self.keys


@lru_cache(maxsize=16384)
def key_height(key: bytes) -> int:
    """Leading zero bit pairs of the key's SHA-256."""
    digest = sha256(key).digest()
    height = 0
    for byte in digest:
        if byte:
            return height + (8 - byte.bit_length()) // 2
        height += 4
    return height


def decode_node(block: bytes) -> Node:  # noqa: C901, PLR0912 - a call for each entry would cost more than the entry
    """Decode a node and check everything that it shows by itself. Raises `InvalidUpstream`."""
    if len(block) > NODE_BYTES_MAX:
        raise InvalidUpstream(Check.MST, f"a node of {len(block)} bytes")
    if len(block) > _LARGE_NODE_BYTES and has_more_items(block, _NODE_ITEMS_MAX):
        raise InvalidUpstream(Check.MST, f"a node of more than {_NODE_ITEMS_MAX} items")
    value = decode_block(block)
    if type(value) is not dict or len(value) != 2 or "e" not in value or "l" not in value:
        raise InvalidUpstream(Check.MST, "a node is not a map of e and l")
    entries = value["e"]
    if type(entries) is not list or len(entries) > NODE_ENTRIES_MAX:
        raise InvalidUpstream(Check.MST, f"a node has no list of up to {NODE_ENTRIES_MAX} entries")
    keys: list[bytes] = []
    values: list[bytes] = []
    children: list[bytes | None] = [_child(value["l"])]
    previous = b""
    # One flat loop: this is half of what a commit's proof costs.
    for entry in entries:
        if type(entry) is not dict or len(entry) != 4:
            raise InvalidUpstream(Check.MST, "an entry is not a map of k, p, t and v")
        try:
            suffix, shared, child, record = entry["k"], entry["p"], entry["t"], entry["v"]
        except KeyError as error:
            raise InvalidUpstream(Check.MST, f"an entry lacks {error}") from error
        if type(suffix) is not bytes or type(shared) is not int or type(record) is not Link:
            raise InvalidUpstream(Check.MST, "an entry has a field of the wrong type")
        if not 0 <= shared <= len(previous):
            raise InvalidUpstream(Check.MST, "an entry shares more than its predecessor has")
        key = previous[:shared] + suffix
        if key <= previous:
            raise InvalidUpstream(Check.MST, "a key is empty or not above its predecessor")
        if shared < len(previous) and previous[shared] == suffix[0]:
            raise InvalidUpstream(Check.MST, "an entry shares less than it could")
        if len(key) > KEY_BYTES_MAX:
            raise InvalidUpstream(Check.MST, f"a key of {len(key)} bytes")
        if (len(record) != SHA256_CID_BYTES or record[:4] != DAG_CBOR_SHA256) and not is_cid(
            record
        ):
            raise InvalidUpstream(Check.MST, "a record's link is not a CID")
        keys.append(key)
        values.append(record)
        children.append(None if child is None else _child(child))
        previous = key
    return Node(keys, values, children)


def _child(value: object) -> bytes | None:
    if value is None:
        return None
    if type(value) is not Link or not is_dag_cbor_sha256(value):
        raise InvalidUpstream(Check.MST, "a subtree is not linked by a DAG-CBOR SHA-256 CID")
    return value


def decode_subtree(block: bytes, height: int) -> Node:
    """Decode a node other than the root, which must belong at `height` and hold something."""
    node = decode_node(block)
    if node.is_bare and node.children[0] is None:
        raise InvalidUpstream(Check.MST, "an empty node inside the tree")
    check_heights(node, height)
    return node


def check_heights(node: Node, height: int) -> None:
    """All keys belong at `height`. Raises `InvalidUpstream`."""
    for key in node.keys:
        if key_height(key) != height:
            raise InvalidUpstream(Check.MST, "a key is at the wrong height")
    if height == 0 and node.children.count(None) != len(node.children):
        raise InvalidUpstream(Check.MST, "a node of height 0 has a subtree")


def root_height(node: Node) -> int:
    """The height of a tree by its root; an empty tree has height 0. Raises `InvalidUpstream`."""
    if node.is_bare:
        if node.children[0] is not None:
            raise InvalidUpstream(Check.MST, "the root holds no key")
        return 0
    height = key_height(node.keys[0])
    if height > HEIGHT_MAX:
        raise InvalidUpstream(Check.MST, f"a tree of height {height}")
    return height


def walk(
    root: bytes, load: Load, ranges: Sequence[tuple[bytes, bytes]] | None = None
) -> Iterator[tuple[str, bytes]]:
    """The leaves (key, record CID) in key order, within `ranges` or all.

    `ranges` are (start, end) with start included and end not, ascending. Subtrees that lie
    outside are not loaded. Raises `InvalidUpstream` at the first node that breaks a rule or key
    within the ranges that is no record path, and
    `MissingBlock` for a node that `load` lacks.
    """
    node = decode_node(load(root))
    height = root_height(node)
    check_heights(node, height)
    # What is left to do, last first: (CID, height, lower bound, upper bound) or a leaf.
    todo: list[tuple[bytes, int, bytes | None, bytes | None] | tuple[bytes, bytes]] = []
    _push(todo, node, (height, None, None), ranges)
    while todo:
        item = todo.pop()
        if len(item) == 2:
            key, value = item
            yield _path(key), value
            continue
        cid, height, low, high = item
        _push(todo, decode_subtree(load(cid), height), (height, low, high), ranges)


class Frontier:
    """The nodes that reading `ranges` needs, found from the root down while blocks come in.

    Once nothing is missing, every subtree that could hold a key of the ranges has been followed to
    its end: the keys before and after each range have been seen, so that `walk` over the same
    blocks gives all leaves, and an author or host can hide none.
    """

    def __init__(self, root: bytes, ranges: Sequence[tuple[bytes, bytes]]) -> None:
        self._root: bytes | None = root
        self._ranges = ranges
        self._places: list[tuple[bytes, int, bytes | None, bytes | None]] = []
        self._leaves = 0

    @property
    def expected_leaves(self) -> int:
        """Leaves seen within the ranges, and those to expect in missing subtrees between them.

        A subtree of height h has `FANOUT ** (h + 1)` leaves on average. Those at the edge of a
        range count as none: how much of them lies within it cannot be told.
        """
        between: int = sum(
            FANOUT ** (height + 1)
            for _, height, low, high in self._places
            if low is not None
            and high is not None
            and any(start <= low and high < end for start, end in self._ranges)
        )
        return self._leaves + between

    def advance(self, load: Load) -> list[bytes]:
        """Follow all that `load` has; the CIDs of the nodes that it lacks, each needed.

        Raises `InvalidUpstream` at the first node that breaks a rule.
        """
        todo: list[tuple[bytes, int, bytes | None, bytes | None] | tuple[bytes, bytes]] = []
        todo += self._places
        if self._root is not None:
            try:
                node = decode_node(load(self._root))
            except MissingBlock:
                return [self._root]
            height = root_height(node)
            check_heights(node, height)
            _push(todo, node, (height, None, None), self._ranges)
            self._root = None
        self._places = []
        while todo:
            item = todo.pop()
            if len(item) == 2:
                self._leaves += 1
                continue
            cid, height, low, high = item
            try:
                block = load(cid)
            except MissingBlock:
                self._places.append(item)
                continue
            _push(todo, decode_subtree(block, height), (height, low, high), self._ranges)
        return [cid for cid, *_ in self._places]


def estimated_leaves(root: bytes, key: bytes, load: Load) -> int:
    """How many leaves a tree has, to its order, judged by the path to `key` that `load` has.

    One key in `FANOUT ** h` has height h or more. Counted at the highest level down to which the
    path shows two keys: a single high one may stand in a tree of any size. Raises
    `InvalidUpstream`.
    """
    node = decode_node(load(root))
    shown = 0
    for height in range(root_height(node), -1, -1):
        shown += len(node.keys)
        if shown > 1:
            return shown * cast("int", FANOUT**height)
        child = node.children[bisect_left(node.keys, key)]
        if child is None:
            break
        try:
            node = decode_node(load(child))
        except MissingBlock:
            break
    return shown


def _push(
    todo: list[tuple[bytes, int, bytes | None, bytes | None] | tuple[bytes, bytes]],
    node: Node,
    place: tuple[int, bytes | None, bytes | None],
    ranges: Sequence[tuple[bytes, bytes]] | None,
) -> None:
    height, low, high = place
    keys = node.keys
    if keys and ((low is not None and keys[0] <= low) or (high is not None and keys[-1] >= high)):
        raise InvalidUpstream(Check.MST, "keys of the tree are not ascending")
    for index in range(len(keys), -1, -1):
        upper = keys[index] if index < len(keys) else high
        lower = keys[index - 1] if index else low
        child = node.children[index]
        if index < len(keys) and _contains(ranges, keys[index]):
            todo.append((keys[index], node.values[index]))
        if child is not None and _overlaps(ranges, lower, upper):
            todo.append((child, height - 1, lower, upper))


def _contains(ranges: Sequence[tuple[bytes, bytes]] | None, key: bytes) -> bool:
    return ranges is None or any(start <= key < end for start, end in ranges)


def _overlaps(
    ranges: Sequence[tuple[bytes, bytes]] | None, low: bytes | None, high: bytes | None
) -> bool:
    """Whether a key between the bounds, exclusive, may lie in a range.

    The first key above `low` is `low` and a zero byte, so that the range of a single key does not
    reach into the subtree after it.
    """
    if ranges is None:
        return True
    return any(
        (high is None or start < high) and (low is None or low + b"\0" < end)
        for start, end in ranges
    )


def _path(key: bytes) -> str:
    try:
        path = key.decode("ascii")
    except UnicodeDecodeError as error:
        raise InvalidUpstream(Check.MST, "a key is not a record path") from error
    collection, _, rkey = path.partition("/")
    if not _is_collection(collection) or not is_rkey(rkey):
        raise InvalidUpstream(Check.MST, "a key is not a record path")
    return path
