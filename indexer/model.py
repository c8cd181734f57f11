"""The vocabulary shared by every ring: repo states, account statuses, scope, operations.

Pure values only. Wire shapes live in `indexer.protocol`, rows in `storage`. Binary CIDs are
`bytes` (version, codec, multihash; no multibase prefix) inside the process and base32 text at
its edges: columns, JSON, logs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntFlag, StrEnum
from typing import TypeAlias

import msgspec

from indexer.derived import Projection

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""Any JSON value. Floats appear only in configuration and answers, never in records."""


def utc_text(at: float) -> str:
    """Unix seconds as the ISO 8601 text used in rows and answers, in milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def from_utc_text(text: str) -> float:
    """Unix seconds of what `utc_text` wrote."""
    return datetime.fromisoformat(text).timestamp()


class RepoState(StrEnum):
    """Where a repo stands. Only an `active` repo's rows are exactly those of a signed commit."""

    PENDING = "pending"
    """Known, never fetched."""
    RESYNCING = "resyncing"
    """A worker holds the claim and fetches; live commits are buffered."""
    ACTIVE = "active"
    """The rows equal the signed commit `rev`; live commits are applied."""
    DESYNCHRONIZED = "desynchronized"
    """A live event did not follow from what we hold; the rows stay until the resync."""
    ERROR = "error"
    """The last attempt failed; tried again at `retry_at`."""
    DELETED = "deleted"
    """The account is gone; its rows are purged. Terminal until it comes back."""
    NOT_FOUND = "not_found"
    """Its host does not know the repo. Terminal until a new event or an operator."""
    INVALID = "invalid"
    """The repo's structure or signature is wrong at this host_rev. Terminal until another."""
    TOO_LARGE = "too_large"
    """Over the byte or record quota. Terminal until an operator overrides."""
    LIMITED = "limited"
    """Refused by a quota. Terminal until an operator overrides."""
    FOREIGN = "foreign"
    """Nominated by a host that its DID document does not name. Nothing is fetched."""
    DENIED = "denied"
    """An operator keeps the account or its host out. Nothing is fetched until it is allowed."""


TERMINAL_STATES = frozenset(
    {
        RepoState.DELETED,
        RepoState.NOT_FOUND,
        RepoState.INVALID,
        RepoState.TOO_LARGE,
        RepoState.LIMITED,
        RepoState.FOREIGN,
        RepoState.DENIED,
    }
)
"""States from which only a new observation or an operator leads out; never an error loop."""


class AccountStatus(StrEnum):
    """What the account's host says of it. Only `active` accounts are visible in views."""

    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    SUSPENDED = "suspended"
    TAKENDOWN = "takendown"
    DELETED = "deleted"
    INACTIVE = "inactive"
    """Not active, for a reason that we have no name for."""
    DENIED = "denied"
    """Hidden by an operator, whatever its host says; no host's word means this."""


INACTIVE_WORDS = {s.value: s for s in AccountStatus if s not in ("active", "denied")}


def account_status(*, active: bool, status: str | None) -> AccountStatus:
    """The status that a host's `active` and `status` fields mean.

    `active` decides visibility, `status` only explains: an unknown word with active=false is
    `inactive`, any word with active=true is `active`.
    """
    if active:
        return AccountStatus.ACTIVE
    return INACTIVE_WORDS.get(status or "", AccountStatus.INACTIVE)


class Wanted(IntFlag):
    """What a resync worker must do for a repo. Any trigger raises a bit; a claim takes them all."""

    NOTHING = 0
    IDENTITY = 1
    """Resolve the DID document again; until then the stored key is stale."""
    ACCOUNT = 2
    """Ask the account's own host for its status."""
    CONTENT = 4
    """Compare the host's rev with ours and fetch the repo where they differ."""


class Priority:
    """Order of resync work, lowest number first."""

    OPERATOR = 0
    REPAIR = 1
    DISCOVERY = 2


class Source(StrEnum):
    """How a record row came to us: label of `chive_records_total`."""

    LIVE = "live"
    BACKFILL = "backfill"


UNTYPED = "other"
"""What stands for every collection that has no registered type, where they are counted."""

FROM_NOW_ON = -1
"""The cursor of a stream that is to be followed from its present, whatever was before."""


class GapReason(StrEnum):
    """Why part of a stream was not seen: label of `chive_firehose_gaps_total`."""

    OUTDATED_CURSOR = "outdated_cursor"
    """The relay no longer has what followed our cursor."""
    SEQ_REGRESSION = "seq_regression"
    """A sequence number of a new event came after higher ones that had been applied."""
    QUARANTINED = "quarantined"
    """A frame that cannot be decoded was passed over."""
    RELAY_CHANGED = "relay_changed"
    """A stream without a cursor of its own is followed after another one."""
    NO_CURSOR = "no_cursor"
    """A stream that had brought no event to go on from was dialled again."""
    FUTURE_CURSOR = "future_cursor"
    """The relay's numbers ended before our cursor; what is followed are those behind it, or its
    present."""
    DISCOVERY = "discovery"
    """New repos were more than may wait, or than there is space for."""
    CURSOR_RESET = "cursor_reset"
    """An operator moved the cursor ahead."""


class OperationType(StrEnum):
    """The six backfills, spelled as the lexicon of `pub.chive.admin.triggerBackfill` does."""

    PDS_SCAN = "pdsScan"
    FRESHNESS_SCAN = "freshnessScan"
    CITATION_EXTRACTION = "citationExtraction"
    FULL_REINDEX = "fullReindex"
    GOVERNANCE_SYNC = "governanceSync"
    DID_SYNC = "didSync"


SCHEDULE = "schedule"
"""Who started an operation that began by itself."""


class OperationMode(StrEnum):
    """What becomes of the live stream beside an operation."""

    SUPPLEMENT = "supplement"
    """It goes on."""
    PAUSE = "pause"
    """It is held until the operation has ended, or for as long as may be."""


class OperationStatus(StrEnum):
    """One guarded state machine: `running` may become any of the others, those never change."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """All MST keys that start with `prefix`."""

    prefix: str

    @property
    def start(self) -> bytes:
        """Smallest key in the range."""
        return self.prefix.encode()

    @property
    def end(self) -> bytes:
        """First key after the range: the prefix with its last byte raised by one."""
        raw = self.prefix.encode()
        return raw[:-1] + bytes([raw[-1] + 1])


class FetchMethod(StrEnum):
    """How the content of a repo is fetched: label of `chive_resyncs_total`."""

    CAR = "car"
    """Whole, by getRepo."""
    SPARSE = "sparse"
    """Only the part of the tree that is in scope, by getRecord and getBlocks."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The collections that we index: NSIDs, or `prefix.*` which is cut at a dot.

    `Scope(("pub.chive.*",))` holds `pub.chive.eprint.submission/3k...` and not
    `pub.chiveother.x/3k...`.
    """

    patterns: tuple[str, ...]
    prefixes: tuple[str, ...] = field(init=False)
    """Key prefixes, for `str.startswith`."""

    def __post_init__(self) -> None:
        cut = {p[:-1] if p.endswith(".*") else p + "/" for p in self.patterns}
        kept = sorted(p for p in cut if not any(p != q and p.startswith(q) for q in cut))
        object.__setattr__(self, "prefixes", tuple(kept))

    def __contains__(self, path: str) -> bool:
        """Whether the record path `collection/rkey` is in scope."""
        return path.startswith(self.prefixes)

    @property
    def named(self) -> tuple[str, ...]:
        """The collections that are given by their whole names."""
        return tuple(pattern for pattern in self.patterns if not pattern.endswith(".*"))

    @property
    def ranges(self) -> tuple[KeyRange, ...]:
        """Disjoint ranges of MST keys, ascending."""
        return tuple(KeyRange(prefix) for prefix in self.prefixes)

    @property
    def scope_id(self) -> str:
        """Short hash by which a repo row says under which scope it was read."""
        return hashlib.sha256("\n".join(self.prefixes).encode()).hexdigest()[:16]


class PreparedRecord(msgspec.Struct, frozen=True, array_like=True):
    """One in-scope leaf made ready for its row, off the writer.

    `value` is ATProto JSON text, or None where the value breaks the data model; then and for
    lexicon violations `problem` names the path and reason of the first one.
    """

    path: str  # collection/rkey
    cid: str  # base32 text
    value: str | None
    problem: str | None
    projection: Projection | None = None

    @property
    def is_valid(self) -> bool:
        """Whether the record may appear in typed views."""
        return self.problem is None


@dataclass(slots=True)
class Applied:
    """What a transaction did, for counters and for what is kept in memory."""

    outcomes: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)  # Check value -> events that failed it
    records: Counter[tuple[str, str]] = field(default_factory=Counter)  # (collection, action)
    tracked: list[str] = field(default_factory=list)  # DIDs tracked from now on
    is_work_added: bool = False  # whether a resync worker has something new to claim
    gaps: Counter[GapReason] = field(default_factory=Counter)  # opened
    refused: Counter[str] = field(default_factory=Counter)  # Limit value -> repos over it


@dataclass(frozen=True, slots=True, kw_only=True)
class GapSeen:
    """Part of a stream was missed. A bound of None is what the cursor says, or not known yet."""

    reason: GapReason
    after_seq: int | None = None  # last event before it
    before_seq: int | None = None  # first event after it
    before_at: float | None = None  # its `time`, unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One backfill run as its durable row says."""

    id: str  # decimal-free opaque text, stable for ever
    type: OperationType
    key: str  # what makes two runs the same one: the DID, the origin, or the type
    mode: OperationMode
    phase: str  # queued | running | ended: finer than status
    params: dict[str, Json]
    status: OperationStatus
    started_at: float  # unix seconds
    completed_at: float | None
    started_by: str | None  # DID of the admin or `SCHEDULE`; None: a password admin, or ourselves
    records_processed: int  # in-scope records compared with the network or rebuilt
    total_records: int | None
    unit: str  # what the type works through: repo | record | eprint
    units_processed: int  # settled; of a fullReindex, the share of its work that is done
    total_units: int | None
    outcomes: dict[str, int]  # outcome -> number of units
    checkpoint: Json  # the type's own, from which a restart resumes
    error: str | None
    cancel_requested: bool
    units_failed: int = 0
    note: str | None = None  # what an operator should know of how it ran
    work_began_at: float | None = None  # unix seconds; after a restart, when it went on
    units_before: int = 0  # `units_processed` then


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledUnit:
    """What became of one unit of an operation's work, and the progress that goes with it."""

    unit: str
    outcome: str
    records: int
    is_failed: bool = False  # whether it counts among the failures
    message: str | None = None  # why, where it failed
    note: str | None = None  # for the operation's own
    checkpoint: Json = None  # where to resume from, saved in the same transaction; None: as it was


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedUnit:
    """One of the units of an operation that failed."""

    unit: str
    outcome: str
    message: str | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a stream has been read, durably."""

    seq: int | None  # None: nothing of it yet
    event_at: float | None  # the `time` of the newest event, unix seconds
    saved_at: float  # our clock


@dataclass(frozen=True, slots=True, kw_only=True)
class FirehoseStatus:
    """The live stream as an operator sees it."""

    url: str
    connected: bool
    paused: bool
    cursor: int | None  # last durable seq
    last_event_at: float | None  # the `time` of the newest event, unix seconds
    last_received_at: float | None  # our clock
    cursor_saved_at: float | None = None  # our clock


VERIFIED_AGES = {"1h": 3600.0, "24h": 86_400.0, "7d": 604_800.0, "30d": 2_592_000.0}
"""Name -> seconds: within which a repo was found equal to what its host has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCounts:
    """Totals that the store keeps in the same transactions as the rows."""

    repos: dict[str, int]  # RepoState value -> repos
    accounts: dict[str, int]  # AccountStatus value -> repos
    records: dict[str, int]  # collection -> rows; `UNTYPED`: of all that have no type
    dead_letters: dict[str, int]  # reason -> rows
    rolled_back: int = 0  # repos whose hosts were set back
    open_gaps: int = 0  # of the streams, not repaired yet and due to be
    verified: dict[str, int] = field(default_factory=dict)  # name of `VERIFIED_AGES` -> repos


@dataclass(frozen=True, slots=True)
class DeadLetterDraft:
    """A refusal to keep: reason and message, never more of the event than metadata."""

    reason: str
    message: str
    did: str | None = None
    uri: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Something upstream sent that was refused, kept with its reason."""

    id: int
    reason: str
    did: str | None
    uri: str | None
    seq: int | None
    message: str
    retry_count: int
    created_at: float
    last_retry_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """How much of what is visible: valid records of active accounts, by Chive's own names."""

    eprints: int
    authors: int  # accounts with at least one eprint
    reviews: int
    endorsements: int
    collections: int
    tags: int
    records: int  # rows of all types, of all accounts
    repos: int
    verified: int  # of the repos: compared with their hosts within 24 hours


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoRow:
    """A tracked repo as an operator sees it. Times are unix seconds; 0: never."""

    did: str
    handle: str | None
    pds_url: str | None
    status: str
    state: str
    rev: str | None
    host_rev: str | None
    data: str | None  # base32 text
    reason: str | None
    attempts: int
    retry_at: float | None  # None: nothing is wanted of it
    synced_at: float
    verified_at: float
    tracked_since: str  # ISO text
    updated_at: str
