"""The daemon following a relay: as fast as it can, or at a given rate with latency watched.

Everything is observed from outside. The cursor in the SQLite file is saved in the transaction of
the events up to it, so the moment at which another process first reads a cursor of `seq` or more
is the moment at which the event of that seq is durable and visible.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from math import inf

from tests.bench.benchmark import Contender, Figures, Session, percentile
from tests.bench.daemon import (
    Daemon,
    check_store,
    filled_database,
    open_daemon,
    open_hosts,
)
from tests.bench.feed import Feed, open_feed
from tests.bench.process import read_usage
from tests.bench.stream import SEQ_BASE, Mix

RUN_S_MAX = 600.0
FLOOD_POLL_S = 0.005
PACED_POLL_S = 0.0005

Sighting = tuple[float, int]
"""(monotonic time, cursor read then)."""


def flooded_daemon(mix: Mix, events: int) -> Contender:
    """The daemon fed as fast as it reads."""

    def run(session: Session) -> Figures:
        with _following(session, mix, events, rate=0) as (daemon, feed):
            return _measured(daemon, feed, lambda _first, _sightings: {}, FLOOD_POLL_S)

    return Contender("daemon", run)


def paced_daemon(mix: Mix, events: int, rate: float) -> Contender:
    """The daemon fed at `rate` events a second; adds the latencies of tracked events.

    Latency runs from the time at which the frame was due to be sent, so a relay that falls
    behind is no excuse, to the first sight of its row's transaction.
    """

    def run(session: Session) -> Figures:
        with _following(session, mix, events, rate=rate) as (daemon, feed):

            def latencies(first: float, sightings: list[Sighting]) -> Figures:
                return latencies_of(feed, first, rate, sightings)

            return _measured(daemon, feed, latencies, PACED_POLL_S)

    return Contender("daemon", run)


@contextmanager
def _following(
    session: Session, mix: Mix, events: int, *, rate: float
) -> Iterator[tuple[Daemon, Feed]]:
    filled = filled_database(session)
    with (
        session.run_directory("daemon") as directory,
        open_hosts(session.corpus, directory) as hosts_url,
        open_feed(session.corpus, mix, events, rate=rate, directory=directory) as feed,
        open_daemon(
            directory, relay_url=feed.url, hosts_url=hosts_url, start_from=filled
        ) as daemon,
    ):
        yield daemon, feed
        daemon.stop()
        check_store(daemon.database, *session.corpus.expected(feed.stream))


def _measured(
    daemon: Daemon,
    feed: Feed,
    more: Callable[[float, list[Sighting]], Figures],
    poll_s: float,
) -> Figures:
    feed.await_client()
    before = read_usage(daemon.process.pid)
    first = feed.start()
    sightings = watch_cursor(daemon, feed.stream.seq_last, poll_s)
    after = read_usage(daemon.process.pid)
    events = len(feed.stream.frames)
    seconds = sightings[-1][0] - first
    cpu_s = after.cpu_s - before.cpu_s
    return {
        "events": events,
        "seconds": seconds,
        "per_s": events / seconds,
        "cpu_us": cpu_s / events * 1e6,
        "cores": cpu_s / seconds,
        "rss_mb": after.rss_bytes_max / 1e6,
        **more(first, sightings),
    }


def watch_cursor(daemon: Daemon, seq_last: int, poll_s: float) -> list[Sighting]:
    """Each new value of the saved cursor with the time of its first sight, up to `seq_last`."""
    sightings: list[Sighting] = []
    deadline = time.monotonic() + RUN_S_MAX
    seen = -1
    with closing(daemon.reader()) as connection:
        while time.monotonic() < deadline:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != seen:
                seen = version
                (cursor,) = connection.execute("SELECT max(cursor) FROM firehose").fetchone()
                sightings.append((time.monotonic(), cursor or 0))
                if sightings[-1][1] >= seq_last:
                    return sightings
            elif not daemon.process.is_running:
                break
            time.sleep(poll_s)
    at = sightings[-1][1] if sightings else None
    raise daemon.process.failure(f"did not reach seq {seq_last}; its cursor is {at}")


def latencies_of(
    feed: Feed, first: float, rate: float, sightings: list[Sighting], *, until: float = inf
) -> Figures:
    """Of tracked events that were due before `until` (monotonic seconds)."""
    cursors = [cursor for _, cursor in sightings]
    due_at = ((seq, first + (seq - SEQ_BASE) / rate) for seq, _ in feed.stream.tracked())
    values = [sightings[bisect_left(cursors, seq)][0] - due for seq, due in due_at if due < until]
    return {
        "p50_ms": percentile(values, 0.50) * 1000,
        "p90_ms": percentile(values, 0.90) * 1000,
        "p99_ms": percentile(values, 0.99) * 1000,
        "samples": len(values),
    }
