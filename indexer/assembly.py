"""The composition root: the only place where the parts of the daemon meet. It runs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from admin_api.ports import AdminPorts, AuthorPorts
from indexer.clock import Clock
from indexer.cursor_reset import CursorReset
from indexer.gauges import install_gauges, install_host_gauge
from indexer.ingest.directory import DirectoryFollower
from indexer.ingest.gap_repair import GapRepair
from indexer.ingest.live import LiveIngest
from indexer.ingest.newcomers import Newcomers
from indexer.ingest.resync_workers import ResyncWorkers
from indexer.ingest.verification import Prepare, Verifier
from indexer.ingest.verification_process import Verification
from indexer.metrics import Metrics
from indexer.model import GapReason, PreparedRecord, Scope
from indexer.network.ssrf import check_url
from indexer.operation_parts import open_runner, schedule
from indexer.operations.bootstrap import Bootstrap
from indexer.operations.runner import Runner
from indexer.operations.schedule import Schedule
from indexer.outbound import open_network, user_agent
from indexer.records.prepare import prepare_record
from indexer.records.registry import Registry, load_registry
from indexer.scan_parts import first_scan, host_store
from indexer.service_manager import stay_in_touch
from indexer.settings import Settings
from indexer.status import DaemonStatus
from indexer.store_parts import StoreParts, open_store
from indexer.stream_parts import StreamParts, open_stream
from indexer.stream_switch import OperatorHold
from indexer.upkeep import Step
from indexer.world import World
from storage.accepted_tokens import AcceptedTokens
from storage.audit import AuditStore
from storage.author_index import AuthorIndex
from storage.backup import BackupFolder
from storage.database import Database
from storage.dead_letter_queue import DeadLetterStore
from storage.gap_repair import GapRepairStore
from storage.gaps import GapListing
from storage.hosts import HostStore
from storage.live import LiveStore
from storage.repo_listing import RepoListing
from storage.status import StatusStore


@dataclass(slots=True, kw_only=True)
class Fault:
    """A failure noticed where nobody can raise it: it ends the task group from here."""

    noticed: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None

    def notice(self, error: BaseException) -> None:
        """Keep the failure for whoever waits."""
        self.error = error
        self.noticed.set()

    async def wait(self) -> None:
        """Wait for a failure and raise it."""
        await self.noticed.wait()
        if self.error is not None:
            raise self.error


@dataclass(slots=True, kw_only=True)
class Parts:
    """What the daemon runs, and what its listeners serve."""

    live: LiveIngest
    verification: Verification
    workers: ResyncWorkers
    gap_repair: GapRepair
    directory: DirectoryFollower
    runner: Runner
    hold: OperatorHold
    bootstrap: Bootstrap
    schedule: Schedule
    upkeep: tuple[Step, ...]
    is_outdated: bool  # whether the derived tables have to be rebuilt
    in_touch: Callable[[], Coroutine[Any, Any, None]]
    admin: AdminPorts
    registry: Registry
    metrics: Metrics
    clock: Clock
    fault: Fault = field(default_factory=Fault)


def _giving_way(database: Database, registry: Registry) -> Prepare:
    """To make records ready in threads that compute, which work with the writer by turns."""

    def prepare(did: str, path: str, cid: str, block: bytes) -> PreparedRecord:
        database.give_way()
        return prepare_record(did, path, cid, block, registry)

    return prepare


async def assemble(settings: Settings, world: World, stack: AsyncExitStack) -> Parts:
    """Every part, wired. Whatever needs closing is on the stack."""
    clock = world.clock
    registry = load_registry(
        governance_did=settings.governance.did, lexicon_dir=settings.scope.lexicon_dir
    )
    metrics = Metrics(registry.types)
    scope = Scope(settings.scope.collections)
    store = await open_store(settings, world, registry, metrics, stack)
    database, tracked = store.database, store.tracked
    verifier = Verifier(scope=scope, prepare=_giving_way(database, registry), clock=clock)
    network = await open_network(
        settings, clock, metrics, stack, is_denied_host=store.denials.is_denied_host
    )
    stream = open_stream(
        settings, clock, world.rng, metrics=metrics, verifier=verifier, registry=registry,
        store=store, hosts=network.hosts, user_agent=user_agent(settings),
    )  # fmt: skip
    firehose, live, resyncer = stream.firehose, stream.live, stream.resyncer
    store.denials.on_work = resyncer.wake
    gaps = GapRepairStore(database, tracked, clock=clock, room=store.room)
    typed = (nsid for nsid in registry.types if f"{nsid}/" in scope)
    collections = list(dict.fromkeys((*typed, *scope.named)))
    gap_repair = GapRepair(
        gaps, gaps, network.listings, network.hosts,
        Newcomers(gaps, network.listings, clock, is_in_scope=lambda nsid: f"{nsid}/" in scope),
        collections=collections, clock=clock,
        stream_at=stream.at, is_followed=stream.is_followed, on_work=resyncer.wake,
    )  # fmt: skip
    directory = DirectoryFollower(
        network.directory, store.directory, interval_s=settings.identity.export_interval_s,
        clock=clock, on_work=resyncer.wake,
        on_read=metrics.directory_read_timestamp_seconds.set,
    )  # fmt: skip
    status = DaemonStatus(
        StatusStore(database, clock=clock, collections=registry.types), firehose,
        busy_reason=lambda: live.busy_reason,
        held_reason=lambda: live.held_reason, clock_reason=lambda: stream.doubt.reason, clock=clock,
    )  # fmt: skip
    runner = open_runner(
        settings, world, store, stream, network, collections=collections, status=status,
        metrics=metrics,
    )  # fmt: skip
    hosts = host_store(settings, database, clock)
    await hosts.enter_scope()
    install_host_gauge(metrics, hosts.totals)
    bootstrap = first_scan(settings, hosts, runner, firehose)
    install_gauges(metrics, status, runner.running, runner.queued, settings.storage.file)
    hold = OperatorHold(firehose, drained=live.drained, status=status.firehose, clock=clock)
    audit = AuditStore(database, clock=clock)
    await audit.end_interrupted()
    admin = AdminPorts(
        backfills=runner, status=status, audit=audit, stream=hold, documents=network.identities,
        letters=DeadLetterStore(database, tracked, on_work=resyncer.wake, clock=clock),
        denials=store.denials, authors=_authors(settings, store, hosts, resyncer.wake, clock),
        backups=BackupFolder(settings.storage.file, settings.storage.backup_dir, clock=clock),
        repos=RepoListing(database), tokens=AcceptedTokens(database), gaps=GapListing(database),
        cursors=_cursor_reset(settings, stream, store.live, metrics), hosts=hosts,
        notes=lambda: {**bootstrap.notes(), **store.room.notes()},
    )  # fmt: skip
    in_touch = partial(
        stay_in_touch, world.manager, status, runner.running, database.writer_stuck_s, clock
    )
    return Parts(
        live=live, verification=stream.verification, workers=stream.workers,
        gap_repair=gap_repair, directory=directory, runner=runner, hold=hold, bootstrap=bootstrap,
        schedule=schedule(settings, world, store, runner), upkeep=store.upkeep,
        is_outdated=store.is_outdated, in_touch=in_touch, admin=admin, registry=registry,
        metrics=metrics, clock=clock,
    )  # fmt: skip


def _authors(
    settings: Settings,
    store: StoreParts,
    hosts: HostStore,
    on_work: Callable[[], None],
    clock: Clock,
) -> AuthorPorts:
    return AuthorPorts(
        index=AuthorIndex(store.database, store.tracked, store.room, on_work=on_work, clock=clock),
        hosts=hosts,
        check_host=partial(check_url, allow_private=settings.network.allow_private_hosts),
        is_in_scope=Scope(settings.scope.collections).__contains__,
    )


def _cursor_reset(
    settings: Settings, stream: StreamParts, rows: LiveStore, metrics: Metrics
) -> CursorReset:
    return CursorReset(
        stream.firehose, rows, drained=stream.live.drained, urls=settings.firehose.url,
        url_in_use=lambda: stream.firehose.url,
        opened=metrics.firehose_gaps.labels(GapReason.CURSOR_RESET).inc,
    )  # fmt: skip
