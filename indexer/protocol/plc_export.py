"""The log of a PLC directory as `/export` gives it: one operation a line, oldest first.

Shape only: what an operation leads to is believed when the DID is resolved. Kinds of operation
that we do not know are read as far as they can be.
Source: the did:plc specification, "Bulk export".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.did_document import parse_origin
from indexer.protocol.plc_log import DID_KEY, signing_key_of
from indexer.protocol.syntax import datetime_to_unix, is_did

PAGE_OPERATIONS = 1000
"""The most that a directory gives at once."""

LAST_MS = 253_402_300_799_999
"""The last millisecond that can be written; fractions after it would be rounded to year 10000."""

TOMBSTONE = "plc_tombstone"
AT = "at://"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedOperation:
    """A change of one DID. What it does not name is None."""

    did: str
    made_ms: int  # unix milliseconds, by the directory's clock
    is_tombstone: bool
    signing_key: str | None  # multibase
    pds_url: str | None
    handle: str | None


@dataclass(frozen=True, slots=True)
class ExportPage:
    """The operations of an answer: up to a line that cannot be read, or all but such lines."""

    operations: tuple[ExportedOperation, ...]
    made_ms: tuple[int, ...]  # the time of each line that was read, nullified ones too
    lines: int  # that the answer had, readable or not
    bad_lines: int
    is_cut: bool  # at a line that cannot be read
    at_ms: int | None = None  # the directory's clock when it answered, if it said so

    @property
    def is_last(self) -> bool:
        """Whether the directory had nothing more to give."""
        return self.lines < PAGE_OPERATIONS and not self.is_cut


def parse_export(data: bytes, *, skips_bad: bool = False) -> ExportPage:
    """The operations of a page; those that were nullified are left out.

    With `skips_bad` lines that cannot be read are passed over, and otherwise they end the page.
    """
    lines = [line for line in data.split(b"\n") if line.strip()][:PAGE_OPERATIONS]
    found: list[ExportedOperation] = []
    made: list[int] = []
    bad = 0
    for line in lines:
        try:
            made_ms, operation = _parsed(line)
        except InvalidUpstream:
            bad += 1
            if skips_bad:
                continue
            break
        made.append(made_ms)
        if operation is not None:
            found.append(operation)
    return ExportPage(tuple(found), tuple(made), len(lines), bad, bool(bad) and not skips_bad)


def time_text(unix_ms: int) -> str:
    """The time as the directory writes it: UTC, milliseconds, `Z`; the nearest that it could."""
    seconds, rest_ms = divmod(min(max(unix_ms, 0), LAST_MS), 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ms * 1000)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _parsed(line: bytes) -> tuple[int, ExportedOperation | None]:
    """When a line was made, and its operation; None for one that a later one has nullified."""
    try:
        entry: object = msgspec.json.decode(line)
    except (ValueError, RecursionError) as error:
        raise InvalidUpstream(Check.RESPONSE, "a line of the log is not JSON") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("operation"), dict):
        raise InvalidUpstream(Check.RESPONSE, "a line of the log is no operation")
    did, made_at = entry.get("did"), entry.get("createdAt")
    if not isinstance(did, str) or not is_did(did) or not isinstance(made_at, str):
        raise InvalidUpstream(Check.RESPONSE, "an operation without DID or time")
    made_ms = round(datetime_to_unix(made_at) * 1000)
    if entry.get("nullified") is True:
        return made_ms, None
    operation = entry["operation"]
    key = signing_key_of(operation)
    return made_ms, ExportedOperation(
        did=did,
        made_ms=made_ms,
        is_tombstone=operation.get("type") == TOMBSTONE,
        signing_key=None if key is None else key.removeprefix(DID_KEY),
        pds_url=_pds_url(operation),
        handle=_handle(operation),
    )


def _pds_url(operation: dict[object, object]) -> str | None:
    services = operation.get("services")
    service = services.get("atproto_pds") if isinstance(services, dict) else None
    # The operations of 2022 had one service, a URL.
    url = service.get("endpoint") if isinstance(service, dict) else operation.get("service")
    return parse_origin(url) if isinstance(url, str) else None


def _handle(operation: dict[object, object]) -> str | None:
    names = operation.get("alsoKnownAs")
    if not isinstance(names, list):
        name = operation.get("handle")
        return name if isinstance(name, str) else None
    for name in names:
        if isinstance(name, str) and name.startswith(AT):
            return name.removeprefix(AT)
    return None
