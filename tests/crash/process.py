"""One daemon process on the devnet: its settings, its life, and what is left of it.

A process that is to die is forked with everything imported: no moment worth a death lies in the
start of an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Self

from indexer.cli import main
from tests.devnet import Devnet
from tests.e2e.daemon import PASSWORD, to_toml, wait_until
from tests.oracle import wait_until_equal

STARTED_S = 90.0
CONVERGED_S = 120.0  # a repo that missed two events waits a minute
STOPPED_S = 10.0
OUTPUT_SHOWN = 3000
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["indexer.cli", "indexer.daemon", "tests.crash.process"])


def settings(folder: Path, net: Devnet) -> dict[str, dict[str, Any]]:
    """What a daemon with a store in `folder` is told; the password file is written."""
    folder.mkdir(exist_ok=True)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    return {
        "storage": {"path": str(folder / "index.db"), "backup_dir": str(folder / "backups")},
        "admin": {"port": 0, "password_file": str(password)},
        "metrics": {"port": 0},
        "firehose": {"url": net.relay_url, "start": "oldest"},
        "identity": {
            "plc_url": net.plc_url,
            "handle_resolver_url": net.handle_resolver_url,
            "refresh_interval_s": 0,
        },
        "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
        "backfill.interval_s": {"freshnessScan": 0, "governanceSync": 0},
        "backfill": {"bootstrap": False},
        "citations": {"crossref_url": "", "semantic_scholar_url": ""},
        "log": {"format": "json", "level": "info"},
    }


def configure(folder: Path, net: Devnet, **changed: dict[str, Any]) -> Path:
    """The settings file of a daemon on the devnet; `changed` sections get these keys besides."""
    tree = settings(folder, net)
    for section, keys in changed.items():
        tree.setdefault(section, {}).update(keys)
    config = folder / "config.toml"
    config.write_text(to_toml(tree))
    return config


class Output:
    """What a daemon says, read as it comes, so that no pipe fills up."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.text = ""
        self._process = process
        self._is_started = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.text += line.decode(errors="replace")
            if b"daemon.started" in line:
                self._is_started.set()

    async def started(self) -> None:
        """Wait for the line that says so."""
        waiter = asyncio.create_task(self._is_started.wait())
        await asyncio.wait(
            [waiter, self.task], timeout=STARTED_S, return_when=asyncio.FIRST_COMPLETED
        )
        waiter.cancel()
        assert self._is_started.is_set(), self.text[-OUTPUT_SHOWN:]


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Output]]:
    """A started daemon process; whatever is left of it at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "indexer", "run", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output = Output(process)
    try:
        yield process, output
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await output.task


def run(config: Path) -> None:
    """The daemon as the command runs it."""
    main(["run", "--config", str(config)])


def _serve(output: Path, body: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """In the forked process."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    body(*arguments)


class Life:
    """A forked daemon. Use as an async context manager: at its end the process is dead."""

    def __init__(self, config: Path, body: Callable[..., None] = run, *arguments: Any) -> None:
        self._output = config.with_name("output")
        self._process = FORKS.Process(
            target=_serve, args=(self._output, body, (config, *arguments)), daemon=True
        )

    async def __aenter__(self) -> Self:
        self._output.write_text("")
        self._process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        self._process.close()

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self._output.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """None while it lives, below zero for a signal."""
        return self._process.exitcode

    async def started(self) -> str | None:
        """Wait until it listens; its admin URL, or None if it has ended before."""
        await wait_until(
            lambda: "daemon.started" in self.text or not self.is_alive,
            what=lambda: f"the start: {self.text[-OUTPUT_SHOWN:]}",
            deadline_s=STARTED_S, poll_s=0.01,
        )  # fmt: skip
        for line in self.text.splitlines():
            if "daemon.started" in line:
                return str(json.loads(line)["admin"])
        return None

    async def ended(self, within_s: float) -> int:
        """Wait for its end; the exit code."""
        await wait_until(
            lambda: not self.is_alive,
            what=lambda: f"the end: {self.text[-OUTPUT_SHOWN:]}",
            deadline_s=within_s, poll_s=0.01,
        )  # fmt: skip
        code = self.exit_code
        assert code is not None
        return code

    def kill(self) -> None:
        """SIGKILL."""
        assert self.is_alive, self.text[-OUTPUT_SHOWN:]
        self._process.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    async def stop(self) -> None:
        """End it by a signal; fail unless that is clean and in time."""
        self.terminate()
        assert await self.ended(STOPPED_S) == 0, self.text[-OUTPUT_SHOWN:]


@contextmanager
def copied(database: Path) -> Iterator[Path]:
    """A copy of what a dead daemon has left: a log without its index cannot be read in place,
    and whoever opens it for writing changes what the next start finds."""
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        for name in (database.name, f"{database.name}-wal"):
            if database.with_name(name).exists():
                shutil.copy(database.with_name(name), folder)
        copy = Path(folder) / database.name
        with closing(sqlite3.connect(copy)) as db:
            db.execute("PRAGMA user_version").fetchall()  # takes the log in
        yield copy


def check_file(database: Path) -> None:
    """The file is sound, and what is counted by triggers is what is there."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tallies = db.execute(
            "SELECT name, total FROM tally WHERE kind = 'collection' AND total <> 0 ORDER BY name"
        ).fetchall()
        counted = db.execute(
            "SELECT collection, count(*) FROM record GROUP BY collection ORDER BY collection"
        ).fetchall()
        assert tallies == counted


async def check_derived(config: Path) -> None:
    """Every CID, typed row, search row and total of a stopped daemon is what its records say."""
    verification = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "indexer", "verify", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await verification.communicate()
    assert verification.returncode == 0, said.decode(errors="replace")[-OUTPUT_SHOWN:]


async def converge(net: Devnet, database: Path) -> None:
    """Wait until the store equals the truth; a failure says what its repos wait for."""
    try:
        await wait_until_equal(net, database, CONVERGED_S, heads=True)
    except AssertionError as error:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
            repos = db.execute(
                "SELECT did, state, account_status, wanted, claimed, retry_at - unixepoch(),"
                " attempts, desyncs, reason FROM repo WHERE state <> 'active' OR wanted <> 0"
            ).fetchall()
        raise AssertionError(f"{error}\nrepos at work: {repos}") from error
