"""The other ninety-nine of a hundred events: frames of repos that nobody tracks, between ours.

A crowd costs its sender next to nothing, since its frames are made once and only get their seq and
time when they are sent. Seqs of a crowd are those that the stream leaves free after each event.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from pathlib import Path

from tests.bench import wire
from tests.bench.corpus import Size, ensure_corpus
from tests.bench.repo import time_text
from tests.bench.stream import SEQ_BASE, FrameFile
from tests.devnet.frames import Event
from tests.devnet.stream import EventStream

SENT_MAX = 200_000
_TIME_MARK = b"\x64time\x78\x18"
_TIME_BYTES = 24


class Crowd:
    """Foreign frames as WebSocket messages; `size` of them follow each event."""

    def __init__(self, frames: FrameFile, size: int) -> None:
        self.size = size
        self._messages = [_message(frames, number) for number in range(len(frames))]

    def after(self, seq: int) -> bytes:
        """The messages with the seqs that follow `seq`, as one piece."""
        now = time_text(int(time.time() * 1_000_000)).encode()
        parts = []
        for each in range(seq + 1, seq + 1 + self.size):
            message, seq_at, time_at = self._messages[each % len(self._messages)]
            struct.pack_into(">I", message, seq_at, each)
            message[time_at : time_at + _TIME_BYTES] = now
            parts.append(bytes(message))
        return b"".join(parts)


class CrowdedStream(EventStream):
    """An event log that leaves seqs free for a crowd, and remembers when each event came."""

    def __init__(self, window: int, crowd: Crowd) -> None:
        super().__init__(window, first_seq=SEQ_BASE)
        self.sent: deque[tuple[int, float]] = deque(maxlen=SENT_MAX)
        """(seq, monotonic seconds) of events that nobody has asked about yet."""
        self._crowd = crowd

    def append(self, event: Event) -> int:
        """Give `event` a seq, and the crowd after it those that follow."""
        seq = super().append(event)
        self.sent.append((seq, time.monotonic()))
        self.skip(self._crowd.size)
        return seq


def foreign_frames(root: Path, count: int) -> FrameFile:
    """So many distinct frames of foreign repos, made once below `root`."""
    size = Size(
        name=f"crowd{count}",
        repos=1,
        foreign_repos=8,
        records=(600, 3000),
        foreign_frames=count,
        mixed_frames=0,
        scoped_frames=0,
    )
    return ensure_corpus(root, size).frames("foreign")


def _message(frames: FrameFile, number: int) -> tuple[bytearray, int, int]:
    """(message with its header, position of its seq, position of its time's text)."""
    offset, length, seq_at = frames[number]
    head = wire.header(wire.OPCODE_BINARY, length)
    message = bytearray(head + frames.data[offset : offset + length])
    seq_at += len(head)
    time_at = message.index(_TIME_MARK, seq_at) + len(_TIME_MARK)
    return message, seq_at, time_at
