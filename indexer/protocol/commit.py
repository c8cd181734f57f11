"""Signed commits, and the proof of what a `#commit` event claims.

`verify_commit` leaves nothing of an event to belief: every block hashes to its CID, the commit is
this repo's and signed with its key, and undoing the listed ops gives `prevData`. Whether that is
the state we hold is the planner's question, not asked here.
Source: the repository and sync specifications.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.car import parse_car
from indexer.protocol.cbor import Link, decode_block, encode_block, has_float
from indexer.protocol.cid import dag_cbor_cid, is_dag_cbor_sha256
from indexer.protocol.events import COMMIT_BLOCKS_BYTES_MAX, CommitEvent, RepoOp, SyncEvent
from indexer.protocol.keys import SIGNATURE_BYTES, VerifyingKey
from indexer.protocol.mst import MissingBlock
from indexer.protocol.mst_inversion import NetOp, invert, invert_usual
from indexer.protocol.syntax import is_tid, tid_timestamp_us

COMMIT_VERSION = 3
COMMIT_BLOCK_BYTES_MAX = 10_000
"""As an archive that holds nothing else; the real ones have some 250."""

RECORDS_BYTES_MAX = 2 * COMMIT_BLOCKS_BYTES_MAX
"""In-scope records of one commit, each path counted: 200 ops may all name one large block."""

UNREADABLE = b""
"""Stands for a record whose CID is not of DAG-CBOR and SHA-256. No record decodes from it."""

REV_AHEAD_S_MAX = 300.0
"""A rev may lie this far ahead of our clock."""

EMPTY_TREE = dag_cbor_cid(encode_block({"e": [], "l": None}))
"""Root of a repo without records."""


class SignedCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded commit block. Its signature is checked by those who return it."""

    did: str
    rev: str
    data: bytes  # CID of the MST root
    cid: bytes
    signature: bytes
    unsigned: bytes  # the block without the signature: what was signed


class LeafChange(msgspec.Struct, frozen=True):
    """What a commit makes of one record; `block` is its content, None together with `cid`.

    A record under a CID that cannot be checked is `UNREADABLE`.
    """

    path: str
    cid: bytes | None
    block: bytes | None


class VerifiedCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A `#commit` whose every claim was proved, but for its place in the chain."""

    did: str
    rev: str
    since: str | None
    data: bytes
    prev_data: bytes | None  # None: the first commit of a repo
    commit_cid: bytes
    changes: tuple[LeafChange, ...]  # in scope, one a path


def decode_commit(block: bytes, cid: bytes) -> SignedCommit:
    """Read a commit block. Raises `InvalidUpstream` (`CBOR`, `COMMIT` or `SIGNATURE`)."""
    if len(block) > COMMIT_BLOCK_BYTES_MAX:
        raise InvalidUpstream(Check.COMMIT, f"a commit block of {len(block)} bytes")
    value = decode_block(block)
    if type(value) is not dict:
        raise InvalidUpstream(Check.COMMIT, "not an object")
    if has_float(value):
        raise InvalidUpstream(Check.CBOR, "a floating point number")
    did, rev, data = value.get("did"), value.get("rev"), value.get("data")
    signature = value.get("sig")
    if type(did) is not str or type(rev) is not str or not is_tid(rev):
        raise InvalidUpstream(Check.COMMIT, "did or rev is malformed")
    version = value.get("version")
    if type(version) is not int or version != COMMIT_VERSION:
        raise InvalidUpstream(Check.COMMIT, f"version is not {COMMIT_VERSION}")
    if type(data) is not Link or not is_dag_cbor_sha256(data):
        raise InvalidUpstream(Check.COMMIT, "data is not a DAG-CBOR SHA-256 link")
    if "prev" not in value or not (value["prev"] is None or type(value["prev"]) is Link):
        raise InvalidUpstream(Check.COMMIT, "prev is absent or malformed")
    if type(signature) is not bytes or len(signature) != SIGNATURE_BYTES:
        raise InvalidUpstream(Check.SIGNATURE, "the signature is not of 64 bytes")
    del value["sig"]
    return SignedCommit(
        did=did,
        rev=rev,
        data=bytes(data),
        cid=cid,
        signature=signature,
        unsigned=encode_block(value),
    )


def verify_commit_block(block: bytes, cid: bytes, did: str, key: VerifyingKey) -> SignedCommit:
    """A commit block that is this repo's and signed with `key`. Raises `InvalidUpstream`."""
    commit = decode_commit(block, cid)
    if commit.did != did:
        raise InvalidUpstream(Check.COMMIT, f"the commit is of {commit.did[:100]!r}")
    if not key.verify(commit.unsigned, commit.signature):
        raise InvalidUpstream(Check.SIGNATURE, f"commit {commit.rev} is not signed with the key")
    return commit


def verify_commit(
    event: CommitEvent,
    key: VerifyingKey,
    *,
    now_s: float,
    in_scope: Callable[[str], bool],
) -> VerifiedCommit:
    """Prove everything that a `#commit` event claims about the step from `prevData` to its root.

    `now_s` is wall-clock unix seconds. Raises `InvalidUpstream` with the check that failed;
    `NOT_INVERTIBLE` where the event does not carry what the proof needs.
    """
    check_rev(event.rev, now_s)
    car = parse_car(event.blocks)
    if car.root != event.commit:
        raise InvalidUpstream(Check.CAR, "the root is not the commit")
    commit = verify_commit_block(_block(car.blocks, event.commit), event.commit, event.did, key)
    if commit.rev != event.rev:
        raise InvalidUpstream(Check.COMMIT, f"rev {commit.rev} in the block, {event.rev} outside")
    ops = fold_ops(event.ops)
    _check_inversion(event, commit, car.blocks, ops)
    changes = tuple([_change(op, car.blocks) for op in ops if in_scope(op.path)])
    if sum(len(change.block or b"") for change in changes) > RECORDS_BYTES_MAX:
        raise InvalidUpstream(Check.LIMITS, f"more than {RECORDS_BYTES_MAX} bytes of records")
    return VerifiedCommit(
        did=commit.did,
        rev=commit.rev,
        since=event.since,
        data=commit.data,
        prev_data=event.prev_data,
        commit_cid=commit.cid,
        changes=changes,
    )


def verify_sync(event: SyncEvent, key: VerifyingKey, *, now_s: float) -> SignedCommit:
    """The commit that a `#sync` shows. Its rev may be older than the event's (after an import)."""
    check_rev(event.rev, now_s)
    car = parse_car(event.blocks)
    return verify_commit_block(_block(car.blocks, car.root), car.root, event.did, key)


def check_rev(rev: str, now_s: float) -> None:
    """Refuse a rev from the future, which would outrank every honest one to come."""
    if tid_timestamp_us(rev) / 1e6 > now_s + REV_AHEAD_S_MAX:
        raise InvalidUpstream(Check.FUTURE_REV, f"rev {rev} is ahead of our clock")


def fold_ops(ops: Sequence[RepoOp]) -> list[NetOp]:
    """One net op a path: the first `prev`, the last `cid`; a path created and deleted is gone.

    A server that applies several writes to one path in a batch lists them all, with `prev` as it
    was before the batch. Raises `InvalidUpstream` (`NOT_INVERTIBLE`) where a lone update or
    delete says no `prev`.
    """
    by_path: dict[str, list[RepoOp]] = {}
    for op in ops:
        by_path.setdefault(op.path, []).append(op)
    net: list[NetOp] = []
    for path, listed in by_path.items():
        prev = next((op.prev for op in listed if op.prev is not None), None)
        cid = listed[-1].cid
        if prev is None and listed[0].action != "create":
            raise InvalidUpstream(Check.NOT_INVERTIBLE, f"{listed[0].action} without prev")
        if len(listed) == 1 and listed[0].action == "create" and prev is not None:
            raise InvalidUpstream(Check.OPS, "create with prev")
        if cid is not None or prev is not None:
            net.append(NetOp(path, cid, prev))
    return net


def _check_inversion(
    event: CommitEvent,
    commit: SignedCommit,
    blocks: Mapping[bytes, bytes],
    ops: Sequence[NetOp],
) -> None:
    if event.prev_data is None:
        if event.since is not None:
            raise InvalidUpstream(Check.NOT_INVERTIBLE, "prevData is absent")
        expected = EMPTY_TREE
    else:
        expected = event.prev_data
    if invert_usual(commit.data, blocks, ops) == expected:
        return
    if invert(commit.data, blocks, ops) != expected:
        raise InvalidUpstream(Check.INVERSION, "undoing the ops does not give prevData")


def _change(op: NetOp, blocks: Mapping[bytes, bytes]) -> LeafChange:
    return LeafChange(op.path, op.cid, None if op.cid is None else record_block(op.cid, blocks.get))


def record_block(cid: bytes, load: Callable[[bytes], bytes | None]) -> bytes:
    """The block of a record, or `UNREADABLE`. Raises `MissingBlock` where `load` has none."""
    if not is_dag_cbor_sha256(cid):
        return UNREADABLE
    block = load(cid)
    if block is None:
        raise MissingBlock(cid)
    return block


def _block(blocks: Mapping[bytes, bytes], cid: bytes) -> bytes:
    block = blocks.get(cid)
    if block is None:
        raise MissingBlock(cid)
    return block
