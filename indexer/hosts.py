"""The registry of hosts: where each stands, when it is due, and what a pass over it comes to. Pure.

A host is the origin of a PDS. A pass reads its list of repos to the end and asks about what is
unknown; only a pass that left nothing out counts as a scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from indexer.freshness import Outcome
from indexer.planning import Repo

RETRY_S_MIN = 600.0
RETRY_S_MAX = 86_400.0

LEASE_S = 3600.0
"""How long a pass holds its host without a sign of life; longer than any one step of it takes."""


class HostState(StrEnum):
    """Where a host stands: label of `chive_pds_hosts`."""

    PENDING = "pending"
    """Known, never scanned."""
    SCANNING = "scanning"
    """An operation holds it."""
    ACTIVE = "active"
    """Scanned, and has records in scope."""
    EMPTY = "empty"
    """Scanned, and has none."""
    UNREACHABLE = "unreachable"
    """The last pass came to nothing; the rest of the row says why."""


class HostSource(StrEnum):
    """Who named a host first; who asked for it, where that was a repo."""

    REPO = "repo"  # the DID document of a tracked repo
    RELAY = "relay"
    OPERATOR = "operator"
    AUTHOR = "author"  # by registerPDS


class HostOutcome(StrEnum):
    """How a pass over a host ended, as a unit of its operation."""

    SCANNED = "scanned"
    COVERED = "covered"
    """We track nothing there and the relay's lists name nothing there: it was not asked."""
    UNREACHABLE = "unreachable"
    UNLISTED = "unlisted"
    """Not of a host: a list of the relay's could not be read to its end."""
    DENIED = "denied"
    """An operator does not want anything of it."""


class StrangerOutcome(StrEnum):
    """What became of a repo on a host's list that was not known."""

    OUT_OF_SCOPE = "out_of_scope"  # has no record in scope, by its host's or the relay's word
    ASKED_BEFORE = "asked_before"  # the same, by a word that is not old
    UNASKED = "unasked"  # more than may be asked about in one pass
    INACTIVE = "inactive"
    FOREIGN = "foreign"  # its DID document names another host
    NOT_FOUND = "not_found"  # nobody knows its DID
    REFUSED = "refused"  # what the host says of it makes no sense


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLimits:
    """The settings of scans."""

    interval_s: float  # between scans of a host with records in scope
    interval_empty_s: float  # and of one without
    asked_max: int  # unknown repos that a host is asked about in one pass
    ask_again_days: int
    remembered_max: int  # answers kept
    scope_id: str  # of the collections that hosts are looked through for


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPass:
    """An operation's hold on a host."""

    operation_id: str
    host_id: int
    url: str
    cursor: str | None  # of the next page
    pages: int  # read so far
    is_listed: bool  # whether the list was read to its end
    has_repos: bool  # whether we track repos there
    is_relayed: bool  # whether it was the relay that named it, whose lists then speak for it
    outcomes: Mapping[str, int]  # of the pass so far


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTaken:
    """What a page of a host's list came to, apart from repos that are units of their own."""

    outcomes: Mapping[str, int]  # outcome -> repos
    records: int  # in-scope records that were found to be current
    cursor: str | None  # of the next page
    is_last: bool
    outcomes_before: Mapping[str, int] = field(default_factory=dict)
    records_before: int = 0
    """The same of repos that count at the host alone: the operation had settled them before."""


@dataclass(frozen=True, slots=True)
class HostsPage:
    """Part of a relay's list of hosts, as origins; a cursor of None ends it."""

    urls: tuple[str, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class KnownRepo:
    """A tracked repo beside what a host says of it."""

    repo: Repo
    pds_url: str | None
    records: int  # in-scope rows


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """A host as an operator sees it. Times are unix seconds."""

    url: str
    status: HostState
    scanned_at: float | None
    next_scan_at: float
    repos: int  # tracked
    records: int  # in scope, in the last scan
    failures: int  # passes in a row
    failures_total: int
    error: str | None
    operation_id: str | None  # of the last pass
    outcomes: Mapping[str, int] = field(default_factory=dict)  # of that pass


def has_all_failed(outcomes: Mapping[str, int], *, units: int, failed: int) -> bool:
    """Whether all has failed: every unit, or every host and list, or every repo of the hosts.

    Those do not count that only wait, mostly for a host that has failed too often to be asked.
    """
    lost = sum(outcomes.get(each, 0) for each in (HostOutcome.UNREACHABLE, HostOutcome.UNLISTED))
    hosts = lost + sum(outcomes.get(each, 0) for each in (HostOutcome.SCANNED, HostOutcome.COVERED))
    waiting = outcomes.get(Outcome.PUT_OFF, 0)
    return failed == units - waiting or 0 < lost == hosts or 0 < units - hosts == failed - lost


def retry_s(failures: int) -> float:
    """Seconds until a host is tried again that has failed so many times in a row.

    10 minutes, 20, 40 ... a day.
    """
    return min(RETRY_S_MIN * 2.0 ** min(failures - 1, 20), RETRY_S_MAX)
