"""A repo archive on disk while it is read.

Blocks are checked and written as they arrive; what stays in memory is one table of positions, 8
bytes for each slot and at most 34 MB, whatever the archive's size. Spools live in a folder with a
byte budget for all of them together. Their files have no name, so that none outlives its process,
however that ends.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from array import array
from itertools import chain
from pathlib import Path
from typing import Self

from indexer.errors import (
    Check,
    ChiveIndexerError,
    InvalidUpstream,
    LocalBusy,
    LocalFault,
    RepoTooLarge,
)
from indexer.protocol.car import CarStream
from indexer.protocol.mst import MissingBlock

BLOCKS_MAX = 2_000_000
SLOTS_MIN = 1024
CID_BYTES_MAX = 36
FLUSH_BYTES = 1 << 20
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})

_HEAD = CID_BYTES_MAX + 4  # before a block in the file: its CID, padded, and its length
_POSITION_BITS = 38
_POSITION_MASK = (1 << _POSITION_BITS) - 1
_FREE = array("Q", [0]) * SLOTS_MIN
_HASH_MASK = (1 << 64 - _POSITION_BITS) - 1


class SpoolFolder:
    """Where archives are spooled, and how many bytes they may take: each, and together.

    The folder is the daemon's alone: what lies there at its start is removed.
    """

    def __init__(self, path: Path, *, bytes_max: int, archive_bytes_max: int) -> None:
        self.path = path
        self.archive_bytes_max = archive_bytes_max
        self._bytes_max = bytes_max
        self._bytes_used = 0
        self._lock = threading.Lock()
        try:
            path.mkdir(parents=True, exist_ok=True)
            for left in path.iterdir():
                # Where the file system cannot make a file without a name it has one for a moment.
                left.unlink()
        except OSError as error:
            raise _local(error) from error

    @property
    def bytes_used(self) -> int:
        """Bytes that open spools have taken of the budget."""
        return self._bytes_used

    def take(self, count: int) -> None:
        """Take bytes of the budget. Raises `LocalBusy` when that many are not left."""
        with self._lock:
            if self._bytes_used + count > self._bytes_max:
                raise LocalBusy("the spool folder's byte budget is used up")
            self._bytes_used += count

    def give_back(self, count: int) -> None:
        """Return bytes to the budget."""
        with self._lock:
            self._bytes_used -= count


class CarSpool:
    """One archive: fed piece by piece, finished, then read. A context manager; threads may use it.

    A block is found by an open-addressing table. A slot holds some bits of the CID's hash and the
    block's position in the file plus one, 0 for none:

        slot = hash bits << 38 | position + 1        home slot = hash bits & (slots - 1)

    The hash is Python's own, which is keyed: nobody can make blocks that collide. The CID in the
    file before each block has the last word.
    """

    def __init__(
        self, folder: SpoolFolder, *, blocks_max: int = BLOCKS_MAX, flush_bytes: int = FLUSH_BYTES
    ) -> None:
        self._folder = folder
        self._blocks_max = blocks_max
        self._flush_bytes = flush_bytes
        self._stream = CarStream()
        self._slots = _FREE[:]
        self._count = 0
        self._written = 0
        self._pending = bytearray()  # entries that follow those in the file
        self._taken = 0  # of the folder's budget
        self._lock = threading.Lock()
        self._is_closed = False
        self.size_bytes = 0
        """Bytes of the archive received."""
        try:
            self._file = tempfile.TemporaryFile(dir=folder.path, buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise _local(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
            self._file.close()
            self._folder.give_back(self._taken)

    @property
    def root(self) -> bytes:
        """CID of the commit. Raises `InvalidUpstream` when the header names none."""
        if not self._stream.roots:
            raise InvalidUpstream(Check.CAR, "no root")
        return self._stream.roots[0]

    @property
    def has_header(self) -> bool:
        """Whether what arrived began as an archive does."""
        return self._stream.roots is not None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the archive.

        Raises `RepoTooLarge` beyond the caps, `LocalBusy` when the disk or the budget is full,
        `InvalidUpstream` for anything that is no sound archive.
        """
        with self._lock:
            if self._is_closed:
                return  # the reader gave up while this call was on its way to a thread
            self.size_bytes += len(chunk)
            if self.size_bytes > self._folder.archive_bytes_max:
                raise RepoTooLarge(f"archive of more than {self._folder.archive_bytes_max} bytes")
            for cid, block, _ in self._stream.feed(chunk):
                self._add(cid, block)
            if len(self._pending) > self._flush_bytes:
                self._flush()

    def finish(self) -> None:
        """The archive is complete. Raises `InvalidUpstream` when it is not."""
        with self._lock:
            if self._is_closed:
                return
            self._stream.finish()
            self._flush()

    def load(self, cid: bytes) -> bytes:
        """One block of a finished archive. Raises `MissingBlock`."""
        if len(cid) > CID_BYTES_MAX:
            raise MissingBlock(cid)
        with self._lock:
            if self._is_closed:
                raise MissingBlock(cid)
            _, position = self._find(cid)
            if position is None:
                raise MissingBlock(cid)
            head = self._read(position, _HEAD)
            return self._read(position + _HEAD, int.from_bytes(head[CID_BYTES_MAX:]))

    def _add(self, cid: bytes, block: bytes) -> None:
        if len(cid) > CID_BYTES_MAX:
            return  # no commit, node or record that we read is linked by such a CID
        slot, position = self._find(cid)
        if position is not None:
            return
        if self._count >= self._blocks_max:
            raise RepoTooLarge(f"archive of more than {self._blocks_max} blocks")
        end = self._written + len(self._pending)
        self._slots[slot] = (hash(cid) & _HASH_MASK) << _POSITION_BITS | end + 1
        self._pending += cid.ljust(CID_BYTES_MAX, b"\0")
        self._pending += len(block).to_bytes(4)
        self._pending += block
        self._count += 1
        if 2 * self._count > len(self._slots):
            self._grow()

    def _find(self, cid: bytes) -> tuple[int, int | None]:
        """(slot, position) of the block with this CID; with None, the slot where it belongs."""
        slots = self._slots
        mask = len(slots) - 1
        bits = hash(cid) & _HASH_MASK
        index = bits & mask
        while (slot := slots[index]) != 0:
            if slot >> _POSITION_BITS == bits:
                position = (slot & _POSITION_MASK) - 1
                if self._read(position, CID_BYTES_MAX) == cid.ljust(CID_BYTES_MAX, b"\0"):
                    return index, position
            index = (index + 1) & mask
        return index, None

    def _grow(self) -> None:
        """Twice as many slots, in place: a second table would be half as large again.

        The bits in a slot are enough to place it anew. Begun behind a free slot, each entry finds
        its place not behind the one that it had, so it never passes one that is still to move.
        """
        slots, count = self._slots, len(self._slots)
        first = slots.index(0)
        for _ in range(count // SLOTS_MIN):
            slots.extend(_FREE)
        mask = len(slots) - 1
        for at in chain(range(first + 1, count), range(first)):
            slot = slots[at]
            if slot:
                slots[at] = 0
                index = (slot >> _POSITION_BITS) & mask
                while slots[index] != 0:
                    index = (index + 1) & mask
                slots[index] = slot

    def _read(self, position: int, count: int) -> bytes:
        """Bytes of the entries, whether written already or not. An entry is never in both."""
        if position >= self._written:
            start = position - self._written
            return bytes(self._pending[start : start + count])
        try:
            return os.pread(self._file.fileno(), count, position)
        except OSError as error:
            raise _local(error) from error

    def _flush(self) -> None:
        self._folder.take(len(self._pending))
        self._taken += len(self._pending)
        try:
            with memoryview(self._pending) as view:
                written = 0
                while written < len(view):
                    written += self._file.write(view[written:])
        except OSError as error:
            raise _local(error) from error
        self._written += len(self._pending)
        self._pending = bytearray()


def _local(error: OSError) -> ChiveIndexerError:
    if error.errno in NO_SPACE:
        return LocalBusy(f"spool: {error.strerror}")
    return LocalFault(f"spool: {error.strerror}")
