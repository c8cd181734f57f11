"""What operators keep out: accounts, single records, hosts. Pure.

A denied account or host is hidden and left alone until it is allowed again; a denied record has no
content here. Denying is nobody's opinion about what the author signed, so nothing of it reaches
the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from indexer.errors import InvalidUpstream, RequestRefused
from indexer.model import AccountStatus, PreparedRecord, Priority, RepoState, Wanted
from indexer.planning import Event, IdentitySeen, Repo
from indexer.protocol.syntax import is_did, is_handle, parse_at_uri

DENIED_PROBLEM = "denied"
"""The `problem` of a record without content because an operator denied it."""

HOST_DENIED = "its host is denied"
ACCOUNT_DENIED = "denied"
USUAL_PORTS = {"https": 443, "http": 80}
EVERYTHING = Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT


class DenialKind(StrEnum):
    """What a denial is about."""

    ACCOUNT = "account"
    RECORD = "record"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Subject:
    """What somebody denies or allows, in the one spelling that is stored."""

    kind: DenialKind
    text: str  # a DID, at://did/collection/rkey, or host[:port]: lower case, addresses compressed

    @property
    def did(self) -> str:
        """The account of an account or a record."""
        return self.text.removeprefix("at://").partition("/")[0]

    @property
    def path(self) -> str:
        """collection/rkey of a record."""
        return self.text.removeprefix("at://").partition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A durable denial."""

    id: int
    subject: str
    kind: str
    reason: str
    denied_by: str  # DID
    denied_at: float  # unix seconds
    is_purged: bool  # whether its rows are gone


def parse_subject(text: str) -> Subject:
    """A DID, the AT-URI of a record, or a host: a name or address, with or without a port.

    A host may be given as a URL. Raises `RequestRefused`, saying what is allowed.
    """
    if text.startswith("did:") and is_did(text):
        return Subject(DenialKind.ACCOUNT, text)
    if text.startswith("at://"):
        return Subject(DenialKind.RECORD, _record(text))
    host = _host(text)
    if host is None:
        raise _refused("must be a DID, the AT-URI of a record, or a host name")
    return Subject(DenialKind.HOST, host)


def _record(text: str) -> str:
    try:
        uri = parse_at_uri(text)
    except InvalidUpstream as error:
        raise _refused(error.detail) from error
    if uri.rkey is None:
        raise _refused("an AT-URI must name a record; give the DID to deny an account")
    if not is_did(uri.authority):
        raise _refused("an AT-URI must begin with the DID: a handle may move to another account")
    return text


def _host(text: str) -> str | None:
    """`host[:port]` of a host name, an address or a URL; None for anything else."""
    if (address := _address(text)) is not None:
        return address
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        name, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError:
        return None
    # urlsplit drops line ends and tabs: what is left may be somebody else's name.
    if not text.isprintable() or parts.scheme not in ("", *USUAL_PORTS) or "@" in parts.netloc:
        return None
    if parts.path.strip("/") or parts.query or parts.fragment:
        return None
    shown = name if is_handle(name) or name == "localhost" else _address(name)
    if shown is None:
        return None
    return shown if port in (None, USUAL_PORTS.get(parts.scheme)) else f"{shown}:{port}"


def _address(text: str) -> str | None:
    """An address in its one spelling, as in a URL; None for what is none, or is of one link."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)  # what is connected to
    return f"[{address.compressed}]" if address.scope_id is None else None


class DeniedHosts:
    """Denied hosts. A name stands for itself and all below it, one with a port for that alone."""

    def __init__(self, subjects: Iterable[str]) -> None:
        self._subjects = frozenset(subjects)

    def __bool__(self) -> bool:
        return bool(self._subjects)

    def covers(self, url: str | None) -> bool:
        """Whether the host of this URL is denied."""
        if url is None or not self._subjects:
            return False
        return any(name in self._subjects for name in _names(url))


def _names(url: str) -> Iterator[str]:
    """Every subject that covers a URL: https://a.b.example -> a.b.example:443, a.b.example, ..."""
    try:
        parts = urlsplit(url)
        name, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return
    address = _address(name)
    shown = name if address is None else address
    yield f"{shown}:{port or USUAL_PORTS.get(parts.scheme)}"
    yield shown
    labels = name.split(".")
    if address is None:
        yield from (".".join(labels[at:]) for at in range(1, len(labels) - 1))


def is_passed_over(event: Event, repo: Repo | None) -> bool:
    """Whether an event that was under way when its account was denied means nothing any more.

    An #identity may say that the account has left a denied host.
    """
    is_denied = repo is not None and repo.account_status is AccountStatus.DENIED
    return is_denied and not isinstance(event, IdentitySeen)


def denied(repo: Repo, reason: str) -> Repo:
    """The repo hidden and left alone. Whoever holds a claim on it has lost it."""
    return replace(
        repo,
        state=RepoState.DENIED,
        account_status=AccountStatus.DENIED,
        wanted=Wanted.NOTHING,
        claimed=Wanted.NOTHING,
        claim=repo.claim + 1,
        attempts=0,
        reason=reason,
    )


def allowed(repo: Repo, *, now: float) -> Repo:
    """The repo wanted again. It stays hidden until its own host has said that it is active."""
    return replace(
        repo,
        state=RepoState.PENDING if repo.rev is None else RepoState.DESYNCHRONIZED,
        account_status=AccountStatus.INACTIVE,
        wanted=EVERYTHING,
        claimed=Wanted.NOTHING,
        claim=repo.claim + 1,
        priority=min(repo.priority, Priority.REPAIR),
        retry_at=now,
        fetch_at=now,
        reason=None,
    )


def moved_away(repo: Repo) -> Repo:
    """A claimed repo that was denied for its host, and has another host now: it is fetched."""
    return replace(
        repo,
        state=RepoState.RESYNCING,
        account_status=AccountStatus.INACTIVE,
        claimed=EVERYTHING,
        reason=None,
    )


def emptied(repo: Repo) -> Repo:
    """A denied repo whose rows go: nothing is kept that could pass for completeness."""
    return replace(repo, rev=None, data=None, host_rev=None, scope_id=None)


def refetched(repo: Repo, *, now: float) -> Repo:
    """The repo with a row missing, as after a record of it was allowed: it is fetched anew.

    Whoever fetches it now may have passed the place, so the claim is void.
    """
    return replace(
        repo,
        state=RepoState.DESYNCHRONIZED,
        scope_id=None,
        wanted=repo.wanted | repo.claimed | Wanted.CONTENT,
        claimed=Wanted.NOTHING,
        claim=repo.claim + 1,
        priority=Priority.OPERATOR,
        retry_at=now,
        fetch_at=now,
    )


def without_content(record: PreparedRecord) -> PreparedRecord:
    """What is kept of a denied record: that it exists, and its CID."""
    return PreparedRecord(record.path, record.cid, None, DENIED_PROBLEM)


def _refused(what: str) -> RequestRefused:
    return RequestRefused("InvalidRequest", f"input subject: {what}")
