"""The way from the root down to the node of a key, found without reading nodes whole.

A node is only asked where the key would lie. Nothing here holds a node to the rules of the tree:
that is for those to do who cannot infer it, and whatever makes no sense is no way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import libipld

from indexer.protocol.cid import is_dag_cbor_sha256
from indexer.protocol.mst import KEY_BYTES_MAX, key_height

# What a node that is none raises somewhere: no map, no such field, a value of another type.
_NO_NODE = (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError)


class Step(NamedTuple):
    """A node above the key's, and the link that leads on."""

    cid: bytes
    block: bytes
    height: int
    child: bytes  # CID


class Way(NamedTuple):
    """The nodes above the node of a key, from the root, and that node's CID."""

    steps: list[Step]
    node: bytes


def find_way(
    root: bytes, blocks: Mapping[bytes, bytes], key: bytes, *, bytes_max: int
) -> Way | None:
    """The way to the node in which `key` is or would be; None where `blocks` show none.

    Nor does it lead over more than `bytes_max` of nodes.
    """
    try:
        return _find(root, blocks, key, bytes_max)
    except _NO_NODE:
        return None


def _find(root: bytes, blocks: Mapping[bytes, bytes], key: bytes, bytes_max: int) -> Way | None:
    cid, wanted = root, key_height(key)
    steps: list[Step] = []
    height = -1
    while height != wanted:
        block = blocks[cid]
        bytes_max -= len(block)
        if bytes_max < 0:
            return None
        node: Any = libipld.decode_dag_cbor(block)
        if not steps:
            first = node["e"][0]["k"]
            if len(first) > KEY_BYTES_MAX:
                return None
            height = key_height(first)
            if height <= wanted:
                break
        child = _child(node, key)
        # One of another form names the same block, and is nothing that a node may link with.
        if type(child) is not bytes or not is_dag_cbor_sha256(child):
            return None
        steps.append(Step(cid, block, height, child))
        cid = child
        height -= 1
    return Way(steps, cid) if height == wanted else None


def _child(node: Any, key: bytes) -> object:
    """The link of a node beneath which `key` belongs, for a key that is not in the node.

    An entry says how much of its key it shares with the one before. Where that is more or less
    than `key` itself shares with the one before, its place is known without a look at it.
    """
    child = node["l"]
    common = 0  # bytes that `key` shares with the last key below it
    for entry in node["e"]:
        shared = entry["p"]
        if shared < common:
            break
        if shared == common:
            suffix, rest = entry["k"], key[common:]
            if suffix >= rest:
                break
            for one, other in zip(suffix, rest, strict=False):
                if one != other:
                    break
                common += 1
        child = entry["t"]
    return child
