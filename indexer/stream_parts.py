"""The stream, the live path behind it and the resync beside it, wired."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import structlog

from indexer.clock import Clock
from indexer.errors import LocalBusy
from indexer.ingest.admission import DailyAdmission
from indexer.ingest.clock_doubt import ClockDoubt
from indexer.ingest.dialing import open_any_socket
from indexer.ingest.firehose import Firehose, FirehoseSettings
from indexer.ingest.giving_way import GivingWay
from indexer.ingest.live import LiveIngest
from indexer.ingest.resync import Resyncer
from indexer.ingest.resync_workers import ResyncWorkers
from indexer.ingest.verification import Verifier
from indexer.ingest.verification_process import Verification
from indexer.ingest.verification_wire import WorkerSettings
from indexer.ingest.websocket import WebsocketSettings
from indexer.metrics import Metrics
from indexer.model import GapReason
from indexer.network.pds import RepoNetwork
from indexer.network.sockets import endpoint_of, open_public_socket
from indexer.network.ssrf import check_url
from indexer.ports import insist_on
from indexer.records.registry import Registry
from indexer.settings import Settings
from indexer.store_parts import StoreParts

log = structlog.get_logger(__name__)

FULL_RELAY_SUFFIX = ".bsky.network"
FULL_RELAY_IDLE_S = 60.0
"""A relay of the whole public network is never silent for that long."""

LIVE_S = 1.0
"""Background work gives way for so long after a frame."""

SILENCE_S = 10.0
"""A connected stream that brings nothing for this long has nothing older to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParts:
    """What was wired."""

    firehose: Firehose
    live: LiveIngest
    verification: Verification
    resyncer: Resyncer
    workers: ResyncWorkers
    doubt: ClockDoubt
    at: Callable[[], float | None]
    """How far the stream has come, unix seconds: to the present once it has fallen silent."""
    is_followed: Callable[[], bool]
    """Whether the stream goes on from our cursor: a relay may be slow to say that it does not."""
    giving_way: GivingWay
    """What all background work of the process takes its turns from."""


def how_far(firehose: Firehose, live: LiveIngest, *, now: float) -> float | None:
    """How far the stream has come, unix seconds; None before its first event.

    One that is silent has come to the present, but not where what it brought is still to be
    applied: that is no silence of the relay's.
    """
    heard_at = max(firehose.connected_since or 0.0, firehose.last_received_at or 0.0)
    is_silent = firehose.is_connected and now - heard_at > SILENCE_S
    return now if is_silent and live.has_applied_all else live.stream_at


def open_stream(
    settings: Settings,
    clock: Clock,
    rng: random.Random,
    *,
    user_agent: str,
    metrics: Metrics,
    verifier: Verifier,
    registry: Registry,
    store: StoreParts,
    hosts: RepoNetwork,
) -> StreamParts:
    """The parts, which wake each other. Nothing runs yet."""
    doubt = ClockDoubt(clock, on_change=metrics.clock_in_doubt.set)
    live: LiveIngest

    async def load_cursor(url: str) -> int | None:
        await live.drained()
        start = settings.firehose.start
        seq = {"live": None, "oldest": 0}[start] if isinstance(start, str) else start
        cursor = await insist_on(partial(store.live.load_cursor, url, seq), _wait)
        if cursor is None:
            opened = await insist_on(partial(store.live.begin_now, url), _wait)
            metrics.firehose_gaps.labels(GapReason.NO_CURSOR).inc(opened)
        return cursor

    firehose = _firehose(
        settings, clock, rng, user_agent=user_agent, metrics=metrics, load_cursor=load_cursor
    )

    def stream_at() -> float | None:
        return how_far(firehose, live, now=clock.now())

    def is_followed() -> bool:
        since = firehose.connected_since
        if since is None or not firehose.is_connected:
            return False
        return firehose.has_begun or not 0.0 <= clock.now() - since <= SILENCE_S

    def is_live() -> bool:
        return firehose.is_connected and (clock.now() - (firehose.last_received_at or 0.0) < LIVE_S)

    giving_way = GivingWay(clock, is_live)
    resyncer, workers = _resync(
        settings, clock, rng, metrics=metrics, verifier=verifier, store=store, hosts=hosts,
        stream_at=stream_at, giving_way=giving_way, doubt=doubt,
    )  # fmt: skip
    verification = Verification(
        verifier, WorkerSettings(collections=settings.scope.collections, registry=registry.source)
    )
    live = LiveIngest(
        firehose, store.live, verification, clock=clock, metrics=metrics, on_work=resyncer.wake,
        doubt=doubt, skips_future_cursor=settings.firehose.on_future_cursor == "live",
    )  # fmt: skip
    return StreamParts(
        firehose=firehose, live=live, verification=verification, resyncer=resyncer,
        workers=workers, doubt=doubt, at=stream_at, is_followed=is_followed,
        giving_way=giving_way,
    )  # fmt: skip


def _firehose(
    settings: Settings,
    clock: Clock,
    rng: random.Random,
    *,
    user_agent: str,
    metrics: Metrics,
    load_cursor: Callable[[str], Awaitable[int | None]],
) -> Firehose:
    allow_private = settings.network.allow_private_hosts
    # A relay of the operator's own may be at a private address; one that it redirects to may not.
    configured = frozenset(map(endpoint_of, settings.firehose.url))
    open_socket = partial(open_public_socket, exempt=configured)
    return Firehose(
        settings=FirehoseSettings(
            urls=settings.firehose.url,
            user_agent=user_agent,
            websocket=WebsocketSettings(
                batch_frames=settings.firehose.batch_frames,
                batch_s=settings.firehose.batch_ms / 1000,
                idle_s=_idle_s(settings),
            ),
        ),
        clock=clock,
        rng=rng,
        metrics=metrics,
        load_cursor=load_cursor,
        check_url=partial(check_url, allow_private=allow_private),
        open_socket=open_any_socket if allow_private else open_socket,
    )


def _resync(
    settings: Settings,
    clock: Clock,
    rng: random.Random,
    *,
    metrics: Metrics,
    verifier: Verifier,
    store: StoreParts,
    hosts: RepoNetwork,
    stream_at: Callable[[], float | None],
    giving_way: GivingWay,
    doubt: ClockDoubt,
) -> tuple[Resyncer, ResyncWorkers]:
    admission = DailyAdmission(store.admissions, hosts, metrics)
    resyncer = Resyncer(
        store.resyncs,
        store.resyncs,
        hosts,
        verifier,
        clock=clock,
        rng=rng,
        metrics=metrics,
        stream_at=stream_at,
        admission=admission,
        turn=giving_way.turn,
    )
    workers = ResyncWorkers(
        resyncer,
        store.resyncs,
        hosts,
        workers=settings.resync.workers,
        # Tracked repos have the other half of what the directory may be asked.
        discovery_per_s=settings.network.requests_per_s_per_host / 2,
        clock=clock,
        is_held=lambda: doubt.is_raised,
        admission=admission,
    )
    return resyncer, workers


def _idle_s(settings: Settings) -> float | None:
    """How long the stream may be silent; None where silence is normal, as on one PDS."""
    if settings.firehose.idle_s is not None:
        return settings.firehose.idle_s
    hosts = (urlsplit(url).hostname or "" for url in settings.firehose.url)
    return FULL_RELAY_IDLE_S if all(h.endswith(FULL_RELAY_SUFFIX) for h in hosts) else None


def _wait(error: LocalBusy) -> None:
    log.warning("firehose.store_busy", reason=str(error))
