"""The sparse walk: the in-scope part of a repo, proved, at a fraction of its archive's bytes.

One `getRecord` proof brings the commit and a path through its tree, to a key at the start of the
scope. From there `getBlocks` brings the nodes that overlap the scope, level by level, and then the
records that differ from our rows. Every block is known by its hash before it is asked for, so all
of them hang on one verified commit, and a host can withhold but not falsify.

When blocks are gone because the repo has moved on, the walk begins again at the new commit with the
blocks that it holds: only what changed is read again.

The rule of choice: a repo that the first proof shows to be small is fetched whole, as one that has
much in scope is; so is every repo of a host that does not offer these methods, and whatever goes
wrong here is left to the whole archive. Such a failure costs few requests and bytes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import structlog

from indexer.claims import Claim
from indexer.clock import Clock
from indexer.errors import ChiveIndexerError, InvalidUpstream, NotServed, Unavailable
from indexer.ingest.attempts import RepoHosts
from indexer.ingest.snapshot import Leaves, LoadBlock, RepoSnapshot, compare_next
from indexer.metrics import Metrics
from indexer.model import FetchMethod, Scope
from indexer.ports import RepoRows
from indexer.protocol.car import Car, parse_car
from indexer.protocol.cid import cid_text, is_dag_cbor_sha256
from indexer.protocol.commit import decode_commit
from indexer.protocol.mst import Frontier, MissingBlock, estimated_leaves
from indexer.protocol.syntax import is_nsid

log = structlog.get_logger(__name__)

SMALL_REPO_LEAVES = 1000
"""Up to so many records, of 350 bytes on average, one request for the archive is cheaper."""

IN_SCOPE_LEAVES_MAX = 2000
"""Beyond so many in-scope records the archive costs fewer requests, whatever else it holds."""

REQUESTS_MAX = 40
BYTES_MAX = 4 * 1024 * 1024
"""Of one walk, received and held: each worker may hold as much."""

BLOCKS_PER_REQUEST = 100
"""CIDs of 59 characters in one URL: proxies in front of hosts take 8 kB."""

RESTARTS_MAX = 3
HOSTS_MAX = 1000
NOT_SERVED_S = 6 * 3600.0
"""How long a host that does not offer the methods is not asked for them again."""

Verify: TypeAlias = Callable[[bytes, LoadBlock], Awaitable[RepoSnapshot]]
"""(CID of a commit, blocks) -> its repo. Raises `InvalidUpstream`."""


class WalkGivenUp(ChiveIndexerError):
    """A sparse walk does not pay, or does not come to an end: fetch the whole archive."""


class SparseReader:
    """Walks repos, and remembers which hosts do not offer it."""

    def __init__(
        self, hosts: RepoHosts, rows: RepoRows, scope: Scope, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._hosts = hosts
        self._rows = rows
        self._scope = scope
        self._clock = clock
        self._metrics = metrics
        self._not_serving: OrderedDict[str, float] = OrderedDict()  # PDS URL -> until, monotonic

    async def read(self, claim: Claim, pds_url: str, verify: Verify) -> RepoSnapshot | None:
        """The repo with all blocks that a merge into our rows needs; None: fetch the archive.

        Raises `Unavailable` only where the host asked to be left alone.
        """
        if self._not_serving.get(pds_url, 0.0) > self._clock.monotonic():
            return None
        walk = _Walk(self._hosts, self._rows, self._scope, claim, pds_url)
        try:
            return await walk.read(verify)
        except NotServed as error:
            self._remember(pds_url)
            reason = error.detail
        except Unavailable as error:
            if error.retry_after_s is not None:
                raise
            reason = error.detail
        except InvalidUpstream as error:
            self._metrics.verify_failures.labels(error.check).inc()
            reason = error.detail
        except WalkGivenUp as error:
            reason = str(error)
        finally:
            self._metrics.resync_bytes.labels(FetchMethod.SPARSE).inc(walk.bytes_received)
        log.debug("repo.walk_given_up", did=claim.did, reason=reason)
        return None

    def _remember(self, pds_url: str) -> None:
        self._not_serving[pds_url] = self._clock.monotonic() + NOT_SERVED_S
        self._not_serving.move_to_end(pds_url)
        if len(self._not_serving) > HOSTS_MAX:
            self._not_serving.popitem(last=False)


class _Walk:
    """One attempt, with the blocks that it holds and what it has spent."""

    def __init__(
        self, hosts: RepoHosts, rows: RepoRows, scope: Scope, claim: Claim, pds_url: str
    ) -> None:
        self._hosts = hosts
        self._rows = rows
        self._scope = scope
        self._claim = claim
        self._pds_url = pds_url
        self._path = path_at(scope.prefixes[0])
        self._blocks: dict[bytes, bytes] = {}
        self._requests = 0
        self._is_refused = False  # the last request for blocks
        self.bytes_received = 0

    async def read(self, verify: Verify) -> RepoSnapshot:
        """The repo, complete as of the commit of the last proof."""
        root: bytes | None = None
        for _ in range(RESTARTS_MAX + 1):
            shown = await self._fetch_proof()
            if shown == root:
                # The repo has not moved on: its blocks are there, and we do not get them.
                if self._is_refused:
                    raise NotServed(
                        f"{self._pds_url}: getBlocks refuses blocks of a current commit"
                    )
                raise WalkGivenUp("blocks of a current commit are left out")
            if root is None:
                self._give_up_if_small(shown)
            root = shown
            snapshot = await verify(root, self._load)
            if await self._fetch_nodes(snapshot) and await self._fetch_records(snapshot):
                return RepoSnapshot(snapshot.commit, self._load, self._scope)
        raise WalkGivenUp("the repo changes faster than it is walked")

    async def _fetch_proof(self) -> bytes:
        """The CID of the host's current commit, with the nodes on the path to the scope."""
        self._spend_requests(1)
        data = await self._hosts.fetch_proof(
            self._pds_url, self._claim.did, self._path, bytes_max=self._bytes_left
        )
        car = self._parsed(data)
        self._blocks |= car.blocks
        return car.root

    def _give_up_if_small(self, root: bytes) -> None:
        """Judge by the proof before anything is verified: nothing but the choice depends on it."""
        commit = decode_commit(self._load(root), root)
        key = "/".join(self._path).encode()
        leaves = estimated_leaves(commit.data, key, self._load)
        if leaves <= SMALL_REPO_LEAVES:
            raise WalkGivenUp(f"a small repo: about {leaves} records")

    async def _fetch_nodes(self, snapshot: RepoSnapshot) -> bool:
        """Bring all nodes that overlap the scope; False when some are gone."""
        ranges = [(r.start, r.end) for r in self._scope.ranges]
        frontier = Frontier(snapshot.commit.data, ranges)
        while True:
            missing = await asyncio.to_thread(frontier.advance, self._load)
            leaves = frontier.expected_leaves
            if leaves > IN_SCOPE_LEAVES_MAX:
                raise WalkGivenUp(f"about {leaves} records in scope")
            if not missing:
                return True
            if not await self._fetch_blocks(missing):
                return False

    async def _fetch_records(self, snapshot: RepoSnapshot) -> bool:
        """Bring the records that differ from our rows; False when some are gone.

        Nobody else changes the rows of a claimed repo, so the merge will find the same difference.
        """
        wanted: dict[bytes, None] = {}
        rest: Leaves | None = None
        while True:
            leaves, rest, ours = await compare_next(self._rows, self._claim, snapshot, rest)
            for path, cid in leaves.items:
                is_new = cid not in self._blocks and ours.get(path) != cid_text(cid)
                if is_new and is_dag_cbor_sha256(cid):
                    wanted[cid] = None
            if leaves.upto is None:
                return await self._fetch_blocks(list(wanted))

    async def _fetch_blocks(self, cids: list[bytes]) -> bool:
        """Bring blocks by their CIDs; False when some are not to be had."""
        batches = list(_batches(cids))
        self._spend_requests(len(batches))
        for batch in batches:
            data = await self._hosts.fetch_blocks(
                self._pds_url, self._claim.did, batch, bytes_max=self._bytes_left
            )
            self._is_refused = data is None
            if data is None:
                return False
            found = self._parsed(data).blocks
            self._blocks |= {cid: found[cid] for cid in batch if cid in found}
            if not all(cid in self._blocks for cid in batch):
                return False
        return True

    @property
    def _bytes_left(self) -> int:
        return BYTES_MAX - self.bytes_received

    def _spend_requests(self, count: int) -> None:
        self._requests += count
        if self._requests > REQUESTS_MAX:
            raise WalkGivenUp(f"more than {REQUESTS_MAX} requests")

    def _parsed(self, data: bytes) -> Car:
        self.bytes_received += len(data)
        return parse_car(data)

    def _load(self, cid: bytes) -> bytes:
        block = self._blocks.get(cid)
        if block is None:
            raise MissingBlock(cid)
        return block


def path_at(prefix: str) -> tuple[str, str]:
    """A valid (collection, rkey), early among those that a prefix of keys covers."""
    name = prefix.removesuffix("/")
    collection = next(name + end for end in ("", "a", "a.a") if is_nsid(name + end))
    return collection, "0"


def _batches(cids: list[bytes]) -> Iterable[list[bytes]]:
    for start in range(0, len(cids), BLOCKS_PER_REQUEST):
        yield cids[start : start + BLOCKS_PER_REQUEST]
