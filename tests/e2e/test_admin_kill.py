"""The process killed in the middle of admin calls: what they changed is whole, and is accounted for."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.devnet import Devnet
from tests.e2e.daemon import PASSWORD, running_daemon, to_toml, wait_until
from tests.e2e.test_admin_methods import ADMIN, INDEXER, TAG

KILLS = 3
CALLERS = 6
ANSWERS_BEFORE_A_KILL = (6, 30)
STARTED_S = 60.0


def sections(folder: Path, net: Devnet) -> dict[str, dict[str, Any]]:
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    return {
        "storage": {"path": str(folder / "index.db"), "backup_dir": str(folder / "backups")},
        "admin": {"port": 0, "password_file": str(password), "requests_per_s": 10_000.0},
        "metrics": {"port": 0},
        "firehose": {"url": net.relay_url, "start": "oldest"},
        "identity": {"plc_url": net.plc_url, "handle_resolver_url": net.handle_resolver_url},
        "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
        "backfill": {"bootstrap": False},
        "backfill.interval_s": {"freshnessScan": 0, "governanceSync": 0},
        "citations": {"crossref_url": "", "semantic_scholar_url": ""},
        "log": {"format": "json"},
    }


@asynccontextmanager
async def process(
    config: Path, *, within: Sequence[str] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A daemon in a process of its own and its admin URL. `within`: a command that becomes it."""
    started = await asyncio.create_subprocess_exec(
        *within, sys.executable, "-m", "indexer", "run", "--config", str(config),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert started.stderr is not None
    async with asyncio.timeout(STARTED_S):
        while True:
            line = await started.stderr.readline()
            assert line, "the daemon ended"
            event = json.loads(line) if line.startswith(b"{") else {}
            if event.get("event") == "daemon.started":
                break
    reader = asyncio.create_task(started.stderr.read())
    try:
        yield started, event["admin"]
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        await reader


async def call_until_killed(url: str, dids: list[str], rng: random.Random, told: Counter[str]):
    calls: list[tuple[str, dict[str, Any]]] = [
        (ADMIN + "retryAllDLQ", {}),
        (ADMIN + "dismissDLQEntry", {"index": 1}),
        (INDEXER + "resumeStream", {}),
        (INDEXER + "createBackup", {}),
        (INDEXER + "deny", {"subject": dids[0], "reason": "spam", "purge": True}),
        (INDEXER + "deny", {"subject": f"at://{dids[1]}/{TAG}/1", "reason": "spam"}),
        (INDEXER + "allow", {"subject": dids[0]}),
        *((ADMIN + "triggerDIDSync", {"did": did}) for did in dids),
    ]
    auth = {"Authorization": aiohttp.encode_basic_auth("admin", PASSWORD)}
    try:
        async with aiohttp.ClientSession(headers=auth) as session:
            while True:
                nsid, body = rng.choice(calls)
                async with session.post(f"{url}/xrpc/{nsid}", json=body) as response:
                    answer = await response.json()
                    told[answer.get("error", "ok")] += 1
    except aiohttp.ClientError:
        return  # killed


async def test_a_kill_in_the_middle_of_admin_calls_leaves_a_consistent_store(tmp_path: Path):
    rng = random.Random(20_261_125)
    told: Counter[str] = Counter()
    async with Devnet(seed=6) as net:
        accounts = [await net.create_account() for _ in range(3)]
        for account in accounts:
            net.import_records(account, 20, [TAG])
            net.create(account, TAG, {"tag": 5})  # refused: a dead letter
        values = sections(tmp_path, net)
        config = tmp_path / "killed.toml"
        config.write_text(to_toml(values))
        dids = [account.did for account in accounts]
        for _ in range(KILLS):
            async with process(config) as (daemon, url), asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(call_until_killed(url, dids, rng, told))
                answers = told.total() + rng.randint(*ANSWERS_BEFORE_A_KILL)
                await wait_until(lambda: told.total() >= answers, what="answers", poll_s=0.01)  # noqa: B023
                daemon.send_signal(signal.SIGKILL)
        assert told["ok"] > 0, told
        async with running_daemon(tmp_path, values) as restarted:
            outcomes = Counter(
                outcome for (outcome,) in restarted.rows("SELECT outcome FROM audit_log")
            )
            assert outcomes["started"] == 0
            assert outcomes["interrupted"] > 0, outcomes
            # Each answer that came has a row that says the same; of the others nobody was told.
            assert all(outcomes[name] >= count for name, count in told.items()), (outcomes, told)
            assert restarted.rows("PRAGMA integrity_check") == [("ok",)]
            status, made = await restarted.call(INDEXER + "createBackup")
            assert status == 200, made
            names = [file.name for file in (tmp_path / "backups").iterdir()]
            assert made["name"] in names
            assert not [name for name in names if name.endswith(".partial")]
            await wait_until(
                lambda: (
                    restarted.rows("SELECT count(*) FROM operations WHERE status = 'running'")
                    == [(0,)]
                ),
                what="the interrupted operations to end",
            )
            for subject in (dids[0], f"at://{dids[1]}/{TAG}/1"):
                await restarted.call(INDEXER + "allow", subject=subject)
            await wait_until(
                lambda: (
                    restarted.rows("SELECT count(*) FROM records WHERE did = ?", dids[0])
                    == [(len(dict(net.cids(accounts[0]))),)]
                ),
                what="what was denied to come back",
            )
            for account in accounts:
                rows = restarted.rows(
                    "SELECT collection || '/' || rkey, cid FROM records WHERE did = ?", account.did
                )
                assert dict(rows) == dict(net.cids(account))
