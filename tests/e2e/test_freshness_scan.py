"""freshnessScan of a whole daemon on the devnet: it finds what no event told, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from indexer.model import VERIFIED_AGES
from tests.devnet import Devnet, FaultKind, realistic_record
from tests.devnet.account import Account
from tests.e2e.daemon import RunningDaemon, ShiftedClock, running_daemon, to_toml, wait_until
from tests.e2e.test_admin_kill import process, sections
from tests.e2e.test_admin_methods import ADMIN, TAG
from tests.e2e.test_operation_runs import call, metric, stored, write_steadily
from tests.oracle import wait_until_equal

STATUS = "com.atproto.sync.getRepoStatus"
LIST = "com.atproto.sync.listRepos"
REPOS = 12
HOUR_S, DAY_S = 3600.0, 86_400.0
LONG_S = 120.0
"""After so long nobody expects the stream to bring what it has not brought."""


def tag(net: Devnet, account: Account) -> None:
    net.create(account, TAG, realistic_record(net.rng, TAG, did=account.did))


async def some_accounts(net: Devnet, count: int = REPOS) -> list[Account]:
    accounts = [await net.create_account(number % 2) for number in range(count)]
    for account in accounts:
        tag(net, account)
        tag(net, account)
    return accounts


def settings(folder: Path, net: Devnet) -> dict[str, dict[str, Any]]:
    values = sections(folder, net)
    values["identity"]["refresh_interval_s"] = 0
    return values


@contextlib.contextmanager
def unheard(net: Devnet, accounts: Iterable[Account]):
    """Whatever these accounts do in the block, no stream tells of it."""
    faults = [
        net.faults.schedule(FaultKind.SWALLOW_FRAME, times=None, did=account.did)
        for account in accounts
    ]
    yield
    assert all(fault.fired for fault in faults)
    net.faults.clear()


def change_everything(net: Devnet, accounts: list[Account]) -> None:
    """One of each kind of change that a scan has to notice."""
    tag(net, accounts[0])
    path, _ = next(net.cids(accounts[1]))
    net.delete(accounts[1], *path.split("/"))
    net.set_account_status(accounts[2], "deactivated")
    net.set_account_status(accounts[3], "deleted")
    net.migrate(accounts[4], 1)
    tag(net, accounts[4])
    net.set_account_status(accounts[5], "takendown")


async def ended(daemon: RunningDaemon) -> dict[str, Any]:
    """The newest operation once it has ended."""
    await wait_until(
        lambda: daemon.rows("SELECT count(*) FROM operations WHERE status = 'running'") == [(0,)],
        what="the end of the scan",
        deadline_s=30.0,
    )
    _, body = await daemon.query(ADMIN + "getBackfillStatus")
    return body["operations"][0]


def outcomes(operation: dict[str, Any]) -> dict[str, int]:
    return {each["name"]: each["units"] for each in operation["outcomes"]}


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_a_scan_finds_what_no_event_told_beside_live_traffic(tmp_path: Path, mode: str):
    clock = ShiftedClock(time.time())
    async with Devnet(seed=6, now=clock.now) as net:
        accounts = await some_accounts(net)
        async with running_daemon(tmp_path, settings(tmp_path, net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            with unheard(net, accounts[:6]):
                change_everything(net, accounts)
            clock.advance(LONG_S)
            written = [0]
            traffic = asyncio.get_running_loop().create_task(
                write_steadily(net, accounts[6:9], written)
            )
            await wait_until(lambda: written[0] > 30, what="traffic")
            for server in net.pds:
                server.server.requests.clear()
            status, answer = await daemon.call(ADMIN + "triggerFreshnessScan", mode=mode)
            assert status == 200, answer
            operation = await ended(daemon)
            asked = sum((pds.server.requests for pds in net.pds), Counter())
            traffic.cancel()
            await asyncio.wait([traffic])
            assert (operation["status"], operation["mode"]) == ("completed", mode), operation
            assert (operation["unitsProcessed"], operation["totalUnits"]) == (REPOS, REPOS)
            found = outcomes(operation)
            assert (found["hidden"], found["not_found"]) == (2, 1)
            assert found["fetched"] >= 3
            assert asked[LIST] == 2
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            verified = daemon.rows("SELECT count(*) FROM repo WHERE verified_at > 0")
            assert verified[0][0] >= REPOS - 3  # those that write may have been put off


async def test_an_unchanged_network_costs_one_page_a_host_and_no_resync(tmp_path: Path):
    async with Devnet(seed=6) as net:
        await some_accounts(net)
        async with running_daemon(tmp_path, settings(tmp_path, net)) as daemon:
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            before = [Counter(pds.server.requests) for pds in net.pds]
            operation = await daemon.backfill("freshnessScan")
            assert (operation["status"], outcomes(operation)) == ("completed", {"current": REPOS})
            assert operation["recordsProcessed"] == 2 * REPOS
            for pds, earlier in zip(net.pds, before, strict=True):
                assert pds.server.requests - earlier == {LIST: 1}
            assert await metric(daemon, "chive_repos_verified", within="24h") == REPOS
            _, overview = await daemon.query(ADMIN + "getOverview")
            assert (overview["repos"], overview["verified"]) == (REPOS, REPOS)


async def test_the_metrics_tell_how_many_repos_were_verified_within_which_time(tmp_path: Path):
    clock = ShiftedClock(time.time())
    async with Devnet(seed=6, now=clock.now) as net:
        accounts = await some_accounts(net, 3)
        async with running_daemon(tmp_path, settings(tmp_path, net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            for advance_s, synced in ((0.0, accounts), (2 * DAY_S, accounts[:2]),
                                      (2 * HOUR_S, accounts[:1])):  # fmt: skip
                clock.advance(advance_s)
                for account in synced:
                    done = await daemon.backfill("didSync", did=account.did)
                    assert done["status"] == "completed", done
            within = {
                age: await metric(daemon, "chive_repos_verified", within=age)
                for age in VERIFIED_AGES
            }
            assert within == {"1h": 1, "24h": 2, "7d": 3, "30d": 3}
            _, overview = await daemon.query(ADMIN + "getOverview")
            assert (overview["repos"], overview["verified"]) == (3, 2)


async def test_a_scan_that_is_killed_asks_again_only_for_what_was_in_flight(tmp_path: Path):
    async with Devnet(seed=6) as net:
        accounts = await some_accounts(net)
        values = settings(tmp_path, net)
        config = tmp_path / "killed.toml"
        config.write_text(to_toml(values))
        database = tmp_path / "index.db"
        async with process(config) as (daemon, url):
            await wait_until_equal(net, database, 15.0, heads=True)
            unlisted = net.faults.schedule(
                FaultKind.HTTP_STATUS, times=None, endpoint=LIST, status=404, error="NotFound"
            )
            hang = net.faults.schedule(FaultKind.HTTP_HANG, times=None, skip=6, endpoint=STATUS)
            for pds in net.pds:
                pds.server.seen.clear()
            await call(url, ADMIN + "triggerFreshnessScan")
            done = "SELECT units_processed FROM operation"
            await wait_until(
                lambda: hang.fired >= 2 and stored(database, done) == [(6,)],
                what="the requests that hang",
            )
            daemon.send_signal(signal.SIGKILL)
            await daemon.wait()
        settled = {row[0] for row in stored(database, "SELECT unit FROM operation_unit")}
        assert len(settled) == 6
        assert unlisted.fired == 2
        net.faults.clear()
        async with running_daemon(tmp_path, values) as again:
            operation = await ended(again)
            assert (operation["status"], outcomes(operation)) == ("completed", {"current": REPOS})
            await wait_until_equal(net, again.database, 10.0, heads=True)
        asked = Counter(
            seen.query["did"]
            for pds in net.pds
            for seen in pds.server.seen
            if seen.endpoint == STATUS
        )
        assert {did for did, times in asked.items() if times > 1}.isdisjoint(settled)
        assert asked.keys() == {account.did for account in accounts}
        assert sum(asked.values()) == REPOS + hang.fired


@pytest.mark.parametrize("endpoint", [LIST, STATUS])
async def test_a_cancel_ends_a_scan_that_waits_for_a_host_within_two_seconds(
    tmp_path: Path, endpoint: str
):
    async with Devnet(seed=6) as net:
        await some_accounts(net, 4)
        async with running_daemon(tmp_path, settings(tmp_path, net)) as daemon:
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            if endpoint == STATUS:
                net.faults.schedule(
                    FaultKind.HTTP_STATUS, endpoint=LIST, times=2, status=404, error="NotFound"
                )
            hang = net.faults.schedule(FaultKind.HTTP_HANG, times=None, endpoint=endpoint)
            _, started = await daemon.call(ADMIN + "triggerFreshnessScan")
            await wait_until(lambda: hang.fired == 2, what="the fault")
            asked_at = time.monotonic()
            await daemon.call(ADMIN + "cancelBackfill", id=started["operationId"])
            assert (await ended(daemon))["status"] == "cancelled"
            assert time.monotonic() - asked_at < 2.0
            net.faults.clear()
            assert (await daemon.backfill("freshnessScan"))["status"] == "completed"
            await wait_until_equal(net, daemon.database, 10.0, heads=True)


async def test_a_host_that_is_gone_fails_its_own_repos_and_those_that_moved_are_found(
    tmp_path: Path,
):
    clock = ShiftedClock(time.time())
    async with Devnet(seed=6, now=clock.now) as net:
        accounts = await some_accounts(net, 6)
        moved, stayed = accounts[2], [accounts[0], accounts[4]]  # all on the first host
        async with running_daemon(tmp_path, settings(tmp_path, net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            with unheard(net, [moved]):
                net.migrate(moved, 1)
                tag(net, moved)
            clock.advance(LONG_S)
            await net.pds[0].server.stop()
            await daemon.call(ADMIN + "triggerFreshnessScan")
            operation = await ended(daemon)
            assert operation["status"] == "completed"
            found = outcomes(operation)
            failed = found["failed"]
            assert (found["current"], found["fetched"]) == (3, 1)
            # Who comes to a host after it has failed waits for it in the queue.
            assert failed >= 1 and failed + found.get("put_off", 0) == 2, found
            assert f"{failed} of 6 repos failed" in operation["error"]
            _, body = await daemon.query(ADMIN + "getBackfillStatus", id=operation["id"])
            assert {each["unit"] for each in body["operation"]["failures"]} <= {
                each.did for each in stayed
            }
            await wait_until_equal(net, daemon.database, 10.0)


async def test_a_scan_that_no_host_has_answered_has_failed(tmp_path: Path):
    """Though of most repos only those could be asked that were asked first."""
    clock = ShiftedClock(time.time())
    async with Devnet(seed=6, now=clock.now) as net:
        await some_accounts(net)
        async with running_daemon(tmp_path, settings(tmp_path, net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            clock.advance(LONG_S)
            for pds in net.pds:
                await pds.server.stop()
            await daemon.call(ADMIN + "triggerFreshnessScan")
            operation = await ended(daemon)
            found = outcomes(operation)
            assert found.keys() == {"failed", "put_off"} and sum(found.values()) == REPOS
            assert operation["status"] == "failed"
            assert f"{found['failed']} of {REPOS} repos failed" in operation["error"]


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (FaultKind.CURSOR_LOOP, {}),
        (FaultKind.BOGUS_DIDS, {"count": 400}),
        (FaultKind.GZIP_BOMB, {"endpoint": LIST, "size": 8_000_000}),
    ],
)  # fmt: skip
async def test_a_host_that_lies_about_its_list_keeps_no_repo_from_being_compared(
    tmp_path: Path, kind: FaultKind, params: dict[str, Any]
):
    clock = ShiftedClock(time.time())
    async with Devnet(seed=6, now=clock.now) as net:
        accounts = await some_accounts(net, 4)
        async with running_daemon(tmp_path, settings(tmp_path, net), clock=clock) as daemon:
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            with unheard(net, accounts[:1]):
                tag(net, accounts[0])
            clock.advance(LONG_S)
            fault = net.faults.schedule(kind, times=None, host=0, **params)
            await daemon.call(ADMIN + "triggerFreshnessScan")
            operation = await ended(daemon)
            assert fault.fired
            assert operation["status"] == "completed"
            assert outcomes(operation) == {"current": 3, "fetched": 1}
            await wait_until_equal(net, daemon.database, 10.0, heads=True)
            assert daemon.rows("SELECT count(*) FROM repo") == [(4,)]
