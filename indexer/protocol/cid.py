"""CIDs, binary inside and base32 text at the edges.

A binary CID is version, codec and multihash, 36 bytes for SHA-256, without the zero byte that
CBOR's tag 42 puts before it.
"""

from __future__ import annotations

import base64
from hashlib import sha256

import libipld

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


def is_cid(cid: bytes) -> bool:
    """Whether these bytes have the shape of a CID, of either version and any hash function.

    What a record's link may be: who cannot check the hash can still carry the CID.
    """
    if is_dag_cbor_sha256(cid):
        return True
    if cid.startswith(b"\x12\x20"):
        return len(cid) == SHA256_CID_BYTES - 2  # version 0 is a bare SHA-256 multihash
    return is_cid_v1(cid)


def is_cid_v1(cid: bytes) -> bool:
    """Whether these bytes are version 1, codec, hash function, length and that many bytes."""
    if len(cid) > CID_BYTES_MAX or cid[:1] != b"\x01":
        return False
    offset = 1
    for _ in range(2):
        end = offset
        while end < len(cid) and cid[end] >= 0x80:
            end += 1
        if end >= len(cid) or (end > offset and cid[end] == 0):
            return False
        offset = end + 1
    # A digest of 128 bytes or more would not fit, so its length is one byte.
    return offset < len(cid) and cid[offset] == len(cid) - offset - 1


def cid_text(cid: bytes) -> str:
    """Base32 text, with the multibase prefix `b`."""
    return libipld.encode_multibase("b", cid)


def parse_cid(text: str) -> bytes:
    """The binary form of base32 text of version 1. Raises `InvalidUpstream` (`Check.FIELDS`).

    Only the one text that `cid_text` gives is accepted, so texts compare as the CIDs do.
    """
    if len(text) > 2 * CID_BYTES_MAX:
        raise InvalidUpstream(Check.FIELDS, f"not a base32 CID: {text[:120]!r}")
    body = text[1:]
    try:
        cid = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError as error:
        raise InvalidUpstream(Check.FIELDS, f"not a base32 CID: {text[:120]!r}") from error
    if cid_text(cid) != text or not is_cid_v1(cid):
        raise InvalidUpstream(Check.FIELDS, f"not a CID of version 1: {text[:120]!r}")
    return cid
