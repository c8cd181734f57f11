"""The daemon as the command that an operator runs, looked at from outside only."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.daemon import to_toml, wait_until

COMMAND = Path(sys.executable).with_name("chive-indexer")
PASSWORD = "interop admin password"
READY_S = 30.0
STOP_S = 15.0
OPERATION_S = 60.0
METRIC_S = 30.0
LOG_TAIL = 4000

Labels = frozenset[tuple[str, str]]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class DaemonProcess:
    """One daemon with a store in `folder`; it can be stopped and started again."""

    folder: Path
    firehose_url: str
    plc_url: str
    handle_resolver_url: str
    session: aiohttp.ClientSession
    start_at: str = "oldest"
    bootstrap: bool = False
    operation_s: float = OPERATION_S
    process: asyncio.subprocess.Process | None = None
    admin_port: int = field(default_factory=_free_port)
    metrics_port: int = field(default_factory=_free_port)

    @property
    def database(self) -> Path:
        return self.folder / "index.db"

    @property
    def log(self) -> str:
        """The end of what the daemon wrote."""
        return (self.folder / "daemon.log").read_text()[-LOG_TAIL:]

    async def start(self) -> None:
        """Returns when the admin listener says that the daemon is ready."""
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                COMMAND, "run", "--config", self._write_config(), stdout=log, stderr=log
            )
        ends = time.monotonic() + READY_S
        while (reason := await self._unready_reason()) is not None:
            assert self.process.returncode is None, self.log
            assert time.monotonic() < ends, f"{reason}\n{self.log}"
            await asyncio.sleep(0.05)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code."""
        process, self.process = self.process, None
        assert process is not None
        if process.returncode is None:
            process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_S):
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What a reader of the file sees."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def records(self, did: str | None = None) -> dict[str, tuple[str, Any]]:
        """URI -> (CID, value) of the view `records`, of one account or of all."""
        rows = self.rows("SELECT uri, cid, value FROM records WHERE ?1 IS NULL OR did = ?1", did)
        return {uri: (cid, json.loads(value)) for uri, cid, value in rows}

    def account(self, did: str) -> dict[str, Any]:
        """The row of the view `accounts`, empty while there is none."""
        columns = ("handle", "pds_url", "status", "state")
        rows = self.rows(f"SELECT {', '.join(columns)} FROM accounts WHERE did = ?", did)
        return dict(zip(columns, rows[0], strict=True)) if rows else {}

    async def becomes(self, expected: dict[str, tuple[str, Any]], did: str | None = None) -> None:
        """Wait until the view `records`, of one account or of all, holds exactly this."""

        def difference() -> dict[str, list[str]]:
            found = self.records(did)
            return {
                "missing": sorted(expected.keys() - found.keys())[:5],
                "too many": sorted(found.keys() - expected.keys())[:5],
                "different": sorted(
                    uri for uri in expected.keys() & found.keys() if expected[uri] != found[uri]
                )[:5],
            }

        await wait_until(
            lambda: self.records(did) == expected,
            what=lambda: f"the index to equal listRecords: {difference()}\n{self.log}",
            deadline_s=150.0,  # a fetch that a stopped host refused is tried again after up to 90 s
        )

    async def metrics(self, name: str) -> dict[Labels, float]:
        """The samples of one metric, by their labels."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        async with self.session.get(url, headers={"Accept": "text/plain"}) as response:
            assert response.status == 200
            text = await response.text()
        return {
            frozenset(sample.labels.items()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    async def metric(self, name: str) -> float:
        """The sum of one metric over its labels."""
        return sum((await self.metrics(name)).values())

    async def metric_becomes(self, name: str, value: float) -> None:
        ends = time.monotonic() + METRIC_S
        while (found := await self.metric(name)) != value:
            assert time.monotonic() < ends, f"{name} is {found}, not {value}\n{self.log}"
            await asyncio.sleep(0.05)

    async def live_records(self) -> float:
        """How many changes of records came from verified commits, not from fetched repos."""
        samples = await self.metrics("chive_records_total")
        return sum(n for labels, n in samples.items() if ("source", "live") in labels)

    async def verify_failures(self) -> dict[str, float]:
        """Check -> how often upstream data failed it; checks that never failed are left out."""
        samples = await self.metrics("chive_verify_failures_total")
        assert samples
        return {dict(labels)["check"]: count for labels, count in samples.items() if count}

    async def backfill(self, kind: str, **params: Any) -> dict[str, Any]:
        """Trigger an operation and wait for its end."""
        operation = await self._admin("POST", "triggerBackfill", json={"type": kind, **params})
        async with asyncio.timeout(self.operation_s):
            while operation["status"] == "running":
                await asyncio.sleep(0.05)
                operation = await self._admin(
                    "GET", "getBackfillStatus", params={"id": operation["id"]}
                )
        return operation

    async def _admin(self, method: str, name: str, **options: Any) -> dict[str, Any]:
        async with self.session.request(
            method,
            f"http://127.0.0.1:{self.admin_port}/xrpc/pub.chive.admin.{name}",
            headers={"Authorization": aiohttp.encode_basic_auth("admin", PASSWORD)},
            **options,
        ) as response:
            body = await response.json()
            assert response.status == 200, body
        return body["operation"]

    async def _unready_reason(self) -> str | None:
        try:
            async with self.session.get(f"http://127.0.0.1:{self.admin_port}/readyz") as response:
                return None if response.status == 200 else await response.text()
        except aiohttp.ClientConnectionError as error:
            return str(error)

    def _write_config(self) -> Path:
        password = self.folder / "admin-password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD + "\n")
        config = self.folder / "config.toml"
        config.write_text(
            to_toml(
                {
                    "storage": {"path": str(self.database)},
                    "firehose": {"url": self.firehose_url, "start": self.start_at},
                    "identity": {
                        "plc_url": self.plc_url,
                        "handle_resolver_url": self.handle_resolver_url,
                        "refresh_interval_s": 0.5,  # a minute is for the public directory
                    },
                    "network": {"allow_private_hosts": True},
                    "admin": {"port": self.admin_port, "password_file": str(password)},
                    "metrics": {"port": self.metrics_port},
                    "backfill": {"bootstrap": self.bootstrap},
                    "citations": {"crossref_url": "", "semantic_scholar_url": ""},
                    "backfill.interval_s": {"freshnessScan": 0, "governanceSync": 0},
                }
            )
        )
        return config


@asynccontextmanager
async def daemon_process(
    folder: Path,
    *,
    firehose_url: str,
    plc_url: str,
    handle_resolver_url: str,
    start_at: str = "oldest",
    bootstrap: bool = False,
) -> AsyncIterator[DaemonProcess]:
    """A running daemon, which must end cleanly on SIGTERM."""
    async with aiohttp.ClientSession() as session:
        daemon = DaemonProcess(
            folder, firehose_url, plc_url, handle_resolver_url, session, start_at, bootstrap
        )
        try:
            await daemon.start()
            yield daemon
        except BaseException:
            if daemon.process is not None:
                await daemon.stop(signal.SIGKILL)
            raise
        assert await daemon.stop() == 0, daemon.log
