"""The sections of the settings: every name, default and limit that an operator may move.

The docstring under a setting is what it means; `indexer.settings` reads them, and
`config/indexer.example.toml` shows them all. A setting exists only where some part reads it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from indexer.setting_values import (
    DEFAULT_INTERVALS_S,
    DEFAULT_MODES,
    Address,
    Dids,
    DidText,
    File,
    HeaderText,
    Intervals,
    Modes,
    Names,
    Networks,
    Origin,
    Patterns,
    Port,
    Service,
    StoreFile,
    StreamUrls,
)

INTEGER_MAX = 2**63 - 1
"""The greatest number that SQLite takes, of settings that become part of a statement."""


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _not_a_truth_value(cls, value: object, info: ValidationInfo) -> object:
        """Python takes true for 1; an operator who writes it means something else."""
        is_truth = cls.model_fields[info.field_name or ""].annotation is bool
        if isinstance(value, bool) and not is_truth:
            raise ValueError("must not be true or false")
        return value


class StorageSettings(Section):
    """Where the index lives."""

    path: StoreFile = Path("data/index.db")
    """The SQLite file. Under systemd `index.db` in $STATE_DIRECTORY."""
    pending_bytes_per_repo: Annotated[int, Field(ge=1_000_000)] = 8 * 1024 * 1024
    """Live commits kept for one repo while it is fetched, in bytes; the newest win."""
    backup_dir: File | None = None
    """Directory that createBackup writes copies into; without it there are none."""
    dead_letter_days_max: Annotated[float, Field(gt=0, le=36_500)] = 30.0
    """Dead letters are dropped after so many days."""
    dead_letters_max: Annotated[int, Field(ge=100)] = 100_000
    """Dead letters kept; beyond it the oldest of the account with most of them are dropped."""

    @property
    def file(self) -> Path:
        """Where the file is that `path` leads to: what lies beside it must be found by any link."""
        return Path(os.path.realpath(self.path))


class FirehoseSettings(Section):
    """The live stream."""

    url: StreamUrls = ("wss://relay1.us-east.bsky.network",)
    """Relay (or PDS) to follow, or a list of them in order of preference."""
    start: Literal["live", "oldest"] | Annotated[int, Field(ge=1)] = "live"
    """Where a first start begins that has no cursor yet: live, oldest, or a seq."""
    on_future_cursor: Literal["hold", "live"] = "hold"
    """Where the relay's numbers end before our cursor: hold and say so, or follow its present."""
    idle_s: Annotated[float, Field(gt=0, le=86400)] | None = None
    """Reconnect after so long without an event; 60 for relays of the whole public network."""
    batch_frames: Annotated[int, Field(ge=1, le=5000)] = 2000
    """Frames handed on at once at most."""
    batch_ms: Annotated[int, Field(ge=1, le=1000)] = 3
    """How long frames are gathered into one batch, in milliseconds."""


class IdentitySettings(Section):
    """Who vouches for DIDs and handles."""

    plc_url: Origin = "https://plc.directory"
    """The PLC directory."""
    handle_resolver_url: Origin | None = None
    """An XRPC host for resolveHandle when DNS is not to be used."""
    refresh_interval_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """A DID document is resolved at most once in this time, whatever the events say."""
    export_interval_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """The directory's log of all changes is read so often, where it has one; 0 never."""


class ScopeSettings(Section):
    """What is indexed."""

    collections: Patterns = ("pub.chive.*",)
    """NSIDs, or `prefix.*`."""
    lexicon_dir: File | None = None
    """A folder with further lexicon files (*.json) to validate records with.

    When they have changed, all records are judged anew, by a `fullReindex` that starts by itself.
    """


class ResyncSettings(Section):
    """Fetching whole repos."""

    workers: Annotated[int, Field(ge=1, le=64)] = 4
    """Repos fetched at the same time."""
    repo_bytes_max: Annotated[int, Field(ge=1_000_000)] = 500 * 1024 * 1024
    """Largest repo archive that is fetched."""
    spool_bytes_max: Annotated[int, Field(ge=1_000_000)] = 2 * 1024 * 1024 * 1024
    """Disk space for all archives together while they are read."""
    idle_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """A transfer that brings nothing for this long is given up."""
    total_s: Annotated[float, Field(gt=0, le=86400)] = 1800.0
    """Longest time that one transfer may take."""


class NetworkSettings(Section):
    """Outbound requests."""

    allow_private_hosts: bool = False
    """Development only: permits http and loopback targets."""
    relay_url: Origin | None = None
    """Relay that lists repos by collection; the https form of firehose.url when absent."""
    requests_per_s_per_host: Annotated[float, Field(gt=0, le=1000)] = 10.0
    """Requests a second to any one host; the PDS's own limit is 3,000 in five minutes."""
    contact: HeaderText = "https://github.com/chive-pub"
    """URL or mail address in the User-Agent, for the operators of the hosts that we ask."""


class AdminSettings(Section):
    """The admin listener: XRPC, health."""

    bind: Address = "127.0.0.1"
    """Address to listen on. Anything but loopback needs a credential: a password file, or dids."""
    port: Port = 2580
    """Port to listen on; 0 takes a free one."""
    password_file: File | None = None
    """File with the password of `admin`; several lines are several valid passwords."""
    hosts: Names = ()
    """Further names under which the listener may be addressed (Host header)."""
    trusted_proxies: Networks = ()
    """Addresses or networks of reverse proxies whose X-Forwarded-For counts."""
    service_did: DidText | None = None
    """Our own DID, for which service-auth tokens are made out."""
    dids: Dids = ()
    """DIDs of admins, who call with service-auth tokens of their hosts."""
    author_methods: bool = False
    """Serve pub.chive.sync.* to any author with a token of their own host. Needs service_did."""
    requests_per_s: Annotated[float, Field(ge=1, le=100_000)] = 100.0
    """XRPC requests a second that one client may make; twice as many at once after a rest."""


class MetricsSettings(Section):
    """The metrics listener."""

    bind: Address = "127.0.0.1"
    """Address to listen on."""
    port: Port = 2581
    """Port to listen on; 0 takes a free one."""


class BackfillSettings(Section):
    """Operations."""

    max_running: Annotated[int, Field(ge=1, le=64)] = 4
    """Operations at work at the same time; others wait their turn."""
    mode: Modes = DEFAULT_MODES
    """For each type whether the live stream goes on beside it or is held; a call may differ."""
    interval_s: Intervals = DEFAULT_INTERVALS_S
    """For each type the seconds between two runs that begin by themselves; 0: none do."""
    pause_s_max: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """A stream that is held goes on once its newest event is so many seconds old."""
    history_days_max: Annotated[float, Field(gt=0, le=36_500)] = 90.0
    """Operations are forgotten so many days after they ended."""
    bootstrap: bool = True
    """Scan all hosts once, when none was ever completed on this store for `scope.collections`."""


class HostsSettings(Section):
    """Scans of hosts."""

    scan_interval_h: Annotated[float, Field(gt=0, le=8760)] = 24.0
    """Hours after which a host with records in scope is due again."""
    scan_interval_empty_h: Annotated[float, Field(gt=0, le=8760)] = 168.0
    """Hours after which one without is."""
    ask_repos_max: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """Unknown repos that a host is asked about in one scan, where the relay lists none."""
    ask_again_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Days for which an answer that a repo has nothing in scope is believed."""
    asked_repos_max: Annotated[int, Field(ge=1000)] = 2_000_000
    """Such answers kept; beyond it the oldest are forgotten."""


class LimitsSettings(Section):
    """What strangers may take of this machine."""

    records_per_repo: Annotated[int, Field(ge=1, le=INTEGER_MAX)] = 200_000
    """Records of one repo; one with more is `limited` until an operator syncs it by didSync."""
    bytes_per_repo: Annotated[int, Field(ge=1_000_000, le=INTEGER_MAX)] = 256 * 1024 * 1024
    """Their values together, as JSON text; likewise."""
    new_repos_per_host_day: Annotated[int, Field(ge=1)] = 2_000
    """Repos fetched for the first time in a day, of each domain and of each address."""
    pending_max: Annotated[int, Field(ge=1)] = 200_000
    """Repos that wait to be fetched for the first time; others are looked for again later."""
    db_bytes_max: Annotated[int, Field(ge=10_000_000)] = 64 * 1024**3
    """Most that the store may hold, in bytes; beyond it nothing more is taken in."""
    db_bytes_reserve: Annotated[int, Field(ge=0)] = 1024**3
    """So many bytes before that no new repo is taken in."""


class GovernanceSettings(Section):
    """The account whose graph records are the authority."""

    did: DidText = "did:plc:5wzpn4a4nbqtz3q45hyud6hd"
    """Its DID."""
    pds_url: Origin | None = None
    """Where its repo is asked for instead of at the host that its DID document names."""


class CitationsSettings(Section):
    """What the documents of eprints cite. Only the document itself is always asked."""

    grobid_url: Service = ""
    """A GROBID service, which reads references better than we do; empty: off."""
    crossref_url: Service = "https://api.crossref.org"
    """Crossref, which knows what published versions cite; empty: off."""
    semantic_scholar_url: Service = "https://api.semanticscholar.org"
    """Semantic Scholar, which does so for preprints too; empty: off."""
    mailto: HeaderText | None = None
    """Mail address for Crossref, which serves those that give one better."""
    workers: Annotated[int, Field(ge=1, le=16)] = 2
    """Eprints at work at the same time, each with a process of at most 512 MiB."""
    document_bytes_max: Annotated[int, Field(ge=100_000)] = 50 * 1024 * 1024
    """Largest document that is fetched."""


class LogSettings(Section):
    """What is written to standard error."""

    format: Literal["json", "console"] | None = None
    """json or console; by default json unless standard error is a terminal."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important events that are written."""
