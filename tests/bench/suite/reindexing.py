"""fullReindex of a store of all record types: alone, and beside a stream that is followed.

Records a second are the operation's own, from its start to its end, the check against the records
and the swap included. Beside the stream, the latencies are those of tracked events while it ran.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.benchmark import Benchmark, Contender, Figures, Session, WrongResultError
from tests.bench.daemon import Daemon, await_active, await_admin, open_daemon, open_hosts
from tests.bench.feed import Feed, open_feed
from tests.bench.following import PACED_POLL_S, latencies_of, watch_cursor
from tests.bench.process import read_usage
from tests.bench.records_scale import RECORDS_PER_REPO, build
from tests.bench.stream import MIXES, SEQ_BASE

QUICK_RECORDS = 3_000
FULL_RECORDS = 50_000
LARGE_BATCH = 2000
RATE = 2000.0
MIX = MIXES["mix10"]
QUICK_FEED_S = 4
FULL_FEED_S = 40
END_S_MAX = 600.0

_OPERATION = """
SELECT status, records_processed, completed_at - started_at, completed_at, error, mode, note
FROM operation WHERE type = 'fullReindex'
"""

_Ended = tuple[str, int, float, float, str | None, str, str | None]


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark for each: both are ours, so they are no contenders of each other."""
    records = QUICK_RECORDS if session.is_quick else FULL_RECORDS
    feed_s = QUICK_FEED_S if session.is_quick else FULL_FEED_S
    rounds = 1 if session.is_quick else 3
    return [
        Benchmark(
            name="reindex",
            title=f"fullReindex, {records:,} records",
            contenders=[Contender("daemon", lambda session: _alone(session, records))],
            rounds=rounds,
            targets=["15,000 records/s where nothing else runs"],
        ),
        Benchmark(
            name="reindex_batches",
            title=f"... in batches of {LARGE_BATCH:,} instead of 500",
            contenders=[
                Contender("daemon", lambda session: _alone(session, records, batchSize=LARGE_BATCH))
            ],
            rounds=rounds,
            targets=["15,000 records/s where nothing else runs"],
        ),
        Benchmark(
            name="reindex_live",
            title=f"... beside {MIX.title} at {RATE:,.0f}/s",
            contenders=[Contender("daemon", lambda session: _beside(session, records, feed_s))],
            rounds=rounds,
            targets=["6,000 records/s", "p99 <= 100 ms"],
        ),
    ]


def _alone(session: Session, records: int, **parameters: int) -> Figures:
    with (
        session.run_directory("reindex") as directory,
        open_hosts(session.corpus, directory) as hosts_url,
        open_feed(session.corpus, MIX, 0, rate=0, directory=directory) as feed,
        open_daemon(
            directory,
            relay_url=feed.url,
            hosts_url=hosts_url,
            start_from=_followed(_store(session, records), feed.url, directory / "start.db"),
        ) as daemon,
    ):
        feed.await_client()
        return _rebuilt(daemon, "pause", lambda: None, **parameters)


def _followed(store: Path, relay_url: str, path: Path) -> Path:
    """A copy that has just come to the end of a stream: one that is late would not be paused."""
    shutil.copyfile(store, path)
    now = datetime.now(UTC)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO firehose_cursor (url, seq, event_at, updated_at) VALUES (?, ?, ?, ?)",
            (relay_url, SEQ_BASE - 1, now.timestamp(), now.isoformat()),
        )
    return path


def _beside(session: Session, records: int, feed_s: int) -> Figures:
    events = int(RATE * feed_s)
    with (
        session.run_directory("reindex") as directory,
        open_hosts(session.corpus, directory) as hosts_url,
        open_feed(session.corpus, MIX, events, rate=RATE, directory=directory) as feed,
        open_daemon(
            directory, relay_url=feed.url, hosts_url=hosts_url, start_from=_store(session, records)
        ) as daemon,
    ):
        feed.await_client()
        return _rebuilt(daemon, "supplement", lambda: _follow(daemon, feed))


def _follow(daemon: Daemon, feed: Feed) -> Figures:
    """Latencies up to the end of the operation, or of the stream if that is sooner."""
    first = feed.start()
    sightings = watch_cursor(daemon, feed.stream.seq_last, PACED_POLL_S)
    (ended,) = _await_end(daemon)[3:4]
    until = float(ended) - time.time() + time.monotonic()
    return latencies_of(feed, first, RATE, sightings, until=until)


def _rebuilt(
    daemon: Daemon, mode: str, meanwhile: Callable[[], Figures | None], **parameters: int
) -> Figures:
    await_admin(daemon)
    before = read_usage(daemon.process.pid)
    daemon.trigger_backfill(type="fullReindex", mode=mode, **parameters)
    more = meanwhile() or {}
    status, processed, seconds, _, error, ended_as, note = _await_end(daemon)
    after = read_usage(daemon.process.pid)
    if (status, ended_as) != ("completed", mode):
        raise WrongResultError(
            f"{daemon.database}: fullReindex is {status} in {ended_as}, not in {mode}:"
            f" {error or note}"
        )
    daemon.stop()
    cpu_s = after.cpu_s - before.cpu_s
    return {
        "records": processed,
        "seconds": seconds,
        "per_s": processed / seconds,
        "cpu_us": cpu_s / processed * 1e6,
        "rss_mb": after.rss_bytes_max / 1e6,
        **more,
    }


def _await_end(daemon: Daemon) -> _Ended:
    deadline = time.monotonic() + END_S_MAX
    with closing(daemon.reader()) as connection:
        while time.monotonic() < deadline and daemon.process.is_running:
            row: _Ended | None = connection.execute(_OPERATION).fetchone()
            if row is not None and row[0] != "running":
                return row
            time.sleep(0.05)
    raise daemon.process.failure("did not end its fullReindex")


def _store(session: Session, records: int) -> Path:
    """Records of all types in repos that nobody writes to, beside those of the corpus; made once."""
    if "reindex" not in session.cache:
        session.cache["reindex"] = _made(session, records)
    return session.cache["reindex"]


def _made(session: Session, records: int) -> Path:
    corpus, directory = session.corpus, session.directory("reindex-store")
    base = directory / "base.db"
    asyncio.run(build(base, records, seed=1))
    with closing(sqlite3.connect(base)) as connection, connection:
        now = time.time()  # or their identities would be looked up at once
        connection.execute("UPDATE repo SET identity_at = ?, verified_at = ?", (now, now))
    with (
        open_hosts(corpus, directory) as hosts_url,
        open_feed(corpus, MIX, 0, rate=0, directory=directory) as feed,
        open_daemon(directory, relay_url=feed.url, hosts_url=hosts_url, start_from=base) as daemon,
    ):
        feed.await_client()
        await_admin(daemon)
        for repo in corpus.repos:
            daemon.trigger_backfill(type="didSync", did=repo.did)
        await_active(daemon, records // RECORDS_PER_REPO + 1 + len(corpus.repos))
        daemon.stop()
    return directory / "index.db"
