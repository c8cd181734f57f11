"""The store: the file opened, its derived tables made sure of, and the parts that share it."""

from __future__ import annotations

import sqlite3
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import structlog

from indexer.errors import LocalBusy
from indexer.limits import Limits
from indexer.metrics import Metrics
from indexer.model import Scope
from indexer.planning import Policy
from indexer.records.prepare import prepare_stored, prepare_trusted
from indexer.records.projection import SEARCH
from indexer.records.registry import Registry
from indexer.settings import Settings
from indexer.upkeep import Step
from indexer.world import World
from storage.admissions import AdmissionStore
from storage.citations import CitationStore
from storage.database import Database, open_database
from storage.dead_letter_retention import DAY_S, DeadLetterRetention
from storage.denials import DenialStore
from storage.directory import DirectoryStore
from storage.due_times import DueTimeUpkeep
from storage.file_watch import FileWatch
from storage.generation_swap import GenerationUpkeep
from storage.identity_sweep import IdentitySweep
from storage.leftovers import HOSTS, TOTALS, LeftoverUpkeep
from storage.live import LiveStore
from storage.operation_units import OperationRetention
from storage.projections import Projections
from storage.rebuild_parts import Preparing
from storage.rebuild_worker import WorkerSettings
from storage.rebuilds import Rebuilds
from storage.records import RecordTable
from storage.resyncs import ResyncStore
from storage.room import Room
from storage.room_upkeep import Reserve, RoomUpkeep
from storage.search_upkeep import SearchUpkeep
from storage.session import Sessions
from storage.sqlite_errors import FULL_CODES
from storage.tracked import TrackedRepos

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreParts:
    """What was opened."""

    database: Database
    tracked: TrackedRepos
    live: LiveStore
    resyncs: ResyncStore
    admissions: AdmissionStore
    room: Room
    directory: DirectoryStore
    rebuilds: Rebuilds
    citations: CitationStore
    is_outdated: bool  # whether what readers see is of other declarations or lexicons than today's
    denials: DenialStore
    upkeep: tuple[Step, ...]
    """What it owes and nobody waits for."""


async def open_store(
    settings: Settings, world: World, registry: Registry, metrics: Metrics, stack: AsyncExitStack
) -> StoreParts:
    """Open the file, ready for use; it is closed by the stack.

    Raises `ConfigurationError` for a file that is not ours to open, `LocalFault` for a broken one,
    `LocalBusy` while there is no space or another program keeps it locked.
    """
    room, reserve = Room(_limits(settings)), Reserve(settings.storage.file)
    database = await _open_file(settings, world, metrics, stack, room=room, reserve=reserve)
    projections = Projections(registry.types, SEARCH, basis=settings.governance.did)
    judged_by = registry.lexicon_id
    is_outdated = await database.write(partial(projections.install, judged_by=judged_by))
    if is_outdated:
        log.info("store.projections_outdated")
    prepare = partial(prepare_stored, registry=registry)
    rebuilds = _rebuilds(settings, database, projections, registry)
    await rebuilds.clear_away()
    search = SearchUpkeep(database, projections, prepare)
    tracked = TrackedRepos(database)
    await tracked.load()
    records = RecordTable(projections)
    policy = Policy(identity_refresh_s=settings.identity.refresh_interval_s)
    pending_bytes_max = settings.storage.pending_bytes_per_repo
    sessions = Sessions(
        records=records, policy=policy, pending_bytes_max=pending_bytes_max, room=room
    )
    live = LiveStore(database, tracked, sessions, clock=world.clock)
    resyncs = ResyncStore(database, tracked, sessions, clock=world.clock)
    await resyncs.give_back_all()
    left = await resyncs.enter_scope(Scope(settings.scope.collections).scope_id)
    if left:
        log.warning("store.scope_changed", repos=left)
    denials = DenialStore(database, tracked, records, clock=world.clock)
    await denials.load()
    citations = CitationStore(database, clock=world.clock)
    room_upkeep = RoomUpkeep(
        database, tracked, room, reserve, clock=world.clock,
        on_look=lambda room: metrics.discovery_stopped.set(room.is_discovery_stopped),
    )  # fmt: skip
    await room_upkeep.look()
    return StoreParts(
        database=database,
        tracked=tracked,
        live=live,
        resyncs=resyncs,
        admissions=AdmissionStore(database, room, clock=world.clock),
        room=room,
        denials=denials,
        directory=DirectoryStore(
            database, tracked, policy, plc_url=settings.identity.plc_url, clock=world.clock
        ),
        rebuilds=rebuilds,
        citations=citations,
        is_outdated=is_outdated,
        upkeep=(
            FileWatch(settings.storage.path).step,
            search.step,
            GenerationUpkeep(database).step,
            citations.step,
            *_upkeep(settings, world, database, metrics, policy),
            denials.step,
            room_upkeep.step,
            DueTimeUpkeep(database, clock=world.clock).step,
            LeftoverUpkeep(database, TOTALS, clock=world.clock).step,
            LeftoverUpkeep(database, HOSTS, clock=world.clock).step,
        ),
    )


async def _open_file(
    settings: Settings,
    world: World,
    metrics: Metrics,
    stack: AsyncExitStack,
    *,
    room: Room,
    reserve: Reserve,
) -> Database:
    def on_error(code: str) -> None:
        is_full = code in FULL_CODES
        metrics.count_sqlite_error("SQLITE_FULL" if is_full else code)
        if is_full:
            room.is_disk_full = True
            reserve.free()

    try:
        return await stack.enter_async_context(
            open_database(
                settings.storage.file,
                observe_s=metrics.sqlite_transaction_duration_seconds.observe,
                on_error=on_error,
                reach=world.reach,
            )
        )
    except LocalBusy as error:
        if isinstance(error.__cause__, sqlite3.Error):  # and not a command, which will end
            reserve.free()  # with it the next try may succeed
        raise


def _limits(settings: Settings) -> Limits:
    """The bounds; buffers are kept of as many repos as are fetched at the same time."""
    buffer_bytes_max = settings.resync.workers * settings.storage.pending_bytes_per_repo
    limits = settings.limits
    return Limits(
        records_per_repo=limits.records_per_repo,
        bytes_per_repo=limits.bytes_per_repo,
        new_repos_per_host_day=limits.new_repos_per_host_day,
        pending_max=limits.pending_max,
        buffer_bytes_max=buffer_bytes_max,
        db_bytes_max=limits.db_bytes_max,
        db_bytes_reserve=limits.db_bytes_reserve,
    )


def _upkeep(
    settings: Settings,
    world: World,
    database: Database,
    metrics: Metrics,
    policy: Policy,
) -> tuple[Step, ...]:
    """Search rows of accounts hidden or shown, what was kept for long enough, old identities."""
    letters = DeadLetterRetention(
        database,
        world.clock,
        age_s_max=settings.storage.dead_letter_days_max * DAY_S,
        letters_max=settings.storage.dead_letters_max,
        on_dropped=metrics.dead_letters_dropped.inc,
    )
    # What runs on a schedule goes by when it last did, also after a restart.
    history_s_max = max(
        settings.backfill.history_days_max * DAY_S,
        *(interval_s + DAY_S for interval_s in settings.backfill.interval_s.values()),
    )
    return (
        letters.step,
        OperationRetention(database, world.clock, age_s_max=history_s_max).step,
        IdentitySweep(database, policy, clock=world.clock).step,
    )


def _rebuilds(
    settings: Settings, database: Database, projections: Projections, registry: Registry
) -> Rebuilds:
    """With what another process needs to come to the same rows and verdicts."""
    preparing = Preparing(
        prepare=partial(prepare_stored, registry=registry),
        prepare_trusted=partial(prepare_trusted, registry=registry),
        types=registry.types,
        search=SEARCH,
        judged_by=registry.lexicon_id,
    )
    worker_settings = WorkerSettings(index=str(settings.storage.file), registry=registry.source)
    return Rebuilds(database, settings.storage.file, projections, preparing, worker_settings)
