"""The log of a did:plc, reduced to the signing keys that an account once had.

Shape only: the directory is believed here as it is for the document itself.
Source: the did:plc specification, "Audit log"; `create` is the operation type before 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.syntax import datetime_to_unix

OPERATIONS_MAX = 1000
DID_KEY = "did:key:"


@dataclass(frozen=True, slots=True)
class FormerKey:
    """A signing key that was an account's until another took its place."""

    key: VerifyingKey
    until: float  # unix seconds, of the operation that replaced it


def parse_former_keys(log: object) -> tuple[FormerKey, ...]:
    """The keys of an audit log, newest first, without the one that is in force.

    Nullified operations never counted. Raises `InvalidUpstream` (`Check.DID_DOCUMENT`) for
    anything that is not a list of operations.
    """
    if not isinstance(log, list) or len(log) > OPERATIONS_MAX:
        raise InvalidUpstream(Check.DID_DOCUMENT, "the log is not a list, or too long")
    former: list[FormerKey] = []
    current: str | None = None
    for entry in log:
        if not isinstance(entry, dict) or not isinstance(entry.get("operation"), dict):
            raise InvalidUpstream(Check.DID_DOCUMENT, "the log has an entry without operation")
        if entry.get("nullified") is True:
            continue
        text = signing_key_of(entry["operation"])
        if current is not None and text != current:
            former += _ended(current, entry.get("createdAt"))
        current = text
    return tuple(reversed(former))


def signing_key_of(operation: dict[object, object]) -> str | None:
    """The account's signing key that an operation sets, as `did:key:...`."""
    methods = operation.get("verificationMethods")
    text = methods.get("atproto") if isinstance(methods, dict) else operation.get("signingKey")
    return text if isinstance(text, str) else None


def _ended(text: str, created_at: object) -> list[FormerKey]:
    if not isinstance(created_at, str):
        raise InvalidUpstream(Check.DID_DOCUMENT, "the log has an entry without a time")
    until = datetime_to_unix(created_at)
    try:
        return [FormerKey(VerifyingKey.parse(text.removeprefix(DID_KEY)), until)]
    except InvalidUpstream:
        return []  # a key that we cannot use has signed nothing that we could accept
