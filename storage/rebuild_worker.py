"""`python -m storage.rebuild_worker SETTINGS`: does the work of a rebuild, piece by piece.

Runs as a process of its own, at the end of two pipes: a line of JSON says what to do, others how
far it has come, and one what came of it. It ends with its input, so that it does not outlive the
daemon. It reads the index, and writes nothing but the files of the rebuild.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from indexer.errors import ConfigurationError
from indexer.records.prepare import prepare_stored, prepare_trusted
from indexer.records.projection import SEARCH
from indexer.records.registry import Registry, RegistrySource
from storage.rebuild_parts import Preparing
from storage.rebuild_work import Outcome, Told, Work, perform

NICENESS = 10
"""A rebuild can wait: the live stream goes first."""


TELL_S = 0.2
"""Between two lines that say how far a piece of work has come."""


class WorkerSettings(msgspec.Struct, frozen=True):
    """What a worker is started with."""

    index: str  # path of the index
    registry: RegistrySource


def main(settings_text: str) -> None:
    """Work until there is nothing more to read."""
    with suppress(PermissionError):  # a service manager may forbid it
        os.nice(NICENESS)
    settings = msgspec.json.decode(settings_text, type=WorkerSettings)
    try:
        preparing = _preparing(settings.registry.load())
    except ConfigurationError as error:
        for _ in sys.stdin.buffer:
            _say(Outcome(problem=str(error)))
        return
    decode = msgspec.json.Decoder(Work).decode
    for line in sys.stdin.buffer:
        telling = _Telling()
        outcome = perform(decode(line), Path(settings.index), preparing, telling.tell)
        telling.say()
        _say(outcome)


class _Telling:
    """Says what was told of one piece of work, though not so often."""

    def __init__(self) -> None:
        self._count = 0
        self._said_at = time.monotonic()

    def tell(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._said_at >= TELL_S:
            self.say()

    def say(self) -> None:
        if self._count:
            _say(Told(self._count))
        self._count, self._said_at = 0, time.monotonic()


def _say(what: Told | Outcome) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def _preparing(registry: Registry) -> Preparing:
    return Preparing(
        prepare=partial(prepare_stored, registry=registry),
        prepare_trusted=partial(prepare_trusted, registry=registry),
        types=registry.types,
        search=SEARCH,
        judged_by=registry.lexicon_id,
    )


if __name__ == "__main__":
    main(sys.argv[1])
