"""`python -m indexer.ingest.verification_worker SETTINGS`: verifies commits for the live stream.

Runs as a process of its own, so that what it computes does not take the interpreter from the event
loop and the writer. It ends with its input, and so does not outlive the daemon. It touches neither
the index nor the network.
"""

from __future__ import annotations

import fcntl
import gc
import queue
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import RawIOBase

import msgspec

from indexer.errors import ConfigurationError
from indexer.ingest.verification import RawFrame, Verifier
from indexer.ingest.verification_wire import (
    LENGTH_BYTES,
    VERDICTS_BYTES,
    Task,
    WorkerSettings,
    decode_task,
    encode,
    framed,
)
from indexer.model import Scope
from indexer.records.prepare import prepare_record

PIPE_BYTES = 1 << 20
"""What Linux gives without privileges; the usual 64 kB are filled and emptied many times a task."""

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
    try:
        registry = settings.registry.load()
    except ConfigurationError as error:
        _say(encode(str(error)))
        return
    clock = _GivenClock()
    verifier = Verifier(
        scope=Scope(settings.collections),
        prepare=partial(prepare_record, registry=registry),
        clock=clock,
    )
    gc.collect()
    gc.freeze()
    _widen_pipes()
    _say(encode(None))
    tasks: queue.Queue[bytes | None] = queue.Queue(TASKS_READ_AHEAD)
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()
    while (message := tasks.get()) is not None:
        task = decode_task(message)
        clock.at = task.now
        _say(encode(_verdicts(verifier, task)))


def _widen_pipes() -> None:
    for end in (sys.stdin, sys.stdout):
        with suppress(OSError):  # a user may have so much and no more of them
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _read(tasks: queue.Queue[bytes | None]) -> None:
    # Without a buffer, whose lock would still be held when the interpreter ends before this does.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as source:
        while len(length := _exactly(source, LENGTH_BYTES)) == LENGTH_BYTES:
            size = int.from_bytes(length, "big")
            if len(message := _exactly(source, size)) < size:
                break
            tasks.put(message)
    tasks.put(None)


def _exactly(source: RawIOBase, size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    read = bytearray()
    while len(read) < size and (more := source.read(size - len(read))):
        read += more
    return bytes(read)


def _verdicts(verifier: Verifier, task: Task) -> list[msgspec.Raw]:
    """`Verdicts`, each encoded by itself, of no more than `VERDICTS_BYTES`."""
    none = encode(None)
    verdicts: list[msgspec.Raw] = []
    left = VERDICTS_BYTES
    for data, key in task.commits:
        verdict = none
        if left > 0:
            (seen,) = verifier.commits([RawFrame.decoded(data)], key)
            if seen.error is None:
                verdict = encode(msgspec.structs.replace(seen, frame=b""))
                left -= len(verdict)
        verdicts.append(msgspec.Raw(verdict if left >= 0 else none))
    return verdicts


def _say(message: bytes) -> None:
    sys.stdout.buffer.write(framed(message))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
