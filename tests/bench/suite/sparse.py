"""The twenty in-scope records of a repo of a hundred thousand, without the others.

Bytes and requests are those that the daemon's own metrics count for this one fetch; the share is of
the whole archive, as getRepo gives it.
"""

from __future__ import annotations

import sqlite3
import time
import urllib.request
from contextlib import closing

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.benchmark import Benchmark, Contender, Figures, Session, WrongResultError
from tests.bench.daemon import Daemon, await_active, await_admin, open_daemon
from tests.bench.process import Child

IN_SCOPE = 20
QUICK_RECORDS = 5_000
FULL_RECORDS = 100_000
MADE_S_MAX = 180.0


def benchmarks(session: Session) -> list[Benchmark]:
    """One benchmark."""
    count = QUICK_RECORDS if session.is_quick else FULL_RECORDS
    return [
        Benchmark(
            name="sparse",
            title=f"{IN_SCOPE} records of {count:,}",
            contenders=[Contender("daemon", lambda session: fetch(session, count))],
            rounds=1,
            targets=["< 0.2 % of the bytes", "< 10 requests"],
        )
    ]


def fetch(session: Session, count: int) -> Figures:
    """One didSync into an empty store."""
    with session.run_directory("sparse") as directory:
        arguments = ("--records", str(count), "--in-scope", str(IN_SCOPE))
        host = Child.python("tests.bench.large_host", *arguments, log=directory / "host.log")
        with host:
            facts = host.hear("did", timeout_s=MADE_S_MAX)
            with open_daemon(
                directory, relay_url=facts["relay"], hosts_url=facts["plc"], start_from=None
            ) as daemon:
                await_admin(daemon)
                started = time.monotonic()
                daemon.trigger_backfill(type="didSync", did=facts["did"])
                await_active(daemon, 1)
                seconds = time.monotonic() - started
                read, requests = _counted(daemon)
                daemon.stop()
        with closing(sqlite3.connect(directory / "index.db")) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM records").fetchone()
        if rows != IN_SCOPE:
            raise WrongResultError(f"{rows} records of {IN_SCOPE}")
    return {
        "records": rows,
        "seconds": seconds,
        "bytes": read,
        "bytes_percent": read / facts["car_bytes"] * 100,
        "requests": requests,
    }


def _counted(daemon: Daemon) -> tuple[float, float]:
    """Bytes of repos and requests to hosts so far."""
    with urllib.request.urlopen(f"{daemon.metrics_url}/metrics", timeout=30.0) as answer:
        text = answer.read().decode()
    read = requests = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "chive_resync_bytes_total":
                read += sample.value
            elif sample.name == "chive_http_client_requests_total":
                requests += sample.value * (sample.labels["service"] == "pds")
    return read, requests
