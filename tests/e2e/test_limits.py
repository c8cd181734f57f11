"""What a daemon refuses to take in: told, counted, and made good when there is room."""

from __future__ import annotations

from pathlib import Path

from tests.devnet import Devnet
from tests.e2e.daemon import RunningDaemon, running_daemon, wait_until
from tests.e2e.test_operation_runs import metric
from tests.e2e.test_stream_gaps import EQUAL_S, accounts_with_records, settings
from tests.oracle import wait_until_equal


async def notes(daemon: RunningDaemon) -> dict[str, str]:
    async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as response:
        return (await response.json())["notes"]


async def test_new_accounts_that_a_full_store_refused_are_found_when_there_is_room(tmp_path: Path):
    async with Devnet(seed=21) as net:
        small = {"db_bytes_max": 10_000_000, "db_bytes_reserve": 9_999_999}
        async with running_daemon(tmp_path, settings(net) | {"limits": small}) as daemon:
            await accounts_with_records(net, 3)
            await wait_until(
                lambda: daemon.rows("SELECT reason FROM gaps") == [("discovery",)],
                what="the gap that stands for them",
            )
            assert "db_bytes_max" in (await notes(daemon))["discovery"]
            assert await metric(daemon, "chive_discovery_stopped") == 1
            assert await metric(daemon, "chive_limits_refused_total") >= 3
            assert daemon.rows("SELECT count(*) FROM accounts") == [(0,)]
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            assert await notes(daemon) == {}
            await wait_until(
                lambda: not daemon.rows("SELECT 1 FROM gaps WHERE repaired_at IS NULL"),
                what="the repair of the gap",
            )


async def test_a_repo_over_its_limit_says_so_until_an_operator_syncs_it(tmp_path: Path):
    async with Devnet(seed=22) as net:
        account, *_ = await accounts_with_records(net, 1)
        net.import_records(account, 40, ["pub.chive.eprint.userTag"])
        limits = {"limits": {"records_per_repo": 10}}
        async with running_daemon(tmp_path, settings(net) | limits) as daemon:
            await wait_until(
                lambda: daemon.rows("SELECT state FROM accounts") == [("limited",)],
                what="the repo to be limited",
            )
            assert await metric(daemon, "chive_limits_refused_total") == 1
            operation = await daemon.backfill("didSync", did=account.did)
            assert operation["status"] == "completed", operation
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            net.import_records(account, 5, ["pub.chive.eprint.userTag"])
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            assert daemon.rows("SELECT state FROM accounts") == [("active",)]
