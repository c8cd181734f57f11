"""A small verifier of #commit frames: enough to show that a true frame holds and a lie does not.

Written from the protocol's rules on top of the devnet's own tree, and of no code of the indexer.
"""

from __future__ import annotations

from coincurve import PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.devnet.car import read_car
from tests.devnet.cbor import Link, cid_of, decode, decode_at, encode
from tests.devnet.keys import SigningKey
from tests.devnet.mst import EMPTY, Node, Tree, key_height

HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2


class Absent:
    """A node whose block the event did not bring: touching it fails."""

    def __init__(self, cid: bytes) -> None:
        self.cid = cid

    def __getattr__(self, name: str) -> object:
        raise LookupError(f"the block of {self.cid.hex()} is needed and absent")


def partial_tree(root: bytes, blocks: dict[bytes, bytes]) -> Tree:
    """The tree as far as `blocks` hold it."""
    if root == EMPTY.cid:
        return Tree()

    def load(cid: bytes) -> Node:
        if cid not in blocks:
            return Absent(cid)
        value, key, names, values = decode(blocks[cid]), b"", [], []
        kids = [value["l"] and load(value["l"].cid)]
        for entry in value["e"]:
            key = key[: entry["p"]] + entry["k"]
            names.append(key)
            values.append(entry["v"].cid)
            kids.append(entry["t"] and load(entry["t"].cid))
        return Node(tuple(names), tuple(values), tuple(kids))

    node = load(root)
    height, below = 0, node
    while not below.keys:
        below, height = below.kids[0], height + 1
    return Tree(node, height + key_height(below.keys[0]))


def inverted(root: bytes, blocks: dict[bytes, bytes], ops: list[tuple]) -> bytes:
    """The root before `ops`, from the event's blocks alone."""
    tree = partial_tree(root, blocks)
    for path, cid, prev in reversed(ops):
        if prev is not None:
            tree = tree.put(path.encode(), prev)
        elif cid is not None:
            tree = tree.remove(path.encode())
    tree.seal()
    return tree.root.cid


def verdict(frame: bytes, key: SigningKey, did: str, now_rev: str) -> str:
    """`true`, or the first rule that the #commit breaks. `key`: k256 only."""
    body = decode_at(frame, decode_at(frame, 0)[1])[0]
    if body["tooBig"]:
        return "too big"
    blocks = dict(read_car(body["blocks"])[1])
    root = body["commit"].cid
    if any(cid_of(block, cid[1]) != cid for cid, block in blocks.items()):
        return "hash"
    if decode_at(body["blocks"], 1)[0]["roots"] != [Link(root)] or root not in blocks:
        return "root"
    commit = decode(blocks[root])
    if commit["did"] != body["repo"] or body["repo"] != did:
        return "did"
    if commit["rev"] != body["rev"]:
        return "rev"
    if body["rev"] > now_rev:
        return "future"
    signature = commit.pop("sig")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    if s > HALF_ORDER:
        return "high s"
    if not PublicKey(key.compressed).verify(encode_dss_signature(r, s), encode(commit)):
        return "signature"
    return inversion(body, commit["data"].cid, blocks)


def inversion(body: dict, data: bytes, blocks: dict[bytes, bytes]) -> str:
    """Whether undoing the ops gives prevData."""
    if "prevData" not in body:
        return "true" if body["since"] is None else "no prevData"
    ops = []
    for op in body["ops"]:
        if op["cid"] is not None and op["cid"].cid not in blocks:
            return "absent block"
        if op["action"] != "create" and "prev" not in op:
            return "no prev"
        ops.append(
            (op["path"], op["cid"] and op["cid"].cid, op["prev"].cid if "prev" in op else None)
        )
    try:
        previous = inverted(data, blocks, ops)
    except LookupError as exc:
        return "absent block" if "needed and absent" in str(exc) else "inversion"
    return "true" if previous == body["prevData"].cid else "inversion"
