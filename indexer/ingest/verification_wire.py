"""What the daemon and its process for verification say to each other, at the ends of two pipes.

A message is its length in four bytes, big-endian, and MessagePack. The process says first why it
cannot work, or None; then it answers each `Task` with one verdict a commit, in order. Nothing of it
is kept, and both ends are the same code.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from indexer.planning import CommitSeen
from indexer.records.registry import RegistrySource

LENGTH_BYTES = 4

VERDICTS_BYTES = 8 << 20
"""Of the verdicts on one task, which have some 250 kB. The process leaves the rest to the daemon:
two hundred ops may name one large block, and so may those of each commit."""


class WorkerSettings(msgspec.Struct, frozen=True):
    """What the process is started with."""

    collections: tuple[str, ...]
    registry: RegistrySource


class Task(msgspec.Struct, frozen=True, array_like=True):
    """Commits to be verified."""

    now: float  # unix seconds, by the clock of the daemon
    commits: list[tuple[bytes, str]]  # frame, multibase of the signing key


Verdicts: TypeAlias = list[CommitSeen | None]
"""Without their frames; None of a commit that whoever asked has to verify."""

encode = msgspec.msgpack.Encoder().encode
decode_greeting = msgspec.msgpack.Decoder(str | None).decode
decode_task = msgspec.msgpack.Decoder(Task).decode
decode_verdicts = msgspec.msgpack.Decoder(Verdicts).decode


def framed(message: bytes) -> bytes:
    """The message as it is sent."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message
