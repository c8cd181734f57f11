"""From decoded frames to planned events: everything that is proved before the writer sees it.

CPU only; runs in a worker thread in chunks. It owns no state: keys come in, events go out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import msgspec
import structlog

from indexer.clock import Clock
from indexer.errors import InvalidUpstream, bug
from indexer.model import PreparedRecord, Scope
from indexer.planning import (
    AccountSeen,
    CommitSeen,
    Event,
    IdentitySeen,
    RecordWrite,
    SyncSeen,
)
from indexer.protocol.cid import cid_text
from indexer.protocol.commit import VerifiedCommit, verify_commit, verify_sync
from indexer.protocol.events import CommitEvent, parse_account, parse_commit, parse_sync
from indexer.protocol.frame import Frame, decode_frame
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.syntax import datetime_to_unix, is_tid

log = structlog.get_logger(__name__)

EARLIEST_AT = 1_640_995_200.0
"""2022-01-01: no stream is older."""

Prepare = Callable[[str, str, str, bytes], PreparedRecord]
"""(did, path, CID text, block) -> the record made ready for its row."""


class RawFrame(msgspec.Struct, frozen=True):
    """A decoded frame beside its bytes."""

    frame: Frame
    data: bytes

    @classmethod
    def decoded(cls, data: bytes) -> Self:
        """Both, of the bytes. Raises `InvalidUpstream`."""
        return cls(decode_frame(data), data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """Turns frames into events, with proofs where the signing key is known."""

    scope: Scope
    prepare: Prepare
    clock: Clock

    def events(self, frames: Iterable[RawFrame], keys: Mapping[str, str | None]) -> list[Event]:
        """One event a frame. `keys`: tracked DID -> multibase, None where none is known.

        Frames of DIDs that are not in `keys` are of repos that may be discovered by them.
        """
        return [self._event(raw, keys) for raw in frames]

    def commits(self, frames: Iterable[RawFrame], key: str | None) -> list[CommitSeen]:
        """Buffered commits of one repo, verified with its current key."""
        return [self._commit(raw, key) for raw in frames]

    def _event(self, raw: RawFrame, keys: Mapping[str, str | None]) -> Event:
        frame = raw.frame
        did = frame.did
        if did is None or frame.seq is None:
            raise AssertionError("only frames of a repo come here")
        if frame.type == "#commit":
            return self._commit(raw, keys.get(did))
        if frame.type == "#sync":
            return self._sync(raw, keys.get(did))
        if frame.type == "#identity":
            return IdentitySeen(did=did, seq=frame.seq, time=self._time(frame))
        return self._account(raw)

    def _account(self, raw: RawFrame) -> AccountSeen:
        did, seq, time = str(raw.frame.did), raw.frame.seq or 0, self._time(raw.frame)
        try:
            account = parse_account(raw.frame)
        except InvalidUpstream as error:
            return AccountSeen(did=did, seq=seq, time=time, active=False, status=None, error=error)
        if account.active and account.status is not None:
            log.warning("account.status_contradicts", did=did, seq=seq, reason=account.status)
        return AccountSeen(
            did=did, seq=seq, time=time, active=account.active, status=account.status
        )

    def _time(self, frame: Frame) -> float:
        """What the event says of its time; now, where it says nothing sensible."""
        text = frame.body.get("time")
        try:
            at = datetime_to_unix(text) if isinstance(text, str) else 0.0
        except InvalidUpstream:
            at = 0.0
        return at if at >= EARLIEST_AT else self.clock.now()

    def _commit(self, raw: RawFrame, key: str | None) -> CommitSeen:
        try:
            return self._judged(raw, key)
        except InvalidUpstream as error:
            return _unreadable(raw, error)
        except Exception as error:  # noqa: BLE001 - becomes a dead letter, see `bug`
            return _unreadable(raw, bug(error))

    def _judged(self, raw: RawFrame, key: str | None) -> CommitSeen:
        """Raises `InvalidUpstream` for what is no commit."""
        event = parse_commit(raw.frame)
        did, seq = event.did, event.seq
        brings = any(op.action != "delete" and op.path in self.scope for op in event.ops)
        if key is None:
            return CommitSeen(
                did=did,
                seq=seq,
                rev=event.rev,
                since=event.since,
                frame=raw.data,
                brings_records=brings,
            )
        return self._verified(event, raw.data, key, brings=brings)

    def _verified(self, event: CommitEvent, data: bytes, key: str, *, brings: bool) -> CommitSeen:
        try:
            commit = verify_commit(
                event,
                VerifyingKey.parse(key),
                now_s=self.clock.now(),
                in_scope=self.scope.__contains__,
            )
        except InvalidUpstream as error:
            return CommitSeen(
                did=event.did,
                seq=event.seq,
                rev=event.rev,
                since=event.since,
                frame=data,
                signing_key=key,
                error=error,
                brings_records=brings,
            )
        return CommitSeen(
            did=commit.did,
            seq=event.seq,
            rev=commit.rev,
            since=commit.since,
            frame=data,
            data=cid_text(commit.data),
            prev_data=None if commit.prev_data is None else cid_text(commit.prev_data),
            signing_key=key,
            writes=self._writes(commit),
            brings_records=brings,
        )

    def _writes(self, commit: VerifiedCommit) -> tuple[RecordWrite, ...]:
        writes: list[RecordWrite] = []
        for change in commit.changes:
            record = None
            if change.cid is not None and change.block is not None:
                record = self.prepare(commit.did, change.path, cid_text(change.cid), change.block)
            writes.append(RecordWrite(change.path, record))
        return tuple(writes)

    def _sync(self, raw: RawFrame, key: str | None) -> SyncSeen:
        did, seq = str(raw.frame.did), raw.frame.seq or 0
        try:
            return self._judged_sync(raw, key)
        except InvalidUpstream as error:
            return SyncSeen(did=did, seq=seq, rev="", error=error)
        except Exception as error:  # noqa: BLE001 - becomes a dead letter, see `bug`
            return SyncSeen(did=did, seq=seq, rev="", error=bug(error))

    def _judged_sync(self, raw: RawFrame, key: str | None) -> SyncSeen:
        """Raises `InvalidUpstream` for what is none."""
        event = parse_sync(raw.frame)
        did, seq = event.did, event.seq
        if key is None:
            return SyncSeen(did=did, seq=seq, rev=event.rev)
        try:
            commit = verify_sync(event, VerifyingKey.parse(key), now_s=self.clock.now())
        except InvalidUpstream as error:
            return SyncSeen(did=did, seq=seq, rev=event.rev, signing_key=key, error=error)
        return SyncSeen(
            did=did,
            seq=seq,
            rev=event.rev,
            commit_rev=commit.rev,
            data=cid_text(commit.data),
            signing_key=key,
        )


def _unreadable(raw: RawFrame, error: InvalidUpstream) -> CommitSeen:
    """A commit of which only the frame says anything."""
    rev = raw.frame.body.get("rev")
    return CommitSeen(
        did=str(raw.frame.did),
        seq=raw.frame.seq or 0,
        rev=rev if isinstance(rev, str) and is_tid(rev) else "",
        since=None,
        frame=raw.data,
        error=error,
    )


def is_relevant(frame: Frame, scope: Scope, is_tracked: Callable[[str], bool]) -> bool:
    """Whether a frame concerns us: a tracked DID, or a commit that brings an in-scope record."""
    kind, _, did, body = frame
    if did is None:
        return False
    if is_tracked(did):
        return True
    ops = body.get("ops") if kind == "#commit" else None
    if type(ops) is not list:
        return False
    prefixes = scope.prefixes
    for op in ops:
        if type(op) is dict:
            path = op.get("path")
            # What `path in scope` says, without a call for each of all the network's records.
            if type(path) is str and path.startswith(prefixes) and op.get("action") != "delete":
                return True
    return False
