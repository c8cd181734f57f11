"""The string formats of the AT Protocol: identifiers, names, times.

Each `is_*` says whether a text has the form; each `parse_*` returns it or raises `InvalidUpstream`
(`Check.FIELDS`) that names the format and the text. Syntax only: nothing is resolved.
Source: the specification pages for DID, handle, NSID, TID, record key, AT-URI and Lexicon.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from indexer.errors import Check, InvalidUpstream

DID_CHARS_MAX = 2048
HANDLE_CHARS_MAX = 253
NSID_CHARS_MAX = 317
AT_URI_CHARS_MAX = 8192
URI_CHARS_MAX = 8192
DATETIME_CHARS_MAX = 64
LANGUAGE_CHARS_MAX = 128
QUOTED_CHARS_MAX = 120

_DID = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
_PLC = re.compile(r"did:plc:[a-z2-7]{24}")
_HANDLE = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+"
    r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
)
_NSID = re.compile(
    r"[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+"
    r"\.[a-zA-Z][a-zA-Z0-9]{0,62}"
)
_RKEY = re.compile(r"[a-zA-Z0-9._:~-]{1,512}")
_TID = re.compile(r"[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}")
_LANGUAGE = re.compile(r"(?:[ixX]|[a-z]{2,3})(?:-[a-zA-Z0-9]{1,8})*", re.ASCII)
_URI = re.compile(r"[a-z][a-z.-]{0,80}:[^\s]+")
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_CID = re.compile(r"[a-zA-Z0-9+=]{8,256}")
_DATETIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,20}))?(Z|[+-]\d{2}:\d{2})",
    re.ASCII,
)
_TID_VALUES = {char: value for value, char in enumerate("234567abcdefghijklmnopqrstuvwxyz")}


@dataclass(frozen=True, slots=True)
class AtUri:
    """An AT-URI in its parts; `collection` and `rkey` may be absent."""

    authority: str  # a DID or a handle
    collection: str | None
    rkey: str | None


def is_did(text: str) -> bool:
    """Whether the text is a DID of any method."""
    return len(text) <= DID_CHARS_MAX and _DID.fullmatch(text) is not None


def is_plc_did(text: str) -> bool:
    """Whether the text is a DID of the PLC method: 24 base32 characters."""
    return _PLC.fullmatch(text) is not None


def is_account_did(text: str) -> bool:
    """Whether the text is a DID of a method that accounts have: PLC or web."""
    return is_plc_did(text) or (text.startswith("did:web:") and is_did(text))


def is_handle(text: str) -> bool:
    """Whether the text is a domain name that may serve as a handle."""
    return len(text) <= HANDLE_CHARS_MAX and _HANDLE.fullmatch(text) is not None


def is_nsid(text: str) -> bool:
    """Whether the text is a namespaced identifier, as of a record type."""
    return len(text) <= NSID_CHARS_MAX and _NSID.fullmatch(text) is not None


def is_rkey(text: str) -> bool:
    """Whether the text is a record key."""
    return _RKEY.fullmatch(text) is not None and text not in {".", ".."}


def is_tid(text: str) -> bool:
    """Whether the text is a timestamp identifier, as a rev is."""
    return _TID.fullmatch(text) is not None


def is_at_uri(text: str) -> bool:
    """Whether the text is an AT-URI without query or fragment."""
    return _split_at_uri(text) is not None


def is_at_identifier(text: str) -> bool:
    """Whether the text is a DID or a handle."""
    return is_did(text) or is_handle(text)


def is_record_path(text: str) -> bool:
    """Whether the text is `collection/rkey`."""
    collection, _, rkey = text.partition("/")
    return is_nsid(collection) and is_rkey(rkey)


def is_language(text: str) -> bool:
    """Whether the text is a BCP 47 language tag that names no variant or extension twice."""
    if len(text) > LANGUAGE_CHARS_MAX or _LANGUAGE.fullmatch(text) is None:
        return False
    seen: set[str] = set()
    is_extension = False
    first, *subtags = text.lower().split("-")
    for subtag in subtags if len(first) > 1 else ():  # `x-` and `i-` are followed by anything
        is_singleton = len(subtag) == 1
        if subtag == "x":
            break  # what follows is private
        is_variant = not is_extension and (len(subtag) > 4 or subtag[0].isdigit())
        if (is_singleton or is_variant) and subtag in seen:
            return False
        seen.add(subtag)
        is_extension = is_extension or is_singleton
    return True


def is_uri(text: str) -> bool:
    """Whether the text has the form of a URI of any scheme."""
    return len(text) <= URI_CHARS_MAX and _URI.fullmatch(text) is not None


def is_cid(text: str) -> bool:
    """Whether the text has the form of a CID. Version 0 is not accepted."""
    return _CID.fullmatch(text) is not None and not text.startswith("Qmb")


def is_datetime(text: str) -> bool:
    """Whether the text is a timestamp with seconds and a zone."""
    return _datetime(text) is not None


def tid_timestamp_us(tid: str) -> int:
    """Microseconds since 1970 that a TID stands for."""
    value = 0
    for char in tid:
        value = value << 5 | _TID_VALUES[char]
    return value >> 10


def datetime_to_unix(text: str) -> float:
    """Unix seconds of a timestamp. Raises `InvalidUpstream`."""
    found = _datetime(text)
    if found is None:
        raise InvalidUpstream(Check.FIELDS, f"not a datetime: {_quoted(text)}")
    return found.timestamp()


def parse_at_uri(text: str) -> AtUri:
    """The parts of an AT-URI."""
    parts = _split_at_uri(text)
    if parts is None:
        raise InvalidUpstream(Check.FIELDS, f"not an AT-URI: {_quoted(text)}")
    return parts


def _parser(name: str, accepts: Callable[[str], bool]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not accepts(text):
            raise InvalidUpstream(Check.FIELDS, f"not a {name}: {_quoted(text)}")
        return text

    parse.__doc__ = f"The text itself if it is a {name}."
    return parse


parse_did = _parser("DID", is_did)
parse_account_did = _parser("DID of an account", is_account_did)
parse_handle = _parser("handle", is_handle)
parse_nsid = _parser("NSID", is_nsid)
parse_rkey = _parser("record key", is_rkey)
parse_tid = _parser("TID", is_tid)
parse_record_path = _parser("record path", is_record_path)
parse_datetime = _parser("datetime", is_datetime)


def _split_at_uri(text: str) -> AtUri | None:
    if len(text) > AT_URI_CHARS_MAX or not text.startswith("at://"):
        return None
    authority, *rest = text[5:].split("/")
    if not is_at_identifier(authority) or len(rest) > 2:
        return None
    if rest and not is_nsid(rest[0]):
        return None
    if len(rest) == 2 and not is_rkey(rest[1]):
        return None
    return AtUri(authority, *[*rest, None, None][:2])


def _datetime(text: str) -> datetime | None:
    """The moment, or None. Year 0 and leap seconds have none that Python can hold.

    Nor have the hours by which an offset leaves the years 1 and 9999. Before year 0 is no time.
    """
    if len(text) > DATETIME_CHARS_MAX:
        return None
    match = _DATETIME.fullmatch(text)
    if match is None or match[8] == "-00:00":
        return None
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    if second > 60:
        return None
    try:
        moment = datetime(
            max(year, 1), month, day, hour, minute, min(second, 59), _microseconds(match[7]), UTC
        )
        offset = _offset(match[8])
    except ValueError:
        return None
    try:
        return moment - offset
    except OverflowError:
        return {1: _FIRST, 9999: _LAST}.get(year)


def _microseconds(fraction: str | None) -> int:
    return int((fraction or "")[:6].ljust(6, "0"))


def _offset(zone: str) -> timedelta:
    if zone == "Z":
        return timedelta(0)
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError("no such zone")
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if zone[0] == "-" else offset


def _quoted(text: str) -> str:
    return repr(text if len(text) <= QUOTED_CHARS_MAX else text[:QUOTED_CHARS_MAX] + "…")
