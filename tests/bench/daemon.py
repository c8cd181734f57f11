"""Our daemon as a contender: the installed command, run as an operator runs it.

It is filled once over the protocol (a didSync of every tracked repo from the corpus' PDS); each
run starts from a copy of that database. Every run is judged by the SQLite file: all repos active
at the rev of the last frame and the right number of rows, or the figures are thrown away.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.benchmark import Session, WrongResultError
from tests.bench.corpus import Corpus
from tests.bench.feed import START_S_MAX, open_feed
from tests.bench.process import Child
from tests.bench.stream import MIXES, Stream

PASSWORD = "bench-on-loopback"  # guards a daemon on loopback that lives for seconds
POLL_S = 0.005
FILL_S_MAX = 300.0
STOP_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon: its process, its file, its admin origin."""

    process: Child
    database: Path
    admin_url: str
    metrics_url: str

    def reader(self) -> sqlite3.Connection:
        """A read-only connection to the file, as anybody may open one."""
        return sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30.0)

    def trigger_backfill(self, **parameters: object) -> dict[str, object]:
        """Call the admin method of that name."""
        return self._call("triggerBackfill", parameters)

    def cancel_backfill(self, operation_id: str) -> dict[str, object]:
        """Call the admin method of that name."""
        return self._call("cancelBackfill", {"id": operation_id})

    def _call(self, method: str, parameters: Mapping[str, object]) -> dict[str, object]:
        request = urllib.request.Request(
            f"{self.admin_url}/xrpc/pub.chive.admin.{method}",
            data=json.dumps(parameters).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode(),
            },
        )
        with urllib.request.urlopen(request, timeout=STOP_S_MAX) as answer:
            reply: dict[str, object] = json.load(answer)
        return reply

    def stop(self) -> None:
        """End it as systemd does; anything but exit code 0 is an error."""
        code = self.process.terminate(timeout_s=STOP_S_MAX)
        if code != 0:
            raise self.process.failure(f"exited with {code}")


def command() -> list[str]:
    """How to call the daemon: the installed script, else the module."""
    script = Path(sys.executable).with_name("chive-indexer")
    return [str(script)] if script.exists() else [sys.executable, "-m", "indexer"]


@contextmanager
def open_hosts(
    corpus: Corpus,
    directory: Path,
    *,
    beside: Corpus | None = None,
    listed: int = 0,
    blobs: Path | None = None,
) -> Iterator[str]:
    """PLC and PDS of a corpus, and of another beside it; their origin.

    With `listed` the PDS lists so many repos that never change, and no others. `blobs` is a folder
    of files named after their CIDs.
    """
    more = [] if beside is None else ["--beside", beside.directory]
    more += [] if blobs is None else ["--blobs", blobs]
    hosts = Child.python(
        "tests.bench.hosts", "--corpus", corpus.directory, "--listed", str(listed), *more,
        log=directory / "hosts.log",
    )  # fmt: skip
    with hosts:
        port = hosts.hear("port", timeout_s=START_S_MAX)["port"]
        yield f"http://127.0.0.1:{port}"


@contextmanager
def open_daemon(
    directory: Path,
    *,
    relay_url: str,
    hosts_url: str,
    start_from: Path | None,
    scans_first: bool = False,
) -> Iterator[Daemon]:
    """A daemon on a copy of `start_from` (None: an empty store). Stop it for its exit code.

    With `scans_first` it scans all hosts, as any new one does.
    """
    database = directory / "index.db"
    if start_from is not None:
        shutil.copyfile(start_from, database)
        os.sync()  # or the daemon's first transactions would wait for the copy to reach the disk
    admin_port, metrics_port = free_ports(2)
    config = directory / "indexer.toml"
    settings = _settings(directory, relay_url, hosts_url, admin_port, metrics_port)
    config.write_text(f"{settings}bootstrap = {str(scans_first).lower()}\n")
    process = Child([*command(), "run", "--config", config], log=directory / "daemon.log")
    with process:
        yield Daemon(
            process,
            database,
            f"http://127.0.0.1:{admin_port}",
            f"http://127.0.0.1:{metrics_port}",
        )


def _settings(
    directory: Path, relay_url: str, hosts_url: str, admin_port: int, metrics_port: int
) -> str:
    """The file; its last section, `backfill`, may be continued."""
    password_file = directory / "password"
    password_file.write_text(PASSWORD + "\n")
    password_file.chmod(0o600)
    return f"""\
[storage]
path = "{directory / "index.db"}"
[firehose]
url = "{relay_url}"
[identity]
plc_url = "{hosts_url}"
handle_resolver_url = "{hosts_url}"
[network]
allow_private_hosts = true
requests_per_s_per_host = 1000
relay_url = "{hosts_url}"
[admin]
port = {admin_port}
password_file = "{password_file}"
[metrics]
port = {metrics_port}
[citations]
crossref_url = ""
semantic_scholar_url = ""
[log]
level = "warning"
format = "json"
[backfill]
interval_s = {{ freshnessScan = 0, governanceSync = 0 }}
"""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody has at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def filled_database(session: Session) -> Path:
    """The store with all tracked repos as they are before the first frame; made once."""
    if "filled" not in session.cache:
        session.cache["filled"] = _fill(session)
    return session.cache["filled"]


def _fill(session: Session) -> Path:
    corpus = session.corpus
    directory = session.directory("fill")
    with (
        open_hosts(corpus, directory) as hosts_url,
        open_feed(corpus, MIXES["mix1"], 0, rate=0, directory=directory) as feed,
        open_daemon(directory, relay_url=feed.url, hosts_url=hosts_url, start_from=None) as daemon,
    ):
        feed.await_client()
        await_admin(daemon)
        for repo in corpus.repos:
            daemon.trigger_backfill(type="didSync", did=repo.did)
        await_active(daemon, len(corpus.repos))
        daemon.stop()
    check_store(directory / "index.db", *corpus.expected(Stream(MIXES["mix1"], [])))
    return directory / "index.db"


def await_admin(daemon: Daemon) -> None:
    """Wait until the admin surface answers."""
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if not daemon.process.is_running:
            raise daemon.process.failure("ended at its start")
        try:
            with urllib.request.urlopen(f"{daemon.admin_url}/livez", timeout=5.0):
                return
        except OSError:
            time.sleep(POLL_S)
    raise daemon.process.failure("has no admin surface")


def await_active(daemon: Daemon, count: int) -> None:
    """Wait until that many repos are active."""
    deadline = time.monotonic() + FILL_S_MAX
    with closing(daemon.reader()) as connection:
        while time.monotonic() < deadline and daemon.process.is_running:
            row = connection.execute(
                "SELECT count(*) FROM accounts WHERE state = 'active'"
            ).fetchone()
            if row[0] >= count:
                return
            time.sleep(0.05)
        states = connection.execute("SELECT state, count(*) FROM accounts GROUP BY state")
        raise daemon.process.failure(f"did not get {count} repos active: {states.fetchall()}")


def check_store(database: Path, revs: dict[str, str], rows: int) -> None:
    """Compare a stopped daemon's file with what the corpus demands."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        accounts = connection.execute("SELECT did, state, rev FROM accounts").fetchall()
        found = connection.execute("SELECT count(*) FROM records").fetchone()[0]
    wrong = [row for row in accounts if row[1] != "active" or revs.get(row[0]) != row[2]]
    if wrong or len(accounts) != len(revs) or found != rows:
        raise WrongResultError(
            f"{database}: {len(accounts)} repos of {len(revs)}, {len(wrong)} not as they must be"
            f" (such as {wrong[:2]}), {found} records of {rows}"
        )
