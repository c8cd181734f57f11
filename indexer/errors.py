"""The error families that decide policy.

A caller never inspects messages; it chooses by class. `InvalidUpstream` means that the network
said something wrong: count it, keep a dead letter, carry on. `Unavailable` means that a peer did
not answer usefully: try again with backoff. `LocalBusy` means that this machine is short of
something (disk, descriptors): wait and retry, intake pauses. `LocalFault` means that our own
store or code is broken: stop the process, non-zero. `ConfigurationError` ends a start with
exit code 78, `RequestRefused` is an admin's mistake and becomes a 4xx answer.
"""

from __future__ import annotations

import traceback
from enum import StrEnum
from pathlib import Path

BUG_CHARS_MAX = 500


class Check(StrEnum):
    """What a piece of upstream data failed: the closed label set of `chive_verify_failures_total`.

    The order follows the checks of a commit from frame to record.
    """

    FRAME = "frame"
    """The websocket message is not a well-formed event frame."""
    FIELDS = "fields"
    """A field of the event is absent or of the wrong type."""
    LIMITS = "limits"
    """A documented size, count or depth limit is exceeded."""
    FUTURE_REV = "future_rev"
    """The revision lies more than five minutes ahead of our clock."""
    CAR = "car"
    """The archive is malformed, or its root is not the commit."""
    BLOCK_HASH = "block_hash"
    """A block does not hash to its CID."""
    CBOR = "cbor"
    """A commit or MST node is not canonical DAG-CBOR."""
    COMMIT = "commit"
    """A field of the signed commit block is wrong or contradicts the event."""
    KEY = "key"
    """The account's signing key is unknown or unusable."""
    SIGNATURE = "signature"
    """The signature does not verify with the account's current key."""
    OPS = "ops"
    """The op list is malformed or contradicts the tree."""
    MST = "mst"
    """The tree breaks a rule of the MST."""
    INVERSION = "inversion"
    """Undoing the ops does not give `prevData`."""
    NOT_INVERTIBLE = "not_invertible"
    """A needed block or `prev` is absent: nothing can be said about the claim."""
    CHAIN = "chain"
    """The commit does not follow the one we hold."""
    DID_DOCUMENT = "did_document"
    """The DID document is malformed or names another DID."""
    RECORD = "record"
    """A record breaks the data model or its lexicon."""
    HOST = "host"
    """An address or URL that we refuse to contact."""
    RESPONSE = "response"
    """An HTTP answer that is not what the method promises."""
    BUG = "bug"
    """Nothing that is known to be wrong with it: our own code failed over it."""


class ChiveIndexerError(Exception):
    """Base of every error that this project raises on purpose."""


class InvalidUpstream(ChiveIndexerError):
    """The network said something wrong: count `check`, keep a dead letter, carry on."""

    def __init__(self, check: Check, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check
        self.detail = detail


def bug(error: Exception) -> InvalidUpstream:
    """An error that nobody raised on purpose, as one of the data over which it came.

    It is a bug of ours. But who can make it happen once can do so again, after every start, and
    would stop everything: so it costs whoever's data it was, and no one else.
    """
    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(at.filename).name}:{at.lineno}"
    return InvalidUpstream(Check.BUG, f"{type(error).__name__} at {where}: {error}"[:BUG_CHARS_MAX])


class DidGone(InvalidUpstream):
    """A DID's authority does not know it, or (`is_tombstone`) says that it is no more."""

    def __init__(self, detail: str, *, is_tombstone: bool) -> None:
        super().__init__(Check.DID_DOCUMENT, detail)
        self.is_tombstone = is_tombstone


class RepoTooLarge(InvalidUpstream):
    """A repo beyond the byte or record quota: a state of the repo, not a failure to retry."""

    def __init__(self, detail: str) -> None:
        super().__init__(Check.LIMITS, detail)


class RepoLimited(InvalidUpstream):
    """A repo over one of our `limits`: a state of it until an operator wants it all the same."""

    def __init__(self, limit: str) -> None:
        super().__init__(Check.LIMITS, f"over limits.{limit}")
        self.limit = limit


class Unavailable(ChiveIndexerError):
    """A peer gave no useful answer: retry with backoff, not before `retry_after_s` if it is set."""

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class NotAsked(Unavailable):
    """Nothing was sent, by our own manners: says nothing of what was to be asked about."""

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.wait_s = retry_after_s


class NotServed(Unavailable):
    """A host does not offer a method, or not in the form that we need: use another one there."""


class RepoWithdrawn(Unavailable):
    """A host does not give a repo that it called active a moment ago: ask how it is by now."""


class LocalBusy(ChiveIndexerError):
    """This machine is short of something that will come back: wait, retry, pause intake."""


class LocalFault(ChiveIndexerError):
    """Our own store or code is broken: the process must end non-zero (exit 74 or 70)."""


class ConfigurationError(ChiveIndexerError):
    """The process cannot start as configured: one line with key, value, remedy; exit 78."""


class RequestRefused(ChiveIndexerError):
    """An admin asked for something that cannot be done: answered as a 4xx XRPC error `name`."""

    def __init__(self, name: str, message: str, *, status: int = 400) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.status = status
