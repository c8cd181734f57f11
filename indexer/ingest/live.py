"""The live path: batches of frames in, verified events out, one transaction a batch.

Three stages with a bounded queue between each, so that receiving, proving and writing overlap:
decode and filter on the event loop, verify in a thread or another process, apply on the writer.
Order is kept from end to end. Nothing here touches the network; what cannot be proved locally
becomes work for the resync. A full queue stops the reading of the socket.

The cursor of a batch is saved in the batch's own transaction. Batches that change nothing only
move it in memory, and it follows within `CURSOR_SAVE_S`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol, TypeVar

import structlog

from indexer.clock import Clock
from indexer.errors import Check, InvalidUpstream, LocalBusy
from indexer.ingest.clock_doubt import ClockDoubt
from indexer.ingest.continuity import Patience, SeqOrder
from indexer.ingest.decoded import DecodedBatch, event_at
from indexer.ingest.endings import ReconnectReason
from indexer.ingest.firehose import FrameBatch
from indexer.ingest.portions import portions
from indexer.ingest.verification import RawFrame, is_relevant
from indexer.metrics import Metrics
from indexer.model import FROM_NOW_ON, Applied, GapReason, GapSeen, Scope
from indexer.planning import CommitSeen, Event, EventBatch, FrameRefused, SyncSeen
from indexer.ports import LiveIndex, insist_on
from indexer.protocol.frame import Frame, decode_frame

log = structlog.get_logger(__name__)

T = TypeVar("T")

CURSOR_SAVE_S = 0.25
"""A cursor that moved without any change of rows is saved after this time."""

BATCHES_IN_FLIGHT = 2
"""Batches waiting before each of the two later stages."""

FUTURE_CURSOR_S = 900.0
"""So long a relay that does not know our cursor yet is asked again, before another is."""

CLOCK_LOOK_S = 1.0
"""A clock in doubt is looked at so often."""

FRAME_SHOWN_BYTES = 300
"""Of a frame in quarantine, as its dead letter has them."""

POISON_REMEMBERED = 16
"""Frames that cannot be decoded and have cost a connection: seen again, they cost no other."""


class FrameSource(Protocol):
    """The firehose as the live path needs it."""

    def batches(self) -> AsyncIterator[FrameBatch]:
        """Endless batches of frames."""

    def reconnect(self, reason: str, *, next_url: bool = False) -> None:
        """Drop the connection and dial again from the saved cursor, or another URL from its own."""


class Verification(Protocol):
    """Whoever proves what frames claim, off the event loop."""

    @property
    def scope(self) -> Scope:
        """The collections that concern us."""

    async def events(self, frames: list[RawFrame], keys: Mapping[str, str | None]) -> list[Event]:
        """One event a frame, as `Verifier.events` makes them."""


class LiveIngest:
    """Runs the three stages until `stop`; then finishes what was received and returns."""

    def __init__(
        self,
        source: FrameSource,
        index: LiveIndex,
        verification: Verification,
        *,
        clock: Clock,
        metrics: Metrics,
        on_work: Callable[[], None],
        doubt: ClockDoubt,
        skips_future_cursor: bool = False,
    ) -> None:
        self._source = source
        self._index = index
        self._verification = verification
        self._clock = clock
        self._metrics = metrics
        self._on_work = on_work
        self._doubt = doubt
        self._era = 0  # rises when everything on its way is discarded
        self._skips_future_cursor = skips_future_cursor
        self._future_since: dict[str, float] = {}  # URL -> when FutureCursor was first answered
        self._to_verify: asyncio.Queue[DecodedBatch | None] = asyncio.Queue(BATCHES_IN_FLIGHT)
        self._to_apply: asyncio.Queue[EventBatch | None] = asyncio.Queue(BATCHES_IN_FLIGHT)
        self._in_hand = 0  # batches in these and between them
        self._connection = -1
        self._order = SeqOrder()  # of the current connection
        self._dropped_connection = -1  # frames of it are discarded: we asked for another
        self._poison: deque[bytes] = deque(maxlen=POISON_REMEMBERED)
        self._poison_patience = Patience(clock)
        self._order_patience = Patience(clock)
        self._unsaved: EventBatch | None = None
        self._saving = asyncio.Lock()  # of that, by this path and by whoever waits for `drained`
        self._saved_at = clock.monotonic()
        self._stopping = asyncio.Event()
        self.busy_reason: str | None = None
        """Why nothing is being written, or None: shown by readiness."""
        self.stream_at: float | None = None
        """Time of the newest event that has been applied, unix seconds."""

    @property
    def scope(self) -> Scope:
        """The collections that concern us."""
        return self._verification.scope

    @property
    def has_applied_all(self) -> bool:
        """Whether nothing that was received waits to be applied."""
        return self._in_hand == 0

    @property
    def held_reason(self) -> str | None:
        """Why the stream stands still until an operator acts, or None."""
        for url in self._future_since:
            return f"our cursor lies ahead of {url}: `chive-indexer reset-cursor` gives it up"
        return None

    async def run(self) -> None:
        """Ingest until `stop` is called; a failure of any stage is raised."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(), name="live-read")
            group.create_task(self._verify(), name="live-verify")
            group.create_task(self._apply(), name="live-apply")
            watcher = group.create_task(self._watch_clock(), name="live-clock")
            await self._stopping.wait()
            reader.cancel()
            watcher.cancel()
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
            for part in () if decoded is None else decoded.parts():
                self._in_hand += 1
                await self._to_verify.put(part)

    def _decode(self, batch: FrameBatch) -> DecodedBatch | None:
        if batch.connection == self._dropped_connection:
            return None
        if batch.connection != self._connection:
            self._connection, self._order = batch.connection, SeqOrder()
        if self._doubt.is_raised:
            self._weigh(batch)
            return None
        decoded = DecodedBatch(batch.url, self._era, self._clock.now())
        was_ahead = batch.url in self._future_since
        self._take_in(batch.frames, decoded)
        self._metrics.firehose_seq_skips.inc(decoded.skips(self._order.handed_on))
        decoded.close()
        if was_ahead and decoded.taken:
            self._come_past_cursor(decoded)
        self._order.handed_on = decoded.seq or self._order.handed_on
        return decoded

    def _weigh(self, batch: FrameBatch) -> None:
        """Look at frames that are not taken in, for what they say of our clock."""
        for data in batch.frames:
            with suppress(InvalidUpstream):
                self._doubt.weigh(decode_frame(data))

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_LOOK_S)
            if self._doubt.is_raised:
                await self._look_at_clock()

    async def _look_at_clock(self) -> None:
        """Go on from the saved cursor where a doubt has ended."""
        witnesses = self._doubt.witnesses
        groups = await self._insist(lambda: self._index.host_groups(witnesses))
        if self._doubt.is_over(groups):
            self._drop_connection(ReconnectReason.CLOCK)

    def _take_in(self, frames: list[bytes], decoded: DecodedBatch) -> None:
        """Take in frames, up to the first after which the connection is good for no other."""
        # All the network's events come through this loop: what does not change is looked up once.
        order, scope, is_tracked = self._order, self._verification.scope, self._index.is_tracked
        kinds: list[str] = []
        for data in frames:
            try:
                frame = decode_frame(data)
            except InvalidUpstream as error:
                if self._quarantine(data, error, decoded):
                    continue
                break
            kind, seq, _, body = frame
            kinds.append(kind)
            if seq is not None and order.is_next(seq):
                decoded.take(seq, body.get("time"))
                if is_relevant(frame, scope, is_tracked) and not self._is_denied(frame):
                    decoded.relevant.append(RawFrame(frame, data))
            elif not self._is_good_after(frame, decoded):
                break
        decoded.counts.update(kinds)

    def _is_good_after(self, frame: Frame, decoded: DecodedBatch) -> bool:
        """Whether the connection is good for others after a frame that is not the next event."""
        seq = frame.seq
        if seq is None:
            return self._heed(frame, decoded)
        if self._order.is_repeated(seq):
            decoded.counts["repeated"] += 1
            return True
        return self._is_passed_over(seq, decoded)

    def _is_denied(self, frame: Frame) -> bool:
        """Whether an operator keeps the account out, or its host, which it may say to have left."""
        is_news = frame.type == "#identity"
        return frame.did is not None and not is_news and self._index.is_denied(frame.did)

    def _is_passed_over(self, seq: int, decoded: DecodedBatch) -> bool:
        """Whether to go on past a number that runs backwards.

        It shows that something was missed before. Where what came instead has not been applied
        yet the next connection brings all of it in order; else that is a gap.
        """
        is_worn_out = self._order_patience.is_worn_out
        is_past = seq <= self._order.handed_on
        log.warning("firehose.out_of_order", seq=seq, after=self._order.last, is_past=is_past)
        if is_past or is_worn_out:
            decoded.gaps.append(
                GapSeen(
                    reason=GapReason.SEQ_REGRESSION,
                    after_seq=seq - 1,
                    before_seq=self._order.last,
                )
            )
        if is_worn_out:
            self._order.remember(seq)
            return True
        if not is_past:
            decoded.forget_from(seq)
        self._order_patience.spend()
        self._drop_connection(ReconnectReason.OUT_OF_ORDER)
        return False

    def _quarantine(self, data: bytes, error: InvalidUpstream, decoded: DecodedBatch) -> bool:
        """Whether to go on past a frame that cannot be decoded.

        The first time the connection is dropped, since a broken stream may be at fault; the same
        bytes again are the upstream's own, and become a dead letter. So does all that comes once
        too many connections were given up.
        """
        digest = hashlib.sha256(data).digest()
        if digest in self._poison or self._poison_patience.is_worn_out:
            shown = f"{error.detail}; {len(data)} bytes: {data[:FRAME_SHOWN_BYTES].hex()}"
            kept = InvalidUpstream(error.check, shown)
            decoded.refused.append(FrameRefused(did=None, seq=None, frame=data, error=kept))
            decoded.gaps.append(
                GapSeen(reason=GapReason.QUARANTINED, after_seq=self._order.last or None)
            )
            log.error("firehose.frame_quarantined", reason=error.detail, sha256=digest.hex())
            return True
        self._metrics.verify_failures.labels(error.check).inc()  # that of a letter is counted
        self._poison.append(digest)
        self._poison_patience.spend()
        log.warning("firehose.frame_refused", reason=error.detail, sha256=digest.hex())
        self._drop_connection(ReconnectReason.POISON)
        return False

    def _heed(self, frame: Frame, decoded: DecodedBatch) -> bool:
        """React to a frame without a seq; False when the connection is given up."""
        name = str(frame.body.get("error") or frame.body.get("name") or "")[:100]
        message = str(frame.body.get("message") or "")[:1000]
        if frame.type == "#error":
            log.error("firehose.error_received", error=name, message=message)
            if name == "FutureCursor":
                self._meet_future_cursor(decoded)
            else:
                is_slow = name == "ConsumerTooSlow"
                self._drop_connection(
                    ReconnectReason.CONSUMER_TOO_SLOW if is_slow else ReconnectReason.ERROR_FRAME
                )
            return False
        if frame.type == "#info":
            log.warning("firehose.info_received", name=name, message=message)
            if name == "OutdatedCursor":
                decoded.gaps.append(GapSeen(reason=GapReason.OUTDATED_CURSOR))
        return True

    def _meet_future_cursor(self, decoded: DecodedBatch) -> None:
        """The relay's numbers end before our cursor: it was set back, or is another one.

        Held, that is a gap once, and now: it may be past our cursor when we are started anew.
        """
        is_news = decoded.url not in self._future_since
        since = self._future_since.setdefault(decoded.url, self._clock.monotonic())
        if (is_news or self._skips_future_cursor) and not decoded.taken:
            decoded.gaps.append(GapSeen(reason=GapReason.FUTURE_CURSOR))
            decoded.seq = FROM_NOW_ON if self._skips_future_cursor else None
        is_overdue = self._clock.monotonic() - since >= FUTURE_CURSOR_S
        self._drop_connection(ReconnectReason.FUTURE_CURSOR, next_url=is_overdue)

    def _come_past_cursor(self, decoded: DecodedBatch) -> None:
        """The relay's numbers are past our cursor again: those below it were of other events."""
        del self._future_since[decoded.url]
        if not self._skips_future_cursor:  # else its present is followed, and the gap is there
            seq, time = decoded.taken[0]
            decoded.gaps.append(
                GapSeen(
                    reason=GapReason.FUTURE_CURSOR,
                    before_seq=seq,
                    before_at=event_at(time, now=decoded.now),
                )
            )

    def _drop_connection(self, reason: ReconnectReason, *, next_url: bool = False) -> None:
        self._dropped_connection = self._connection
        self._source.reconnect(reason, next_url=next_url)

    async def _verify(self) -> None:
        while (decoded := await self._to_verify.get()) is not None:
            events: list[Event] = list(decoded.refused)
            if decoded.relevant and decoded.era == self._era:
                events += await self._prove(decoded.relevant)
            if decoded.era != self._era or self._is_doubtful(events):
                self._in_hand -= 1
                self._to_verify.task_done()
                continue
            self._count(decoded)
            await self._to_apply.put(decoded.verified(events))
            self._to_verify.task_done()
        await self._to_apply.put(None)
        self._to_verify.task_done()

    def _is_doubtful(self, events: list[Event]) -> bool:
        """Whether the batch makes us doubt our clock: it and those behind it will come again."""
        self._doubt.suspect(
            (event.did, event.rev)
            for event in events
            if isinstance(event, CommitSeen | SyncSeen)
            and event.error is not None
            and event.error.check is Check.FUTURE_REV
        )
        self._era += self._doubt.is_raised
        return self._doubt.is_raised

    async def _prove(self, frames: list[RawFrame]) -> list[Event]:
        dids = {raw.frame.did for raw in frames if raw.frame.did is not None}
        tracked = [did for did in dids if self._index.is_tracked(did)]
        keys = await self._insist(lambda: self._index.signing_keys(tracked))
        return await self._verification.events(frames, keys)

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
            self._in_hand -= 1
            self._to_apply.task_done()
        await self._save_cursor()
        self._to_apply.task_done()

    async def _take(self, batch: EventBatch) -> None:
        """Write what changes rows; remember what only moves the cursor, until it is due."""
        if batch.seq is None and not batch.events and not batch.gaps:
            return  # it would only hide a cursor that waits to be saved
        if batch.events or batch.gaps:
            if batch.seq is None or batch.gaps:
                await self._save_cursor()  # a gap begins at what was applied before it
            for portion in portions(batch):
                await self._write(portion)
        elif self._clock.monotonic() - self._saved_at >= CURSOR_SAVE_S:
            await self._write(batch)
        else:
            self._unsaved = batch

    async def _save_cursor(self) -> None:
        # One at a time: of two that wait for a busy store the second would come after a reset of
        # the cursor for which the first was waited for, and set it back.
        async with self._saving:
            if self._unsaved is not None:
                await self._write(self._unsaved)

    async def _write(self, batch: EventBatch) -> None:
        applied = await self._insist(lambda: self._index.apply(batch))
        self._unsaved = None
        self._saved_at = self._clock.monotonic()
        self._observe(batch, applied)

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step in the store, tried again while this machine is short of something."""
        result = await insist_on(step, self._wait)
        self.busy_reason = None
        return result

    def _wait(self, error: LocalBusy) -> None:
        self.busy_reason = str(error)
        log.warning("live.store_busy", reason=self.busy_reason)

    def _count(self, decoded: DecodedBatch) -> None:
        for kind, count in decoded.counts.items():
            self._metrics.count_events(kind, count)

    def _observe(self, batch: EventBatch, applied: Applied) -> None:
        if batch.seq is not None and batch.seq != FROM_NOW_ON:
            self._metrics.firehose_cursor_seq.set(batch.seq)
        if batch.event_at is not None:
            self.stream_at = batch.event_at
            self._metrics.firehose_last_event_timestamp_seconds.set(batch.event_at)
        self._metrics.count_applied(applied, source="live")
        if applied.is_work_added:
            self._on_work()
