"""CAR v1 as the real PDS writes it.

Owns the framing of blocks for `blocks` fields and HTTP answers. Block order is the caller's:
the protocol promises none, and tests rely on the commit block not being first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.devnet.cbor import Link, encode

CID_BYTES = 36


def varint(number: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def car_header(roots: Iterable[bytes]) -> bytes:
    """The header section. `getBlocks` of the real PDS has no roots at all."""
    body = encode({"roots": [Link(root) for root in roots], "version": 1})
    return varint(len(body)) + body


def car_section(cid: bytes, block: bytes) -> bytes:
    """One block with its length and CID."""
    return varint(len(cid) + len(block)) + cid + block


def car_parts(roots: Iterable[bytes], blocks: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The file section by section, for an answer that is streamed."""
    yield car_header(roots)
    for cid, block in blocks:
        yield car_section(cid, block)


def write_car(roots: Iterable[bytes], blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole file."""
    return b"".join(car_parts(roots, blocks))


def read_car(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Header and (cid, block) pairs of a well-formed file, in file order. Checks nothing."""
    end, at = _read_varint(data, 0)
    header, at = data[at : at + end], at + end
    blocks = []
    while at < len(data):
        size, at = _read_varint(data, at)
        blocks.append((data[at : at + CID_BYTES], data[at + CID_BYTES : at + size]))
        at += size
    return header, blocks


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
