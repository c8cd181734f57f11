"""Operations of a whole daemon on the devnet: cancelled, killed and taken up again."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from indexer.operations.operation import PROGRESS_S
from indexer.operations.schedule import SETTLE_S
from tests.devnet import Devnet, FaultKind, realistic_record
from tests.devnet.account import Account
from tests.e2e.daemon import (
    PASSWORD,
    RunningDaemon,
    ShiftedClock,
    running_daemon,
    to_toml,
    wait_until,
)
from tests.e2e.test_admin_kill import process, sections
from tests.e2e.test_admin_methods import ADMIN, TAG
from tests.oracle import wait_until_equal

NODE = "pub.chive.graph.node"
EDGE = "pub.chive.graph.edge"
RECORDS = 30
LARGE_RECORDS = 500
WALKED_RECORDS = 3000


async def call(url: str, nsid: str, **body: Any) -> Any:
    auth = {"Authorization": aiohttp.encode_basic_auth("admin", PASSWORD)}
    async with (
        aiohttp.ClientSession(headers=auth) as session,
        session.post(f"{url}/xrpc/{nsid}", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


def stored(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


async def killed_in_the_middle(config: Path, net: Devnet, database: Path, did: str | None) -> None:
    """A daemon that is killed while its operation waits for the repo; `did` starts one."""
    hang = net.faults.schedule(
        FaultKind.HTTP_HANG, times=None, endpoint="com.atproto.sync.getRepoStatus"
    )
    at_work = "SELECT is_at_work FROM operation_unit_begun"
    async with process(config) as (daemon, url):
        if did is not None:
            await call(url, ADMIN + "triggerDIDSync", did=did)
        await wait_until(
            lambda: hang.fired > 0 and stored(database, at_work) == [(1,)],
            what="the request that hangs",
        )
        daemon.send_signal(signal.SIGKILL)
        await daemon.wait()
    net.faults.clear()


async def test_a_sync_that_is_killed_in_the_middle_is_taken_up_and_ends_as_any_other(
    tmp_path: Path,
):
    async with Devnet(seed=6) as net:
        account = await net.create_account()
        net.import_records(account, RECORDS, [TAG])
        values = sections(tmp_path, net)
        values["firehose"]["start"] = "live"
        config = tmp_path / "killed.toml"
        config.write_text(to_toml(values))
        database = tmp_path / "index.db"
        await killed_in_the_middle(config, net, database, account.did)
        before = stored(database, "SELECT id, status FROM operations")
        assert [status for _, status in before] == ["running"]
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until(
                lambda: (
                    daemon.rows("SELECT count(*) FROM operations WHERE status = 'running'")
                    == [(0,)]
                ),
                what="the end of the operation",
            )
            assert daemon.rows("SELECT id, status, records_processed FROM operations") == [
                (before[0][0], "completed", RECORDS)
            ]
            await wait_until_equal(net, database, 10.0, heads=True)


@pytest.mark.parametrize("kind", ["didSync", "pdsScan"])
async def test_a_counter_moves_while_a_large_repo_is_compared(tmp_path: Path, kind: str):
    async with Devnet(seed=6) as net:
        account = await net.create_account()
        net.import_records(account, LARGE_RECORDS, [TAG], announce=False)
        slow = net.faults.schedule(
            FaultKind.HTTP_DELAY,
            endpoint="com.atproto.sync.getRepoStatus",
            seconds=2 * PROGRESS_S,
        )
        values = sections(tmp_path, net)
        values["firehose"]["start"] = "live"
        async with running_daemon(tmp_path, values) as daemon:
            given = {"did": account.did} if kind == "didSync" else {"pdsUrl": net.pds[0].url}
            ending = asyncio.get_running_loop().create_task(daemon.backfill(kind, **given))
            moved = (
                "SELECT count(*) FROM operation"
                " WHERE status = 'running' AND units_processed = 0 AND records_processed > 0"
            )
            await wait_until(
                lambda: daemon.rows(moved) == [(1,)], what="the first records", poll_s=0.01
            )
            ended = await ending
            assert (ended["status"], ended["recordsProcessed"]) == ("completed", LARGE_RECORDS)
            assert slow.fired == 1


async def test_a_sync_over_which_the_process_dies_twice_is_given_up(tmp_path: Path):
    async with Devnet(seed=6) as net:
        account = await net.create_account()
        net.import_records(account, RECORDS, [TAG])
        values = sections(tmp_path, net)
        values["firehose"]["start"] = "live"
        config = tmp_path / "killed.toml"
        config.write_text(to_toml(values))
        database = tmp_path / "index.db"
        await killed_in_the_middle(config, net, database, account.did)
        await killed_in_the_middle(config, net, database, None)
        async with running_daemon(tmp_path, values) as daemon:
            listed: dict[str, Any] = {}

            async def is_over() -> bool:
                _, body = await daemon.query(ADMIN + "getBackfillStatus")
                listed.update(body["operations"][0])
                return bool(listed["status"] != "running")

            async with asyncio.timeout(10):
                while not await is_over():
                    await asyncio.sleep(0.05)
            _, body = await daemon.query(ADMIN + "getBackfillStatus", id=listed["id"])
            operation = body["operation"]
            assert operation["status"] == "failed"
            assert operation["outcomes"] == [{"name": "poisoned", "units": 1}]
            assert operation["unitsFailed"] == 1
            (failure,) = operation["failures"]
            assert (failure["unit"], failure["outcome"]) == (account.did, "poisoned")
            assert operation["error"] == failure["message"]
            # What was asked for again is a new operation with a clean record.
            again = await daemon.backfill("didSync", did=account.did)
            assert again["status"] == "completed"


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (FaultKind.HTTP_HANG, {"endpoint": "com.atproto.sync.getRepoStatus"}),
        (FaultKind.HTTP_STALL, {"endpoint": "com.atproto.sync.getRepo"}),
    ],
)
async def test_a_cancel_ends_a_wait_for_the_network_within_two_seconds(
    tmp_path: Path, kind: FaultKind, where: dict[str, str]
):
    async with Devnet(seed=6) as net:
        account = await net.create_account()
        net.import_records(account, RECORDS, [TAG])
        values = sections(tmp_path, net)
        values["firehose"]["start"] = "live"
        async with running_daemon(tmp_path, values) as daemon:
            fault = net.faults.schedule(kind, **where)
            _, started = await daemon.call(ADMIN + "triggerDIDSync", did=account.did)
            await wait_until(lambda: fault.fired > 0, what="the fault")
            asked_at = time.monotonic()
            status, answer = await daemon.call(ADMIN + "cancelBackfill", id=started["operationId"])
            assert (status, answer["success"]) == (200, True)
            assert daemon.rows("SELECT cancel_requested FROM operation") == [(1,)]
            await wait_until(
                lambda: daemon.rows("SELECT status FROM operations") == [("cancelled",)],
                what="the end",
                deadline_s=2.0,
            )
            assert time.monotonic() - asked_at < 2.0
            again = await daemon.backfill("didSync", did=account.did)
            assert again["status"] == "completed"
            await wait_until_equal(net, daemon.database, 10.0, heads=True)


async def test_a_cancel_while_a_large_repo_is_compared_leaves_nothing_that_passes_for_whole(
    tmp_path: Path,
):
    async with Devnet(seed=6) as net:
        account = await net.create_account()
        net.import_records(account, WALKED_RECORDS, [TAG], announce=False)
        values = sections(tmp_path, net)
        values["firehose"]["start"] = "live"
        async with running_daemon(tmp_path, values) as daemon:
            _, started = await daemon.call(ADMIN + "triggerDIDSync", did=account.did)
            held = "SELECT count(*) FROM record"
            await wait_until(
                lambda: daemon.rows(held)[0][0] > 0, what="the first records", poll_s=0.002
            )
            await daemon.cancel_only(started["operationId"], within_s=5.0)
            # A worker takes up at once what was left to do.
            [(records, is_whole, work)] = daemon.rows(
                f"SELECT ({held}), scope_id IS NOT NULL, wanted | claimed FROM repo"
            )
            assert (records == WALKED_RECORDS) if is_whole else work
            again = await daemon.backfill("didSync", did=account.did)
            assert again["status"] == "completed"
            await wait_until_equal(net, daemon.database, 10.0, heads=True)


async def metric(daemon: RunningDaemon, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    async with daemon.session.get(daemon.addresses.metrics_url) as response:
        families = text_string_to_metric_families(await response.text())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def write_steadily(net: Devnet, accounts: list[Account], written: list[int]) -> None:
    """New records of all accounts in turns, until cancelled."""
    while True:
        for account in accounts:
            net.create(account, TAG, realistic_record(net.rng, TAG, did=account.did))
            written[0] += 1
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_beside_live_traffic_every_event_is_applied_exactly_once(tmp_path: Path, mode: str):
    async with Devnet(seed=6) as net:
        accounts = [await net.create_account() for _ in range(4)]
        values = sections(tmp_path, net)
        written = [0]
        async with running_daemon(tmp_path, values) as daemon:
            traffic = asyncio.get_running_loop().create_task(write_steadily(net, accounts, written))
            live = "SELECT count(*) FROM records WHERE source = 'live'"
            await wait_until(lambda: daemon.rows(live)[0][0] > 20, what="live records")
            delay = net.faults.schedule(
                FaultKind.HTTP_DELAY, seconds=4.0, endpoint="com.atproto.sync.getRepoStatus"
            )
            _, answer = await daemon.call(
                ADMIN + "triggerBackfill", type="didSync", did=accounts[0].did, mode=mode
            )
            assert answer["operation"]["mode"] == mode
            await wait_until(lambda: delay.fired > 0, what="the request that takes long")
            before = await look(daemon)
            at_start = written[0]
            await wait_until(lambda: written[0] > at_start + 30, what="more traffic")
            assert daemon.rows("SELECT status FROM operations") == [("running",)]
            after = await look(daemon)
            if mode == "pause":
                assert after == before
                assert (after.is_paused, after.gauge, after.readyz) == (True, 1, "paused")
            else:
                assert after.rows > before.rows and after.cursor > before.cursor
                assert (after.is_paused, after.gauge, after.readyz) == (False, 0, None)
            await wait_until(
                lambda: daemon.rows("SELECT status, mode FROM operations") == [("completed", mode)],
                what="the end",
            )
            traffic.cancel()
            await asyncio.wait([traffic])
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            created = await metric(daemon, "chive_records_total", action="create")
            changed = await metric(daemon, "chive_records_total", action="update")
            assert (created, changed) == (written[0], 0)
            assert await metric(daemon, "chive_records_total", action="delete") == 0
            assert (await look(daemon)).is_paused is False


@dataclass(frozen=True)
class Look:
    """What shows whether the stream goes on."""

    rows: int
    cursor: int
    is_paused: bool
    gauge: float
    readyz: str | None


async def look(daemon: RunningDaemon) -> Look:
    (rows,) = daemon.rows("SELECT count(*) FROM records")[0]
    (cursor,) = daemon.rows("SELECT cursor FROM firehose")[0]
    paused = await metric(daemon, "chive_firehose_paused")
    async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as response:
        readyz = "paused" if "paused" in await response.text() else None
        assert response.status == (503 if readyz else 200)
    _, status = await daemon.query(ADMIN + "getFirehoseStatus")
    return Look(rows, cursor, status["paused"], paused, readyz)


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_a_governance_sync_makes_the_graph_equal_and_counts_what_changed(
    tmp_path: Path, mode: str
):
    async with Devnet(seed=6) as net:
        authority = await net.create_account(announce=False)
        writer = await net.create_account()
        net.import_records(authority, 12, [NODE, EDGE], announce=False)
        values = sections(tmp_path, net) | {"governance": {"did": authority.did}}
        async with running_daemon(tmp_path, values) as daemon:
            net.create(writer, TAG, realistic_record(net.rng, TAG, did=writer.did))
            await wait_until(lambda: daemon.rows("SELECT count(*) FROM records") == [(1,)],
                             what="a record of the stream")  # fmt: skip
            first = await daemon.backfill("governanceSync", mode=mode)
            nodes = [path for path, _ in net.cids(authority) if path.startswith(NODE)]
            assert (first["status"], first["recordsProcessed"]) == ("completed", 12)
            assert f"{NODE}: {len(nodes)} created" in first["note"]
            again = await daemon.backfill("governanceSync", mode=mode)
            assert again["note"] == "nothing had changed"
            swallowed = net.faults.schedule(
                FaultKind.SWALLOW_FRAME, times=3, did=authority.did, type="#commit"
            )
            net.delete(authority, NODE, nodes[0].split("/")[1])
            changed = realistic_record(net.rng, NODE, did=authority.did)
            net.update(authority, NODE, nodes[1].split("/")[1], changed)
            net.create(authority, EDGE, realistic_record(net.rng, EDGE, did=authority.did))
            assert swallowed.fired == 3
            last = await daemon.backfill("governanceSync", mode=mode)
            assert last["note"] == f"{EDGE}: 1 created; {NODE}: 1 deleted, 1 updated"
            assert [each["mode"] for each in (first, again, last)] == [mode] * 3
            await wait_until_equal(net, daemon.database, 10.0, heads=True)


async def test_a_sync_without_its_account_fails_with_the_reason_each_time(tmp_path: Path):
    async with Devnet(seed=6) as net:
        values = sections(tmp_path, net) | {
            "governance": {"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"}
        }
        async with running_daemon(tmp_path, values) as daemon:
            mistyped = {"did": "did:plc:" + "z" * 24}
            for name, params in [("governanceSync", {}), ("didSync", mistyped)]:
                for _ in range(3):
                    operation = await daemon.backfill(name, **params)
                    assert operation["status"] == "failed"
                    assert operation["error"] == "DID not found"
                    assert daemon.rows("SELECT did FROM repo") == []
            status, answer = await daemon.call(
                ADMIN + "triggerBackfill", type="didSync", did="did:plc:xyz"
            )
            assert (status, answer["error"]) == (400, "InvalidRequest")
            assert "did" in answer["message"]
            status, answer = await daemon.call(
                ADMIN + "triggerBackfill", type="governanceSync", did="did:web:x.example"
            )
            assert (status, answer["error"]) == (400, "InvalidRequest")
            assert "did" in answer["message"]


async def test_a_host_in_the_settings_takes_the_place_of_the_one_in_the_document(tmp_path: Path):
    async with Devnet(seed=6) as net:
        authority = await net.create_account(1, announce=False)
        net.import_records(authority, 12, [NODE, EDGE], announce=False)
        # The document names a host that does not know the account.
        net.plc.change(authority.did, pds_url=net.pds[0].url)
        values = sections(tmp_path, net)
        values["governance"] = {"did": authority.did, "pds_url": net.pds[1].url}
        async with running_daemon(tmp_path, values) as daemon:
            operation = await daemon.backfill("governanceSync")
            assert (operation["status"], operation["recordsProcessed"]) == ("completed", 12)
        # A host that only the settings name hides and purges nothing.
        values["governance"]["pds_url"] = net.pds[0].url
        net.plc.change(authority.did, pds_url=net.pds[1].url)
        async with running_daemon(tmp_path, values, rng=random.Random(2)) as daemon:
            operation = await daemon.backfill("governanceSync")
            assert operation["status"] == "failed"
            assert "which the settings name" in operation["error"]
            assert daemon.rows("SELECT count(*) FROM records") == [(12,)]


async def test_an_operation_begins_by_itself_and_says_so(tmp_path: Path):
    clock = ShiftedClock(time.time())
    async with Devnet(seed=6, now=clock.now) as net:
        authority = await net.create_account()
        values = sections(tmp_path, net) | {"governance": {"did": authority.did}}
        values["backfill.interval_s"] = {"freshnessScan": 0, "governanceSync": 60}
        async with running_daemon(tmp_path, values, clock=clock) as daemon:
            assert daemon.rows("SELECT * FROM operations") == []
            clock.advance(SETTLE_S + 60.0)
            row = "SELECT type, status, started_by FROM operations"
            await wait_until(
                lambda: daemon.rows(row) == [("governanceSync", "completed", "schedule")],
                what="the operation",
            )
            _, body = await daemon.query(ADMIN + "getBackfillHistory")
            (operation,) = body["operations"]
            assert (operation["isScheduled"], "startedBy" in operation) == (True, False)


async def test_one_answer_that_the_graph_is_gone_purges_nothing_that_nobody_asked_for(
    tmp_path: Path,
):
    clock = ShiftedClock(time.time())
    async with Devnet(seed=6, now=clock.now) as net:
        authority = await net.create_account(announce=False)
        net.import_records(authority, 12, [NODE, EDGE], announce=False)
        values = sections(tmp_path, net) | {"governance": {"did": authority.did}}
        values["backfill.interval_s"] = {"freshnessScan": 0, "governanceSync": 60}
        async with running_daemon(tmp_path, values, clock=clock) as daemon:
            assert (await daemon.backfill("governanceSync"))["recordsProcessed"] == 12
            unknown = net.faults.schedule(
                FaultKind.HTTP_STATUS, endpoint="com.atproto.sync.getRepoStatus", status=400,
                error="RepoNotFound",
            )  # fmt: skip
            clock.advance(SETTLE_S + 70.0)
            row = "SELECT status, error FROM operations WHERE started_by = 'schedule'"
            why = "repo not found at its host"
            await wait_until(
                lambda: daemon.rows(row) == [("failed", why)],
                what="the operation",
            )
            assert unknown.fired == 1
            assert daemon.rows("SELECT count(*) FROM record") == [(12,)]
            assert daemon.rows("SELECT count(*) FROM records") == [(0,)]
            assert (await daemon.backfill("governanceSync"))["status"] == "completed"
            await wait_until_equal(net, daemon.database, 10.0, heads=True)
