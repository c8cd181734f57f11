"""One large repo from its PDS into an empty store: a didSync that needs a whole `getRepo`.

The CAR comes from another process over loopback; every block is hashed, the tree walked, the
commit's signature checked, and each record in scope validated, projected and searchable at the
end. `rss_more_mb` is the peak above what the idle daemon had.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.benchmark import Benchmark, Contender, Figures, Session
from tests.bench.corpus import Corpus, Size, ensure_corpus
from tests.bench.daemon import await_active, await_admin, check_store, open_daemon, open_hosts
from tests.bench.feed import open_feed
from tests.bench.process import read_usage
from tests.bench.stream import MIXES, Stream

QUICK_RECORDS = 5_000
FULL_RECORDS = 100_000


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark; half of the repo's records are in scope."""
    count = QUICK_RECORDS if session.is_quick else FULL_RECORDS
    return [
        Benchmark(
            name="fetch",
            title=f"getRepo, {count:,} records",
            contenders=[Contender("daemon", lambda session: fetch(session, count))],
            rounds=1 if session.is_quick else 3,
            targets=["100,000 records in <= 15 s", "RSS <= 100 MB above idle"],
        )
    ]


def fetch(session: Session, count: int) -> Figures:
    """Time from the trigger to the active repo."""
    size = Size(
        name=f"fetch{count}",
        repos=1,
        foreign_repos=1,
        records=(count, count),
        foreign_frames=1,
        mixed_frames=0,
        scoped_frames=0,
        in_scope_share=0.5,
    )
    corpus = ensure_corpus(session.root, size)
    with session.run_directory("fetch") as directory:
        figures = _fetched(corpus, directory, count)
        check_store(directory / "index.db", *corpus.expected(Stream(MIXES["mix1"], [])))
    return figures


def _fetched(corpus: Corpus, directory: Path, count: int) -> Figures:
    with (
        open_hosts(corpus, directory) as hosts_url,
        open_feed(corpus, MIXES["mix1"], 0, rate=0, directory=directory) as feed,
        open_daemon(directory, relay_url=feed.url, hosts_url=hosts_url, start_from=None) as daemon,
    ):
        feed.await_client()
        await_admin(daemon)
        before = read_usage(daemon.process.pid)
        started = time.monotonic()
        daemon.trigger_backfill(type="didSync", did=corpus.repos[0].did)
        await_active(daemon, 1)
        seconds = time.monotonic() - started
        after = read_usage(daemon.process.pid)
        daemon.stop()
    cpu_s = after.cpu_s - before.cpu_s
    return {
        "records": count,
        "seconds": seconds,
        "per_s": count / seconds,
        "cpu_us": cpu_s / count * 1e6,
        "cores": cpu_s / seconds,
        "rss_more_mb": (after.rss_bytes_max - before.rss_bytes) / 1e6,
    }
