"""The daemon's outbound side, wired: one session, its pacing, identities, hosts of repos."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import urlsplit

from indexer.citation_parts import open_sources
from indexer.clock import Clock
from indexer.metrics import Metrics
from indexer.network.blobs import BlobNetwork
from indexer.network.directory import DirectoryLog
from indexer.network.http import HttpClient
from indexer.network.identity import IdentityResolver
from indexer.network.listings import RepoListings
from indexer.network.pacing import Pacing
from indexer.network.pds import RepoNetwork
from indexer.network.spool import SpoolFolder
from indexer.operations.citation_sources import Sources
from indexer.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkParts:
    """Who accounts are, where their repos lie, who lists them, and what changes about them."""

    identities: IdentityResolver
    hosts: RepoNetwork
    listings: RepoListings
    directory: DirectoryLog
    blobs: BlobNetwork
    sources: Sources


async def open_network(
    settings: Settings,
    clock: Clock,
    metrics: Metrics,
    stack: AsyncExitStack,
    *,
    is_denied_host: Callable[[str], bool],
) -> NetworkParts:
    """All of it; `stack` closes the session."""
    network = settings.network
    stream = urlsplit(settings.firehose.url[0])
    relay_url = network.relay_url or f"http{stream.scheme.removeprefix('ws')}://{stream.netloc}"
    configured = [settings.identity.plc_url, settings.identity.handle_resolver_url, relay_url]
    governance = settings.governance
    pinned = {} if governance.pds_url is None else {governance.did: governance.pds_url}
    configured += pinned.values()
    http = await stack.enter_async_context(
        HttpClient(
            user_agent=user_agent(settings),
            allow_private=network.allow_private_hosts,
            exempt=[url for url in configured if url is not None],
            pacing=Pacing(clock=clock, rate=network.requests_per_s_per_host),
            clock=clock,
            metrics=metrics,
            is_denied=is_denied_host,
        )
    )
    identities = IdentityResolver(
        http,
        plc_url=settings.identity.plc_url,
        handle_resolver_url=settings.identity.handle_resolver_url,
        allow_private=network.allow_private_hosts,
        clock=clock,
    )
    folder = SpoolFolder(
        settings.storage.file.with_name(settings.storage.file.name + ".spool"),
        bytes_max=settings.resync.spool_bytes_max,
        archive_bytes_max=settings.resync.repo_bytes_max,
    )
    hosts = RepoNetwork(
        http,
        identities,
        folder,
        idle_s=settings.resync.idle_s,
        total_s=settings.resync.total_s,
        pinned=pinned,
    )
    return NetworkParts(
        identities=identities,
        hosts=hosts,
        listings=RepoListings(http, relay_url=relay_url, allow_private=network.allow_private_hosts),
        blobs=BlobNetwork(
            http,
            identities,
            folder,
            bytes_max=settings.citations.document_bytes_max,
            idle_s=settings.resync.idle_s,
            total_s=settings.resync.total_s,
        ),
        sources=await open_sources(
            settings, clock, metrics, stack, user_agent=user_agent(settings)
        ),
        directory=DirectoryLog(http, plc_url=settings.identity.plc_url),
    )


def user_agent(settings: Settings) -> str:
    """How we present ourselves to other people's hosts."""
    return f"chive-indexer/{version('chive-indexer')} (+{settings.network.contact})"
