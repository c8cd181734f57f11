"""What a scan of hosts needs of the store and of the network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from indexer.hosts import (
    HostPass,
    HostSource,
    HostsPage,
    KnownRepo,
    PageTaken,
    StrangerOutcome,
)
from indexer.listings import ListingPage
from indexer.model import Json, Operation, SettledUnit
from indexer.operations.did_sync import SyncResult
from indexer.ports import Compared
from indexer.protocol.did_document import DidDocument


class HostRegistry(Protocol):
    """The hosts that we know, and who works on them."""

    async def register(self, urls: Sequence[str], source: HostSource) -> None:
        """Know hosts from now on."""

    async def claim(
        self, operation_id: str, url: str | None, *, due_at: float, in_hand: Collection[int]
    ) -> HostPass | None:
        """Take hold of one host, or of any that was due at `due_at`; None where that is none."""

    async def release(self, operation_id: str) -> None:
        """Let go of every host; the operation may take hold of them again."""

    async def end_pass(
        self, held: HostPass, unit: SettledUnit, *, error: str | None
    ) -> Operation | None:
        """Settle the host as a unit, scanned unless there is an error or it was covered."""


class ScanRows(Protocol):
    """What a scan knows apart from any host."""

    async def known(self, dids: Sequence[str]) -> Mapping[str, KnownRepo]:
        """The tracked ones among the DIDs."""

    async def nominate(self, operation_id: str, dids: Sequence[str]) -> None:
        """Keep for the time of the operation which DIDs the relay has named."""

    async def nominated(self, operation_id: str, dids: Sequence[str]) -> set[str]:
        """Those of the DIDs that the relay has named."""

    async def settled(self, operation_id: str, units: Sequence[str]) -> set[str]:
        """Those of the DIDs or hosts' URLs that the operation has settled as units."""

    async def keep(self, operation_id: str, checkpoint: Json) -> None:
        """Save how far an operation has come apart from its hosts."""

    async def tidy(self) -> None:
        """Forget what ended operations have left, and answers that are old or too many."""


class PageRows(Protocol):
    """The pages of a host's list."""

    async def verified(self, dids: Sequence[str], *, at: float) -> None:
        """What we hold of these repos is what their host had, which was asked `at` that time."""

    async def asked_before(self, url: str, dids: Sequence[str]) -> set[str]:
        """Those that this host was asked about not long ago, and that had nothing for us."""

    async def add_candidates(self, held: HostPass, repos: Sequence[tuple[str, str]]) -> None:
        """Unknown repos of a page, as (DID, rev), that may have to be asked about."""

    async def advance(self, held: HostPass, page: PageTaken) -> Operation | None:
        """Count a page and go on with the next; the operation's row then."""


class CandidateRows(Protocol):
    """The unknown repos of a host that are to be asked about."""

    async def candidates(self, held: HostPass, limit: int) -> Sequence[str]:
        """DIDs that are left, those that changed last first."""

    async def dismiss(
        self, held: HostPass, did: str, outcome: StrangerOutcome, *, is_answer: bool
    ) -> Operation | None:
        """Count one that is not to be tracked; an answer of its host is remembered."""

    async def settle(self, held: HostPass, unit: SettledUnit) -> Operation | None:
        """Count a repo that was worked on, once, and take it off the candidates."""

    async def leave(self, held: HostPass) -> Operation | None:
        """Count those that a pass which has failed leaves as not asked about."""


class HostLists(Protocol):
    """The lists of hosts and of the relay. None: not served there."""

    async def of_host(
        self, pds_url: str, cursor: str | None, *, repos_max: int
    ) -> ListingPage | None:
        """A page of a PDS's listRepos."""

    async def of_collection(
        self, collection: str, cursor: str | None, *, repos_max: int
    ) -> ListingPage | None:
        """A page of the relay's listReposByCollection."""

    async def of_relay(self, cursor: str | None) -> HostsPage | None:
        """A page of the relay's listHosts."""

    async def collections_of(self, pds_url: str, did: str) -> Sequence[str] | None:
        """The collections of a repo, by its host's word; None where it has no such repo."""


class DidDocuments(Protocol):
    """Who a DID is."""

    async def resolve(self, did: str) -> DidDocument:
        """The document as it is now. Raises `DidGone` for an unknown or tombstoned DID."""


class ListedRepos(Protocol):
    """The resync as a scan needs it."""

    async def sync_listed(self, did: str, *, on_compared: Compared | None = None) -> SyncResult:
        """One attempt at a repo that a listing has made worth a look, tracked from now on."""
