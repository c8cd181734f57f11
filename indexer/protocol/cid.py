"""CIDs, binary inside and base32 text at the edges.

A binary CID is version, codec and multihash, 36 bytes for SHA-256, without the zero byte that
CBOR's tag 42 puts before it.
"""

from __future__ import annotations

import base64
from hashlib import sha256

from indexer.errors import Check, InvalidUpstream

DAG_CBOR_SHA256 = b"\x01\x71\x12\x20"
RAW_SHA256 = b"\x01\x55\x12\x20"
SHA256_CID_BYTES = 36
CID_BYTES_MAX = 100


def dag_cbor_cid(block: bytes) -> bytes:
    """The CID of a DAG-CBOR block."""
    return DAG_CBOR_SHA256 + sha256(block).digest()


def raw_cid(data: bytes) -> bytes:
    """The CID of a blob's bytes."""
    return RAW_SHA256 + sha256(data).digest()


def is_dag_cbor_sha256(cid: bytes) -> bool:
    """Whether this is the one form that commits and MST nodes may link with."""
    return len(cid) == SHA256_CID_BYTES and cid.startswith(DAG_CBOR_SHA256)


def cid_text(cid: bytes) -> str:
    """Base32 text, with the multibase prefix `b`."""
    return "b" + base64.b32encode(cid).decode("ascii").lower().rstrip("=")


def parse_cid(text: str) -> bytes:
    """The binary form of base32 text. Raises `InvalidUpstream` (`Check.FIELDS`)."""
    body = text[1:]
    if not text.startswith("b") or body != body.lower() or len(text) > 2 * CID_BYTES_MAX:
        raise InvalidUpstream(Check.FIELDS, f"not a base32 CID: {text[:120]!r}")
    try:
        cid = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError as error:
        raise InvalidUpstream(Check.FIELDS, f"not a base32 CID: {text[:120]!r}") from error
    if len(cid) < 4 or cid[0] != 1:
        raise InvalidUpstream(Check.FIELDS, f"not a CID of version 1: {text[:120]!r}")
    return cid
