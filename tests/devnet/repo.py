"""One signed repo: records in a persistent tree, commits, and what can be read from it.

Owns the truth that the oracle compares with. A commit is made as the real PDS makes it: writes are
applied in order, `prev` of every op is taken from the state before the batch, and the blocks are
the new tree nodes, the new records, the commit, and the nodes that an inversion of the ops needs.
The commit block is not first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tests.devnet.cbor import Link, Value, cid_of, encode
from tests.devnet.clock import TidClock
from tests.devnet.keys import SigningKey
from tests.devnet.mst import EMPTY, Node, Tree, build, dropped_nodes


@dataclass(frozen=True, slots=True)
class Write:
    """One change in an `apply_writes` batch; `block` is None for a delete."""

    action: str  # create | update | delete
    path: str  # collection/rkey
    block: bytes | None = None
    readable: bool = True  # False: the block breaks the data model, so no value is expected


@dataclass(frozen=True, slots=True)
class Op:
    """A change as a #commit lists it."""

    action: str
    path: str
    cid: bytes | None
    prev: bytes | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A signed commit with what its event carries. `prev_data` is None for the first one."""

    rev: str
    since: str | None
    cid: bytes
    block: bytes
    data: bytes
    prev_data: bytes | None
    ops: tuple[Op, ...]
    blocks: dict[bytes, bytes]  # cid -> block, in the order of the event's CAR


@dataclass(slots=True)
class StoredBlock:
    """A block with the rev that brought it: `getRepo?since=` selects by it."""

    rev: str
    data: bytes


@dataclass(slots=True)
class Repo:
    """The repo of one account on one host."""

    did: str
    key: SigningKey
    tids: TidClock
    tree: Tree = field(default_factory=Tree)
    records: dict[str, bytes] = field(default_factory=dict)  # path -> record CID
    unreadable: set[bytes] = field(default_factory=set)  # CIDs without an expected value
    blocks: dict[bytes, StoredBlock] = field(default_factory=dict)
    uses: Counter[bytes] = field(default_factory=Counter)  # record CID -> paths that hold it
    rev: str | None = None  # of the commit block
    host_rev: str = ""  # what the host says: newer than `rev` after an import
    commit_cid: bytes = b""

    @property
    def data(self) -> bytes:
        """CID of the tree's root node."""
        return self.tree.root.cid

    @property
    def commit_block(self) -> bytes:
        """The latest commit."""
        return self.blocks[self.commit_cid].data

    @property
    def paths(self) -> list[str]:
        """Paths of all records, in no particular but always the same order."""
        return list(self.records)

    def block_of(self, path: str) -> bytes:
        """The record at `path`."""
        return self.blocks[self.records[path]].data

    def commit(self, writes: Iterable[Write] = ()) -> Commit:
        """Apply `writes` in order and sign the result. No writes make an empty commit."""
        before, prev_data, since = self.tree, self.data, self.rev
        ops: list[Op] = []
        leaves: dict[bytes, bytes] = {}
        old: dict[str, bytes | None] = {}
        tree = before
        for write in writes:
            key = write.path.encode()
            prev = old.setdefault(write.path, self.records.get(write.path))
            cid = None if write.block is None else cid_of(write.block)
            self._check(write, tree, key)
            if cid is None or write.block is None:
                tree = tree.remove(key)
            else:
                tree = tree.put(key, cid)
                leaves[cid] = write.block
                if not write.readable:
                    self.unreadable.add(cid)
            ops.append(Op(write.action, write.path, cid, prev))
        fresh = tree.seal()
        self.tree = tree
        blocks = {node.cid: node.block for node in fresh if node.cid not in self.blocks}
        for path, prev in old.items():
            cid = tree.get(path.encode())
            self._settle(path, prev, cid)
            if cid is not None:
                blocks[cid] = leaves[cid]
        commit = self._sign(blocks, since, prev_data if since else None, tuple(ops))
        self._forget(dropped_nodes(before, tree, fresh), {node.cid for node in fresh})
        for op in ops:
            for node in tree.proof(op.path.encode()):
                blocks.setdefault(node.cid, node.block)
        return commit

    def bulk_put(self, pairs: Iterable[tuple[str, bytes]]) -> Commit:
        """Add many records under one commit that no event will carry."""
        blocks = {}
        for path, block in pairs:
            cid = cid_of(block)
            self._settle(path, self.records.get(path), cid)
            blocks[cid] = block
        prev_data, since = self.data, self.rev
        for node in self.tree.nodes():
            self.blocks.pop(node.cid, None)
        self.tree = build((path.encode(), cid) for path, cid in self.records.items())
        blocks.update((node.cid, node.block) for node in self.tree.seal())
        return self._sign(blocks, since, prev_data if since else None, ())

    def moved_to(self, key: SigningKey) -> Repo:
        """The repo on another host after importRepo: same commit, a new host rev, a new key."""
        moved = self.copy()
        moved.key, moved.host_rev = key, self.tids.next()
        return moved

    def copy(self) -> Repo:
        """The repo as it is now: put it in place of a later one, and its host was set back."""
        return replace(
            self,
            records=dict(self.records),
            unreadable=set(self.unreadable),
            blocks=dict(self.blocks),
            uses=Counter(self.uses),
        )

    def snapshot(self, since: str | None = None) -> list[tuple[bytes, bytes]]:
        """(cid, block) of the whole repo, or of what came after `since`. Newest rev first.

        The order is the host's database order, so neither pre-order nor commit first.
        """
        stored = self.blocks.items()
        kept = [item for item in stored if since is None or item[1].rev > since]
        kept.sort(key=lambda item: (item[1].rev, item[0]), reverse=True)
        return [(cid, block.data) for cid, block in kept]

    def record_proof(self, path: str) -> Iterator[tuple[bytes, bytes]]:
        """The blocks of `sync.getRecord`: commit first, then the path, then the record if any."""
        yield self.commit_cid, self.commit_block
        for node in self.tree.path_to(path.encode()):
            yield node.cid, node.block
        if path in self.records:
            yield self.records[path], self.block_of(path)

    def _check(self, write: Write, tree: Tree, key: bytes) -> None:
        exists = tree.get(key) is not None
        if exists == (write.action == "create"):
            state = "exists" if exists else "does not exist"
            raise ValueError(f"cannot {write.action} {write.path}: it {state}")

    def _settle(self, path: str, prev: bytes | None, cid: bytes | None) -> None:
        """Make `records` and the use counts say that `path` went from `prev` to `cid`."""
        if cid is None:
            self.records.pop(path, None)
        else:
            self.records[path] = cid
            self.uses[cid] += 1
        if prev is not None:
            self.uses[prev] -= 1
            if not self.uses[prev]:
                del self.uses[prev]
                self.blocks.pop(prev, None)

    def _forget(self, nodes: Iterable[Node], remade: set[bytes]) -> None:
        for node in nodes:
            if node.cid not in remade and node.cid != self.data:
                self.blocks.pop(node.cid, None)

    def _sign(
        self,
        blocks: dict[bytes, bytes],
        since: str | None,
        prev_data: bytes | None,
        ops: tuple[Op, ...],
    ) -> Commit:
        rev = self.tids.next()
        if self.data == EMPTY.cid and EMPTY.cid not in self.blocks:
            blocks[EMPTY.cid] = EMPTY.block
        block = signed_commit(self.did, rev, self.data, self.key.sign)
        cid = cid_of(block)
        blocks[cid] = block
        self.blocks.pop(self.commit_cid, None)
        for each, data in blocks.items():
            self.blocks[each] = StoredBlock(rev, data)
        self.rev = self.host_rev = rev
        self.commit_cid = cid
        return Commit(rev, since, cid, block, self.data, prev_data, ops, blocks)


def signed_commit(did: str, rev: str, data: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The block of a commit: `prev` is always null, `version` 3."""
    body: dict[str, Value] = {
        "did": did,
        "rev": rev,
        "data": Link(data),
        "prev": None,
        "version": 3,
    }
    body["sig"] = sign(encode(body))
    return encode(body)
