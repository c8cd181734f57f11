"""A process that the machine stopped for a while, as a paused virtual machine is."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.crash.process import check_file, configure, converge, running
from tests.devnet import Activity, Devnet
from tests.unit.admin.tokens import OWN_DID, mint

SEED = 20_261_126
IDLE_S = 1.0
STOPPED_S = 2.5
"""Longer than the stream may be silent, and than a heartbeat."""

NSID = "pub.chive.admin.getFirehoseStatus"
ALARMS = ("chive_clock_in_doubt", "chive_firehose_gaps_open", "chive_repos_rolled_back")
WRONG = ("error", "critical")


def told(text: str) -> list[dict[str, Any]]:
    """The events of the log so far."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def state_of(pid: int) -> str:
    """The letter that `ps` shows."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


async def called(url: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{url}/xrpc/{NSID}") as answer,
    ):
        return answer.status


async def metrics(url: str) -> dict[str, float]:
    """Name -> the sum of its samples."""
    found: dict[str, float] = {}
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        for family in text_string_to_metric_families(await answer.text()):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def readiness(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
        return answer.status


@pytest.mark.slow
async def test_a_process_that_was_stopped_for_a_while_goes_on_and_loses_nothing(tmp_path: Path):
    """Nothing is alarmed by it, and the tokens that were used before are still used up."""
    async with Devnet(seed=SEED) as net:
        activity = Activity(net, rate=200.0, accounts_max=10, is_calm=True)
        await activity.steps(60)
        admin = await net.create_account()
        config = configure(
            tmp_path / "store",
            net,
            admin={"service_did": OWN_DID, "dids": [admin.did]},
            firehose={"idle_s": IDLE_S},
        )
        database = tmp_path / "store" / "index.db"

        def token(name: str) -> str:
            now = int(time.time())
            claims = {"iss": admin.did, "iat": now, "exp": now + 60, "lxm": NSID, "jti": name}
            return mint(key=admin.key, **claims)

        async with running(config) as (process, output):
            await output.started()
            (start,) = (each for each in told(output.text) if each["event"] == "daemon.started")
            await converge(net, database)
            used = token("used")
            assert await called(start["admin"], used) == 200
            process.send_signal(signal.SIGSTOP)
            await activity.steps(60)
            await asyncio.sleep(STOPPED_S)  # the time that passes is what is tested
            assert state_of(process.pid) == "T", "it was never stopped"
            process.send_signal(signal.SIGCONT)
            assert await called(start["admin"], used) == 401
            assert await called(start["admin"], token("new")) == 200
            await converge(net, database)
            await activity.steps(20)
            await converge(net, database)
            shown = await metrics(start["metrics"])
            assert [shown[name] for name in ALARMS] == [0.0] * len(ALARMS)
            assert await readiness(start["admin"]) == 200
            assert process.returncode is None
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10.0) == 0, output.text[-3000:]
        wrong = [each for each in told(output.text) if each["level"] in WRONG]
        assert wrong == []
        with closing(sqlite3.connect(database)) as db:
            for view in ("gaps", "dead_letters"):
                assert db.execute(f"SELECT * FROM {view}").fetchall() == []
        check_file(database)
