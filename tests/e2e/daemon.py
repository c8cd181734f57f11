"""A whole daemon in this process, on real sockets and a real file."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from indexer.clock import Clock, SystemClock
from indexer.daemon import Addresses, run_daemon_until
from indexer.settings import load_settings
from indexer.world import World

PASSWORD = "correct horse battery staple"
DEADLINE_S = 15.0


class ShiftedClock:
    """The machine's clocks, with wall time as if it were `start` now."""

    def __init__(self, start: float) -> None:
        self._offset = start - time.time()

    def advance(self, by_s: float) -> None:
        """Let wall time jump ahead."""
        self._offset += by_s

    def now(self) -> float:
        return time.time() + self._offset

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class RunningDaemon:
    """A started daemon and its surfaces."""

    addresses: Addresses
    database: Path
    session: aiohttp.ClientSession
    task: asyncio.Task[None]

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What a reader of the file sees."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, parameters).fetchall()

    async def query(self, nsid: str, **params: Any) -> tuple[int, Any]:
        async with self.session.get(
            f"{self.addresses.admin_url}/xrpc/{nsid}", params=params
        ) as response:
            return response.status, await response.json()

    async def call(self, nsid: str, **body: Any) -> tuple[int, Any]:
        async with self.session.post(
            f"{self.addresses.admin_url}/xrpc/{nsid}", json=body
        ) as response:
            return response.status, await response.json()

    async def backfill(self, kind: str, **params: Any) -> dict[str, Any]:
        """Trigger an operation and wait for its end."""
        status, body = await self.call("pub.chive.admin.triggerBackfill", type=kind, **params)
        assert status == 200, body
        operation = body["operation"]
        async with asyncio.timeout(DEADLINE_S):
            while operation["status"] == "running":
                await asyncio.sleep(0.01)
                status, body = await self.query(
                    "pub.chive.admin.getBackfillStatus", id=operation["id"]
                )
                assert status == 200, body
                operation = body["operation"]
        return operation

    async def cancel_only(self, identifier: str, *, within_s: float) -> None:
        """Cancel the only operation that there ever was; fails unless it has ended by then."""
        asked_at = time.monotonic()
        await self.call("pub.chive.admin.cancelBackfill", id=identifier)
        await wait_until(
            lambda: self.rows("SELECT status FROM operations") == [("cancelled",)],
            what="the end",
            deadline_s=within_s,
        )
        assert time.monotonic() - asked_at < within_s


async def wait_until(
    condition: Callable[[], bool],
    *,
    what: str | Callable[[], str],
    deadline_s: float = DEADLINE_S,
    poll_s: float = 0.1,
) -> None:
    """Return when the condition holds; fail, saying what was waited for, when it does not."""
    now = asyncio.get_running_loop().time
    ends = now() + deadline_s
    while not condition():
        if now() > ends:
            raise AssertionError(
                f"waited {deadline_s} s for {what if isinstance(what, str) else what()}"
            )
        await asyncio.sleep(poll_s)


@asynccontextmanager
async def running_daemon(
    folder: Path,
    values: dict[str, dict[str, Any]],
    *,
    clock: Clock | None = None,
    rng: random.Random | None = None,
    reach: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[RunningDaemon]:
    """Start a daemon with a store in `folder`, and stop it as a signal would."""
    password_file = folder / "password"
    password_file.write_text(PASSWORD)
    password_file.chmod(0o600)
    database = folder / "index.db"
    config = folder / "config.toml"
    tree: dict[str, dict[str, Any]] = {
        "storage": {"path": str(database)},
        "admin": {"port": 0, "password_file": str(password_file)},
        "metrics": {"port": 0},
        "backfill": {"bootstrap": False},  # what a test wants scanned it says
        "backfill.interval_s": {"freshnessScan": 0, "governanceSync": 0},
        "citations": {"crossref_url": "", "semantic_scholar_url": ""},
    }
    for section, keys in values.items():
        tree.setdefault(section, {}).update(keys)
    config.write_text(to_toml(tree))
    settings = load_settings(config, {})
    stop = asyncio.Event()
    started: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    world = World(clock=clock or SystemClock(), rng=rng or random.Random(1), reach=reach)
    task = asyncio.get_running_loop().create_task(
        run_daemon_until(stop, settings, world=world, on_ready=started.set_result)
    )
    await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        await task
    headers = {"Authorization": aiohttp.encode_basic_auth("admin", PASSWORD)}
    # Where time jumps, the daemon may give up an idle connection at the moment of its next use.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        try:
            yield RunningDaemon(started.result(), database, session, task)
        finally:
            stop.set()
            await task


def to_toml(tree: dict[str, dict[str, Any]]) -> str:
    """A settings file: strings, numbers, booleans and lists of strings are all it takes."""
    lines = []
    for section, keys in tree.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"
