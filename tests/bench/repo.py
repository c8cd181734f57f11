"""One signed repo that grows: commits as a PDS makes them, as frames.

A frame's CAR holds the commit, the new MST nodes, the nodes that inverting its ops needs, and
the new records. Encoders and tree are the devnet's, which share nothing with the indexer.
"""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tests.bench.signing import Signer
from tests.bench.stream import SEQ_BASE, Frame
from tests.devnet.car import car_parts, write_car
from tests.devnet.cbor import Link, Value, cid_of, cid_text, encode
from tests.devnet.mst import Tree, build

TID_LETTERS = "234567abcdefghijklmnopqrstuvwxyz"
SCOPE = b"pub.chive."
UPDATE_SHARE = 0.07
DELETE_SHARE = 0.10
MULTI_SHARE = 0.10
OPS_MAX = 5
SEQ_MARK = b"\x63seq\x1a" + SEQ_BASE.to_bytes(4, "big")


class Clock:
    """Time in the generated world, in microseconds; never the same twice."""

    def __init__(self, start_us: int) -> None:
        self.now_us = start_us

    def tick(self, step_us: int) -> None:
        """Let time pass."""
        self.now_us += step_us

    def tid(self) -> str:
        """A TID of its own."""
        self.now_us += 1
        return tid_at(self.now_us)

    def text(self) -> str:
        """Now, as events and records write it."""
        return time_text(self.now_us)


def tid_at(us: int) -> str:
    """The TID of a moment, of clock 0."""
    bits = us << 10
    return "".join(TID_LETTERS[bits >> shift & 31] for shift in range(60, -1, -5))


def time_text(us: int) -> str:
    """ISO 8601 in milliseconds."""
    at = datetime.fromtimestamp(us / 1e6, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RecordWriter(Protocol):
    """Who makes the records of a repo."""

    def pick(self, *, in_scope: bool) -> str:
        """The collection of the next record."""

    def write(self, did: str, collection: str, rkey: str, at: str) -> Value:
        """A record of `collection`, created at the datetime `at`."""


class BenchRepo:
    """An account's repo: its tree, its newest commit, and the paths that ops can touch."""

    def __init__(
        self, did: str, signer: Signer, writer: RecordWriter, clock: Clock, rng: random.Random
    ) -> None:
        self.did = did
        self.signer = signer
        self.rev = ""
        self.commit_cid = b""
        self._commit_block = b""
        self._writer = writer
        self._clock = clock
        self._rng = rng
        self._tree = Tree()
        self._paths: dict[bool, list[str]] = {True: [], False: []}  # in scope -> paths

    @property
    def data(self) -> str:
        """CID of the tree's root."""
        return cid_text(self._tree.root.cid)

    @property
    def rows(self) -> int:
        """Records in scope."""
        return len(self._paths[True])

    def fork(self) -> BenchRepo:
        """The repo as it is now, to go its own way: the tree is shared, what changes is not."""
        fork = copy.copy(self)
        fork._paths = {scope: list(paths) for scope, paths in self._paths.items()}
        return fork

    def fill(
        self, count: int, *, in_scope_share: float, since_us: int
    ) -> list[tuple[bytes, bytes]]:
        """Start with `count` records written since `since_us`; their (CID, block) pairs."""
        step = (self._clock.now_us - since_us) // (count + 1)
        leaves: list[tuple[bytes, bytes]] = []
        records: list[tuple[bytes, bytes]] = []
        for number in range(count):
            in_scope = self._rng.random() < in_scope_share
            at_us = since_us + number * step
            collection, rkey = self._writer.pick(in_scope=in_scope), tid_at(at_us)
            path = f"{collection}/{rkey}"
            block = encode(self._writer.write(self.did, collection, rkey, time_text(at_us)))
            self._paths[in_scope].append(path)
            cid = cid_of(block)
            leaves.append((path.encode(), cid))
            records.append((cid, block))
        self._tree = build(leaves)
        self._tree.seal()
        self._sign()
        return records

    def write_car(self, path: Path, records: list[tuple[bytes, bytes]]) -> None:
        """The whole repo as getRepo gives it, with the records that `fill` returned."""
        nodes = ((node.cid, node.block) for node in self._tree.nodes())
        blocks = [(self.commit_cid, self._commit_block), *dict([*nodes, *records]).items()]
        with path.open("wb") as file:
            file.writelines(car_parts([self.commit_cid], blocks))

    def commit_frame(self, *, in_scope: bool) -> tuple[Frame, int]:
        """A commit of one op, now and then of several; the rows it adds or takes away."""
        since, prev_data = self.rev, self._tree.root.cid
        count = 1
        if self._rng.random() < MULTI_SHARE:
            count = self._rng.randint(2, OPS_MAX)
        ops: list[Value] = []
        blocks: dict[bytes, bytes] = {}
        touched: list[str] = []
        rows = 0
        for _ in range(count):
            rows += self._op(in_scope, ops, blocks, touched)
        for node in self._tree.seal():
            blocks[node.cid] = node.block
        for path in touched:
            blocks.update((node.cid, node.block) for node in self._tree.proof(path.encode()))
        self._sign()
        blocks[self.commit_cid] = self._commit_block
        body: dict[str, Value] = {
            "ops": ops,
            "rev": self.rev,
            "seq": SEQ_BASE,
            "repo": self.did,
            "time": self._clock.text(),
            "blobs": [],
            "since": since,
            "blocks": write_car([self.commit_cid], blocks.items()),
            "commit": Link(self.commit_cid),
            "rebase": False,
            "tooBig": False,
            "prevData": Link(prev_data),
        }
        return frame("#commit", body), rows if in_scope else 0

    def sync_frame(self) -> Frame:
        """A #sync that says what is known already."""
        body: dict[str, Value] = {
            "did": self.did,
            "rev": self.rev,
            "seq": SEQ_BASE,
            "time": self._clock.text(),
            "blocks": write_car([self.commit_cid], [(self.commit_cid, self._commit_block)]),
        }
        return frame("#sync", body)

    def account_frame(self) -> Frame:
        """An #account that says what is known already."""
        body: dict[str, Value] = {
            "did": self.did,
            "seq": SEQ_BASE,
            "time": self._clock.text(),
            "active": True,
        }
        return frame("#account", body)

    def identity_frame(self) -> Frame:
        """An #identity without news."""
        body: dict[str, Value] = {"did": self.did, "seq": SEQ_BASE, "time": self._clock.text()}
        return frame("#identity", body)

    def _op(
        self, in_scope: bool, ops: list[Value], blocks: dict[bytes, bytes], touched: list[str]
    ) -> int:
        """Add one op to a commit; the rows it adds or takes away."""
        chance = self._rng.random()
        paths = self._paths[in_scope]
        at = self._rng.randrange(len(paths)) if paths else 0
        if chance >= UPDATE_SHARE + DELETE_SHARE or len(paths) <= OPS_MAX:
            action, path = "create", f"{self._writer.pick(in_scope=in_scope)}/{self._clock.tid()}"
            paths.append(path)
        else:
            action, path = "update" if chance < UPDATE_SHARE else "delete", paths[at]
        if path in touched:
            return 0
        touched.append(path)
        key = path.encode()
        op: dict[str, Value] = {"path": path, "action": action, "cid": None}
        prev = self._tree.get(key)
        if prev is not None:
            op["prev"] = Link(prev)
        if action == "delete":
            paths[at] = paths[-1]
            paths.pop()
            self._tree = self._tree.remove(key)
        else:
            collection, _, rkey = path.partition("/")
            block = encode(self._writer.write(self.did, collection, rkey, self._clock.text()))
            cid = cid_of(block)
            op["cid"] = Link(cid)
            blocks[cid] = block
            self._tree = self._tree.put(key, cid)
        ops.append(op)
        return {"create": 1, "update": 0, "delete": -1}[action]

    def _sign(self) -> None:
        self.rev = self._clock.tid()
        unsigned: dict[str, Value] = {
            "did": self.did,
            "rev": self.rev,
            "data": Link(self._tree.root.cid),
            "prev": None,
            "version": 3,
        }
        signature = self.signer.sign(encode(unsigned))
        self._commit_block = encode({**unsigned, "sig": signature})
        self.commit_cid = cid_of(self._commit_block)


def frame(kind: str, body: dict[str, Value]) -> Frame:
    """A frame of two CBOR values, with the place where its seq goes."""
    data = encode({"t": kind, "op": 1}) + encode(body)
    return Frame(data, data.index(SEQ_MARK) + len(SEQ_MARK) - 4)
