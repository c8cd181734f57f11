"""The composition root: the only place where the parts of the daemon meet.

Resources are nested in one exit stack and components run in one task group. A crash of any
component ends the process with its traceback; restarting is the service manager's job. The first
SIGTERM or SIGINT stops intake and lets what was received be committed; a second one exits at once,
which is safe because every state of the file is one that a transaction has left.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from admin_api.ports import AdminPorts
from admin_api.server import AdminSettings, serve_admin, serve_metrics
from indexer.clock import Clock, SystemClock
from indexer.cursor_reset import CursorReset
from indexer.errors import ConfigurationError, LocalFault
from indexer.gauges import install_gauges, measure_loop_lag
from indexer.ingest.gap_repair import GapRepair
from indexer.ingest.live import LiveIngest
from indexer.ingest.resync import Resyncer
from indexer.ingest.verification import Verifier
from indexer.metrics import Metrics
from indexer.model import GapReason, Scope
from indexer.operations.did_sync import DidSync
from indexer.operations.governance_sync import GovernanceSync
from indexer.operations.pausing import Pauses
from indexer.operations.runner import Runner
from indexer.outbound import open_network, user_agent
from indexer.planning import Policy
from indexer.records.prepare import prepare_record, prepare_stored
from indexer.records.projection import SEARCH
from indexer.records.registry import Registry, load_registry
from indexer.settings import Settings, read_passwords
from indexer.status import DaemonStatus
from indexer.stream_parts import StreamParts, open_stream
from indexer.stream_switch import OperatorHold
from indexer.upkeep import Step, keep_up
from storage.accepted_tokens import AcceptedTokens
from storage.audit import AuditStore
from storage.backup import BackupFolder
from storage.database import Database, open_database
from storage.dead_letter_queue import DeadLetterStore
from storage.dead_letter_retention import DAY_S, DeadLetterRetention
from storage.gap_repair import GapRepairStore
from storage.gaps import GapListing
from storage.live import LiveStore
from storage.operation_units import OperationRetention, OperationUnits
from storage.operations import OperationStore
from storage.projections import Projections
from storage.records import RecordTable
from storage.repo_listing import RepoListing
from storage.resyncs import ResyncStore
from storage.search_upkeep import SearchUpkeep
from storage.status import StatusStore
from storage.tracked import TrackedRepos

log = structlog.get_logger(__name__)

EXIT_CLEAN = 0
EXIT_BUG = 70
EXIT_STORAGE = 74
EXIT_CONFIGURATION = 78
EXIT_FORCED = 130
STOP_S = 8.0
"""Time for what was received to be committed after a signal, within the 10 s promised."""


@dataclass(slots=True, kw_only=True)
class World:
    """What behaviour may depend on besides settings: parameters, so that a test owns them."""

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    reach: Callable[[str], None] = lambda _: None  # called at named crash points


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a started daemon listens."""

    admin_url: str
    metrics_url: str


def run_daemon(settings: Settings) -> int:
    """Run until a signal or a failure; the process's exit code."""
    try:
        asyncio.run(_run_until_signal(settings))
    except Exception as error:  # noqa: BLE001 - the last word of the process
        return _exit_code(error)
    return EXIT_CLEAN


def _exit_code(error: Exception) -> int:
    """What the process ends with; the first cause is logged, with its traceback if it is ours."""
    cause = error
    while isinstance(cause, ExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, ConfigurationError):
        log.error("daemon.refused", reason=str(cause))
        return EXIT_CONFIGURATION
    log.critical("daemon.failed", reason=repr(cause), exc_info=cause)
    return EXIT_STORAGE if isinstance(cause, LocalFault) else EXIT_BUG


async def _run_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(EXIT_FORCED)
        log.info("daemon.stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await run_daemon_until(stop, settings)
    log.info("daemon.stopped")


async def run_daemon_until(
    stop: asyncio.Event,
    settings: Settings,
    *,
    world: World | None = None,
    on_ready: Callable[[Addresses], None] = lambda _: None,
) -> None:
    """Run all components until `stop` is set, or until one of them fails."""
    world = world or World()
    async with AsyncExitStack() as stack:
        parts = await _build(settings, world, stack)
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(parts.resyncer.run(), name="resync"),
                group.create_task(parts.gap_repair.run(), name="gap-repair"),
                group.create_task(parts.runner.run(), name="operations"),
                group.create_task(parts.hold.run(), name="operator-hold"),
                group.create_task(measure_loop_lag(parts.metrics), name="loop-lag"),
                group.create_task(keep_up(parts.upkeep), name="upkeep"),
            ]
            stopping = group.create_task(stop.wait(), name="stop")
            starting = group.create_task(parts.runner.ready(), name="start")
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                addresses = await _listen(settings, parts, stack)
                live = group.create_task(parts.live.run(), name="live")
                background += [live, group.create_task(parts.fault.wait(), name="fault")]
                log.info("daemon.started", admin=addresses.admin_url, metrics=addresses.metrics_url)
                on_ready(addresses)
                await stop.wait()
                parts.live.stop()
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_S):
                        await asyncio.wait([live])
            for task in (*background, starting):
                task.cancel()


@dataclass(slots=True, kw_only=True)
class _Fault:
    """A failure noticed where nobody can raise it: it ends the task group from here."""

    noticed: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None

    def notice(self, error: BaseException) -> None:
        self.error = error
        self.noticed.set()

    async def wait(self) -> None:
        await self.noticed.wait()
        if self.error is not None:
            raise self.error


@dataclass(slots=True, kw_only=True)
class _Parts:
    live: LiveIngest
    resyncer: Resyncer
    gap_repair: GapRepair
    runner: Runner
    hold: OperatorHold
    upkeep: tuple[Step, ...]
    admin: AdminPorts
    registry: Registry
    metrics: Metrics
    clock: Clock
    fault: _Fault = field(default_factory=_Fault)


async def _build(settings: Settings, world: World, stack: AsyncExitStack) -> _Parts:
    """Every part, wired. Whatever needs closing is on the stack."""
    clock = world.clock
    registry = load_registry(
        governance_did=settings.governance.did, lexicon_dir=settings.scope.lexicon_dir
    )
    metrics = Metrics(registry.types)
    scope = Scope(settings.scope.collections)
    verifier = Verifier(
        scope=scope, prepare=partial(prepare_record, registry=registry), clock=clock
    )
    database = await stack.enter_async_context(
        open_database(
            settings.storage.path,
            observe_s=metrics.sqlite_transaction_duration_seconds.observe,
            reach=world.reach,
        )
    )
    projections = Projections(registry.types, SEARCH, basis=settings.governance.did)
    prepare = partial(prepare_stored, registry=registry)
    if await database.write(partial(projections.install, prepare=prepare)):
        log.info("store.projections_rebuilt")
    tracked = TrackedRepos(database)
    await tracked.load()
    records = RecordTable(projections)
    policy = Policy(identity_refresh_s=settings.identity.refresh_interval_s)
    pending_bytes_max = settings.storage.pending_bytes_per_repo
    live_store = LiveStore(
        database, tracked, records, policy, clock=clock, pending_bytes_max=pending_bytes_max
    )
    resync_store = ResyncStore(
        database, tracked, records, policy, clock=clock, pending_bytes_max=pending_bytes_max
    )
    await resync_store.give_back_all()
    identities, hosts, listings = await open_network(settings, world.clock, metrics, stack)
    stream = open_stream(
        settings, clock, world.rng, metrics=metrics, verifier=verifier, live_store=live_store,
        resync_store=resync_store, hosts=hosts, user_agent=user_agent(settings),
    )  # fmt: skip
    firehose, live, resyncer = stream.firehose, stream.live, stream.resyncer
    gaps = GapRepairStore(database, tracked, clock=clock)
    collections = [nsid for nsid in registry.types if f"{nsid}/" in scope]
    gap_repair = GapRepair(
        gaps, gaps, listings, hosts, collections=collections, clock=clock, stream_at=stream.at,
        on_work=resyncer.wake,
    )  # fmt: skip
    status = DaemonStatus(
        StatusStore(database), firehose, busy_reason=lambda: live.busy_reason,
        held_reason=lambda: live.held_reason, clock=clock,
    )  # fmt: skip
    runner = _runner(settings, world, database, stream, status=status, metrics=metrics)
    install_gauges(metrics, status, runner.running, settings.storage.path)
    hold = OperatorHold(firehose, drained=live.drained, status=status.firehose, clock=clock)
    audit = AuditStore(database, clock=clock)
    await audit.end_interrupted()
    admin = AdminPorts(
        backfills=runner, status=status, audit=audit, stream=hold, documents=identities,
        letters=DeadLetterStore(database, tracked, on_work=resyncer.wake, clock=clock),
        backups=BackupFolder(settings.storage.path, settings.storage.backup_dir, clock=clock),
        repos=RepoListing(database), tokens=AcceptedTokens(database), gaps=GapListing(database),
        cursors=_cursor_reset(settings, stream, live_store, metrics),
    )  # fmt: skip
    upkeep = (
        SearchUpkeep(database, SEARCH, prepare).step,
        *_retention(settings, database, metrics, clock),
    )
    return _Parts(
        live=live, resyncer=resyncer, gap_repair=gap_repair, runner=runner, hold=hold,
        upkeep=upkeep, admin=admin, registry=registry, metrics=metrics, clock=clock,
    )  # fmt: skip


def _runner(
    settings: Settings,
    world: World,
    database: Database,
    stream: StreamParts,
    *,
    status: DaemonStatus,
    metrics: Metrics,
) -> Runner:
    """All types of operation."""
    rows = OperationStore(database, clock=world.clock)
    pauses = Pauses(
        stream.firehose, rows, drained=stream.live.drained, status=status.firehose,
        stream_at=stream.at, pause_s_max=settings.backfill.pause_s_max, clock=world.clock,
    )  # fmt: skip
    return Runner(
        rows,
        OperationUnits(database),
        [
            DidSync(stream.resyncer),
            GovernanceSync(stream.resyncer, did=settings.governance.did),
        ],
        pauses=pauses,
        modes=settings.backfill.mode,
        max_running=settings.backfill.max_running,
        new_id=lambda: uuid.UUID(int=world.rng.getrandbits(128), version=4).hex,
        clock=world.clock,
        metrics=metrics,
    )


def _cursor_reset(
    settings: Settings, stream: StreamParts, rows: LiveStore, metrics: Metrics
) -> CursorReset:
    return CursorReset(
        stream.firehose, rows, drained=stream.live.drained, urls=settings.firehose.url,
        url_in_use=lambda: stream.firehose.url,
        opened=metrics.firehose_gaps.labels(GapReason.CURSOR_RESET).inc,
    )  # fmt: skip


def _retention(
    settings: Settings, database: Database, metrics: Metrics, clock: Clock
) -> tuple[Step, ...]:
    """What drops rows that have been kept for long enough."""
    letters = DeadLetterRetention(
        database, clock, age_s_max=settings.storage.dead_letter_days_max * DAY_S,
        letters_max=settings.storage.dead_letters_max, on_dropped=metrics.dead_letters_dropped.inc,
    )  # fmt: skip
    history_s_max = settings.backfill.history_days_max * DAY_S
    return letters.step, OperationRetention(database, clock, age_s_max=history_s_max).step


async def _listen(settings: Settings, parts: _Parts, stack: AsyncExitStack) -> Addresses:
    admin = settings.admin
    admin_port = await stack.enter_async_context(
        serve_admin(
            AdminSettings(
                bind=admin.bind,
                port=admin.port,
                hosts=admin.hosts,
                trusted_proxies=admin.trusted_proxies,
                passwords=read_passwords(admin),
                dids=admin.dids,
                service_did=admin.service_did,
                requests_per_s=admin.requests_per_s,
            ),
            parts.admin,
            catalog=parts.registry.catalog,
            clock=parts.clock,
            metrics=parts.metrics,
            on_fault=parts.fault.notice,
        )
    )
    metrics_port = await stack.enter_async_context(
        serve_metrics(
            settings.metrics.bind,
            settings.metrics.port,
            metrics=parts.metrics,
            on_fault=parts.fault.notice,
        )
    )
    return Addresses(
        f"http://{_host(admin.bind)}:{admin_port}",
        f"http://{_host(settings.metrics.bind)}:{metrics_port}/metrics",
    )


def _host(bind: str) -> str:
    return f"[{bind}]" if ":" in bind else bind
