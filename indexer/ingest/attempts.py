"""What an attempt at a resync needs of the network, and what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from indexer.claims import Claim, Identity
from indexer.errors import Check, ChiveIndexerError, InvalidUpstream
from indexer.ingest.places import Admission, Seat
from indexer.model import AccountStatus, FetchMethod
from indexer.ports import Compared
from indexer.protocol.did_document import DidDocument
from indexer.protocol.plc_log import FormerKey

TOO_MANY = "too many new repos at its host today"

LASTING_CHECKS = frozenset(
    {
        Check.DID_DOCUMENT,
        Check.KEY,
        Check.SIGNATURE,
        Check.COMMIT,
        Check.CBOR,
        Check.MST,
    }
)
"""What speaks of the account's repo or document, and not of a transfer, a clock, or the way to the
host: a name that resolves to a private address, or leads elsewhere, may be right again."""


class Result(StrEnum):
    """How an attempt ended: label of `chive_resyncs_total`."""

    FETCHED = "fetched"
    CURRENT = "current"
    QUEUED = "queued"
    """Its host, or the directory, has not been asked: it waits for its turn there."""
    PUT_OFF = "put_off"
    """The live stream may yet bring what differs, or it was fetched too often; compared again."""
    HIDDEN = "hidden"
    DELETED = "deleted"
    NOT_FOUND = "not_found"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    LIMITED = "limited"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    STALE = "stale"
    DENIED = "denied"


@dataclass(slots=True)
class Route:
    """By which method an attempt fetches, `car` until it does, and what it has changed so far."""

    method: FetchMethod = FetchMethod.CAR
    accepts_older: bool = False  # whether the host's state replaces a newer one of ours
    is_once_enough: bool = False  # whether one answer that a held repo is gone purges it
    host_rev: str | None = None  # what the host calls the repo's rev, once it has been asked
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)  # as in `Resync`
    seat: Seat | None = None  # its place among the attempts of the workers
    admission: Admission | None = None  # without a seat: for one that is not held yet
    is_admitted: bool | None = None  # None: not decided yet
    on_compared: Compared | None = None
    compared: int = 0  # in-scope records, so far

    def transfer(self) -> AbstractAsyncContextManager[None]:
        """Wait for a turn at fetching, where others fetch too, and hold it."""
        return nullcontext() if self.seat is None else self.seat.transfer()

    async def is_refused(self, claim: Claim, identity: Identity) -> bool:
        """Whether the repo may not be fetched, as far as that is known; its claim is ended then."""
        if self.is_admitted is None:
            admission = self.admission if self.seat is None else self.seat
            self.is_admitted = admission is None or await admission.admit(claim, identity)
        return self.is_admitted is False

    async def count(self, records: int) -> None:
        """So many more have been compared with the network."""
        self.compared += records
        if self.on_compared is not None:
            await self.on_compared(self.compared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """The outcome of one attempt, as an operation reports it."""

    result: Result
    records: int = 0  # in-scope records that are now known to equal the network's
    reason: str | None = None
    changes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Rows that were changed: (collection, create | update | delete) -> number."""


class HostStatus(Protocol):
    """What a PDS says of an account."""

    @property
    def status(self) -> AccountStatus:
        """`active`, or why not."""

    @property
    def rev(self) -> str | None:
        """The host's rev of the repo; None where it does not tell."""


class Archive(Protocol):
    """A fetched repo archive on disk."""

    @property
    def root(self) -> bytes:
        """CID of the commit."""

    @property
    def size_bytes(self) -> int:
        """Bytes received."""

    def load(self, cid: bytes) -> bytes:
        """One block. Raises `MissingBlock`."""


class RepoHosts(Protocol):
    """The network as the resync needs it."""

    async def resolve(self, did: str) -> DidDocument:
        """The DID document as it is now, from its authority.

        Raises `DidGone` for an unknown or tombstoned DID.
        """

    async def verify_handle(self, document: DidDocument) -> str | None:
        """The document's handle if it points back to the DID.

        Raises `Unavailable` where nobody could be asked.
        """

    async def fetch_status(
        self, pds_url: str, did: str, *, is_hurried: bool = False
    ) -> HostStatus | None:
        """The account's status at its host; None when the host does not know the repo.

        Where others wait too (`is_hurried`), a host that has never failed has less time.
        """

    async def former_keys(self, did: str) -> Sequence[FormerKey]:
        """Signing keys that the account had before, newest first."""

    def fetch_repo(self, pds_url: str, did: str) -> AbstractAsyncContextManager[Archive]:
        """The whole repo. Raises `RepoTooLarge` beyond the byte cap."""

    async def fetch_proof(
        self, pds_url: str, did: str, path: tuple[str, str], *, bytes_max: int
    ) -> bytes:
        """Archive of the commit and the tree's nodes from its root to `path`, present or absent.

        `path` is (collection, rkey). Raises `NotServed` where the host has no proof to give.
        """

    async def fetch_blocks(
        self, pds_url: str, did: str, cids: Sequence[bytes], *, bytes_max: int
    ) -> bytes | None:
        """Archive of these blocks, without a root; None where the host refuses to give them."""


def is_lasting(error: ChiveIndexerError) -> bool:
    """Whether the account's repo or document was there, and wrong."""
    return isinstance(error, InvalidUpstream) and error.check in LASTING_CHECKS
