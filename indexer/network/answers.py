"""What the answers of a host mean: its refusals, its errors, the pauses that it asks for.

Pure: headers and bodies in, numbers and errors out. Whatever a host sends gives a value or nothing;
a header that cannot be read says nothing, and never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from indexer.errors import Check, ChiveIndexerError, InvalidUpstream

SNIPPET_CHARS = 200
HEADER_CHARS_MAX = 128
NUMBER_DIGITS_MAX = 12
EPOCH_S_MIN = 1_000_000_000
"""A reset below this is a delay, as the IETF's draft has it, and no unix time, as a PDS sends."""

OK = 200
TOO_MANY = 429
RETRY_LATER = frozenset({408, 425, TOO_MANY})
NOT_FOUND = frozenset({404, 410})
NOT_IMPLEMENTED = 501
SERVER_ERRORS = 500
COUNTED_CODES = frozenset({OK, 400, 401, 403, 404, 410, TOO_MANY, 500, 501, 502, 503, 504})
"""Statuses with a label of their own; a host cannot invent further ones."""


class XrpcFailure(ChiveIndexerError):
    """A host refused a request with an error of its own; `name` may be empty."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(f"HTTP {status} {name}: {message}")
        self.status = status
        self.name = name
        self.message = message


def status_label(status: int) -> str:
    """The status as a metric label of a closed set."""
    return str(status) if status in COUNTED_CODES else f"{min(status // 100, 9)}xx"


def is_passing(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in RETRY_LATER or (status >= SERVER_ERRORS and status != NOT_IMPLEMENTED)


def refusal(status: int, data: bytes, origin: str) -> ChiveIndexerError:
    """The error that an answer stands for which is neither a success nor passing.

    `data` is the start of its body. An error of XRPC, or a plain 404, is the host's word on the
    question; anything else comes from something in front of it.
    """
    body = parsed(data)
    if isinstance(body, dict):
        name, message = body.get("error"), body.get("message")
        return XrpcFailure(
            status,
            name[:SNIPPET_CHARS] if isinstance(name, str) else "",
            message[:SNIPPET_CHARS] if isinstance(message, str) else "",
        )
    if status in NOT_FOUND:
        return XrpcFailure(status, "", data[:SNIPPET_CHARS].decode(errors="replace"))
    return InvalidUpstream(Check.RESPONSE, f"{origin}: HTTP {status} {data[:SNIPPET_CHARS]!r}")


def parsed(data: bytes) -> object:
    """The body as JSON; None for anything else."""
    try:
        value: object = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    return value


def requested_pause_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds that a refusal asks to stay away: `Retry-After`, else `RateLimit-Reset`.

    None where neither names a time to come: a host that refuses and says to go on at once has not
    said when.
    """
    after = headers.get("Retry-After", "").strip()
    pause_s = _number(after)
    if pause_s is None and (until := _moment(after)) is not None:
        pause_s = until - now_s
    if pause_s is not None and pause_s > 0:
        return pause_s
    if headers.get("RateLimit-Remaining", "0").strip() != "0":
        return None
    return _reset_s(headers, now_s=now_s)


def exhausted_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds until the host's budget is filled again, if its headers say that nothing is left.

    A host that answers and names only the time of the reset has not said so.
    """
    if headers.get("RateLimit-Remaining", "").strip() != "0":
        return None
    return _reset_s(headers, now_s=now_s)


def _reset_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds until `RateLimit-Reset`, which is unix time where a PDS sends it."""
    reset = _number(headers.get("RateLimit-Reset", "").strip())
    if reset is None:
        return None
    pause_s = reset - now_s if reset >= EPOCH_S_MIN else reset
    return pause_s if pause_s > 0 else None


def answered_at(headers: Mapping[str, str]) -> float | None:
    """Unix seconds at the host when it answered, if it says so; whole ones."""
    return _moment(headers.get("Date", ""))


def _number(text: str) -> float | None:
    return float(text[:NUMBER_DIGITS_MAX]) if text.isascii() and text.isdigit() else None


def _moment(text: str) -> float | None:
    if not text or len(text) > HEADER_CHARS_MAX:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
