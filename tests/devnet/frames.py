"""Events of subscribeRepos and their bytes.

Owns the shape of every message that a real PDS sends: header with `t` before `op`, body as
canonical DAG-CBOR with exactly the real keys. An event has no seq of its own: each stream that
carries it gives it one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.devnet.car import write_car
from tests.devnet.cbor import Link, Value, encode
from tests.devnet.clock import time_text
from tests.devnet.repo import Commit, Repo

_HEADERS = {
    kind: encode({"t": kind, "op": 1}) for kind in ("#commit", "#identity", "#account", "#sync")
}


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an account. `raw` replaces the whole message where a fault wants that."""

    kind: str
    did: str
    body: Mapping[str, Value]
    raw: bytes | None = None

    def frame(self, seq: int) -> bytes:
        """The binary message under `seq`."""
        if self.raw is not None:
            return self.raw
        return message(self.kind, {**self.body, "seq": seq})


def message(kind: str, body: dict[str, Value]) -> bytes:
    """A message of any type."""
    return (_HEADERS.get(kind) or encode({"t": kind, "op": 1})) + encode(body)


def info_message(name: str, text: str) -> bytes:
    """An #info: it has no seq."""
    return message("#info", {"name": name, "message": text})


def error_message(name: str, text: str) -> bytes:
    """An error; the server closes with 1008 and the same name right after."""
    return encode({"op": -1}) + encode({"error": name, "message": text})


def commit_event(did: str, commit: Commit, at: float) -> Event:
    """The #commit of a commit."""
    ops: list[Value] = []
    for op in commit.ops:
        item: dict[str, Value] = {
            "cid": None if op.cid is None else Link(op.cid),
            "path": op.path,
            "action": op.action,
        }
        if op.prev is not None:
            item["prev"] = Link(op.prev)
        ops.append(item)
    body: dict[str, Value] = {
        "ops": ops,
        "rev": commit.rev,
        "repo": did,
        "time": time_text(at),
        "blobs": [],
        "since": commit.since,
        "blocks": write_car([commit.cid], commit.blocks.items()),
        "commit": Link(commit.cid),
        "rebase": False,
        "tooBig": False,
    }
    if commit.prev_data is not None:
        body["prevData"] = Link(commit.prev_data)
    return Event("#commit", did, body)


def sync_event(repo: Repo, at: float) -> Event:
    """The #sync of a repo: the host's rev, which after an import is not the commit's."""
    blocks = write_car([repo.commit_cid], [(repo.commit_cid, repo.commit_block)])
    body: dict[str, Value] = {
        "did": repo.did,
        "rev": repo.host_rev,
        "time": time_text(at),
        "blocks": blocks,
    }
    return Event("#sync", repo.did, body)


def identity_event(did: str, at: float, handle: str | None = None) -> Event:
    """An #identity, with or without the handle."""
    body: dict[str, Value] = {"did": did, "time": time_text(at)}
    if handle is not None:
        body["handle"] = handle
    return Event("#identity", did, body)


def account_event(did: str, at: float, status: str | None = None) -> Event:
    """An #account: active where `status` is None."""
    body: dict[str, Value] = {"did": did, "time": time_text(at), "active": status is None}
    if status is not None:
        body["status"] = status
    return Event("#account", did, body)
