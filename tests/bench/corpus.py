"""The generated input of the suite, on disk under `.bench/`.

A corpus is a directory: `manifest.json` with the tracked repos as they stand before the first
frame (DID, signing key, rev, data, number of in-scope records), one CAR per repo with that state,
the frames, and what each tracked frame must lead to. It depends only on its size, its seed and
`FORMAT`, is made once, and is never changed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.stream import FrameFile, Mix, Stream, TrackedFrame, plan_stream, read_tracked

FORMAT = 1
"""Raised whenever the generator would make other bytes."""

SEED = 20261101


@dataclass(frozen=True, slots=True)
class Size:
    """How much is generated."""

    name: str
    repos: int  # tracked
    foreign_repos: int
    records: tuple[int, int]  # least and most records of a repo at the start
    foreign_frames: int
    mixed_frames: int
    scoped_frames: int
    in_scope_share: float = 0.2  # of the records at the start


QUICK = Size(
    name="quick",
    repos=12,
    foreign_repos=8,
    records=(600, 3000),
    foreign_frames=1500,
    mixed_frames=3000,
    scoped_frames=3000,
)
FULL = Size(
    name="full",
    repos=40,
    foreign_repos=20,
    records=(600, 9000),
    foreign_frames=6000,
    mixed_frames=20_000,
    scoped_frames=40_000,
)


@dataclass(frozen=True, slots=True)
class StartRepo:
    """A tracked repo before the first frame."""

    did: str
    handle: str
    signing_key: str  # multibase
    rev: str
    commit: str  # CID of the signed commit
    data: str
    rows: int  # in-scope records
    car: str  # file name


class Corpus:
    """A finished corpus. Frames are read when asked for."""

    def __init__(self, directory: Path, seed: int, repos: list[StartRepo]) -> None:
        self.directory = directory
        self.seed = seed
        self.repos = repos
        self._tracked: dict[str, list[TrackedFrame]] = {}

    @classmethod
    def load(cls, directory: Path) -> Corpus:
        """Open the corpus in `directory`."""
        manifest = json.loads((directory / "manifest.json").read_text())
        return cls(directory, manifest["seed"], [StartRepo(**repo) for repo in manifest["repos"]])

    def frames(self, name: str) -> FrameFile:
        """All frames of a sequence, or the foreign ones."""
        return FrameFile(self.directory, name)

    def tracked(self, sequence: str) -> list[TrackedFrame]:
        """What each frame of a sequence must lead to."""
        if sequence not in self._tracked:
            self._tracked[sequence] = read_tracked(self.directory / f"{sequence}.json")
        return self._tracked[sequence]

    def stream(self, mix: Mix, events: int) -> Stream:
        """The first `events` events of a mix, or a little fewer."""
        foreign = (self.directory / "foreign.index").stat().st_size // 24
        tracked_max = len(self.tracked(mix.sequence))
        return plan_stream(
            mix, events=events, tracked_max=tracked_max, foreign=foreign, seed=self.seed
        )

    def expected(self, stream: Stream) -> tuple[dict[str, str], int]:
        """(DID -> rev, in-scope rows of all repos) after the whole stream."""
        revs = {repo.did: repo.rev for repo in self.repos}
        rows = sum(repo.rows for repo in self.repos)
        for frame in self.tracked(stream.mix.sequence)[: stream.tracked_count]:
            revs[self.repos[frame.repo].did] = frame.rev
            rows += frame.rows
        return revs, rows


def ensure_corpus(root: Path, size: Size, *, seed: int = SEED) -> Corpus:
    """The corpus of this size and seed below `root`, made now if it is not there."""
    directory = root / f"corpus-{FORMAT}-{size.name}-{seed}"
    if not (directory / "manifest.json").exists():
        from tests.bench.world import write_corpus  # the generator needs it, readers do not

        building = root / f"building-{os.getpid()}"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        repos = write_corpus(building, size, seed)
        manifest = {"format": FORMAT, "seed": seed, "repos": [asdict(repo) for repo in repos]}
        (building / "manifest.json").write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(directory, ignore_errors=True)
        building.rename(directory)
    return Corpus.load(directory)
