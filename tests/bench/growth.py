"""`python -m tests.bench.growth [--most N] [--json FILE]`: each cost over the records and repos held.

One index grows from a thousand records to three million, three a repo, of 1 kB on the average (one
in ten is an eprint). At each size the daemon is started on it and measured: start to ready, memory,
live latency at 2,000 events a second (1 % tracked), the first fetch of one more repo, searches; and
how much processor time a thousand further records cost the writer. Up to 100,000 records are
written by the code that every path ends in; larger sizes are copies of these for other repos, whose
projections keep the URIs of the originals: rows, indexes and search are as large as real ones, and
`verify` would find what is copied to be so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

from indexer.model import Source, utc_text
from indexer.records.projection import SEARCH
from storage.database import open_database
from storage.projections import Projections
from storage.records import RecordTable, RowWrite
from tests.bench.benchmark import Figures, percentile
from tests.bench.content import SUBMISSION, Writer
from tests.bench.corpus import Corpus, Size, ensure_corpus
from tests.bench.daemon import Daemon, await_active, await_admin, open_daemon, open_hosts
from tests.bench.feed import Feed, open_feed
from tests.bench.following import PACED_POLL_S, latencies_of, watch_cursor
from tests.bench.process import ROOT, ProcessError, read_usage
from tests.bench.records_scale import (
    BATCH_ROWS,
    REGISTRY,
    REV,
    START,
    did_of,
    prepare_block,
    search_times_s,
)
from tests.bench.report import commit, write_campaign
from tests.bench.stream import MIXES
from tests.devnet.cbor import encode

SIZES = (1_000, 10_000, 100_000, 300_000, 1_000_000, 3_000_000)
WRITTEN_MAX = 100_000
"""More are copied."""

PER_REPO = 3
PROBE_RECORDS = 1_000
EPRINT_KEPT = 0.3  # of the writer's eprints, which are every third record; the others are comments
RATE, LIVE_S = 2000.0, 10
READY_S_MAX = 120.0
SEARCHES = 200
COPIED_MAX_BYTES = 6_000_000_000
"""A larger file is not copied for its run: it is the last one."""

CORPUS = Size(
    name="growth",
    repos=10,
    foreign_repos=4,
    records=(200, 400),
    foreign_frames=600,
    mixed_frames=3000,
    scoped_frames=0,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Grow, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="records of the largest size")
    parser.add_argument("--json", type=Path, default=ROOT / "growth-results.json")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the sizes that are in FILE already"
    )
    options = parser.parse_args(arguments)
    version = commit()
    corpus = ensure_corpus(options.cache, CORPUS)
    scratch = options.cache / "growth"
    points = json.loads(options.json.read_text())["points"] if options.resume else []
    if not points:
        shutil.rmtree(scratch, ignore_errors=True)
        fill(corpus, scratch / "base" / "index.db")
    for size in [size for size in SIZES if size <= options.most][len(points) :]:
        points.append(grown(corpus, scratch, size))
        print(json.dumps(points[-1]), flush=True)
        write_campaign(
            options.json,
            campaign="growth",
            title="How costs grow",
            command="python -m tests.bench.growth",
            short_form="tests/unit/bench/test_bench_growth.py",
            measured=version,
            passed=True,
            figures={},
            more={"points": points},
        )
    return 0


def grown(corpus: Corpus, scratch: Path, size: int) -> Figures:
    """Let the index grow to a size; its figures."""
    base = scratch / "base" / "index.db"
    source = light_records(seed=size)
    with closing(sqlite3.connect(base)) as connection:
        (held,) = connection.execute("SELECT count(*) FROM record").fetchone()
    more = max(0, min(size, WRITTEN_MAX) - held - PROBE_RECORDS)
    asyncio.run(write_records(base, islice(source, more)))
    copy_records(base, size - PROBE_RECORDS)
    cpu_s = asyncio.run(write_records(base, islice(source, PROBE_RECORDS)))
    figures = measured(corpus, base, scratch, is_last=size == SIZES[-1])
    return figures | {"insert_us": round(cpu_s / PROBE_RECORDS * 1e6, 1)}


def fill(corpus: Corpus, base: Path) -> None:
    """A store with all tracked repos of the corpus but the last."""
    base.parent.mkdir(parents=True)
    with (
        open_hosts(corpus, base.parent) as hosts_url,
        open_feed(corpus, MIXES["mix1"], 0, rate=0, directory=base.parent) as feed,
        open_daemon(
            base.parent, relay_url=feed.url, hosts_url=hosts_url, start_from=None
        ) as daemon,
    ):
        feed.await_client()
        await_admin(daemon)
        for repo in corpus.repos[:-1]:
            daemon.trigger_backfill(type="didSync", did=repo.did)
        await_active(daemon, len(corpus.repos) - 1)
        daemon.stop()


def light_records(seed: int) -> Iterator[tuple[int, str, bytes]]:
    """(number, collection, block), without end."""
    rng = random.Random(seed)
    writer = Writer(rng)
    number = 0
    while True:
        collection = writer.pick(in_scope=True)
        if collection == SUBMISSION and rng.random() > EPRINT_KEPT:
            collection = "pub.chive.review.comment"
        did = did_of(number // PER_REPO + 1)
        value = writer.write(did, collection, "3l" + "a" * 11, utc_text(START + number))
        yield number, collection, encode(value)
        number += 1


async def write_records(base: Path, records: Iterator[tuple[int, str, bytes]]) -> float:
    """Write them for new repos; processor seconds of the writer's transactions."""
    projections = Projections(REGISTRY.types, SEARCH, basis=REGISTRY.governance_did)
    table = RecordTable(projections)
    spent_s = 0.0
    async with open_database(base) as database:
        await database.write(partial(projections.install, judged_by=REGISTRY.lexicon_id))
        ((first,),) = await database.read("SELECT max(id) + 1 FROM repo")
        at = 0
        while batch := list(islice(records, BATCH_ROWS)):
            repos = range(first + at // PER_REPO, first + (at + len(batch) - 1) // PER_REPO + 1)
            writes = {}
            for number, (stamp, collection, block) in enumerate(batch, at):
                repo_id = first + number // PER_REPO
                path = f"{collection}/3l{stamp:011d}"
                did = did_of(repo_id)
                writes[repo_id, path] = RowWrite(did, REV, prepare_block(did, path, block))
            began = time.process_time()
            await database.write(partial(_add_repos, ids=repos))
            await database.write(
                partial(
                    table.write,
                    writes=writes,
                    source=Source.BACKFILL,
                    at=utc_text(START),
                    now=START,
                )
            )
            spent_s += time.process_time() - began
            at += len(batch)
    return spent_s


def _add_repos(connection: sqlite3.Connection, ids: range) -> None:
    now = time.time()  # or their identities would be looked up at once
    connection.executemany(
        "INSERT OR IGNORE INTO repo (id, did, state, account_status, account_at, identity_at,"
        " wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at, verified_at,"
        " tracked_since, updated_at)"
        " VALUES (?, ?, 'active', 'active', 0, ?, 0, 0, 0, 1, 0, 0, 0, 0, ?, ?, ?)",
        ((each, did_of(each), now, now, utc_text(now), utc_text(now)) for each in ids),
    )


def copy_records(base: Path, records: int) -> None:
    """Copy all that is held to new repos, again and again, until so many records are held."""
    with closing(sqlite3.connect(base)) as connection:
        connection.create_function("did_of", 1, did_of)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -262144")
        last = connection.execute("SELECT max(id) FROM record").fetchone()[0]
        last_repo = connection.execute("SELECT max(id) FROM repo").fetchone()[0]
        own = len(CORPUS_REPOS)
        held = connection.execute("SELECT count(*) FROM record").fetchone()[0]
        turn = 0
        while held < records:
            turn += 1
            with connection:
                _copy(connection, turn * last, turn * last_repo, own, records - held, last)
            held = connection.execute("SELECT count(*) FROM record").fetchone()[0]
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


CORPUS_REPOS = range(1, CORPUS.repos)
"""Ids of the repos that the daemon fetched: they are not copied."""


def _copy(
    connection: sqlite3.Connection, shift: int, repo_shift: int, own: int, most: int, last: int
) -> None:
    """Records up to the id `last` of repos after the first `own`, at most so many."""
    ids = "SELECT id FROM record WHERE id <= :last AND repo_id > :own ORDER BY id LIMIT :most"
    bound = {"last": last, "own": own, "most": most, "shift": shift, "repo": repo_shift}
    connection.execute(f"CREATE TEMP TABLE chosen AS {ids}", bound)
    connection.execute("CREATE UNIQUE INDEX temp.chosen_id ON chosen (id)")
    columns = _columns(connection, "repo")
    values = columns | {
        "id": "id + :repo", "did": "did_of(id + :repo)", "records": "0", "record_bytes": "0",
    }  # fmt: skip
    _insert(
        connection, "repo", values, bound,
        "WHERE id IN (SELECT DISTINCT repo_id FROM record WHERE id IN (SELECT id FROM chosen))",
    )  # fmt: skip
    record = _columns(connection, "record")
    values = record | {"id": "id + :shift", "repo_id": "repo_id + :repo"}
    _insert(connection, "record", values, bound, "WHERE id IN (SELECT id FROM chosen)")
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%\\__1' ESCAPE '\\'"
    ).fetchall()
    for (name,) in tables:
        columns = _columns(connection, name)
        if "record_id" in columns:
            values = columns | {"record_id": "record_id + :shift"}
            _insert(connection, name, values, bound, "WHERE record_id IN (SELECT id FROM chosen)")
    search = {"rowid": "rowid + :shift", **_columns(connection, "eprint_search")}
    _insert(connection, "eprint_search", search, bound, "WHERE rowid IN (SELECT id FROM chosen)")
    connection.execute("DROP TABLE chosen")


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    rows = connection.execute(f'PRAGMA table_info("{table}")')
    return {row[1]: f'"{row[1]}"' for row in rows}


def _insert(
    connection: sqlite3.Connection,
    table: str,
    values: dict[str, str],
    bound: dict[str, int],
    where: str,
) -> None:
    names = ", ".join(f'"{name}"' if name != "rowid" else name for name in values)
    connection.execute(
        f'INSERT INTO "{table}" ({names}) SELECT {", ".join(values.values())} FROM "{table}" {where}',
        bound,
    )


def measured(corpus: Corpus, base: Path, scratch: Path, *, is_last: bool) -> Figures:
    """Start a daemon on the index, or on a copy of it, and look at everything."""
    run = scratch / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    if is_last and base.stat().st_size > COPIED_MAX_BYTES:
        base.rename(run / "index.db")
    else:
        shutil.copyfile(base, run / "index.db")
    with (run / "index.db").open("rb") as file:
        os.fsync(file.fileno())  # or the daemon's first commits wait for gigabytes of ours
    with (
        open_hosts(corpus, run) as hosts_url,
        open_feed(corpus, MIXES["mix1"], int(RATE * LIVE_S), rate=RATE, directory=run) as feed,
    ):
        began = time.monotonic()
        with open_daemon(run, relay_url=feed.url, hosts_url=hosts_url, start_from=None) as daemon:
            await_ready(daemon)
            figures = {"start_s": round(time.monotonic() - began, 2)}
            figures |= live(daemon, feed)
            figures["rss_mb"] = round(read_usage(daemon.process.pid).rss_bytes_max / 1e6, 1)
            figures["resync_ms"] = round(first_fetch(daemon, corpus.repos[-1].did) * 1000, 1)
            daemon.stop()
    return held(run / "index.db") | figures | searches(run / "index.db")


def await_ready(daemon: Daemon) -> None:
    """Wait until every component says so."""
    deadline = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline and daemon.process.is_running:
        try:
            with urllib.request.urlopen(f"{daemon.admin_url}/readyz", timeout=5.0):
                return
        except OSError:
            time.sleep(0.01)
    raise daemon.process.failure("did not become ready")


def live(daemon: Daemon, feed: Feed) -> Figures:
    """Latencies of the stream."""
    first = feed.start()
    sightings = watch_cursor(daemon, feed.stream.seq_last, PACED_POLL_S)
    found = latencies_of(feed, first, RATE, sightings)
    return {name: round(found[name], 2) for name in ("p50_ms", "p99_ms")}


def first_fetch(daemon: Daemon, did: str) -> float:
    """Seconds from the trigger to the active repo."""
    began = time.monotonic()
    daemon.trigger_backfill(type="didSync", did=did)
    with closing(daemon.reader()) as reader:
        while time.monotonic() - began < READY_S_MAX:
            row = reader.execute("SELECT state FROM repo WHERE did = ?", (did,)).fetchone()
            if row == ("active",):
                return time.monotonic() - began
            time.sleep(0.005)
    raise ProcessError(f"{did} was not fetched")


def held(path: Path) -> Figures:
    """What the file holds."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        (records,) = reader.execute("SELECT count(*) FROM record").fetchone()
        (repos,) = reader.execute("SELECT count(*) FROM repo").fetchone()
    return {"records": records, "repos": repos, "file_mb": round(path.stat().st_size / 1e6)}


def searches(path: Path) -> Figures:
    """How long searches take, as people type them."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        times = [each * 1000 for each in search_times_s(reader, random.Random(1), SEARCHES)]
    return {
        "search_p50_ms": round(percentile(times, 0.5), 2),
        "search_p95_ms": round(percentile(times, 0.95), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
