"""Frames on disk, and the order in which a relay sends them.

A frame file holds each distinct frame once. A stream is a `Mix` of them: the tracked frames in
the order in which they were made (they chain), between foreign frames which are taken round and
round from a small pool, because nobody who drops them can tell. Every frame gets its place in
the stream as its seq, patched in when it is sent; all seqs are above `SEQ_BASE`, so that each
takes the same five bytes of CBOR.

Both ends compute the same stream from the same mix: `plan_stream` is a pure function.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SEQ_BASE = 1_000_000
"""Seq of the first frame of every stream."""

FIELDS = 3  # numbers per frame in the index: offset, length, position of the seq's four bytes


@dataclass(frozen=True, slots=True)
class Mix:
    """Which share of the events is of tracked repos, and which tracked frames these are."""

    name: str
    percent: int  # events of tracked repos among 100
    sequence: str  # name of the sequence of tracked frames

    @property
    def title(self) -> str:
        """The mix as tables name it."""
        return f"{self.percent} %"


MIXES = {
    mix.name: mix
    for mix in (
        Mix("mix1", 1, "mixed"),
        Mix("mix10", 10, "mixed"),
        Mix("mix30", 30, "mixed"),
        Mix("mix100", 100, "scoped"),
    )
}
"""`mixed` repos write half of their commits in scope, `scoped` ones all of them."""


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """What a consumer must have made of one tracked frame."""

    repo: int  # index into the corpus' repos
    rev: str  # of the repo after the frame
    rows: int  # in-scope records added, less those removed


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame before its place in a stream is known: `seq_at` is where its seq's bytes start."""

    data: bytes
    seq_at: int


class FrameWriter:
    """Appends frames to `NAME.frames` and `NAME.index` in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._index_path = directory / f"{name}.index"
        self._file = (directory / f"{name}.frames").open("wb")
        self._index = array("Q")
        self._offset = 0

    def append(self, frame: Frame) -> None:
        """Add one frame."""
        self._index.extend((self._offset, len(frame.data), frame.seq_at))
        self._file.write(frame.data)
        self._offset += len(frame.data)

    def close(self) -> None:
        """Write the index; only then can the frames be read."""
        self._file.close()
        with self._index_path.open("wb") as file:
            self._index.tofile(file)


class FrameFile:
    """All frames of one file, in memory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.data = bytearray((directory / f"{name}.frames").read_bytes())
        self._index = array("Q")
        self._index.frombytes((directory / f"{name}.index").read_bytes())

    def __len__(self) -> int:
        return len(self._index) // FIELDS

    def __getitem__(self, number: int) -> tuple[int, int, int]:
        """Offset, length and seq position (from the frame's start) of one frame."""
        offset, length, seq_at = self._index[number * FIELDS : number * FIELDS + FIELDS]
        return offset, length, seq_at


@dataclass(frozen=True, slots=True)
class Stream:
    """A finished order: for each event the number of a tracked frame, or -1 - a foreign one's."""

    mix: Mix
    frames: Sequence[int]

    @property
    def seq_last(self) -> int:
        """Seq of the last frame, which is a tracked one."""
        return SEQ_BASE + len(self.frames) - 1

    @property
    def tracked_count(self) -> int:
        """Events of tracked repos."""
        return max(self.frames, default=-1) + 1

    def tracked(self) -> Iterator[tuple[int, int]]:
        """(seq, number) of the tracked frames, in order."""
        for place, number in enumerate(self.frames):
            if number >= 0:
                yield SEQ_BASE + place, number


def plan_stream(mix: Mix, *, events: int, tracked_max: int, foreign: int, seed: int) -> Stream:
    """The order of about `events` frames of a mix.

    Ends with the last tracked frame that fits, since what a consumer makes of that one is seen
    at once, and early when the `tracked_max` frames of the sequence are used up.
    """
    rng = random.Random(f"{seed}:{mix.name}")
    order = array("q")
    end = tracked = shown = 0
    share = mix.percent / 100
    while len(order) < events and tracked < tracked_max:
        if rng.random() < share:
            order.append(tracked)
            tracked += 1
            end = len(order)
        else:
            order.append(-1 - shown % foreign)
            shown += 1
    return Stream(mix, order[:end])


def write_tracked(path: Path, frames: Iterable[TrackedFrame]) -> None:
    """Keep what each tracked frame must lead to, in the order of the sequence."""
    path.write_text(json.dumps([[frame.repo, frame.rev, frame.rows] for frame in frames]))


def read_tracked(path: Path) -> list[TrackedFrame]:
    """What `write_tracked` kept."""
    return [TrackedFrame(repo, rev, rows) for repo, rev, rows in json.loads(path.read_text())]
