"""`python -m indexer.ingest.verification_worker SETTINGS`: verifies commits for the live stream.

Runs as a process of its own, so that what it computes does not take the interpreter from the event
loop and the writer. It ends with its input, and so does not outlive the daemon. It touches neither
the index nor the network.
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from indexer.ingest.verification import RawFrame, Verifier
from indexer.ingest.verification_wire import (
    LENGTH_BYTES,
    Task,
    Verdicts,
    WorkerSettings,
    decode_task,
    encode,
    framed,
)
from indexer.model import Scope
from indexer.records.prepare import prepare_record
from indexer.records.registry import load_registry

TASKS_READ_AHEAD = 1
"""A task is read while the one before it is worked on: a pipe holds less than one."""


@dataclass(slots=True)
class _GivenClock:
    """The time that the daemon says it is."""

    at: float = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def main(settings_text: str) -> None:
    """Work until there is nothing more to read."""
    settings = msgspec.json.decode(settings_text, type=WorkerSettings)
    folder = None if settings.lexicon_dir is None else Path(settings.lexicon_dir)
    registry = load_registry(governance_did=settings.governance_did, lexicon_dir=folder)
    clock = _GivenClock()
    verifier = Verifier(
        scope=Scope(settings.collections),
        prepare=partial(prepare_record, registry=registry),
        clock=clock,
    )
    gc.collect()
    gc.freeze()
    _say(encode(registry.lexicon_id))
    tasks: queue.Queue[bytes | None] = queue.Queue(TASKS_READ_AHEAD)
    threading.Thread(target=_read, args=(sys.stdin.buffer, tasks), daemon=True).start()
    while (message := tasks.get()) is not None:
        task = decode_task(message)
        clock.at = task.now
        _say(encode(_verdicts(verifier, task)))


def _read(source: BinaryIO, tasks: queue.Queue[bytes | None]) -> None:
    while length := source.read(LENGTH_BYTES):
        tasks.put(source.read(int.from_bytes(length, "big")))
    tasks.put(None)


def _verdicts(verifier: Verifier, task: Task) -> Verdicts:
    verdicts: Verdicts = []
    for data, key in task.commits:
        (seen,) = verifier.commits([RawFrame.decoded(data)], key)
        verdicts.append(None if seen.error else msgspec.structs.replace(seen, frame=b""))
    return verdicts


def _say(message: bytes) -> None:
    sys.stdout.buffer.write(framed(message))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
