"""DAG-CBOR and CIDs, written for the devnet alone.

Owns the canonical encoding of everything that the devnet signs or sends, and a small decoder for
what it has encoded itself. Refuses floats and unknown types. Independent of the indexer on
purpose: a mistake shared by both sides of a test would be invisible.

The data model in Python: `None bool int str bytes list dict` and `Link` for a CID. ATProto JSON
(`{"$link": ...}`, `{"$bytes": ...}`) is turned into it by `from_json` and back by `to_json`.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

RAW = 0x55
DAG_CBOR = 0x71


@dataclass(frozen=True, slots=True)
class Link:
    """A CID inside a block: 36 bytes, without the multibase prefix that CBOR's tag 42 adds."""

    cid: bytes


Value: TypeAlias = "bool | int | str | bytes | Link | list[Value] | dict[str, Value] | None"
JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"


def cid_of(block: bytes, codec: int = DAG_CBOR) -> bytes:
    """The CIDv1 (sha-256) of `block`, binary."""
    return bytes((1, codec, 0x12, 0x20)) + hashlib.sha256(block).digest()


@lru_cache(maxsize=100_000)
def cid_text(cid: bytes) -> str:
    """Base32 text of a binary CID."""
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def cid_from_text(text: str) -> bytes:
    """Binary CID of a base32 text. Only for texts that the devnet wrote or a test vector holds."""
    body = text[1:].upper()
    return base64.b32decode(body + "=" * (-len(body) % 8))


def from_json(value: JsonValue) -> Value:
    """ATProto JSON as a value of the data model."""
    if isinstance(value, dict):
        if len(value) == 1:
            link, raw = value.get("$link"), value.get("$bytes")
            if isinstance(link, str):
                return Link(cid_from_text(link))
            if isinstance(raw, str):
                return base64.b64decode(raw + "=" * (-len(raw) % 4))
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return value


def to_json(value: Value) -> JsonValue:
    """A value of the data model as ATProto JSON."""
    if isinstance(value, Link):
        return {"$link": cid_text(value.cid)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode().rstrip("=")}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return value


@lru_cache(maxsize=10_000)
def head(major: int, number: int) -> bytes:
    """A CBOR head in its shortest form: `major` 0..7, `number` below 2^64."""
    start = major << 5
    if number < 24:
        return bytes((start | number,))
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * size):
            return bytes((start | extra,)) + number.to_bytes(size, "big")
    raise ValueError(f"{number} does not fit a CBOR head")


def encode(value: Value) -> bytes:
    """Canonical DAG-CBOR: shortest heads, map keys by length and then bytes."""
    out = bytearray()
    _encode(value, out)
    return bytes(out)


def _encode(value: Value, out: bytearray) -> None:
    if isinstance(value, str):
        raw = value.encode()
        out += head(3, len(raw))
        out += raw
    elif isinstance(value, dict):
        _encode_map(value, out)
    elif isinstance(value, list):
        out += head(4, len(value))
        for item in value:
            _encode(item, out)
    elif isinstance(value, Link):
        out += b"\xd8\x2a\x58\x25\x00"
        out += value.cid
    elif isinstance(value, bytes):
        out += head(2, len(value))
        out += value
    else:
        out += _encode_simple(value)


def _encode_map(value: dict[str, Value], out: bytearray) -> None:
    out += head(5, len(value))
    for key, encoded in _in_order(tuple(value)):
        out += encoded
        _encode(value[key], out)


@lru_cache(maxsize=10_000)
def _in_order(keys: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """(key, its encoding) of a map: records of a type have the same keys, and a devnet many."""
    ordered = sorted((len(raw), raw, key) for key in keys for raw in (key.encode(),))
    return [(key, head(3, size) + raw) for size, raw, key in ordered]


def _encode_simple(value: float | None) -> bytes:
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    raise TypeError(f"{type(value).__name__} is not in the data model")


def decode(block: bytes) -> Value:
    """The value of a block that `encode` or the real PDS has written. Trusts its input."""
    value, end = decode_at(block, 0)
    if end != len(block):
        raise ValueError("trailing bytes")
    return value


def decode_at(data: bytes, at: int) -> tuple[Value, int]:
    """One value that starts at byte `at`, and the position after it."""
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        return {20: False, 21: True, 22: None}[info], at
    number = info
    if info >= 24:
        size = 1 << (info - 24)
        number = int.from_bytes(data[at : at + size], "big")
        at += size
    if major < 2:
        return (number if major == 0 else -1 - number), at
    if major in (2, 3):
        raw = data[at : at + number]
        return (raw if major == 2 else raw.decode()), at + number
    if major == 4:
        items: list[Value] = []
        for _ in range(number):
            item, at = decode_at(data, at)
            items.append(item)
        return items, at
    if major == 6:
        raw_link, at = decode_at(data, at)
        assert number == 42
        assert isinstance(raw_link, bytes)
        return Link(raw_link[1:]), at
    members: dict[str, Value] = {}
    for _ in range(number):
        key, at = decode_at(data, at)
        assert isinstance(key, str)
        members[key], at = decode_at(data, at)
    return members, at
