"""A persistent Merkle search tree: every change returns a new root and shares what it kept.

Owns node structure, node encoding and the paths through a tree. Nodes are never changed after
construction, so an old root stays readable while a new one grows, a commit costs the handful of
nodes on its path whatever the size of the repo, and "which nodes are new" is a walk over the
nodes that have no block yet.

Heights: a key belongs to the level that counts the leading zero bit pairs of its SHA-256. A node
of level h holds the keys of that level; the subtrees between them are of level h - 1, with empty
nodes in between where a level has no key.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tests.devnet.cbor import cid_of, head

_LINK = b"\xd8\x2a\x58\x25\x00"


def key_height(key: bytes) -> int:
    """Level of `key`: leading zero bits of its SHA-256, by two."""
    digest = int.from_bytes(hashlib.sha256(key).digest(), "big")
    return (256 - digest.bit_length()) // 2


class Node:
    """Keys of one level with the subtrees around them: `len(kids) == len(keys) + 1`."""

    __slots__ = ("block", "cid", "keys", "kids", "values")

    def __init__(
        self, keys: tuple[bytes, ...], values: tuple[bytes, ...], kids: tuple[Node | None, ...]
    ) -> None:
        self.keys = keys
        self.values = values
        self.kids = kids
        self.cid = b""  # set with `block` when the tree is sealed
        self.block = b""


EMPTY = Node((), (), (None,))
"""The only node without keys or subtree: the root of a repo without records."""


class Tree:
    """A root node with its level. `EMPTY` stands for no keys at all."""

    __slots__ = ("height", "root")

    def __init__(self, root: Node = EMPTY, height: int = 0) -> None:
        self.root = root
        self.height = height

    def get(self, key: bytes) -> bytes | None:
        """The value at `key`, or None."""
        node: Node | None = self.root
        while node is not None:
            at = bisect_left(node.keys, key)
            if at < len(node.keys) and node.keys[at] == key:
                return node.values[at]
            node = node.kids[at]
        return None

    def put(self, key: bytes, value: bytes) -> Tree:
        """The tree with `key` set to `value`."""
        height = key_height(key)
        if self.root is EMPTY:
            return Tree(Node((key,), (value,), (None, None)), height)
        if height <= self.height:
            return Tree(_put(self.root, self.height, key, value, height), self.height)
        left, right = _split(self.root, key)
        for _ in range(self.height, height - 1):
            left = left and Node((), (), (left,))
            right = right and Node((), (), (right,))
        return Tree(Node((key,), (value,), (left, right)), height)

    def remove(self, key: bytes) -> Tree:
        """The tree without `key`, which it must hold."""
        root, height = _remove(self.root, key), self.height
        while root is not None and not root.keys:
            root, height = root.kids[0], height - 1
        return Tree() if root is None else Tree(root, height)

    def seal(self) -> list[Node]:
        """Give a block and CID to every node that has none. Returns those nodes, parents first."""
        fresh: list[Node] = []
        stack = [self.root]
        while stack:
            node = stack.pop()
            if not node.cid:
                fresh.append(node)
                stack.extend(kid for kid in reversed(node.kids) if kid is not None)
        for node in reversed(fresh):
            node.block = _encode(node)
            node.cid = cid_of(node.block)
        return fresh

    def nodes(self) -> Iterator[Node]:
        """Every node, parents first."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(kid for kid in reversed(node.kids) if kid is not None)

    def leaves(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) in key order."""
        return _leaves(self.root)

    def path_to(self, key: bytes) -> list[Node]:
        """Nodes from the root to `key`, or to the place where it would be."""
        path: list[Node] = []
        node: Node | None = self.root
        while node is not None:
            path.append(node)
            at = bisect_left(node.keys, key)
            if at < len(node.keys) and node.keys[at] == key:
                break
            node = node.kids[at]
        return path

    def proof(self, key: bytes) -> list[Node]:
        """Nodes on the paths to `key` and to its two neighbours: what inverting an op on it needs."""
        path = self.path_to(key)
        last = path[-1]
        at = bisect_left(last.keys, key)
        if at == len(last.keys) or last.keys[at] != key:
            return path  # both neighbours are keys of nodes on the path
        return path + _edge(last.kids[at], -1) + _edge(last.kids[at + 1], 0)


def build(pairs: Iterable[tuple[bytes, bytes]]) -> Tree:
    """The tree of many pairs at once, in time linear in their number after sorting."""
    items = sorted(dict(pairs).items())
    if not items:
        return Tree()
    heights = [key_height(key) for key, _ in items]
    top = max(heights)
    root = _build(items, heights, 0, len(items), top)
    assert root is not None
    return Tree(root, top)


def dropped_nodes(old: Tree, new: Tree, fresh: Iterable[Node]) -> list[Node]:
    """Nodes of `old` that `new`, whose nodes made since are `fresh`, no longer shares."""
    kept = {id(kid) for node in fresh for kid in node.kids if kid is not None}
    kept.add(id(new.root))
    dropped: list[Node] = []
    stack = [old.root]
    while stack:
        node = stack.pop()
        if id(node) not in kept:
            dropped.append(node)
            stack.extend(kid for kid in node.kids if kid is not None)
    return dropped


def _put(node: Node | None, level: int, key: bytes, value: bytes, height: int) -> Node:
    if node is None:
        if level == height:
            return Node((key,), (value,), (None, None))
        return Node((), (), (_put(None, level - 1, key, value, height),))
    keys, values, kids = node.keys, node.values, node.kids
    at = bisect_left(keys, key)
    if level > height:
        kid = _put(kids[at], level - 1, key, value, height)
        return Node(keys, values, (*kids[:at], kid, *kids[at + 1 :]))
    if at < len(keys) and keys[at] == key:
        return Node(keys, (*values[:at], value, *values[at + 1 :]), kids)
    left, right = _split(kids[at], key)
    return Node(
        (*keys[:at], key, *keys[at:]),
        (*values[:at], value, *values[at:]),
        (*kids[:at], left, right, *kids[at + 1 :]),
    )


def _split(node: Node | None, key: bytes) -> tuple[Node | None, Node | None]:
    """The parts of a subtree before and after `key`, which it does not hold."""
    if node is None:
        return None, None
    keys, values, kids = node.keys, node.values, node.kids
    at = bisect_left(keys, key)
    left, right = _split(kids[at], key)
    before = Node(keys[:at], values[:at], (*kids[:at], left)) if at or left else None
    after = (
        Node(keys[at:], values[at:], (right, *kids[at + 1 :])) if at < len(keys) or right else None
    )
    return before, after


def _remove(node: Node | None, key: bytes) -> Node | None:
    if node is None:
        raise KeyError(key)
    keys, values, kids = node.keys, node.values, node.kids
    at = bisect_left(keys, key)
    if at < len(keys) and keys[at] == key:
        keys, values = keys[:at] + keys[at + 1 :], values[:at] + values[at + 1 :]
        kids = (*kids[:at], _merge(kids[at], kids[at + 1]), *kids[at + 2 :])
    else:
        kids = (*kids[:at], _remove(kids[at], key), *kids[at + 1 :])
    return Node(keys, values, kids) if keys or kids[0] else None


def _merge(left: Node | None, right: Node | None) -> Node | None:
    if left is None or right is None:
        return left or right
    middle = _merge(left.kids[-1], right.kids[0])
    return Node(
        left.keys + right.keys,
        left.values + right.values,
        (*left.kids[:-1], middle, *right.kids[1:]),
    )


def _build(
    items: list[tuple[bytes, bytes]], heights: list[int], start: int, end: int, level: int
) -> Node | None:
    if start == end:
        return None
    cuts = [at for at in range(start, end) if heights[at] == level]
    edges = [start - 1, *cuts, end]
    kids = tuple(
        _build(items, heights, before + 1, after, level - 1) for before, after in pairwise(edges)
    )
    return Node(tuple(items[at][0] for at in cuts), tuple(items[at][1] for at in cuts), kids)


def _leaves(node: Node) -> Iterator[tuple[bytes, bytes]]:
    for at, kid in enumerate(node.kids):
        if kid is not None:
            yield from _leaves(kid)
        if at < len(node.keys):
            yield node.keys[at], node.values[at]


def _edge(node: Node | None, side: int) -> list[Node]:
    """Nodes down the left (0) or right (-1) edge of a subtree."""
    path = []
    while node is not None:
        path.append(node)
        node = node.kids[side]
    return path


def _link(node: Node | None) -> bytes:
    return b"\xf6" if node is None else _LINK + node.cid


def _encode(node: Node) -> bytes:
    """The node's block. Keys in canonical order: `e` before `l`, and `k p t v` in an entry."""
    out = [b"\xa2ae", head(4, len(node.keys))]
    previous = b""
    for key, value, kid in zip(node.keys, node.values, node.kids[1:], strict=True):
        shared = 0
        for mine, before in zip(key, previous, strict=False):
            if mine != before:
                break
            shared += 1
        suffix = key[shared:]
        out += (
            b"\xa4ak",
            head(2, len(suffix)),
            suffix,
            b"ap",
            head(0, shared),
            b"at",
            _link(kid),
            b"av" + _LINK,
            value,
        )
        previous = key
    out += (b"al", _link(node.kids[0]))
    return b"".join(out)


Tree().seal()
