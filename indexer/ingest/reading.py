"""A repo's verified content from its own host, by the cheaper of two methods.

Both end in the same `RepoSnapshot`. The sparse walk is tried first and gives up as soon as it sees
that it will not pay, or that the host does not play; the whole archive has the last word on a repo,
so that a verdict on one never rests on the shorter way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from indexer.claims import Claim
from indexer.clock import Clock
from indexer.errors import Check, InvalidUpstream
from indexer.ingest.attempts import RepoHosts, Route
from indexer.ingest.snapshot import LoadBlock, RepoSnapshot, open_snapshot
from indexer.ingest.sparse import SparseReader
from indexer.metrics import Metrics
from indexer.model import FetchMethod, Scope
from indexer.ports import RepoRows
from indexer.protocol.keys import VerifyingKey


class RepoReader:
    """Fetches and verifies; the claim holder merges."""

    def __init__(
        self, hosts: RepoHosts, rows: RepoRows, scope: Scope, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._hosts = hosts
        self._scope = scope
        self._clock = clock
        self._metrics = metrics
        self._sparse = SparseReader(hosts, rows, scope, clock=clock, metrics=metrics)

    @asynccontextmanager
    async def open(
        self, claim: Claim, route: Route, pds_url: str, key: VerifyingKey
    ) -> AsyncIterator[RepoSnapshot]:
        """The repo as its host has it, readable until the block ends; `route` says how it came."""
        verified = partial(self._verified, claim, key)
        route.method = FetchMethod.SPARSE
        snapshot = await self._sparse.read(claim, pds_url, verified)
        if snapshot is not None:
            yield snapshot
            return
        route.method = FetchMethod.CAR
        async with self._hosts.fetch_repo(pds_url, claim.did) as archive:
            self._metrics.resync_bytes.labels(FetchMethod.CAR).inc(archive.size_bytes)
            yield await verified(archive.root, archive.load)

    async def _verified(
        self, claim: Claim, key: VerifyingKey, root: bytes, load: LoadBlock
    ) -> RepoSnapshot:
        """The verified commit; the directory's log is asked only where it may help."""
        opened = partial(
            open_snapshot,
            root,
            load,
            did=claim.did,
            key=key,
            scope=self._scope,
            known=(claim.repo.rev, claim.repo.data),
            now_s=self._clock.now(),
        )
        try:
            return await asyncio.to_thread(opened)
        except InvalidUpstream as error:
            if error.check is not Check.SIGNATURE:
                raise
        return await asyncio.to_thread(opened, former=await self._hosts.former_keys(claim.did))
