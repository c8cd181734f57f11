"""The live path: batches of frames in, verified events out, one transaction a batch.

Three stages with a bounded queue between each, so that receiving, proving and writing overlap:
decode and filter on the event loop, verify in a thread, apply on the writer. Order is kept from
end to end. Nothing here touches the network; what cannot be proved locally becomes work for the
resync. A full queue stops the reading of the socket.

The cursor of a batch is saved in the batch's own transaction. Batches that change nothing only
move it in memory, and it follows within `CURSOR_SAVE_S`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import structlog

from indexer.clock import Clock
from indexer.errors import InvalidUpstream, LocalBusy
from indexer.ingest.endings import ReconnectReason
from indexer.ingest.verification import RawFrame, Verifier, is_relevant
from indexer.metrics import Metrics
from indexer.model import Applied, Scope
from indexer.planning import CommitSeen, Event, EventBatch, FrameRefused
from indexer.ports import LiveIndex
from indexer.protocol.frame import Frame, decode_frame
from indexer.protocol.syntax import datetime_to_unix

log = structlog.get_logger(__name__)

T = TypeVar("T")

CURSOR_SAVE_S = 0.25
"""A cursor that moved without any change of rows is saved after this time."""

BATCHES_IN_FLIGHT = 2
"""Batches waiting before each of the two later stages."""

ERROR_REASONS = {
    "ConsumerTooSlow": ReconnectReason.CONSUMER_TOO_SLOW,
    "FutureCursor": ReconnectReason.FUTURE_CURSOR,
}

BUSY_RETRY_S = 1.0

WRITES_MAX = 200
"""Rows, of records and of repos, that one transaction may change to take less than 50 ms."""

POISON_REMEMBERED = 16
POISON_RECONNECTS_MAX = 5
POISON_WINDOW_S = 3600.0
"""So many times in this time a frame that is none costs the connection; then only the frame."""


class FrameBatch(Protocol):
    """Frames of one connection, in order."""

    @property
    def url(self) -> str:
        """Stream that they came from: the key of its cursor."""

    @property
    def connection(self) -> int:
        """Number of the connection; sequence numbers rise within one."""

    @property
    def frames(self) -> list[bytes]:
        """Raw binary messages."""


class FrameSource(Protocol):
    """The firehose as the live path needs it."""

    def batches(self) -> AsyncIterator[FrameBatch]:
        """Endless batches of frames."""

    def reconnect(self, reason: str) -> None:
        """Drop the connection and dial again from the saved cursor."""


@dataclass(slots=True)
class _Decoded:
    """A batch after the first stage."""

    url: str
    relevant: list[RawFrame] = field(default_factory=list)
    refused: list[FrameRefused] = field(default_factory=list)
    seq: int | None = None
    event_at: float | None = None
    counts: Counter[str] = field(default_factory=Counter)


class LiveIngest:
    """Runs the three stages until `stop`; then finishes what was received and returns."""

    def __init__(
        self,
        source: FrameSource,
        index: LiveIndex,
        verifier: Verifier,
        *,
        clock: Clock,
        metrics: Metrics,
        on_work: Callable[[], None],
    ) -> None:
        self._source = source
        self._index = index
        self._verifier = verifier
        self._clock = clock
        self._metrics = metrics
        self._on_work = on_work
        self._to_verify: asyncio.Queue[_Decoded | None] = asyncio.Queue(BATCHES_IN_FLIGHT)
        self._to_apply: asyncio.Queue[EventBatch | None] = asyncio.Queue(BATCHES_IN_FLIGHT)
        self._connection = -1
        self._last_seq = 0  # of the current connection
        self._dropped_connection = -1  # frames of it are discarded: we asked for another
        self._poison: deque[bytes] = deque(maxlen=POISON_REMEMBERED)
        self._poisoned_at: deque[float] = deque(maxlen=POISON_RECONNECTS_MAX)
        self._unsaved: EventBatch | None = None
        self._saved_at = clock.monotonic()
        self._stopping = asyncio.Event()
        self.busy_reason: str | None = None
        """Why nothing is being written, or None: shown by readiness."""
        self.stream_at: float | None = None
        """Time of the newest event that has been applied, unix seconds."""

    @property
    def scope(self) -> Scope:
        """The collections that concern us."""
        return self._verifier.scope

    async def run(self) -> None:
        """Ingest until `stop` is called; a failure of any stage is raised."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(), name="live-read")
            group.create_task(self._verify(), name="live-verify")
            group.create_task(self._apply(), name="live-apply")
            await self._stopping.wait()
            reader.cancel()
            await self._to_verify.put(None)

    def stop(self) -> None:
        """Take nothing more from the stream; what was received is still applied."""
        self._stopping.set()

    async def drained(self) -> None:
        """Wait until everything received is applied and the cursor saved.

        A new connection starts from the saved cursor, so it must not lag behind what is applied.
        """
        await self._to_verify.join()
        await self._to_apply.join()
        await self._save_cursor()

    async def _read(self) -> None:
        async for batch in self._source.batches():
            decoded = self._decode(batch)
            if decoded is not None:
                await self._to_verify.put(decoded)

    def _decode(self, batch: FrameBatch) -> _Decoded | None:
        if batch.connection == self._dropped_connection:
            return None
        if batch.connection != self._connection:
            self._connection, self._last_seq = batch.connection, 0
        decoded = _Decoded(batch.url)
        newest: Frame | None = None
        for data in batch.frames:
            try:
                frame = decode_frame(data)
            except InvalidUpstream as error:
                if self._quarantine(data, error, decoded):
                    continue
                break
            decoded.counts[frame.type] += 1
            if frame.seq is None:
                if self._control(frame):
                    break
            elif frame.seq <= self._last_seq:
                decoded.counts["repeated"] += 1
            else:
                self._last_seq = frame.seq
                newest = frame
                self._keep_if_relevant(frame, data, decoded)
        if newest is not None:
            decoded.seq = newest.seq
            decoded.event_at = _event_at(newest)
        return decoded

    def _keep_if_relevant(self, frame: Frame, data: bytes, decoded: _Decoded) -> None:
        if is_relevant(frame, self.scope, self._index.is_tracked):
            decoded.relevant.append(RawFrame(frame, data))

    def _quarantine(self, data: bytes, error: InvalidUpstream, decoded: _Decoded) -> bool:
        """Whether to go on past a frame that cannot be decoded.

        The first time the connection is dropped, since a broken stream may be at fault; the same
        bytes again are the upstream's own, and become a dead letter. So does all that comes once
        too many connections were given up.
        """
        digest = hashlib.sha256(data).digest()
        now = self._clock.monotonic()
        self._metrics.verify_failures.labels(error.check).inc()
        is_worn_out = (
            len(self._poisoned_at) == POISON_RECONNECTS_MAX
            and now - self._poisoned_at[0] < POISON_WINDOW_S
        )
        if digest in self._poison or is_worn_out:
            decoded.refused.append(FrameRefused(did=None, seq=None, frame=data, error=error))
            log.error("firehose.frame_quarantined", reason=error.detail, sha256=digest.hex())
            return True
        self._poison.append(digest)
        self._poisoned_at.append(now)
        log.warning("firehose.frame_refused", reason=error.detail, sha256=digest.hex())
        self._drop_connection(ReconnectReason.POISON)
        return False

    def _control(self, frame: Frame) -> bool:
        """React to a frame without a seq; True when the connection is given up."""
        name = str(frame.body.get("error") or frame.body.get("name") or "")[:100]
        message = str(frame.body.get("message") or "")[:1000]
        if frame.type == "#error":
            log.error("firehose.error_received", error=name, message=message)
            self._drop_connection(ERROR_REASONS.get(name, ReconnectReason.ERROR_FRAME))
            return True
        if frame.type == "#info":
            log.warning("firehose.info_received", name=name, message=message)
            if name == "OutdatedCursor":
                self._metrics.firehose_gaps.labels("outdated_cursor").inc()
        return False

    def _drop_connection(self, reason: ReconnectReason) -> None:
        self._dropped_connection = self._connection
        self._source.reconnect(reason)

    async def _verify(self) -> None:
        while (decoded := await self._to_verify.get()) is not None:
            events: list[Event] = list(decoded.refused)
            if decoded.relevant:
                events += await self._prove(decoded.relevant)
            self._count(decoded)
            await self._to_apply.put(
                EventBatch(
                    url=decoded.url,
                    events=events,
                    seq=decoded.seq,
                    event_at=decoded.event_at,
                )
            )
            self._to_verify.task_done()
        await self._to_apply.put(None)
        self._to_verify.task_done()

    async def _prove(self, frames: list[RawFrame]) -> list[Event]:
        dids = {raw.frame.did for raw in frames if raw.frame.did is not None}
        tracked = [did for did in dids if self._index.is_tracked(did)]
        keys = await self._insist(lambda: self._index.signing_keys(tracked))
        return await asyncio.to_thread(self._verifier.events, frames, keys)

    async def _apply(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CURSOR_SAVE_S if self._unsaved else None):
                    batch = await self._to_apply.get()
            except TimeoutError:
                await self._save_cursor()
                continue
            if batch is None:
                break
            await self._take(batch)
            self._to_apply.task_done()
        await self._save_cursor()
        self._to_apply.task_done()

    async def _take(self, batch: EventBatch) -> None:
        """Write what changes rows; remember what only moves the cursor, until it is due."""
        if batch.seq is None and not batch.events:
            return  # it would only hide a cursor that waits to be saved
        if batch.events:
            if batch.seq is None:
                await self._save_cursor()
            for portion in portions(batch):
                await self._write(portion)
        elif self._clock.monotonic() - self._saved_at >= CURSOR_SAVE_S:
            await self._write(batch)
        else:
            self._unsaved = batch

    async def _save_cursor(self) -> None:
        if self._unsaved is not None:
            await self._write(self._unsaved)

    async def _write(self, batch: EventBatch) -> None:
        applied = await self._insist(lambda: self._index.apply(batch))
        self._unsaved = None
        self._saved_at = self._clock.monotonic()
        self._observe(batch, applied)

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step in the store, tried again while this machine is short of something."""
        while True:
            try:
                result = await step()
            except LocalBusy as error:
                self._metrics.sqlite_errors.labels("busy").inc()
                self.busy_reason = str(error)
                log.warning("live.store_busy", reason=str(error))
                await asyncio.sleep(BUSY_RETRY_S)
            else:
                self.busy_reason = None
                return result

    def _count(self, decoded: _Decoded) -> None:
        for kind, count in decoded.counts.items():
            self._metrics.count_events(kind, count)

    def _observe(self, batch: EventBatch, applied: Applied) -> None:
        if batch.seq is not None:
            self._metrics.firehose_cursor_seq.set(batch.seq)
            self._metrics.firehose_cursor_saved_timestamp_seconds.set(self._clock.now())
        if batch.event_at is not None:
            self.stream_at = batch.event_at
            self._metrics.firehose_last_event_timestamp_seconds.set(batch.event_at)
        self._metrics.count_applied(applied, source="live")
        if applied.is_work_added:
            self._on_work()


def portions(batch: EventBatch) -> Iterator[EventBatch]:
    """A batch in parts that are small enough for one transaction each.

    The cursor of each part is the seq of its last event: nothing relevant lies between.
    """
    part: list[Event] = []
    weight = 0
    for event in batch.events:
        rows = 1 + len(event.writes) if isinstance(event, CommitSeen) else 1
        if part and weight + rows > WRITES_MAX:
            yield replace(batch, events=part, seq=part[-1].seq, event_at=None)
            part, weight = [], 0
        part.append(event)
        weight += rows
    yield replace(batch, events=part)


def _event_at(frame: Frame) -> float | None:
    time = frame.body.get("time")
    if not isinstance(time, str):
        return None
    try:
        return datetime_to_unix(time)
    except InvalidUpstream:
        return None
