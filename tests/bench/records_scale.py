"""`python -m tests.bench.records_scale [--records N] [--keep FILE]`: a large index, and its readers.

Writes N records of the 100 % mix (one million unless told otherwise) through the code that every
path ends in, then measures what readers do with the file: bytes per record, `verify`, and the time
of searches for one to three words as people type them. Prints one line a figure, on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

from indexer.model import PreparedRecord, Source, utc_text
from indexer.protocol.cid import cid_text, dag_cbor_cid
from indexer.records.prepare import prepare_record
from indexer.records.projection import SEARCH
from indexer.records.registry import load_registry
from storage.database import open_database
from storage.projections import Projections
from storage.records import RecordTable, RowWrite
from storage.search import SearchFilter, search_eprints
from tests.bench.content import Writer
from tests.devnet.cbor import encode

BATCH_ROWS = 500
RECORDS_PER_REPO = 100
SEARCHES = 400
REV = "3lzzzzzzzzz2a"
START = 1_788_220_800.0
REGISTRY = load_registry()
LETTERS = "234567abcdefghijklmnopqrstuvwxyz"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, measure, print; 1 when `verify` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.records_scale")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="leave the index there, or use what is there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "index.db"
        if not path.exists():
            asyncio.run(build(path, options.records, options.seed))
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            records = reader.execute("SELECT count(*) FROM record").fetchone()[0]
            show("file, bytes per record", path.stat().st_size / records)
            measure_search(reader, options.seed)
        return measure_verify(path)


async def build(path: Path, records: int, seed: int) -> None:
    """Write the index, and say how long the writer took for each record."""
    projections = Projections(REGISTRY.types, SEARCH, basis=REGISTRY.governance_did)
    table = RecordTable(projections)
    spent_s: list[float] = []
    async with open_database(path, observe_s=spent_s.append) as database:
        await database.write(partial(projections.install, judged_by=REGISTRY.lexicon_id))
        await database.write(partial(insert_repos, repos=records // RECORDS_PER_REPO + 1))
        spent_s.clear()
        prepared_s, started, written = 0.0, time.perf_counter(), 0
        source = stream(records, seed)
        while batch := list(islice(source, BATCH_ROWS)):
            began = time.perf_counter()
            writes = {
                (repo_id, path): RowWrite(did, REV, prepare_block(did, path, block))
                for repo_id, did, path, block in batch
            }
            prepared_s += time.perf_counter() - began
            await database.write(
                partial(
                    table.write,
                    writes=writes,
                    source=Source.BACKFILL,
                    at=utc_text(START),
                    now=START,
                )
            )
            written += len(batch)
            if written % 50_000 == 0:
                print(f"# {written} records, {time.perf_counter() - started:.0f} s", flush=True)
    show("prepared, microseconds per record", prepared_s / records * 1e6)
    show("written, microseconds per record", sum(spent_s) / records * 1e6)
    show("longest transaction of 500 rows, ms", max(spent_s) * 1000)


def prepare_block(did: str, path: str, block: bytes) -> PreparedRecord:
    """As the live path and the fetch do it."""
    return prepare_record(did, path, cid_text(dag_cbor_cid(block)), block, REGISTRY)


def stream(records: int, seed: int) -> Iterator[tuple[int, str, str, bytes]]:
    """(repo id, DID, path, block) of so many records."""
    rng = random.Random(seed)
    writer = Writer(rng)
    for number in range(records):
        repo_id = number // RECORDS_PER_REPO + 1
        did, collection = did_of(repo_id), writer.pick(in_scope=True)
        rkey = "3l" + "".join(LETTERS[number >> shift & 31] for shift in range(50, -5, -5))
        at = utc_text(START + number)
        value = writer.write(did, collection, rkey, at)
        yield repo_id, did, f"{collection}/{rkey}", encode(value)


def did_of(repo_id: int) -> str:
    """A DID for a row number."""
    return "did:plc:" + "".join(LETTERS[repo_id >> shift & 31] for shift in range(115, -5, -5))


def insert_repos(connection: sqlite3.Connection, repos: int) -> None:
    """Active accounts with the ids 1, 2, ..."""
    connection.executemany(
        "INSERT INTO repo (did, state, account_status, account_at, identity_at, wanted, claimed,"
        " claim, priority, retry_at, attempts, desyncs, synced_at, verified_at, tracked_since,"
        " updated_at) VALUES (?, 'active', 'active', 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, ?, ?)",
        ((did_of(repo_id), utc_text(START), utc_text(START)) for repo_id in range(1, repos + 1)),
    )


def measure_search(reader: sqlite3.Connection, seed: int) -> None:
    """Say how long searches take."""
    times = search_times_s(reader, random.Random(seed), SEARCHES)
    times.sort()
    for name, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99)):
        show(f"search {name}, ms", times[int(share * len(times))] * 1000)


def search_times_s(reader: sqlite3.Connection, rng: random.Random, searches: int) -> list[float]:
    """One to three words of one eprint each, a third of them cut to a prefix, as people type."""
    last = reader.execute("SELECT max(rowid) FROM eprint_search").fetchone()[0]
    times = []
    for _ in range(searches):
        title, abstract = reader.execute(
            "SELECT title, abstract FROM eprint_search WHERE rowid >= ? LIMIT 1",
            (rng.randrange(last),),
        ).fetchone()
        words = rng.sample(sorted(set((title + " " + abstract).split())), rng.randint(1, 3))
        if rng.random() < 1 / 3:
            words[-1] = words[-1][:4] + "*"
        began = time.perf_counter()
        search_eprints(reader, " ".join(words), SearchFilter(), limit=20, offset=0)
        times.append(time.perf_counter() - began)
    return times


def measure_verify(path: Path) -> int:
    """The command as an operator runs it."""
    config = path.with_suffix(".toml")
    config.write_text(f"[storage]\npath = {json.dumps(str(path))}\n")
    began = time.perf_counter()
    code = subprocess.run(
        [sys.executable, "-m", "indexer", "verify", "--config", str(config)], check=False
    ).returncode
    show("verify, seconds", time.perf_counter() - began)
    return code


def show(name: str, figure: float) -> None:
    """One line of the report."""
    print(f"{name:40} {figure:12.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
