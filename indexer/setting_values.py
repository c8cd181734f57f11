"""The kinds of value that a setting may have, beyond plain numbers and words.

Owns shape only: whether a text can be a DID, a URL, an address. Refuses to look anything up; that a
host exists or a file can be read is found out by the part that needs it. Every refusal says what
would have been allowed, since it becomes the operator's one line.
"""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from indexer.errors import InvalidUpstream
from indexer.model import OperationMode, OperationType
from indexer.protocol.syntax import is_nsid, parse_did

HEADER_CHARS_MAX = 200
"""Longest text that goes into a header of ours."""

DEFAULT_MODES = dict.fromkeys(OperationType, OperationMode.SUPPLEMENT) | {
    OperationType.FULL_REINDEX: OperationMode.PAUSE
}

DEFAULT_INTERVALS_S: dict[OperationType, float] = {
    OperationType.PDS_SCAN: 0.0,
    OperationType.FRESHNESS_SCAN: 43_200.0,
    OperationType.CITATION_EXTRACTION: 0.0,
    OperationType.FULL_REINDEX: 0.0,
    OperationType.GOVERNANCE_SYNC: 3600.0,
}

INTERVAL_S_MIN = 60.0
INTERVAL_S_MAX = 2_592_000.0

_HOST = re.compile(r"[\w.:-]+", re.ASCII)
"""A name, or an address without its brackets."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""How Python holds bytes of a variable that are not UTF-8."""


def _did(value: str) -> str:
    try:
        return parse_did(value)
    except InvalidUpstream as error:
        raise ValueError(f"must be a DID: {error.detail}") from error


def _url(value: str, schemes: tuple[str, str]) -> str:
    """The URL without trailing slashes. It names a host and carries no secret."""
    allowed = f"must be a {schemes[0]}:// or {schemes[1]}:// URL"
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # brackets or port are malformed
        raise ValueError(f"{allowed}: {error}") from error
    if not is_usable or not value.isprintable() or " " in value:
        raise ValueError(f"{allowed} with a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{allowed} without user, query or fragment")
    return value.rstrip("/")


def parse_origin(value: str) -> str:
    """An http(s) URL without trailing slashes. Raises `ValueError`, saying what is allowed."""
    return _url(value, ("https", "http"))


def _service(value: str) -> str:
    return parse_origin(value) if value else ""


def _stream(value: str) -> str:
    return _url(value, ("wss", "ws"))


def _pattern(value: str) -> str:
    nsid = value[:-2] + ".x" if value.endswith(".*") else value
    if not is_nsid(nsid):
        raise ValueError("must be an NSID, or a prefix cut at a dot and `.*`")
    return value


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise ValueError("must be an IP address") from error


def _host(value: str) -> str:
    """Anything else would be a name that no request is ever addressed to."""
    try:
        parts = urlsplit(f"//{value}")
        is_name = parts.netloc == value and parts.username is None and parts.port != 0
    except ValueError:  # an IPv6 address without brackets
        return _address(value)
    if not is_name or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError("must be a host name, without scheme, path or wildcard")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError("must be an IP address, or a network such as 10.0.0.0/8") from error
    return value


def _file(value: Path) -> Path:
    text = str(value)
    if value == Path() or "\0" in text or _SURROGATE.search(text):
        raise ValueError("must be a path in UTF-8")
    return value


def _store(value: Path) -> Path:
    """Files beside it are named after it."""
    if not value.name:
        raise ValueError("must be a path to a file")
    return value


def _printable(value: str) -> str:
    if not value.isprintable() or not value.isascii():
        raise ValueError("must be printable ASCII: it goes into a header")
    return value


def _listed(value: object) -> object:
    """A single entry may be written without brackets."""
    return (value,) if isinstance(value, str) else value


def _modes(value: object) -> object:
    """A mode for every type: those that are not named keep their defaults."""
    if not isinstance(value, dict):
        raise ValueError("must be a table: type = mode")  # noqa: TRY004 - as every refusal here
    for name, mode in value.items():
        if name not in list(OperationType):
            raise ValueError(f"must name types of {', '.join(OperationType)}")
        if mode not in list(OperationMode):
            raise ValueError(f"must give each type one of {', '.join(OperationMode)}")
    return DEFAULT_MODES | {
        OperationType(name): OperationMode(each) for name, each in value.items()
    }


def _intervals(value: object) -> object:
    """An interval for every type that can do all there is; those not named keep their defaults."""
    if not isinstance(value, dict):
        raise ValueError("must be a table: type = seconds")  # noqa: TRY004 - as every refusal here
    for name, seconds in value.items():
        if name not in list(DEFAULT_INTERVALS_S):
            raise ValueError(f"must name types of {', '.join(DEFAULT_INTERVALS_S)}")
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not (seconds == 0 or INTERVAL_S_MIN <= seconds <= INTERVAL_S_MAX):
            raise ValueError(
                f"must give each type 0 for never, or {INTERVAL_S_MIN:.0f} to"
                f" {INTERVAL_S_MAX:.0f} seconds"
            )
    return DEFAULT_INTERVALS_S | {
        OperationType(name): float(seconds) for name, seconds in value.items()
    }


DidText = Annotated[str, AfterValidator(_did)]
Origin = Annotated[str, AfterValidator(parse_origin)]
Service = Annotated[str, AfterValidator(_service)]
"""An http(s) URL, or nothing: off."""
StreamUrl = Annotated[str, AfterValidator(_stream)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
HeaderText = Annotated[
    str, Field(min_length=1, max_length=HEADER_CHARS_MAX), AfterValidator(_printable)
]
File = Annotated[Path, AfterValidator(_file)]
StoreFile = Annotated[File, AfterValidator(_store)]
Port = Annotated[int, Field(ge=0, le=65535)]
StreamUrls = Annotated[tuple[StreamUrl, ...], Field(min_length=1), BeforeValidator(_listed)]
Patterns = Annotated[tuple[Pattern, ...], Field(min_length=1), BeforeValidator(_listed)]
HostName = Annotated[HeaderText, AfterValidator(_host)]
Names = Annotated[tuple[HostName, ...], BeforeValidator(_listed)]
Dids = Annotated[tuple[DidText, ...], BeforeValidator(_listed)]
Modes = Annotated[dict[OperationType, OperationMode], BeforeValidator(_modes)]
Intervals = Annotated[dict[OperationType, float], BeforeValidator(_intervals)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_listed)]


def to_toml(value: object) -> str:
    """A plain value, a list or a table of them in TOML, which but for tables is JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {to_toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
