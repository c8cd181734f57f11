"""What the daemon and its process for verification say to each other, at the ends of two pipes.

A message is its length in four bytes, big-endian, and MessagePack. The process says first by which
lexicons it judges; then it answers each `Task` with one verdict a commit, in order. Nothing of it
is kept, and both ends are the same code.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from indexer.planning import CommitSeen

LENGTH_BYTES = 4


class WorkerSettings(msgspec.Struct, frozen=True):
    """What the process is started with."""

    collections: tuple[str, ...]
    governance_did: str
    lexicon_dir: str | None
    judged_by: str  # the lexicons that the daemon goes by


class Task(msgspec.Struct, frozen=True, array_like=True):
    """Commits to be verified."""

    now: float  # unix seconds, by the clock of the daemon
    commits: list[tuple[bytes, str]]  # frame, multibase of the signing key


Verdicts: TypeAlias = list[CommitSeen | None]
"""Without their frames; None where there is an error, which is found again by whoever asked."""

encode = msgspec.msgpack.Encoder(enc_hook=repr).encode


def _no_error(kind: type, value: object) -> object:
    raise NotImplementedError(f"no {kind} is sent, nor is {value!r}")


decode_task = msgspec.msgpack.Decoder(Task).decode
decode_verdicts = msgspec.msgpack.Decoder(Verdicts, dec_hook=_no_error).decode
decode_text = msgspec.msgpack.Decoder(str).decode


def framed(message: bytes) -> bytes:
    """The message as it is sent."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message
