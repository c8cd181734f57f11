"""Everything of the daemon that the admin surface acts upon, and the value that holds it.

What other rings need too is in `indexer.ports`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from indexer.audit import AuditDraft, AuditEntry
from indexer.authors import RecordState
from indexer.denials import Denial
from indexer.gaps import Gap
from indexer.hosts import HostRow, HostSource
from indexer.model import FirehoseStatus, RepoRow
from indexer.ports import Backfills, Status
from indexer.protocol.did_document import DidDocument


class DeadLetterQueue(Protocol):
    """What admins do with dead letters, each by its id."""

    async def retry(self, letter_id: int) -> str | None:
        """Have the letter's repo compared with its host again; its DID.

        The letter goes when that has succeeded and the refused item is no longer refused. None
        when it names no account. Raises `RequestRefused` for an unknown id.
        """

    async def retry_all(self, reason: str | None) -> int:
        """`retry` for every letter that names an account, or those of one reason; their number."""

    async def dismiss(self, letter_id: int) -> None:
        """Drop one letter. Raises `RequestRefused` for an unknown id."""

    async def purge(self, older_than_s: float) -> int:
        """Drop the letters that are older; their number."""


class AuditLog(Protocol):
    """A durable row for each admin call that changes something, or tries to."""

    async def begin(self, draft: AuditDraft) -> int:
        """Write the row before anything is done; its id."""

    async def end(self, entry_id: int, outcome: str) -> None:
        """Say how the call ended."""

    async def entries(
        self, *, actor: str | None, before: int | None, limit: int
    ) -> tuple[Sequence[AuditEntry], int]:
        """Rows with an id below `before`, newest first, and the number of all of this actor."""


class TokenHorizon(Protocol):
    """Up to when tokens may have been used by this or an earlier process."""

    async def load(self) -> int:
        """Issue time of the newest token ever accepted, unix seconds; 0 before the first."""

    async def raise_to(self, issued_at: int) -> None:
        """Make a later time durable."""


class DidDocuments(Protocol):
    """Who a DID is, from its own authority."""

    async def resolve(self, did: str, *, fresh: bool = False) -> DidDocument:
        """The document; `fresh` wants one that was asked for after this call.

        Raises `InvalidUpstream` for one that cannot be had or used, `Unavailable` for now.
        """


class RepoListing(Protocol):
    """The tracked repos, for people to look at."""

    async def repo(self, did: str) -> tuple[RepoRow, Mapping[str, int]] | None:
        """One repo, and its rows by collection; None when it is not tracked."""

    async def repos(
        self,
        *,
        state: str | None,
        status: str | None,
        pds_url: str | None,
        after: str,
        limit: int,
    ) -> Sequence[RepoRow]:
        """Those with a DID behind `after`, by DID."""


class StreamSwitch(Protocol):
    """The operator's hold on the live stream."""

    async def pause(self) -> int | None:
        """Close the stream; the cursor up to which everything is durable then."""

    async def resume(self) -> FirehoseStatus:
        """End the hold; the stream as it is then, which an operation may go on holding."""


class CursorReset(Protocol):
    """The operator's way to give a cursor up."""

    async def reset(self, url: str | None, cursor: str) -> int | None:
        """Move the cursor of one relay, by default the one in use; the number it has then.

        Raises `RequestRefused` for an unknown relay or a cursor that makes no sense.
        """


class GapListing(Protocol):
    """What was missed of the streams."""

    async def gaps(self, *, before: int | None, limit: int) -> Sequence[Gap]:
        """Those with an id below `before`, newest first."""


class HostListing(Protocol):
    """The hosts that we know, for people to look at."""

    async def hosts(self, *, after: str, limit: int) -> Sequence[HostRow]:
        """Those with a URL behind `after`, by URL."""

    async def of_operation(self, operation_id: str, *, limit: int) -> Sequence[HostRow]:
        """Those whose last pass was, or is, this operation's, by URL."""

    async def totals(self) -> tuple[Mapping[str, int], int]:
        """Hosts by status, and those with records in scope in their last scan."""


class Backups(Protocol):
    """Copies of the store."""

    async def create(self) -> tuple[str, int]:
        """Write a checked copy; its file name and size in bytes.

        Raises `RequestRefused` (BackupsOff, InsufficientSpace) before anything is written.
        """


class Denials(Protocol):
    """What operators keep out."""

    async def deny(self, text: str, reason: str, *, purge: bool, by: str) -> int | None:
        """Hide an account, a record or a host until `allow`; how many records that hides.

        None where they were not counted. With `purge` the rows go too, in the background.
        Raises `RequestRefused` for what is none of the three.
        """

    async def allow(self, text: str) -> bool:
        """Lift a denial and have what it hid fetched again; False where there was none."""

    async def denials(self, *, before: int | None, limit: int) -> Sequence[Denial]:
        """Those with an id below `before`, newest first."""


class AuthorIndex(Protocol):
    """The index as authors may see it, and the queue for their repos."""

    def is_denied(self, did: str) -> bool:
        """Whether an operator keeps the account or its host out."""

    async def signing_key(self, did: str) -> str | None:
        """Multibase key of a tracked account; None: unknown, or perhaps another by now."""

    async def record(self, did: str, path: str) -> RecordState | None:
        """How a record stands; None where its repo is not tracked."""

    async def want(self, did: str) -> bool:
        """Queue a comparison of the repo with its host; False where a limit holds it back."""

    async def host_status(self, url: str) -> str | None:
        """Where a host stands; None for an unknown one."""


class HostRegistry(Protocol):
    """Where hosts are put down to be scanned."""

    async def register(self, urls: Sequence[str], source: HostSource) -> None:
        """Know hosts from now on, while there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorPorts:
    """What the methods for authors need."""

    index: AuthorIndex
    hosts: HostRegistry
    check_host: Callable[[str], None]  # raises `InvalidUpstream` for a URL never to be asked
    is_in_scope: Callable[[str], bool]  # collection/rkey


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminPorts:
    """One attribute a need."""

    backfills: Backfills
    status: Status
    letters: DeadLetterQueue
    audit: AuditLog
    repos: RepoListing
    stream: StreamSwitch
    cursors: CursorReset
    gaps: GapListing
    hosts: HostListing
    authors: AuthorPorts
    backups: Backups
    denials: Denials
    documents: DidDocuments
    tokens: TokenHorizon
    notes: Callable[[], Mapping[str, str]]
    """What goes on that an operator should know, though it makes nothing unready."""
