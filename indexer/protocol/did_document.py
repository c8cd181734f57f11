"""DID documents, reduced to what an indexer needs: handle, signing key, host.

Bounded and shape only: nothing is resolved, and a document that lacks a key or a host is valid.
Source: the DID and account specifications; older key types as PLC servers still render them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.syntax import is_handle

ENTRIES_MAX = 100
URL_CHARS_MAX = 512

_HOST = re.compile(r"[a-z0-9_.-]{1,253}|\[[0-9a-f:.]+\]")


@dataclass(frozen=True, slots=True)
class DidDocument:
    """The parts of a DID document that matter here."""

    did: str
    handle: str | None  # claimed, not verified; lower case
    signing_key: str | None  # multibase, canonical
    pds_url: str | None  # scheme://host[:port]


def parse_did_document(document: object, did: str) -> DidDocument:
    """Read a parsed JSON document that was fetched for `did`.

    Of several entries the first valid one counts. Raises `InvalidUpstream`
    (`Check.DID_DOCUMENT`) when it is not an object, is another DID's, or exceeds a bound.
    """
    if not isinstance(document, dict):
        raise InvalidUpstream(Check.DID_DOCUMENT, "not an object")
    if document.get("id") != did:
        raise InvalidUpstream(Check.DID_DOCUMENT, f"is of {str(document.get('id'))[:100]!r}")
    return DidDocument(
        did=did,
        handle=_handle(_entries(document, "alsoKnownAs")),
        signing_key=_signing_key(_entries(document, "verificationMethod"), did),
        pds_url=_pds_url(_entries(document, "service"), did),
    )


def _entries(document: dict[object, object], name: str) -> list[object]:
    entries = document.get(name)
    if not isinstance(entries, list):
        return []
    if len(entries) > ENTRIES_MAX:
        raise InvalidUpstream(Check.DID_DOCUMENT, f"{name} has {len(entries)} entries")
    return entries


def _handle(entries: list[object]) -> str | None:
    for entry in entries:
        if isinstance(entry, str) and entry.startswith("at://"):
            handle = entry[5:].lower()
            return handle if is_handle(handle) else None
    return None


def _signing_key(entries: list[object], did: str) -> str | None:
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("id") not in ("#atproto", f"{did}#atproto"):
            continue
        kind, text = entry.get("type"), entry.get("publicKeyMultibase")
        if entry.get("controller") != did or not isinstance(kind, str) or not isinstance(text, str):
            continue
        try:
            if kind == "Multikey":
                return VerifyingKey.parse(text).multibase
            return VerifyingKey.legacy(kind, text).multibase
        except InvalidUpstream:
            # An unusable entry does not stand in the way of a later usable one.
            continue
    return None


def _pds_url(entries: list[object], did: str) -> str | None:
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        if entry.get("id") not in ("#atproto_pds", f"{did}#atproto_pds"):
            continue
        url = entry.get("serviceEndpoint")
        if entry.get("type") == "AtprotoPersonalDataServer" and isinstance(url, str):
            origin = parse_origin(url)
            if origin is not None:
                return origin
    return None


def parse_origin(url: str) -> str | None:
    """The URL as `scheme://host[:port]` if it is nothing more than that, else None."""
    if len(url) > URL_CHARS_MAX:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        return None
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        return None
    name = parts.hostname.removesuffix(".")  # a name from the root is the same host
    host = f"[{name}]" if ":" in name else name
    if _HOST.fullmatch(host) is None or name.endswith(".") or port == 0:
        return None
    default = {"http": 80, "https": 443}[parts.scheme]
    suffix = "" if port is None or port == default else f":{port}"
    return f"{parts.scheme}://{host}{suffix}"
