"""What goes wrong, when, and the proof that it did.

Owns the closed set of fault kinds and one schedule for all of them. Every part of the devnet asks
the schedule at the moment it could lie or fail; the schedule answers with a fault whose conditions
match and counts it. A test that schedules a fault asserts that it fired, so no test passes because
its fault never happened.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

Param: TypeAlias = "str | int | float | bool | bytes | dict[str, str] | None"


class FaultKind(StrEnum):
    """Every fault that the devnet knows. Parameters are named beside each, with their defaults."""

    # The connection of subscribeRepos. `at` (0): frames of this connection to send before.
    HANDSHAKE_STATUS = "handshake_status"  # status=503, retry_after_s=None
    HANDSHAKE_HANG = "handshake_hang"
    CONNECT_THEN_FAIL = "connect_then_fail"  # accepted, then the socket is reset
    DROP_CONNECTION = "drop_connection"  # reset, after `at` frames
    CLOSE_WITHOUT_FRAME = "close_without_frame"  # FIN without a close frame
    CLOSE = "close"  # code=1000, reason=""
    HANG = "hang"  # open, answers pings, sends nothing more
    DEAD_PEER = "dead_peer"  # open, answers nothing more
    # One message of one connection; a reconnect with the old cursor gets the true frame.
    DUPLICATE_FRAME = "duplicate_frame"
    REORDER_FRAMES = "reorder_frames"  # this frame after the next one
    CORRUPT_FRAME = "corrupt_frame"  # one byte of the message flipped, offset=None (seeded)
    TRUNCATE_FRAME = "truncate_frame"
    TRAILING_BYTES = "trailing_bytes"
    REPLACE_FRAME = "replace_frame"  # data=b""
    TEXT_FRAME = "text_frame"  # a text message before this frame
    UNKNOWN_OP = "unknown_op"  # a message with op 7 before this frame
    UNKNOWN_TYPE = "unknown_type"  # a message of type `type`="#labels" before this frame
    ERROR_FRAME = "error_frame"  # error="ConsumerTooSlow", then close 1008
    INFO_FRAME = "info_frame"  # name="OutdatedCursor" before this frame
    OVERSIZED_FRAME = "oversized_frame"  # size=5_000_001 before this frame
    SLOW_FRAME = "slow_frame"  # this frame byte by byte, interval_s=0.05
    # The event itself; the log keeps the lie, so every replay repeats it. The repo stays true.
    # Lies about a commit are told of a #commit, and some of them of a #sync on demand.
    SWALLOW_FRAME = "swallow_frame"
    POISON_FRAME = "poison_frame"  # the message is not a frame, data=None (seeded bytes)
    BAD_SIGNATURE = "bad_signature"
    HIGH_S = "high_s"
    WRONG_KEY = "wrong_key"
    WRONG_PREV_DATA = "wrong_prev_data"
    MISSING_PREV_DATA = "missing_prev_data"
    WRONG_SINCE = "wrong_since"
    OMITTED_OP = "omitted_op"  # an op disappears from the list, action="delete" (None: any)
    PHANTOM_OP = "phantom_op"  # an op for a record that is not in the tree
    MISSING_PREV = "missing_prev"  # updates and deletes lose their `prev`
    FUTURE_REV = "future_rev"  # seconds=3600; signed by the right key
    WRONG_REV = "wrong_rev"  # event rev is not the commit's
    WRONG_ROOT = "wrong_root"  # `commit` is not the root of the blocks
    WRONG_BLOCK_HASH = "wrong_block_hash"
    MISSING_BLOCK = "missing_block"  # block="record" | "node" | "commit"
    GARBAGE_BLOCK = "garbage_block"  # an unreferenced raw block: valid, must be survived
    TOO_BIG = "too_big"  # legacy: tooBig true, no ops, no blocks
    OTHER_REPO = "other_repo"  # the event names another DID
    REPLAYED_EVENT = "replayed_event"  # the same event again under a new seq
    STALE_ACCOUNT = "stale_account"  # an #account deactivated with `time` an hour ago, after this
    # What an account may rightly do beside a commit, made to happen after one of its commits.
    SAME_PATH_TWICE = "same_path_twice"  # pattern="create+update" | "create+delete" | ...
    EMPTY_COMMIT = "empty_commit"
    SYNC_REV_DIFFERS = "sync_rev_differs"
    # HTTP of any service.
    HTTP_STATUS = "http_status"  # status=500, error="InternalServerError", headers={}, body=None
    HTTP_429 = "http_429"  # headers=True, retry_after_s=30; headers=False: HTML without any
    HTTP_DELAY = "http_delay"  # seconds=1.0
    HTTP_HANG = "http_hang"
    HTTP_RESET = "http_reset"  # at=0 body bytes, then reset
    HTTP_TRUNCATE = "http_truncate"  # fraction=0.5 or at=bytes; ends as if complete
    HTTP_STALL = "http_stall"  # fraction=0.5 or at=bytes, then silence
    HTTP_SLOW = "http_slow"  # chunk=1 bytes every interval_s=0.05
    HTTP_HTML = "http_html"  # 200 text/html
    HTTP_BODY = "http_body"  # body=b"", content_type=None: another answer, or a stale one
    HTTP_REDIRECT = "http_redirect"  # location=""
    HTTP_LENGTH_LIE = "http_length_lie"  # delta=10: Content-Length minus true length
    GZIP_BOMB = "gzip_bomb"  # size=50_000_000 zeros
    ENDLESS_BODY = "endless_body"  # size_max=1_000_000_000; valid blocks where a CAR is due
    CAR_WRONG_HASH = "car_wrong_hash"  # one block does not match its CID
    CAR_MISSING_BLOCK = "car_missing_block"  # one block is left out
    # Answers that are well-formed and wrong.
    PLC_STALE = "plc_stale"  # the document as it was before the last operation
    PLC_NOT_FOUND = "plc_not_found"
    CURSOR_LOOP = "cursor_loop"  # a list repeats its page and cursor
    BOGUS_DIDS = "bogus_dids"  # count=100 more entries in listRepos


CONNECTION = (
    FaultKind.DROP_CONNECTION,
    FaultKind.CLOSE_WITHOUT_FRAME,
    FaultKind.CLOSE,
    FaultKind.HANG,
    FaultKind.DEAD_PEER,
    FaultKind.ERROR_FRAME,
)
MESSAGE = (
    FaultKind.DUPLICATE_FRAME,
    FaultKind.REORDER_FRAMES,
    FaultKind.CORRUPT_FRAME,
    FaultKind.TRUNCATE_FRAME,
    FaultKind.TRAILING_BYTES,
    FaultKind.REPLACE_FRAME,
    FaultKind.TEXT_FRAME,
    FaultKind.UNKNOWN_OP,
    FaultKind.UNKNOWN_TYPE,
    FaultKind.INFO_FRAME,
    FaultKind.OVERSIZED_FRAME,
    FaultKind.SLOW_FRAME,
)
EVENT = (
    FaultKind.SWALLOW_FRAME,
    FaultKind.POISON_FRAME,
    FaultKind.REPLAYED_EVENT,
    FaultKind.STALE_ACCOUNT,
)
COMMIT = (
    FaultKind.BAD_SIGNATURE,
    FaultKind.HIGH_S,
    FaultKind.WRONG_KEY,
    FaultKind.WRONG_PREV_DATA,
    FaultKind.MISSING_PREV_DATA,
    FaultKind.WRONG_SINCE,
    FaultKind.OMITTED_OP,
    FaultKind.PHANTOM_OP,
    FaultKind.MISSING_PREV,
    FaultKind.FUTURE_REV,
    FaultKind.WRONG_REV,
    FaultKind.WRONG_ROOT,
    FaultKind.WRONG_BLOCK_HASH,
    FaultKind.MISSING_BLOCK,
    FaultKind.GARBAGE_BLOCK,
    FaultKind.TOO_BIG,
    FaultKind.OTHER_REPO,
)
SYNC = (
    FaultKind.BAD_SIGNATURE,
    FaultKind.HIGH_S,
    FaultKind.WRONG_KEY,
    FaultKind.FUTURE_REV,
    FaultKind.WRONG_BLOCK_HASH,
    FaultKind.GARBAGE_BLOCK,
    FaultKind.OTHER_REPO,
)
"""Lies of a commit that a #sync can tell too, if the fault says `type="#sync"`."""
ACCOUNT = (FaultKind.SAME_PATH_TWICE, FaultKind.EMPTY_COMMIT, FaultKind.SYNC_REV_DIFFERS)
HTTP_BEFORE = (
    FaultKind.HTTP_STATUS,
    FaultKind.HTTP_429,
    FaultKind.HTTP_DELAY,
    FaultKind.HTTP_HANG,
    FaultKind.HTTP_HTML,
    FaultKind.HTTP_BODY,
    FaultKind.HTTP_REDIRECT,
    FaultKind.GZIP_BOMB,
    FaultKind.ENDLESS_BODY,
)
HTTP_AFTER = (
    FaultKind.HTTP_RESET,
    FaultKind.HTTP_TRUNCATE,
    FaultKind.HTTP_STALL,
    FaultKind.HTTP_SLOW,
    FaultKind.HTTP_LENGTH_LIE,
    FaultKind.CAR_WRONG_HASH,
    FaultKind.CAR_MISSING_BLOCK,
)


@dataclass(eq=False, slots=True)
class Fault:
    """One scheduled fault. `where` holds the conditions, `params` what the kind understands."""

    kind: FaultKind
    times: int | None  # None: until cancelled
    skip: int  # matching moments to let pass first
    probability: float
    where: dict[str, Param]
    params: dict[str, Param]
    fired: int = 0

    def matches(self, context: dict[str, Param]) -> bool:
        """Whether all conditions hold; a condition on something unknown here never does."""
        return all(context.get(name) == value for name, value in self.where.items())

    def number(self, name: str, default: float) -> float:
        """A numeric parameter."""
        value = self.params.get(name)
        return float(value) if isinstance(value, int | float) else default

    def text(self, name: str, default: str) -> str:
        """A text parameter."""
        value = self.params.get(name)
        return value if isinstance(value, str) else default

    def raw(self, name: str) -> bytes | None:
        """A bytes parameter, or None."""
        value = self.params.get(name)
        return value if isinstance(value, bytes) else None

    def cancel(self) -> None:
        """Never fire again."""
        self.times = self.fired


@dataclass(slots=True)
class FaultSchedule:
    """All faults of one devnet, in the order in which they were scheduled."""

    rng: random.Random
    scheduled: list[Fault] = field(default_factory=list)
    fired: Counter[FaultKind] = field(default_factory=Counter)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    CONDITIONS = frozenset(
        {"service", "endpoint", "host", "did", "seq", "type", "at", "collection", "first_action"}
    )

    def schedule(
        self,
        kind: FaultKind | str,
        *,
        times: int | None = 1,
        skip: int = 0,
        probability: float = 1.0,
        **named: Param,
    ) -> Fault:
        """Let `kind` happen `times` times at the next moments that match.

        Conditions: `service` (plc, pds, relay), `endpoint` (an NSID; `plc.document`, `plc.export`,
        ...), `host` (index of the PDS), `did`, `seq`, `type` (#commit, ...), `at` (frames sent on
        the connection), `collection` and `first_action` (of a commit's first op). Every other name
        is a parameter of the kind.
        """
        where = {name: value for name, value in named.items() if name in self._conditions(kind)}
        params = {name: value for name, value in named.items() if name not in where}
        fault = Fault(FaultKind(kind), times, skip, probability, where, params)
        self.scheduled.append(fault)
        return fault

    def take(self, kinds: Iterable[FaultKind], **context: Param) -> Fault | None:
        """The fault of one of `kinds` that happens now, counted; or None."""
        return self._take(kinds, context, None)

    def take_naming(self, name: str, kinds: Iterable[FaultKind], **context: Param) -> Fault | None:
        """The same among faults that have a condition called `name`."""
        return self._take(kinds, context, name)

    def unfired(self) -> list[Fault]:
        """Scheduled faults that never happened: a test that ends with any proves nothing."""
        return [fault for fault in self.scheduled if not fault.fired]

    def clear(self) -> None:
        """Forget what is scheduled; the counts stay."""
        self.scheduled.clear()

    async def wait_fired(self, fault: Fault, times: int = 1, timeout_s: float = 10.0) -> None:
        """Return when `fault` has happened `times` times; TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s):
            while fault.fired < times:
                self._changed.clear()
                await self._changed.wait()

    def _take(
        self, kinds: Iterable[FaultKind], context: dict[str, Param], naming: str | None
    ) -> Fault | None:
        if not self.scheduled:
            return None
        for fault in self.scheduled:
            if fault.kind not in kinds or not fault.matches(context):
                continue
            if naming is not None and naming not in fault.where:
                continue
            if fault.times is not None and fault.fired >= fault.times:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.probability < 1 and self.rng.random() >= fault.probability:
                continue
            fault.fired += 1
            self.fired[fault.kind] += 1
            self._changed.set()
            return fault
        return None

    def _conditions(self, kind: FaultKind | str) -> frozenset[str]:
        shadowed = {FaultKind.UNKNOWN_TYPE: {"type"}}.get(FaultKind(kind), set())
        if FaultKind(kind) in HTTP_AFTER:
            shadowed = {"at"}  # a byte offset there
        return self.CONDITIONS - shadowed
