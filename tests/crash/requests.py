"""What an admin keeps a daemon busy with: all six types of backfill in both modes, and the rest.

Owns the choice of the next request and the count of what was answered. A request that a death has
cut off is no failure; any answer but those that an admin must expect is one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from tests.devnet import Devnet
from tests.e2e.daemon import PASSWORD

ADMIN = "pub.chive.admin."
TRIGGER = ADMIN + "triggerBackfill"
TYPES = (
    "didSync", "pdsScan", "freshnessScan", "fullReindex", "governanceSync", "citationExtraction",
)  # fmt: skip
OTHERS = ("cancel", "backup", "retryAllDLQ")
MODES = ("supplement", "pause")
EXPECTED = frozenset({200, 400, 429, 503})
"""400 refuses what differs from the operation that runs already; 503 says that space is short."""

PAUSE_S = 0.02
HURRY_S = 1.0
_WAITING = """
    SELECT did FROM repo
    WHERE (state <> 'active' OR wanted <> 0) AND max(retry_at, fetch_at) > unixepoch() + 1
"""


class Requests:
    """The admin of one network, over all lives of its daemon."""

    def __init__(self, net: Devnet, rng: Random) -> None:
        self.answered: Counter[str] = Counter()  # type of backfill or method -> answers of 200
        self._net = net
        self._rng = rng
        self._started: list[str] = []  # ids of operations that may still run

    async def hurry(self, url: str, database: Path) -> None:
        """Until cancelled, have every repo fetched that says that it must be, and only later.

        Repos that have been fetched some times wait for minutes. One that is wrong and does not
        know it gets no help from this.
        """
        async with self.session() as session:
            while True:
                with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
                    waiting = [did for (did,) in db.execute(_WAITING)]
                for did in waiting:
                    body = {"type": "didSync", "did": did}
                    await self._post(session, url, "didSync", TRIGGER, body)
                await asyncio.sleep(HURRY_S)

    async def run(self, url: str) -> None:
        """Ask until the daemon is gone or the caller has enough."""
        try:
            async with self.session() as session:
                while True:
                    await self.ask(session, url)
                    await asyncio.sleep(PAUSE_S)
        except aiohttp.ClientError:
            return  # it has died

    async def ask(self, session: aiohttp.ClientSession, url: str, kind: str | None = None) -> None:
        """One request: of this type of backfill, or of any kind."""
        await self._post(session, url, *self._chosen(kind))

    async def _post(
        self, session: aiohttp.ClientSession, url: str, name: str, nsid: str, body: dict[str, Any]
    ) -> None:
        async with session.post(f"{url}/xrpc/{nsid}", json=body) as response:
            assert response.status in EXPECTED, (response.status, await response.text())
            answer = await response.json()
            if response.status == 200:
                self.answered[name] += 1
                if nsid == TRIGGER:
                    self._started.append(answer["operation"]["id"])

    @staticmethod
    def session() -> aiohttp.ClientSession:
        """A client with the admin's password."""
        auth = {"Authorization": aiohttp.encode_basic_auth("admin", PASSWORD)}
        return aiohttp.ClientSession(headers=auth)

    def _chosen(self, kind: str | None) -> tuple[str, str, dict[str, Any]]:
        rng = self._rng
        if kind is None:
            # A daemon that starts slowly answers little before it dies: nothing may always be last.
            rarest = min(TYPES, key=lambda each: self.answered[each])
            kinds = (rng.choice(TYPES), rarest, *OTHERS)
            kind = rng.choices(kinds, (68, 20, 6, 3, 3))[0]
        match kind:
            case "cancel" if self._started:
                return kind, ADMIN + "cancelBackfill", {"id": rng.choice(self._started[-5:])}
            case "backup":
                return kind, "pub.chive.indexer.createBackup", {}
            case "cancel" | "retryAllDLQ":
                return kind, ADMIN + "retryAllDLQ", {}
        body: dict[str, Any] = {"type": kind, "mode": rng.choice(MODES)}
        if kind == "didSync":
            body["did"] = rng.choice([*self._net.accounts])
        elif kind == "pdsScan":
            body["pdsUrl"] = rng.choice(self._net.pds).url
        elif kind == "fullReindex":
            body["batchSize"] = rng.choice((1, 20, 500))
        return kind, TRIGGER, body
