"""A second opinion on canonical DAG-CBOR: a decoder that refuses everything else.

Values are the devnet's. Written from the specification alone: shortest heads, definite lengths, map
keys that are text and ascending by length and then bytes, no float, no tag but 42 on a CID.

The envelope of a frame is signed by nobody and may be more loosely encoded: there, heads may be longer
than need be and floats may stand, and either is the product's documented choice. So may floats in the
header of an archive, beside the roots.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.devnet.cbor import Link, Value

NESTING_MAX = 600


@dataclass(frozen=True)
class Leave:
    """What may differ from the one encoding."""

    heads: bool = False
    floats: bool = False  # each read as None


STRICT = Leave()
ARCHIVE_HEADER = Leave(floats=True)
ENVELOPE = Leave(heads=True, floats=True)


class NotCanonical(ValueError):
    """The bytes are not the one encoding of a value."""


def decode_strict(data: bytes, leave: Leave = STRICT) -> Value:
    """The value of one whole block. Raises `NotCanonical`."""
    value, end = decode_strict_at(data, 0, leave=leave)
    if end != len(data):
        raise NotCanonical("trailing bytes")
    return value


def decode_envelope(data: bytes) -> list[Value]:
    """The values of a frame, one after the other. Raises `NotCanonical`."""
    values, at = [], 0
    while at < len(data):
        value, at = decode_strict_at(data, at, leave=ENVELOPE)
        values.append(value)
    return values


def decode_strict_at(  # noqa: C901 - one branch for each major type, as in the specification
    data: bytes, at: int, depth: int = 0, *, leave: Leave = STRICT
) -> tuple[Value, int]:
    """One value that starts at `at`, and the position after it. Raises `NotCanonical`."""
    if leave.floats and data[at : at + 1] in (b"\xfa", b"\xfb"):
        return None, at + (5 if data[at] == 0xFA else 9)
    major, number, at = _head(data, at, leave=leave)
    if depth > NESTING_MAX:
        raise NotCanonical("nested too deeply")
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        end = at + number
        if end > len(data):
            raise NotCanonical("cut short")
        return data[at:end] if major == 2 else _text(data[at:end]), end
    if major == 4:
        if number > len(data) - at:
            raise NotCanonical("cut short")
        items: list[Value] = []
        for _ in range(number):
            item, at = decode_strict_at(data, at, depth + 1, leave=leave)
            items.append(item)
        return items, at
    if major == 5:
        return _map(data, number, at, depth, leave=leave)
    if major == 6:
        raw, at = decode_strict_at(data, at, depth + 1, leave=leave)
        if number != 42 or not isinstance(raw, bytes) or raw[:1] != b"\0":
            raise NotCanonical("a tag that is no link")
        return Link(raw[1:]), at
    return {20: False, 21: True, 22: None}[number], at


def _map(
    data: bytes, count: int, at: int, depth: int, *, leave: Leave
) -> tuple[dict[str, Value], int]:
    if count > len(data) - at:
        raise NotCanonical("cut short")
    members: dict[str, Value] = {}
    before: tuple[int, bytes] | None = None
    for _ in range(count):
        key, at = decode_strict_at(data, at, depth + 1, leave=leave)
        if not isinstance(key, str):
            raise NotCanonical("a key that is no text")
        raw = key.encode()
        order = (len(raw), raw)
        if before is not None and order <= before:
            raise NotCanonical("keys are not ascending")
        before = order
        members[key], at = decode_strict_at(data, at, depth + 1, leave=leave)
    return members, at


def _head(data: bytes, at: int, *, leave: Leave) -> tuple[int, int, int]:
    if at >= len(data):
        raise NotCanonical("cut short")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if info not in (20, 21, 22):
            raise NotCanonical("a simple value or float")
        return major, info, at
    if info < 24:
        return major, info, at
    if info > 27:
        raise NotCanonical("no definite length")
    size = 1 << (info - 24)
    if at + size > len(data):
        raise NotCanonical("cut short")
    number = int.from_bytes(data[at : at + size], "big")
    least = 24 if size == 1 else 1 << (4 * size)
    if number < least and not leave.heads:
        raise NotCanonical("a head that is not the shortest")
    return major, number, at + size


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise NotCanonical("text that is not UTF-8") from error
