"""The index that grows in the benchmark is as large as it says."""

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

from indexer.records.projection import SEARCH
from storage.database import open_database
from storage.projections import Projections
from tests.bench.growth import (
    CORPUS_REPOS,
    PER_REPO,
    copy_records,
    light_records,
    searches,
    write_records,
)
from tests.bench.records_scale import REGISTRY, insert_repos

WRITTEN = 150
WANTED = 400


async def make(path: Path) -> None:
    """A store with the repos that a daemon would have fetched, and some written records."""
    projections = Projections(REGISTRY.types, SEARCH, basis=REGISTRY.governance_did)
    async with open_database(path) as database:
        await database.write(partial(projections.install, judged_by=REGISTRY.lexicon_id))
        await database.write(partial(insert_repos, repos=len(CORPUS_REPOS)))
    assert await write_records(path, islice(light_records(seed=1), WRITTEN)) > 0


def test_copies_are_rows_indexes_and_search_of_new_repos(tmp_path: Path):
    path = tmp_path / "index.db"
    asyncio.run(make(path))
    copy_records(path, WANTED)
    with closing(sqlite3.connect(path)) as connection:

        def count(query: str) -> int:
            return connection.execute(query).fetchone()[0]

        assert count("SELECT count(*) FROM record") == WANTED
        assert count("SELECT count(*) FROM repo") >= len(CORPUS_REPOS) + WANTED // PER_REPO
        assert count("SELECT count(DISTINCT did) FROM repo") == count("SELECT count(*) FROM repo")
        eprints = count("SELECT count(*) FROM record WHERE collection LIKE '%.submission'")
        assert count("SELECT count(*) FROM eprint_submission") == eprints
        assert count("SELECT count(*) FROM eprint_search") == eprints > 10
        assert count("SELECT sum(total) FROM tally WHERE kind = 'collection'") == WANTED
        assert count("SELECT sum(records) FROM repo") == WANTED
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert searches(path)["search_p95_ms"] > 0
