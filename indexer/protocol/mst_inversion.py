"""Undoing a commit's ops on its partial tree: the proof that the op list is complete.

A commit carries the new nodes and those neighbours that undoing needs. If removing what was
created, restoring what was updated and inserting what was deleted gives exactly the previous root,
then nothing else can have changed. What the commit made of the tree is held to the rules of the
tree as far as it is not the previous tree: every node read, and both sides of a key taken out.

Nodes are loaded when an op first touches them. A node of which only the links to its subtrees
change is not encoded anew: the CIDs in its block are replaced. Commits as they usually are have a
cheaper way still, on which only the nodes that hold the records are read whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.cbor import Link, encode_block
from indexer.protocol.cid import dag_cbor_cid
from indexer.protocol.mst import (
    HEIGHT_MAX,
    MissingBlock,
    Node,
    check_heights,
    decode_node,
    decode_subtree,
    key_height,
    root_height,
)
from indexer.protocol.mst_way import Step, find_way

USUAL_OPS_MAX = 8
USUAL_WAY_BYTES_MAX = 16 * 1024
"""Nodes above one record have some 3 kB. Each op reads its own way, so that many of them, or nodes
stuffed with what no node has, would cost more than to read every node once."""


class NetOp(msgspec.Struct, frozen=True):
    """What a commit does to one path in the end."""

    path: str
    cid: bytes | None  # of the record after the commit; None: deleted
    prev: bytes | None  # of the record before it; None: created


class _Node:
    """A loaded node that may be changed; `children` hold CIDs until they are loaded."""

    __slots__ = ("block", "children", "cid", "height", "is_edited", "keys", "originals", "values")

    def __init__(self, height: int) -> None:
        self.height = height
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.children: list[_Child] = [None]
        self.cid: bytes | None = None  # as loaded
        self.block = b""
        self.originals: list[bytes | None] = []  # children as loaded
        self.is_edited = True  # keys or values differ from the block

    @staticmethod
    def loaded(decoded: Node, height: int, cid: bytes, block: bytes) -> _Node:
        """The node as it is in its block."""
        node = _Node(height)
        node.keys, node.values = decoded.keys, decoded.values
        node.children = list(decoded.children)
        node.originals = decoded.children
        node.cid, node.block, node.is_edited = cid, block, False
        return node


_Child = bytes | _Node | None


def invert(root: bytes, blocks: Mapping[bytes, bytes], ops: Sequence[NetOp]) -> bytes:
    """The root before `ops`, computed from the root after them.

    Raises `InvalidUpstream`: `OPS` where an op contradicts the tree, `MST` where a node breaks a
    rule, `NOT_INVERTIBLE` (`MissingBlock`) where a node that is needed is not among `blocks`.
    """
    if not ops:
        return root
    block = _block(blocks, root)
    decoded = decode_node(block)
    height = root_height(decoded)
    check_heights(decoded, height)
    node = None if decoded.is_bare else _Node.loaded(decoded, height, root, block)
    inversion = _Inversion(node, blocks)
    for op in ops:
        inversion.undo(op)
    return inversion.finish()


def invert_usual(root: bytes, blocks: Mapping[bytes, bytes], ops: Sequence[NetOp]) -> bytes | None:
    """The same by one op after the other; None where something is not as usual.

    The nodes above a record's are not held to the rules of the tree. They need not be where the
    result is the root of a tree that was: but for one link, they are nodes of that tree. So a
    result that is not the one expected says nothing, and `invert` has to find out what is wrong.
    """
    if len(ops) > USUAL_OPS_MAX:
        return None
    known = dict(blocks)
    before: bytes | None = root
    for op in ops:
        if before is not None:
            before = _undone(before, known, op)
    return before


def _undone(root: bytes, blocks: dict[bytes, bytes], op: NetOp) -> bytes | None:
    """The root before one op, whose nodes are in `blocks` then."""
    key = op.path.encode()
    way = find_way(root, blocks, key, bytes_max=USUAL_WAY_BYTES_MAX)
    if way is None:
        return None
    steps = way.steps
    try:
        inversion = _Inversion(_open(blocks, way.node, key_height(key)), blocks)
        inversion.undo(op)
        node = inversion.root
        while node is None:
            # Its last key is gone, and with it the link to it.
            if not steps:
                return None
            step = steps.pop()
            node = _without_link(_open(blocks, step.cid, step.height), key)
    except InvalidUpstream:
        return None
    if not node.keys and not steps:
        return None  # a root that holds no key is replaced by what is below it
    return _relinked(steps, _finish(node, blocks), blocks)


def _without_link(node: _Node, key: bytes) -> _Node | None:
    """A node without the subtree around `key`; None when nothing is left of it."""
    node.children[bisect_left(node.keys, key)] = None
    node.is_edited = True
    return node if node.keys else None


def _relinked(steps: Sequence[Step], cid: bytes, made: dict[bytes, bytes]) -> bytes | None:
    """The root when the node at the end of the way has another CID; None where that is unclear."""
    for step in reversed(steps):
        if step.block.count(step.child) != 1:
            return None
        cid = _kept(step.block.replace(step.child, cid), made)
    return cid


class _Inversion:
    """A tree, or a subtree, in which ops are undone; `root` is None when it holds nothing."""

    def __init__(self, root: _Node | None, blocks: Mapping[bytes, bytes]) -> None:
        self.root = root
        self._blocks = blocks

    def undo(self, op: NetOp) -> None:
        key = op.path.encode()
        if op.cid is None:
            if op.prev is None:
                raise InvalidUpstream(Check.OPS, "an op that neither sets nor deletes")
            self._insert(key, op.prev)
        elif op.prev is None:
            self._remove(key, op.cid)
        else:
            self._restore(key, op.cid, op.prev)

    def finish(self) -> bytes:
        """The CID of the whole tree after all ops."""
        while self.root is not None and not self.root.keys:
            # A tree is as high as its highest key.
            self.root = self._load(self.root.children[0], self.root.height - 1)
        return _finish(self.root if self.root is not None else _Node(0), {})

    def _load(self, child: _Child, height: int) -> _Node | None:
        return _open(self._blocks, child, height) if isinstance(child, bytes) else child

    def _down(self, node: _Node, index: int) -> _Node | None:
        """The subtree before `keys[index]`, loaded and put in its place."""
        child = self._load(node.children[index], node.height - 1)
        node.children[index] = child
        return child

    def _find(self, key: bytes, cid: bytes) -> tuple[list[tuple[_Node, int]], _Node, int]:
        """The way to a key that must be there with this value: (ancestors, node, index)."""
        height = key_height(key)
        way: list[tuple[_Node, int]] = []
        node = self.root
        while node is not None and node.height > height:
            index = bisect_left(node.keys, key)
            way.append((node, index))
            node = self._down(node, index)
        if node is not None and node.height == height:
            index = bisect_left(node.keys, key)
            if index < len(node.keys) and node.keys[index] == key:
                if node.values[index] != cid:
                    raise InvalidUpstream(Check.OPS, "an op's cid is not the one in the tree")
                return way, node, index
        raise InvalidUpstream(Check.OPS, "an op's record is not in the tree")

    def _restore(self, key: bytes, cid: bytes, prev: bytes) -> None:
        _, node, index = self._find(key, cid)
        if cid != prev:
            node.values[index] = prev
            node.is_edited = True

    def _remove(self, key: bytes, cid: bytes) -> None:
        way, node, index = self._find(key, cid)
        left, right = node.children[index], node.children[index + 1]
        merged = self._merge(left, right, key, node.height - 1)
        del node.keys[index], node.values[index]
        node.children[index : index + 2] = [merged]
        node.is_edited = True
        for parent, position in reversed(way):
            if node.keys or node.children[0] is not None:
                break
            parent.children[position] = None
            parent.is_edited = True
            node = parent
        if node is self.root and not node.keys and node.children[0] is None:
            self.root = None

    def _merge(self, left: _Child, right: _Child, key: bytes, height: int) -> _Child:
        """One subtree out of two neighbours whose separating key is gone.

        The key must have separated them: on the wrong side of it a record would be in the tree
        and yet not be found, and the previous tree would not show it.
        """
        one, other = self._load(left, height), self._load(right, height)
        if (one is not None and one.keys and one.keys[-1] >= key) or (
            other is not None and other.keys and other.keys[0] <= key
        ):
            raise InvalidUpstream(Check.MST, "keys of the tree are not ascending")
        if one is None or other is None:
            # Kept as it is; only the edge beside the key is looked at, down to its last node.
            if one is not None:
                self._merge(one.children[-1], None, key, height - 1)
            elif other is not None:
                self._merge(None, other.children[0], key, height - 1)
            return right if left is None else left
        merged = _Node(height)
        middle = self._merge(one.children[-1], other.children[0], key, height - 1)
        merged.keys = one.keys + other.keys
        merged.values = one.values + other.values
        merged.children = [*one.children[:-1], middle, *other.children[1:]]
        return merged

    def _insert(self, key: bytes, cid: bytes) -> None:
        height = key_height(key)
        if height > HEIGHT_MAX:
            raise InvalidUpstream(Check.MST, f"a key of height {height}")
        root = self.root
        if root is None:
            root = self.root = _Node(height)
        while root.height < height:
            higher = _Node(root.height + 1)
            higher.children = [root]
            root = self.root = higher
        node = root
        while node.height > height:
            index = bisect_left(node.keys, key)
            child = self._down(node, index)
            if child is None:
                child = _Node(node.height - 1)
                node.children[index] = child
                node.is_edited = True
            node = child
        index = bisect_left(node.keys, key)
        if index < len(node.keys) and node.keys[index] == key:
            raise InvalidUpstream(Check.OPS, "a deleted record is still in the tree")
        left, right = self._split(node.children[index], key, node.height - 1)
        node.keys.insert(index, key)
        node.values.insert(index, cid)
        node.children[index : index + 1] = [left, right]
        node.is_edited = True

    def _split(self, child: _Child, key: bytes, height: int) -> tuple[_Child, _Child]:
        """A subtree cut in two around a key that is to separate it."""
        node = self._load(child, height)
        if node is None:
            return None, None
        index = bisect_left(node.keys, key)
        middle = self._split(node.children[index], key, height - 1)
        halves: list[_Child] = []
        for keys, values, children in (
            (node.keys[:index], node.values[:index], [*node.children[:index], middle[0]]),
            (node.keys[index:], node.values[index:], [middle[1], *node.children[index + 1 :]]),
        ):
            half = _Node(height)
            half.keys, half.values, half.children = keys, values, children
            is_empty = not keys and children[0] is None
            halves.append(None if is_empty else half)
        return halves[0], halves[1]


def _block(blocks: Mapping[bytes, bytes], cid: bytes) -> bytes:
    block = blocks.get(cid)
    if block is None:
        raise MissingBlock(cid)
    return block


def _open(blocks: Mapping[bytes, bytes], cid: bytes, height: int) -> _Node:
    block = _block(blocks, cid)
    return _Node.loaded(decode_subtree(block, height), height, cid, block)


def _finish(node: _Node, made: dict[bytes, bytes]) -> bytes:
    """The CID of a subtree after all edits, whose new nodes are in `made` then."""
    children = [_finish(c, made) if isinstance(c, _Node) else c for c in node.children]
    if not node.is_edited and node.cid is not None:
        if children == node.originals:
            return node.cid
        block = _spliced(node, children)
        if block is not None:
            return _kept(block, made)
    return _kept(_encode(node, children), made)


def _kept(block: bytes, made: dict[bytes, bytes]) -> bytes:
    """The CID of a new node, which is in `made` then."""
    cid = dag_cbor_cid(block)
    made[cid] = block
    return cid


def _spliced(node: _Node, children: list[bytes | None]) -> bytes | None:
    """The node's block with the CIDs of changed subtrees replaced; None where that is unclear."""
    block = node.block
    for old, new in zip(node.originals, children, strict=True):
        if old == new:
            continue
        if old is None or new is None or block.count(old) != 1:
            return None
        block = block.replace(old, new)
    return block


def _encode(node: _Node, children: list[bytes | None]) -> bytes:
    entries: list[dict[str, object]] = []
    previous = b""
    for key, value, child in zip(node.keys, node.values, children[1:], strict=True):
        shared = _shared(previous, key)
        entries.append(
            {
                "k": key[shared:],
                "p": shared,
                "t": _link(child),
                "v": _link(value),
            }
        )
        previous = key
    return encode_block({"e": entries, "l": _link(children[0])})


def _link(cid: bytes | None) -> Link | None:
    return cid if cid is None or type(cid) is Link else Link(cid)


def _shared(one: bytes, other: bytes) -> int:
    """Bytes that two keys have in common from the start."""
    length = min(len(one), len(other))
    differing = int.from_bytes(one[:length]) ^ int.from_bytes(other[:length])
    return length - (differing.bit_length() + 7) // 8
