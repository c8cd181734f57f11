"""A fetched repo made ready to merge: its commit proved, its in-scope leaves in key order.

The leaves come as an iterator over the tree, never as a list of the whole repo, and in chunks
small enough for one transaction each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import chain, islice

from indexer.claims import CHUNK_ROWS, Claim
from indexer.errors import Check, InvalidUpstream
from indexer.ingest.giving_way import PIECE_S
from indexer.model import PreparedRecord, Scope
from indexer.ports import RepoRows
from indexer.protocol.cid import cid_text
from indexer.protocol.commit import (
    SignedCommit,
    check_rev,
    decode_commit,
    record_block,
    verify_commit_block,
)
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.mst import walk
from indexer.protocol.plc_log import FormerKey
from indexer.protocol.syntax import tid_timestamp_us

CHUNK_BYTES = 8 * 1024 * 1024
"""Of the values that are ready at once; a chunk is written while the next is made ready."""

LoadBlock = Callable[[bytes], bytes]
Prepare = Callable[[str, str, str, bytes], PreparedRecord]


@dataclass(frozen=True, slots=True)
class Leaves:
    """Consecutive in-scope leaves and the range of paths that they account for."""

    after: str
    upto: str | None  # None: to the end of the repo
    items: tuple[tuple[str, bytes], ...]  # (path, binary CID)


class RepoSnapshot:
    """A verified commit and the complete in-scope part of its tree."""

    def __init__(self, commit: SignedCommit, load: LoadBlock, scope: Scope) -> None:
        self.commit = commit
        self._load = load
        ranges = [(r.start, r.end) for r in scope.ranges]
        self._leaves = walk(commit.data, load, ranges)
        self._after = ""
        self._ahead: tuple[str, bytes] | None = None

    @property
    def data_text(self) -> str:
        """MST root of the commit, as in repo rows."""
        return cid_text(self.commit.data)

    def next_leaves(self) -> Leaves:
        """The next chunk; the last one has `upto` None, and may be empty.

        Raises `InvalidUpstream` where the tree is broken.
        """
        ahead = () if self._ahead is None else (self._ahead,)
        # Not a generator of our own: closing one would close the tree walk with it.
        items = tuple(islice(chain(ahead, self._leaves), CHUNK_ROWS))
        self._ahead = next(self._leaves, None)
        upto = None if self._ahead is None else items[-1][0]
        chunk = Leaves(self._after, upto, items)
        if upto is not None:
            self._after = upto
        return chunk

    def block(self, cid: bytes) -> bytes:
        """The bytes of one leaf's record. Raises `MissingBlock` when the archive lacks it."""
        return record_block(cid, self._load)


def open_snapshot(
    root: bytes,
    load: LoadBlock,
    *,
    did: str,
    key: VerifyingKey,
    scope: Scope,
    known: tuple[str | None, str | None],
    former: Sequence[FormerKey] = (),
    now_s: float,
) -> RepoSnapshot:
    """Verify the commit `root` with `key` and give access to its in-scope records.

    After a migration the host shows a commit that is signed with a key that is no longer the
    account's. Two such commits count: the one that we hold, `known` as (rev, MST root), which was
    verified when it was current, and one signed by a `former` key before another replaced it.
    Raises `InvalidUpstream` when the commit is malformed, of another DID, from the future, or not
    signed by any of these.
    """
    block = load(root)
    try:
        commit = verify_commit_block(block, root, did, key)
    except InvalidUpstream as error:
        if error.check is not Check.SIGNATURE:
            raise
        commit = decode_commit(block, root)
        is_known = (commit.rev, cid_text(commit.data)) == known
        if commit.did != did or not (is_known or _is_signed_by_one_of(former, commit)):
            raise
    check_rev(commit.rev, now_s)
    return RepoSnapshot(commit, load, scope)


def _is_signed_by_one_of(former: Sequence[FormerKey], commit: SignedCommit) -> bool:
    """Whether a key signed the commit while it was the account's, to the millisecond."""
    made_ms = tid_timestamp_us(commit.rev) // 1000
    return any(
        made_ms <= round(each.until * 1000) and each.key.verify(commit.unsigned, commit.signature)
        for each in former
    )


def narrowed(leaves: Leaves, ours: dict[str, str]) -> tuple[Leaves, Leaves | None]:
    """A chunk cut where our rows were cut, and what remains of it: None, where nothing was.

    `ours` are the first `CHUNK_ROWS` of our rows in the chunk's range, in key order. Where we
    hold more rows than that, as many would have to be deleted in one transaction.
    """
    if len(ours) < CHUNK_ROWS:
        return leaves, None
    cut = next(reversed(ours))
    return (leaves, None) if cut == leaves.upto else _cut(leaves, cut)


def _cut(leaves: Leaves, cut: str) -> tuple[Leaves, Leaves]:
    """Up to that path, and what lies beyond."""
    within = tuple(item for item in leaves.items if item[0] <= cut)
    beyond = leaves.items[len(within) :]
    return Leaves(leaves.after, cut, within), Leaves(cut, leaves.upto, beyond)


def joined(first: Leaves | None, second: Leaves | None) -> Leaves | None:
    """Leaves that follow each other as one."""
    if first is None or second is None:
        return first or second
    return Leaves(first.after, second.upto, first.items + second.items)


async def compare_next(
    rows: RepoRows, claim: Claim, snapshot: RepoSnapshot, rest: Leaves | None
) -> tuple[Leaves, Leaves | None, dict[str, str]]:
    """The next leaves, what remains of their chunk, and our rows in their range: path -> CID text.

    `rest` is what remained the last time.
    """
    found = await asyncio.to_thread(snapshot.next_leaves) if rest is None else rest
    ours = await rows.cids_between(claim, found.after, found.upto)
    leaves, rest = narrowed(found, ours)
    return leaves, rest, ours


async def prepare_chunk(
    snapshot: RepoSnapshot,
    leaves: Leaves,
    ours: dict[str, str],
    prepare: Prepare,
    *,
    turn: Callable[[], AbstractAsyncContextManager[None]],
) -> tuple[Leaves, Leaves | None, tuple[tuple[str, str], ...], dict[str, PreparedRecord]]:
    """Make a chunk ready, or its beginning where it has more than `CHUNK_BYTES`.

    Gives the leaves that are ready and those beyond, the former's CIDs as text, and the content of
    those that differ from our rows. It is prepared in as many turns as it takes: the largest
    records take a second for a chunk.
    """
    left = [
        (path, text, cid)
        for path, text, cid in ((path, cid_text(cid), cid) for path, cid in leaves.items)
        if ours.get(path) != text
    ]
    left.reverse()
    beyond = None
    records: dict[str, PreparedRecord] = {}
    size = 0
    while left:
        async with turn():
            piece = await asyncio.to_thread(_prepare_piece, snapshot, left, prepare)
        records |= piece
        size += sum(len(record.value or b"") for record in piece.values())
        if left and size >= CHUNK_BYTES:
            leaves, beyond = _cut(leaves, next(reversed(records)))
            break
    texts = tuple((path, cid_text(cid)) for path, cid in leaves.items)
    return leaves, beyond, texts, records


def _prepare_piece(
    snapshot: RepoSnapshot, left: list[tuple[str, str, bytes]], prepare: Prepare
) -> dict[str, PreparedRecord]:
    """Take records off the end of what is left, as many as one turn is for, at least one."""
    records = {}
    ends = time.thread_time() + PIECE_S
    while left and time.thread_time() < ends:
        path, text, cid = left.pop()
        records[path] = prepare(snapshot.commit.did, path, text, snapshot.block(cid))
    return records
