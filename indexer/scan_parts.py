"""Scans of hosts, wired: the registry, and the type of operation that works on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from indexer.clock import Clock
from indexer.hosts import ScanLimits
from indexer.ingest.firehose import Firehose
from indexer.model import Scope
from indexer.network.ssrf import check_url
from indexer.operations.bootstrap import Bootstrap
from indexer.operations.freshness_scan import FreshnessScan
from indexer.operations.host_pass import ScanParts
from indexer.operations.pds_scan import PdsScan
from indexer.operations.runner import Runner
from indexer.outbound import NetworkParts
from indexer.settings import Settings
from indexer.store_parts import StoreParts
from indexer.stream_parts import StreamParts
from storage.database import Database
from storage.freshness import FreshnessStore
from storage.hosts import HostStore
from storage.scans import ScanStore

HOUR_S = 3600.0


def scan_limits(settings: Settings) -> ScanLimits:
    """The settings that the store's part of a scan depends on."""
    hosts = settings.hosts
    return ScanLimits(
        interval_s=hosts.scan_interval_h * HOUR_S,
        interval_empty_s=hosts.scan_interval_empty_h * HOUR_S,
        asked_max=hosts.ask_repos_max,
        ask_again_days=hosts.ask_again_days,
        remembered_max=hosts.asked_repos_max,
        scope_id=Scope(settings.scope.collections).scope_id,
    )


def host_store(settings: Settings, database: Database, clock: Clock) -> HostStore:
    """The registry of hosts."""
    return HostStore(database, limits=scan_limits(settings), clock=clock)


def first_scan(
    settings: Settings, hosts: HostStore, runner: Runner, firehose: Firehose
) -> Bootstrap:
    """What sees to the first scan of a store. Nothing runs yet."""
    return Bootstrap(
        runner,
        is_done=hosts.has_completed_scan,
        is_connected=lambda: firehose.is_connected,
        is_wanted=settings.backfill.bootstrap,
    )


def pds_scan(
    settings: Settings,
    clock: Clock,
    store: StoreParts,
    stream: StreamParts,
    network: NetworkParts,
    *,
    collections: Sequence[str],
) -> PdsScan:
    """The type of operation; `collections` are the NSIDs that a relay may be asked for."""
    scans = ScanStore(store.database, limits=scan_limits(settings), clock=clock)
    parts = ScanParts(
        registry=host_store(settings, store.database, clock),
        rows=scans,
        pages=scans,
        candidates=scans,
        lists=network.listings,
        documents=network.hosts,
        repos=stream.resyncer,
        scope=Scope(settings.scope.collections),
        is_denied=store.denials.is_denied_host,
        stream_at=stream.at,
        clock=clock,
    )
    return PdsScan(
        parts,
        collections=collections,
        relay_url=network.listings.relay_url,
        check_url=partial(check_url, allow_private=settings.network.allow_private_hosts),
    )


def freshness_scan(
    settings: Settings,
    clock: Clock,
    store: StoreParts,
    stream: StreamParts,
    network: NetworkParts,
) -> FreshnessScan:
    """The type of operation that compares what is tracked with its hosts."""
    return FreshnessScan(
        FreshnessStore(store.database, clock=clock),
        network.listings,
        network.hosts,
        stream.resyncer,
        scope_id=Scope(settings.scope.collections).scope_id,
        stream_at=stream.at,
        clock=clock,
    )
