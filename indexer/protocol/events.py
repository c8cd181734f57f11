"""Events of the stream, parsed from the bodies of frames.

Fields and size limits only; what an event claims is proved in `commit`. Every parser raises
`InvalidUpstream`: `FIELDS` for an absent or mistyped field, `LIMITS` for an excess, `OPS` for an
op that is not well-formed.
Source: lexicon com.atproto.sync.subscribeRepos.
"""

from __future__ import annotations

import msgspec

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.cid import is_cid, is_dag_cbor_sha256
from indexer.protocol.frame import Frame
from indexer.protocol.syntax import is_did, is_record_path, is_tid

COMMIT_BLOCKS_BYTES_MAX = 2_000_000
SYNC_BLOCKS_BYTES_MAX = 10_000
OPS_MAX = 200
STATUS_CHARS_MAX = 100

_ACTIONS = frozenset({"create", "update", "delete"})


class RepoOp(msgspec.Struct, frozen=True):
    """One op as listed. The real PDS leaves `prev` out where a batch touches a path twice."""

    action: str  # create | update | delete
    path: str
    cid: bytes | None
    prev: bytes | None


class CommitEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A `#commit`: a new signed state of a repo, with the blocks that prove the change."""

    seq: int
    did: str
    rev: str
    since: str | None
    commit: bytes  # CID of the commit block
    prev_data: bytes | None  # MST root before; None: not said
    blocks: bytes  # CAR
    ops: tuple[RepoOp, ...]
    time: str


class SyncEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A `#sync`: the host's word that the repo is at this commit."""

    seq: int
    did: str
    rev: str
    blocks: bytes  # CAR with the commit block
    time: str


class AccountEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An `#account`: whether the host serves the account. `active` decides, `status` explains."""

    seq: int
    did: str
    time: str
    active: bool
    status: str | None


def parse_commit(frame: Frame) -> CommitEvent:
    """Read a `#commit` frame."""
    body = frame.body
    blocks = _blocks(body, COMMIT_BLOCKS_BYTES_MAX)
    ops = body.get("ops")
    if type(ops) is not list:
        raise InvalidUpstream(Check.FIELDS, "ops is not a list")
    if len(ops) > OPS_MAX:
        raise InvalidUpstream(Check.LIMITS, f"{len(ops)} ops")
    commit, prev_data = body.get("commit"), body.get("prevData")
    if type(commit) is not bytes or not is_dag_cbor_sha256(commit):
        raise InvalidUpstream(Check.FIELDS, "commit is not a DAG-CBOR SHA-256 CID")
    if prev_data is not None and (
        type(prev_data) is not bytes or not is_dag_cbor_sha256(prev_data)
    ):
        raise InvalidUpstream(Check.FIELDS, "prevData is not a DAG-CBOR SHA-256 CID")
    if "since" not in body:
        raise InvalidUpstream(Check.FIELDS, "since is absent")
    return CommitEvent(
        seq=_seq(frame),
        did=_did(frame),
        rev=_tid(body, "rev"),
        since=None if body["since"] is None else _tid(body, "since"),
        commit=commit,
        prev_data=prev_data,
        blocks=blocks,
        ops=tuple([_op(op) for op in ops]),
        time=_text(body, "time"),
    )


def parse_sync(frame: Frame) -> SyncEvent:
    """Read a `#sync` frame."""
    body = frame.body
    return SyncEvent(
        seq=_seq(frame),
        did=_did(frame),
        rev=_tid(body, "rev"),
        blocks=_blocks(body, SYNC_BLOCKS_BYTES_MAX),
        time=_text(body, "time"),
    )


def parse_account(frame: Frame) -> AccountEvent:
    """Read an `#account` frame."""
    body = frame.body
    active, status = body.get("active"), body.get("status")
    if type(active) is not bool:
        raise InvalidUpstream(Check.FIELDS, "active is not a boolean")
    if status is not None and type(status) is not str:
        raise InvalidUpstream(Check.FIELDS, "status is not a string")
    return AccountEvent(
        seq=_seq(frame),
        did=_did(frame),
        time=_text(body, "time"),
        active=active,
        status=None if status is None else status[:STATUS_CHARS_MAX],
    )


def _seq(frame: Frame) -> int:
    if frame.seq is None:
        raise InvalidUpstream(Check.FIELDS, "no sequence number")
    return frame.seq


def _did(frame: Frame) -> str:
    if frame.did is None or not is_did(frame.did):
        raise InvalidUpstream(Check.FIELDS, f"not a DID: {str(frame.did)[:120]!r}")
    return frame.did


def _text(body: dict[str, object], name: str) -> str:
    value = body.get(name)
    if type(value) is not str:
        raise InvalidUpstream(Check.FIELDS, f"{name} is not a string")
    return value


def _tid(body: dict[str, object], name: str) -> str:
    value = _text(body, name)
    if not is_tid(value):
        raise InvalidUpstream(Check.FIELDS, f"{name} is not a TID: {value[:40]!r}")
    return value


def _blocks(body: dict[str, object], bytes_max: int) -> bytes:
    blocks = body.get("blocks")
    if type(blocks) is not bytes or not blocks:
        raise InvalidUpstream(Check.FIELDS, "blocks is absent or empty")
    if len(blocks) > bytes_max:
        raise InvalidUpstream(Check.LIMITS, f"blocks of {len(blocks)} bytes")
    return blocks


def _op(op: object) -> RepoOp:
    if type(op) is not dict:
        raise InvalidUpstream(Check.OPS, "an op is not an object")
    action, path, cid, prev = op.get("action"), op.get("path"), op.get("cid"), op.get("prev")
    if type(path) is not str or not is_record_path(path):
        raise InvalidUpstream(Check.OPS, f"not a record path: {str(path)[:120]!r}")
    for link in (cid, prev):
        if link is not None and (type(link) is not bytes or not is_cid(link)):
            raise InvalidUpstream(Check.OPS, "cid or prev is not a CID")
    if type(action) is not str or action not in _ACTIONS:
        raise InvalidUpstream(Check.OPS, f"unknown action {str(action)[:40]!r}")
    if (action == "delete") != (cid is None):
        raise InvalidUpstream(Check.OPS, f"{action} with{'out' if cid is None else ''} a cid")
    return RepoOp(action, path, cid, prev)
