"""All types of operation, and the runner that they share."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from indexer.citation_parts import citation_extraction
from indexer.metrics import Metrics
from indexer.operations.did_sync import DidSync
from indexer.operations.full_reindex import FullReindex
from indexer.operations.governance_sync import GovernanceSync
from indexer.operations.pausing import Pauses
from indexer.operations.runner import Runner
from indexer.operations.schedule import Schedule
from indexer.outbound import NetworkParts
from indexer.scan_parts import freshness_scan, pds_scan
from indexer.settings import Settings
from indexer.status import DaemonStatus
from indexer.store_parts import StoreParts
from indexer.stream_parts import StreamParts
from indexer.world import World
from storage.operation_units import OperationUnits
from storage.operations import OperationStore


def open_runner(
    settings: Settings,
    world: World,
    store: StoreParts,
    stream: StreamParts,
    network: NetworkParts,
    *,
    collections: Sequence[str],
    status: DaemonStatus,
    metrics: Metrics,
) -> Runner:
    """The runner with every type. Nothing runs yet.

    `collections` are the NSIDs that a relay may be asked for.
    """
    rows = OperationStore(store.database, clock=world.clock)
    pauses = Pauses(
        stream.firehose,
        rows,
        drained=stream.live.drained,
        status=status.firehose,
        stream_at=stream.at,
        pause_s_max=settings.backfill.pause_s_max,
        clock=world.clock,
    )
    return Runner(
        rows,
        OperationUnits(store.database),
        [
            DidSync(stream.resyncer),
            GovernanceSync(stream.resyncer, did=settings.governance.did),
            pds_scan(settings, world.clock, store, stream, network, collections=collections),
            freshness_scan(settings, world.clock, store, stream, network),
            FullReindex(store.rebuilds),
            citation_extraction(settings, store.citations, network.blobs, network.sources),
        ],
        pauses=pauses,
        modes=settings.backfill.mode,
        max_running=settings.backfill.max_running,
        new_id=lambda: uuid.UUID(int=world.rng.getrandbits(128), version=4).hex,
        clock=world.clock,
        metrics=metrics,
    )


def schedule(settings: Settings, world: World, store: StoreParts, runner: Runner) -> Schedule:
    """What begins by itself."""
    return Schedule(
        runner,
        OperationStore(store.database, clock=world.clock),
        settings.backfill.interval_s,
        clock=world.clock,
        rng=world.rng,
    )
