"""The relay process as a benchmark handles it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.corpus import Corpus
from tests.bench.process import Child
from tests.bench.stream import Mix, Stream

START_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Feed:
    """A relay that holds its stream back until told."""

    relay: Child
    stream: Stream
    url: str

    def await_client(self) -> None:
        """Wait until somebody has connected."""
        self.relay.hear("client", timeout_s=START_S_MAX)

    def start(self) -> float:
        """Let it send; monotonic time of the first frame."""
        self.relay.say("go")
        return float(self.relay.hear("first", timeout_s=START_S_MAX)["first"])


@contextmanager
def open_feed(
    corpus: Corpus, mix: Mix, events: int, *, rate: float, directory: Path
) -> Iterator[Feed]:
    """A relay with `events` events of a mix, at `rate` a second (0: as fast as it is read)."""
    relay = Child.python(
        "tests.bench.relay",
        "--corpus",
        corpus.directory,
        "--mix",
        mix.name,
        "--events",
        str(events),
        "--rate",
        str(rate),
        log=directory / "relay.log",
    )
    stream = corpus.stream(mix, events)
    with relay:
        port = relay.hear("port", timeout_s=START_S_MAX)["port"]
        yield Feed(relay, stream, f"ws://127.0.0.1:{port}")
