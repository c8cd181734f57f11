"""Operations at full speed beside a stream that is followed: what they cost the events of it.

The contenders follow the same stream, the first with nothing else to do, so that the machine's own
noise is seen in the same run. Latencies are those of tracked events, from when they were due to be
sent to when their rows could be read, while the operation ran. `units` says what it did meanwhile.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from indexer.model import Scope
from tests.bench.benchmark import Benchmark, Contender, Figures, Session, WrongResultError
from tests.bench.corpus import SEED, Corpus, Size, ensure_corpus
from tests.bench.daemon import Daemon, await_admin, filled_database, open_daemon, open_hosts
from tests.bench.feed import open_feed
from tests.bench.following import PACED_POLL_S, latencies_of, watch_cursor
from tests.bench.hosts import LISTED_REV, listed_did
from tests.bench.process import read_usage
from tests.bench.stream import MIXES

RATE = 2000.0
MIX = MIXES["mix1"]
QUICK_S, FULL_S = 4, 25
QUICK_LISTED, FULL_LISTED = 3_000, 40_000
END_S_MAX = 300.0
IDLE, DID_SYNC, FRESHNESS, PDS_SCAN = "nothing", "didSync", "freshnessScan", "pdsScan"
FAR_FUTURE = 1e12

_ENDED = "SELECT count(*) = 0 FROM operation WHERE status = 'running'"
_DONE = "SELECT coalesce(sum(units_processed), 0), count(*), max(completed_at) FROM operation"
_LISTED = """
INSERT INTO repo (did, state, account_status, account_at, pds_url, identity_at, rev, data, scope_id,
                  wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at,
                  verified_at, tracked_since, updated_at)
VALUES (?, 'active', 'active', 0, ?, ?, ?, 'bafy', ?, 0, 0, 0, 2, 0, 0, 0, 0, 0, '2026', '2026')
"""


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark; the first contender is the daemon at rest."""
    return [
        Benchmark(
            name="supplement",
            title=f"{MIX.title} at {RATE:,.0f}/s beside",
            contenders=[
                Contender(name, lambda session, name=name: beside(session, name))
                for name in (IDLE, DID_SYNC, FRESHNESS, PDS_SCAN)
            ],
            rounds=1 if session.is_quick else 3,
            targets=["p99 <= 100 ms beside any operation"],
        )
    ]


def beside(session: Session, kind: str) -> Figures:
    """Follow the stream while operations of a type run one after the other."""
    events = int(RATE * (QUICK_S if session.is_quick else FULL_S))
    others = _others(session)
    listed = 0 if kind in {IDLE, DID_SYNC} else QUICK_LISTED if session.is_quick else FULL_LISTED
    with (
        session.run_directory("supplement") as directory,
        open_hosts(session.corpus, directory, beside=others, listed=listed) as hosts_url,
        open_feed(session.corpus, MIX, events, rate=RATE, directory=directory) as feed,
        open_daemon(
            directory, relay_url=feed.url, hosts_url=hosts_url,
            start_from=_store(session, directory, hosts_url, listed),
        ) as daemon,
    ):  # fmt: skip
        feed.await_client()
        await_admin(daemon)
        before = read_usage(daemon.process.pid)
        first = feed.start()
        with _busy(daemon, _load(kind, hosts_url, others)) as last_end:
            sightings = watch_cursor(daemon, feed.stream.seq_last, PACED_POLL_S)
        after = read_usage(daemon.process.pid)
        until = last_end() if kind == DID_SYNC else sightings[-1][0]
        figures = latencies_of(feed, first, RATE, sightings, until=until)
        seconds = sightings[-1][0] - first
        figures |= {"seconds": seconds, "cores": (after.cpu_s - before.cpu_s) / seconds}
        figures["units"] = _units(daemon, kind)
        daemon.stop()
        return figures


def _load(kind: str, hosts_url: str, others: Corpus) -> Iterator[list[dict[str, str]]]:
    """What to trigger at once, then, when that has ended, next; each of the other repos once."""
    if kind == DID_SYNC:
        yield [{"type": kind, "did": repo.did} for repo in others.repos]
    while kind in {FRESHNESS, PDS_SCAN}:
        yield [{"type": kind} | ({"pdsUrl": hosts_url} if kind == PDS_SCAN else {})]


@contextmanager
def _busy(daemon: Daemon, load: Iterator[list[dict[str, str]]]) -> Iterator[Callable[[], float]]:
    """Keep the daemon at work on operations in the block; gives when the last of them ended."""
    is_over = threading.Event()
    ends: list[float] = []

    def work() -> None:
        with closing(daemon.reader()) as connection:
            for operations in load:
                for parameters in operations:
                    daemon.trigger_backfill(**parameters)
                while not connection.execute(_ENDED).fetchone()[0]:
                    time.sleep(0.005)
                ends.append(time.monotonic())
                if is_over.is_set():
                    return

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    yield lambda: ends[-1]
    is_over.set()
    worker.join(END_S_MAX)
    if worker.is_alive():
        raise daemon.process.failure("did not end its operation")


def _units(daemon: Daemon, kind: str) -> float:
    with closing(daemon.reader()) as connection:
        units, runs, _ = connection.execute(_DONE).fetchone()
        bad = connection.execute(
            "SELECT error FROM operation WHERE status <> 'completed'"
        ).fetchone()
    if bad is not None or (kind != IDLE and runs == 0):
        raise WrongResultError(f"{daemon.database}: {kind} ended with {bad}")
    return float(units)


def _others(session: Session) -> Corpus:
    """Repos that nobody follows yet, all of their records in scope."""
    size = Size(
        name="others-quick" if session.is_quick else "others",
        repos=4 if session.is_quick else 40,
        foreign_repos=1,
        records=(500, 500) if session.is_quick else (2000, 2000),
        foreign_frames=1,
        mixed_frames=0,
        scoped_frames=0,
        in_scope_share=1.0,
    )
    return ensure_corpus(session.root, size, seed=SEED + 1)  # other accounts than those followed


def _store(session: Session, directory: Path, hosts_url: str, listed: int) -> Path:
    """The filled store with repos that are equal to what the host lists.

    Those of the stream count as verified, because their host here serves their first state only.
    """
    path = directory / "start.db"
    shutil.copyfile(filled_database(session), path)
    scope_id = Scope(("pub.chive.*",)).scope_id
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE repo SET verified_at = ?", (FAR_FUTURE,))
        connection.executemany(
            _LISTED,
            (
                (listed_did(number), hosts_url, FAR_FUTURE, LISTED_REV, scope_id)
                for number in range(listed)
            ),
        )
    return path
