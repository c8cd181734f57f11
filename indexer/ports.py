"""What the rings beside each other need of one another, declared by the consumer's need.

`admin_api`, `indexer.operations`, `indexer.ingest`, `storage` and `indexer.network` never import
each other; the daemon hands each the objects that satisfy these protocols structurally. No
protocol has more than seven methods.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from indexer.claims import Claim, Fetched, Finish, Identity, SnapshotChunk
from indexer.errors import LocalBusy
from indexer.lanes import Lane, Standing
from indexer.model import (
    Applied,
    DeadLetter,
    DeadLetterDraft,
    FailedUnit,
    FirehoseStatus,
    Json,
    Operation,
    OperationStatus,
    Overview,
    StoreCounts,
)
from indexer.planning import CommitSeen, EventBatch, Repo

T = TypeVar("T")

Compared = Callable[[int], Awaitable[None]]
"""Told how many in-scope records of a repo an attempt has compared with the network so far."""

BUSY_RETRY_S = 1.0
"""A step that this machine had no room for is tried again after this time."""


async def insist_on(step: Callable[[], Awaitable[T]], on_busy: Callable[[LocalBusy], object]) -> T:
    """Take a step in the store that has to be taken, however long the machine is short of space.

    `on_busy` is told each time that it has to wait.
    """
    while True:
        try:
            return await step()
        except LocalBusy as error:
            on_busy(error)
            await asyncio.sleep(BUSY_RETRY_S)


class Backfills(Protocol):
    """Start, watch and cancel operations: what the admin surface needs of the runner."""

    async def start(
        self, type_name: str, params: Mapping[str, Json], *, started_by: str | None
    ) -> Operation:
        """Start an operation, or return the running one with the same type and key.

        `params` are the remaining input fields of triggerBackfill. Raises `RequestRefused`
        (InvalidBackfillType, InvalidRequest naming the parameter, RateLimitExceeded where too many
        wait already) before anything has started.
        """

    async def cancel(self, operation_id: str) -> bool:
        """Ask a running operation to stop; False when it has already ended.

        The request is durable when this returns. Raises `RequestRefused` for an unknown id.
        """

    async def get(self, operation_id: str) -> Operation | None:
        """The operation with this id."""

    async def failures(self, operation_id: str) -> Sequence[FailedUnit]:
        """The first of its units that failed; a hundred are kept."""

    async def list(
        self, *, status: OperationStatus | None = None, limit: int = 100
    ) -> Sequence[Operation]:
        """Newest first; of those that run, the ones that wait come last."""

    async def history(self, *, limit: int = 100) -> Sequence[Operation]:
        """Those that have ended, the newest first."""


class Status(Protocol):
    """The daemon's condition: what health, status and readiness answers need."""

    async def firehose(self) -> FirehoseStatus:
        """The live stream."""

    async def counts(self) -> StoreCounts:
        """Totals of the store."""

    async def overview(self) -> Overview:
        """How much of what is visible in the index."""

    async def dead_letters(self, *, limit: int, offset: int) -> tuple[Sequence[DeadLetter], int]:
        """One page, newest first, and the number of all."""

    async def check_store(self) -> float:
        """Seconds that a trivial read took. Raises `LocalFault` or `LocalBusy` when unusable."""

    async def readiness(self) -> Mapping[str, str | None]:
        """Component -> why it is not ready, or None."""

    def uptime_s(self) -> float:
        """Seconds since the process started."""


class LiveIndex(Protocol):
    """The store as the live path needs it."""

    def is_tracked(self, did: str) -> bool:
        """Whether events of this DID concern us."""

    def is_denied(self, did: str) -> bool:
        """Whether events of this DID are to be passed over."""

    async def signing_keys(self, dids: Iterable[str]) -> dict[str, str | None]:
        """Multibase keys of tracked DIDs, as last committed."""

    async def host_groups(self, dids: Iterable[str]) -> dict[str, str]:
        """The groups of hosts at which tracked DIDs were last seen."""

    async def apply(self, batch: EventBatch) -> Applied:
        """Apply a batch and save its cursor, all or nothing. Applying it again changes nothing."""


class WorkQueue(Protocol):
    """Which repos need a resync, and who works on them."""

    async def claim_next(
        self, lanes: Sequence[Lane], standings: Iterable[Standing], busy: Collection[str]
    ) -> Claim | None:
        """Claim the most urgent repo that is due, or None when nothing is.

        It is one of a host (in the lanes of new repos: of a group) of these standings, and of none
        that is `busy`; hosts take turns.
        """

    async def claim_repo(self, did: str, *, is_operator: bool = True) -> Claim:
        """Claim one repo for all kinds of work, now; unknown ones are tracked.

        The claim on a denied account comes back with nothing claimed. Raises `RepoLimited` for an
        unknown one, unless it is for an operator, while no new repos are taken in.
        """

    async def next_due_at(self, lanes: Sequence[Lane]) -> float | None:
        """Unix seconds before which no repo falls due, or None when no work is left."""

    async def judge(self, host: str, standing: Standing, *, until: float = 0.0) -> None:
        """Note how a host (or group) did last; no repo of it is claimed before `until`."""

    async def settle(
        self,
        claim: Claim,
        ending: Callable[[Repo], Repo],
        *,
        letter: DeadLetterDraft | None = None,
    ) -> Repo:
        """End a claim without new rows; `ending` says how the row becomes."""

    async def purge(self, claim: Claim, reason: str) -> Counter[tuple[str, str]]:
        """Delete all rows of a repo whose account is gone, and end the claim."""

    async def note_older(self, claim: Claim, pds_url: str, host_rev: str) -> float:
        """Remember that a host shows less than we hold; since when it does, in unix seconds."""


class RepoRows(Protocol):
    """What a claim holder may do to its repo.

    Every method that writes raises `StaleClaim` when it no longer is one.
    """

    async def save_identity(self, claim: Claim, identity: Identity) -> Claim:
        """Keep what the DID document says; the claim with it. Raises `HostDenied`."""

    async def catch_up(
        self, claim: Claim, commits: Sequence[CommitSeen], *, upto_id: int
    ) -> Finish:
        """Replay commits that waited for the key; once none is left, the stream is followed."""

    async def begin_fetch(self, claim: Claim) -> Claim:
        """From here on live commits of the repo are buffered: call before the first request.

        The claim comes back with the row as it is now, which nobody else changes any more.
        """

    async def cids_between(self, claim: Claim, after: str, upto: str | None) -> dict[str, str]:
        """The first of our rows with after < path <= upto, in key order: path -> CID text.

        At most as many as one transaction may change.
        """

    async def apply_chunk(
        self,
        claim: Claim,
        chunk: SnapshotChunk,
        on_compared: Callable[[int], Awaitable[None]],
    ) -> Counter[tuple[str, str]]:
        """Make our rows of the chunk's range equal to its leaves; rows by (collection, action).

        `on_compared` is told after each transaction how many leaves it has dealt with.
        """

    async def load_pending(self, claim: Claim, after_id: int) -> list[tuple[int, bytes]]:
        """The oldest buffered commits after `after_id`: (id, raw frame)."""

    async def finish(
        self,
        claim: Claim,
        fetched: Fetched | None,
        last_chunk: SnapshotChunk | None,
        commits: Sequence[CommitSeen],
        *,
        upto_id: int,
        is_confirmed: bool,
        look_again_at: float | None = None,
    ) -> Finish:
        """Set the fetched commit, replay buffered commits upon it, release the claim."""


class HeldStream(Protocol):
    """The firehose as those need it who hold it."""

    def pause(self) -> None:
        """Close the connection and dial no more."""

    def resume(self) -> None:
        """Take back one `pause`."""

    async def paused(self) -> None:
        """Wait until every frame has been taken."""
