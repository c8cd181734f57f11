"""The SDK pipeline as a contender."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from tests.bench.benchmark import Contender, Figures, Session, WrongResultError
from tests.bench.feed import START_S_MAX, Feed, open_feed
from tests.bench.process import Child, read_usage
from tests.bench.stream import Mix

RUN_S_MAX = 600.0


def sdk_contender(mix: Mix, events: int) -> Contender:
    """The pipeline of `sdk_pipeline` over the first `events` events of a mix."""

    def run(session: Session) -> Figures:
        with (
            session.run_directory("sdk") as directory,
            open_feed(session.corpus, mix, events, rate=0, directory=directory) as feed,
        ):
            pipeline = Child.python(
                "tests.bench.sdk_pipeline",
                "--relay",
                feed.url,
                "--database",
                directory / "naive.db",
                "--last",
                str(feed.stream.seq_last),
                log=directory / "sdk.log",
            )
            with pipeline:
                figures = _measured(pipeline, feed)
            with closing(sqlite3.connect(directory / "naive.db")) as connection:
                if not connection.execute("SELECT count(*) FROM records").fetchone()[0]:
                    raise WrongResultError("the SDK pipeline stored nothing")
        return figures

    return Contender("sdk", run)


def _measured(pipeline: Child, feed: Feed) -> Figures:
    feed.await_client()
    before = read_usage(pipeline.pid)
    first = feed.start()
    done = pipeline.hear("done", timeout_s=RUN_S_MAX)
    after = read_usage(pipeline.pid)
    pipeline.say("leave")
    events = len(feed.stream.frames)
    if done["events"] != events:
        raise WrongResultError(f"the SDK pipeline saw {done['events']} of {events} events")
    seconds = done["done"] - first
    cpu_s = after.cpu_s - before.cpu_s
    pipeline.hear("left", timeout_s=START_S_MAX)
    return {
        "events": events,
        "seconds": seconds,
        "per_s": events / seconds,
        "cpu_us": cpu_s / events * 1e6,
        "cores": cpu_s / seconds,
        "rss_mb": after.rss_bytes_max / 1e6,
    }
