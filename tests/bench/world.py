"""Makes a corpus: repos with their history, then the frames that they write.

Tracked repos of the `mixed` sequence write half of their commits in scope, those of `scoped` all;
both sequences start from the same repos. Every 143rd event or so (0.7 %) is not a commit: of
foreign repos #identity, #account and #sync, of tracked ones only the last two and with known
content, since a few dozen repos standing for thousands would otherwise be asked for their
identity without end.
"""

from __future__ import annotations

import hashlib
import math
import random
from base64 import b32encode
from itertools import cycle
from pathlib import Path

from tests.bench.content import Writer
from tests.bench.corpus import Size, StartRepo
from tests.bench.repo import BenchRepo, Clock, RecordWriter
from tests.bench.signing import k256_signer, p256_signer
from tests.bench.stream import FrameWriter, TrackedFrame, write_tracked
from tests.devnet.cbor import cid_text

START_US = 1_788_220_800_000_000  # 2026-09-01: past, so that no rev is from the future
HISTORY_US = 2 * 365 * 86_400_000_000
EVENT_STEP_US = 2_000
OTHER_SHARE = 0.007
P256_SHARE = 0.05
IN_SCOPE_SHARE_MIXED = 0.5


def write_corpus(directory: Path, size: Size, seed: int) -> list[StartRepo]:
    """Write everything but the manifest; the tracked repos before the first frame."""
    rng = random.Random(seed)
    clock = Clock(START_US)
    writer = Writer(rng)
    tracked = [new_repo(f"{seed}:tracked:{n}", n, writer, clock, rng) for n in range(size.repos)]
    starts = []
    for number, repo in enumerate(tracked):
        records = repo.fill(
            log_uniform(rng, *size.records),
            in_scope_share=size.in_scope_share,
            since_us=START_US - HISTORY_US,
        )
        repo.write_car(directory / f"repo{number}.car", records)
        starts.append(start_of(repo, number))
    write_foreign(directory, size, seed, writer, clock, rng)
    for name, count, share in (
        ("mixed", size.mixed_frames, IN_SCOPE_SHARE_MIXED),
        ("scoped", size.scoped_frames, 1.0),
    ):
        repos = [repo.fork() for repo in tracked]
        write_sequence(directory, name, repos, count, share, clock, rng)
    return starts


def new_repo(
    seed: str, number: int, writer: RecordWriter, clock: Clock, rng: random.Random
) -> BenchRepo:
    """An empty repo with a key; one of twenty keys is P-256."""
    digest = hashlib.sha256(seed.encode()).digest()
    did = "did:plc:" + b32encode(digest).decode().lower()[:24]
    is_p256 = number % round(1 / P256_SHARE) == 1
    signer = p256_signer(seed) if is_p256 else k256_signer(seed)
    return BenchRepo(did, signer, writer, clock, rng)


def log_uniform(rng: random.Random, least: int, most: int) -> int:
    """Between the two, small ones more often."""
    return int(least * math.exp(rng.random() * math.log(most / least)))


def start_of(repo: BenchRepo, number: int) -> StartRepo:
    """What the manifest says of a repo."""
    return StartRepo(
        did=repo.did,
        handle=f"author{number}.bench.test",
        signing_key=repo.signer.multibase,
        rev=repo.rev,
        commit=cid_text(repo.commit_cid),
        data=repo.data,
        rows=repo.rows,
        car=f"repo{number}.car",
    )


def write_foreign(
    directory: Path, size: Size, seed: int, writer: Writer, clock: Clock, rng: random.Random
) -> None:
    """The pool of frames of repos that nobody tracks."""
    repos = []
    for number in range(size.foreign_repos):
        repo = new_repo(f"{seed}:foreign:{number}", number, writer, clock, rng)
        repo.fill(
            log_uniform(rng, *size.records), in_scope_share=0.0, since_us=START_US - HISTORY_US
        )
        repos.append(repo)
    others = cycle((BenchRepo.identity_frame, BenchRepo.account_frame, BenchRepo.sync_frame))
    frames = FrameWriter(directory, "foreign")
    for _ in range(size.foreign_frames):
        clock.tick(EVENT_STEP_US)
        repo = rng.choice(repos)
        if rng.random() < OTHER_SHARE:
            frames.append(next(others)(repo))
        else:
            frames.append(repo.commit_frame(in_scope=False)[0])
    frames.close()


def write_sequence(
    directory: Path,
    name: str,
    repos: list[BenchRepo],
    count: int,
    in_scope_share: float,
    clock: Clock,
    rng: random.Random,
) -> None:
    """`count` frames of tracked repos, busy ones more often, and what each must lead to."""
    others = cycle((BenchRepo.account_frame, BenchRepo.sync_frame))
    frames = FrameWriter(directory, name)
    outcomes = []
    busy = [rng.paretovariate(1.5) for _ in repos]
    for number in rng.choices(range(len(repos)), busy, k=count):
        clock.tick(EVENT_STEP_US)
        repo, rows = repos[number], 0
        if rng.random() < OTHER_SHARE:
            frame = next(others)(repo)
        else:
            frame, rows = repo.commit_frame(in_scope=rng.random() < in_scope_share)
        frames.append(frame)
        outcomes.append(TrackedFrame(number, repo.rev, rows))
    frames.close()
    write_tracked(directory / f"{name}.json", outcomes)
