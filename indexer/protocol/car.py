"""CAR archives of version 1, whole or as a stream, with every block's hash checked on arrival.

An archive is a header `{version: 1, roots: [CID]}` and sections `length, CID, block`, in any
order. Duplicates and blocks that nobody refers to are legal, within a bound. A block under a hash
function other than SHA-256 cannot be checked: it is left out, as if the archive did not hold it.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.cbor import Link, decode_block
from indexer.protocol.cid import CID_BYTES_MAX, DAG_CBOR_SHA256, RAW_SHA256, SHA256_CID_BYTES

BLOCKS_MAX = 50_000
"""Blocks of one archive that is held in memory; a commit has some dozens."""

HEADER_BYTES_MAX = 4096
BLOCK_BYTES_MAX = 2 * 1024 * 1024
VARINT_BYTES_MAX = 9
ROOTS_MAX = 16

_SHA256_V1 = (DAG_CBOR_SHA256, RAW_SHA256)
_SHA256_CODE = 0x12


class Car(msgspec.Struct, frozen=True):
    """An archive in memory."""

    roots: tuple[bytes, ...]
    blocks: dict[bytes, bytes]  # CID -> block

    @property
    def root(self) -> bytes:
        """The first root; others are ignored. Raises `InvalidUpstream` when there is none."""
        if not self.roots:
            raise InvalidUpstream(Check.CAR, "no root")
        return self.roots[0]


def parse_car(data: bytes, *, blocks_max: int = BLOCKS_MAX) -> Car:
    """Read a whole archive. Raises `InvalidUpstream` (`CAR`, `BLOCK_HASH` or `LIMITS`)."""
    roots, offset = _header(data)
    size = len(data)
    blocks: dict[bytes, bytes] = {}
    count = 0
    while offset < size:
        length = data[offset]
        if length < 0x80:
            offset += 1
        elif offset + 1 < size and 0 < data[offset + 1] < 0x80:
            # Two bytes, as the length of most blocks takes.
            length += (data[offset + 1] - 1) << 7
            offset += 2
        else:
            length, offset = _varint(data, offset)
        end = offset + length
        if length == 0 or end > size:
            raise InvalidUpstream(Check.CAR, f"section of {length} bytes at {offset}")
        cid = data[offset : offset + SHA256_CID_BYTES]
        block = data[offset + SHA256_CID_BYTES : end]
        if cid[:4] in _SHA256_V1 and sha256(block).digest() == cid[4:]:
            blocks[cid] = block
        elif (unusual := _unusual(data[offset:end])) is not None:
            cid, block = unusual
            blocks[cid] = block
        offset = end
        count += 1
        if count > blocks_max:
            raise InvalidUpstream(Check.LIMITS, f"more than {blocks_max} blocks")
    return Car(roots, blocks)


class CarStream:
    """The same piecewise: feed it chunks as they arrive."""

    def __init__(self, *, block_bytes_max: int = BLOCK_BYTES_MAX) -> None:
        self._block_bytes_max = block_bytes_max
        self._buffer = bytearray()
        self._consumed = 0  # bytes of the archive before the buffer
        self.roots: tuple[bytes, ...] | None = None
        """The header's roots; None until it has arrived."""

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes, int]]:
        """Blocks completed by this chunk: (CID, block, offset of the block in the archive)."""
        buffer = self._buffer
        buffer += chunk
        found: list[tuple[bytes, bytes, int]] = []
        offset = 0
        while (bounds := self._section(offset)) is not None:
            start, end = bounds
            section = bytes(buffer[start:end])
            if self.roots is None:
                self.roots = _roots(section)
            else:
                checked = _checked(section)
                if checked is not None:
                    cid, block = checked
                    found.append((cid, block, self._consumed + end - len(block)))
            offset = end
        del buffer[:offset]
        self._consumed += offset
        return found

    def finish(self) -> None:
        """The archive ends here. Raises `InvalidUpstream` when something is missing."""
        if self._buffer:
            raise InvalidUpstream(Check.CAR, "ends within a section")
        if self.roots is None:
            raise InvalidUpstream(Check.CAR, "no header")

    def _section(self, offset: int) -> tuple[int, int] | None:
        """(start, end) of the section at `offset`, or None while it is incomplete."""
        buffer = self._buffer
        length, shift, start = 0, 0, offset
        while True:
            if start >= len(buffer):
                return None
            byte = buffer[start]
            start += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= 7 * VARINT_BYTES_MAX:
                raise InvalidUpstream(Check.CAR, "varint too long")
        if byte == 0 and shift:
            raise InvalidUpstream(Check.CAR, "varint not minimal")
        limit = HEADER_BYTES_MAX if self.roots is None else self._block_bytes_max
        if length == 0:
            raise InvalidUpstream(Check.CAR, "empty section")
        if length > limit:
            raise InvalidUpstream(Check.LIMITS, f"section of {length} bytes")
        return (start, start + length) if start + length <= len(buffer) else None


def _header(data: bytes) -> tuple[tuple[bytes, ...], int]:
    length, offset = _varint(data, 0)
    if length == 0 or length > HEADER_BYTES_MAX or offset + length > len(data):
        raise InvalidUpstream(Check.CAR, f"header of {length} bytes")
    return _roots(data[offset : offset + length]), offset + length


def _roots(header: bytes) -> tuple[bytes, ...]:
    try:
        value = decode_block(header)
    except InvalidUpstream as error:
        raise InvalidUpstream(Check.CAR, f"header: {error.detail}") from error
    version = value.get("version") if isinstance(value, dict) else None
    if not isinstance(value, dict) or type(version) is not int or version != 1:
        raise InvalidUpstream(Check.CAR, "header is not of version 1")
    roots = value.get("roots")
    if not isinstance(roots, list) or len(roots) > ROOTS_MAX:
        raise InvalidUpstream(Check.CAR, "header has no list of roots")
    if not all(isinstance(root, Link) for root in roots):
        raise InvalidUpstream(Check.CAR, "a root is not a CID")
    return tuple(bytes(root) for root in roots)


def _checked(section: bytes) -> tuple[bytes, bytes] | None:
    cid, block = section[:SHA256_CID_BYTES], section[SHA256_CID_BYTES:]
    if cid[:4] in _SHA256_V1 and sha256(block).digest() == cid[4:]:
        return cid, block
    return _unusual(section)


def _unusual(section: bytes) -> tuple[bytes, bytes] | None:
    """A section whose CID is not DAG-CBOR or raw with SHA-256, or whose hash is wrong.

    None where the hash cannot be checked.
    """
    if section.startswith(b"\x12\x20"):
        offset, hash_code, hash_bytes = 2, _SHA256_CODE, 32  # version 0 is nothing but the hash
    elif section[:1] == b"\x01":
        _, offset = _varint(section, 1)
        hash_code, offset = _varint(section, offset)
        hash_bytes, offset = _varint(section, offset)
    else:
        raise InvalidUpstream(Check.CAR, "a block's CID is of no known version")
    end = offset + hash_bytes
    if end > len(section) or end > CID_BYTES_MAX:
        raise InvalidUpstream(Check.CAR, "a block's CID is malformed")
    if hash_code != _SHA256_CODE or hash_bytes != 32:
        return None
    if sha256(section[end:]).digest() != section[offset:end]:
        raise InvalidUpstream(Check.BLOCK_HASH, "a block does not match its CID")
    return section[:end], section[end:]


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """(value, offset after it)."""
    value = shift = 0
    for index in range(offset, offset + VARINT_BYTES_MAX):
        if index >= len(data):
            raise InvalidUpstream(Check.CAR, "ends within a varint")
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise InvalidUpstream(Check.CAR, "varint not minimal")
            return value, index + 1
        shift += 7
    raise InvalidUpstream(Check.CAR, "varint too long")
