from pathlib import Path

import pytest

from tests.bench.corpus import Corpus, Size, ensure_corpus

SMALL = Size(
    name="small",
    repos=3,
    foreign_repos=2,
    records=(60, 200),
    foreign_frames=1000,
    mixed_frames=150,
    scoped_frames=150,
)


@pytest.fixture(scope="session")
def bench_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return ensure_corpus(tmp_path_factory.mktemp("bench"), SMALL, seed=7)


@pytest.fixture
def second_bench_corpus(tmp_path: Path) -> Corpus:
    return ensure_corpus(tmp_path, SMALL, seed=7)
