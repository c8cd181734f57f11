"""Gauges tell of the file, not of the process."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from indexer.errors import ConfigurationError
from storage.database import WAL_SIZE_LIMIT_BYTES
from storage.file_lock import file_lock
from tests.devnet import Account, Devnet
from tests.e2e.daemon import RunningDaemon, running_daemon
from tests.e2e.test_operation_runs import metric
from tests.e2e.test_stream_gaps import EQUAL_S, accounts_with_records, settings, tag
from tests.oracle import wait_until_equal

RULES = Path(__file__).parents[2] / "config/prometheus/chive-indexer.rules.yml"
NAMES = (
    "chive_firehose_cursor_seq",
    "chive_firehose_cursor_saved_timestamp_seconds",
    "chive_firehose_last_event_timestamp_seconds",
    "chive_records_indexed",
    "chive_repos",
    "chive_accounts",
)


async def gauges(daemon: RunningDaemon) -> dict[str, float]:
    return {name: await metric(daemon, name) for name in NAMES}


async def test_gauges_are_the_same_after_a_restart_without_a_new_event(tmp_path: Path):
    async with Devnet(seed=3) as net:
        await accounts_with_records(net, 2)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            before = await gauges(daemon)
        assert all(before.values()), before
        async with running_daemon(tmp_path, settings(net)) as daemon:
            assert await gauges(daemon) == before


async def test_a_store_behind_a_link_is_measured_and_locked_where_it_lies(tmp_path: Path):
    disk = tmp_path / "another disk"
    disk.mkdir()
    (tmp_path / "index.db").symlink_to(disk / "index.db")
    async with Devnet(seed=3) as net:
        await accounts_with_records(net, 1)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
            assert await metric(daemon, "chive_sqlite_wal_bytes") > 0
            assert (disk / "index.db.reserve").exists()
            with pytest.raises(ConfigurationError, match="another process uses"):
                file_lock(disk / "index.db").__enter__()
            assert {path.name for path in tmp_path.glob("index.db*")} == {"index.db"}


def alarm_bytes() -> float:
    """The size of the log from which on ChiveWalLarge is raised."""
    (bound,) = re.findall(r"chive_sqlite_wal_bytes > (\S+)", RULES.read_text())
    return float(bound)


async def test_a_reader_that_stays_shows_in_the_size_of_the_log_until_it_is_gone(tmp_path: Path):
    """It may be another program's, which nobody cuts off: what it holds up is what is alarmed."""
    async with Devnet(seed=3) as net:
        (account,) = await accounts_with_records(net, 1)
        async with running_daemon(tmp_path, settings(net)) as daemon:
            log = daemon.database.with_name("index.db-wal")

            async def shown() -> float:
                """The gauge, once the daemon has written, and would have merged what it may."""
                for _ in range(2):
                    tag(net, account)
                    await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)
                return await metric(daemon, "chive_sqlite_wal_bytes")

            with (
                closing(sqlite3.connect(daemon.database, isolation_level=None)) as reader,
                closing(sqlite3.connect(daemon.database, isolation_level=None)) as writer,
            ):
                await shown()
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM record").fetchall()
                writer.execute("PRAGMA wal_autocheckpoint=0")  # the daemon's affair
                writer.execute("CREATE TABLE filling (bytes BLOB)")
                writer.execute("INSERT INTO filling VALUES (zeroblob(?))", (WAL_SIZE_LIMIT_BYTES,))
                assert await shown() > WAL_SIZE_LIMIT_BYTES
                assert log.stat().st_size > WAL_SIZE_LIMIT_BYTES
            assert await shown() <= WAL_SIZE_LIMIT_BYTES < alarm_bytes()


async def test_calls_of_every_method_are_counted_from_nothing(tmp_path: Path):
    async with Devnet(seed=3) as net, running_daemon(tmp_path, settings(net)) as daemon:
        async with daemon.session.get(daemon.addresses.metrics_url) as response:
            lines = (await response.text()).splitlines()
        for nsid in ("pub.chive.admin.triggerBackfill", "pub.chive.indexer.listGaps"):
            for code in ("200", "500"):
                assert f'chive_xrpc_requests_total{{code="{code}",nsid="{nsid}"}} 0.0' in lines


async def series(daemon: RunningDaemon) -> set[str]:
    """Names and labels of everything that is exposed."""
    async with daemon.session.get(daemon.addresses.metrics_url) as response:
        text = await response.text()
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


async def test_whatever_strangers_name_no_series_is_made_for_it(tmp_path: Path):
    """Collections, hosts, accounts and methods may have any name, as often as somebody likes."""
    async with Devnet(seed=3, pds_count=3) as net:
        accounts = [await net.create_account(pds) for pds in range(3)]
        async with running_daemon(tmp_path, settings(net)) as daemon:

            async def strange(account: Account, number: int) -> None:
                name = f"pub.chive.strange.n{account.number}x{number}"
                net.create(account, name, {"$type": name, "text": "of no type of ours"})
                status, _ = await daemon.query(name)
                assert status == 501
                await wait_until_equal(net, daemon.database, EQUAL_S, heads=True)

            await strange(accounts[0], 0)
            await strange(accounts[0], 1)  # by the stream
            before = await series(daemon)
            for account in accounts:
                for number in range(2, 6):
                    await strange(account, number)
            names = "".join(await series(daemon) - before)
            assert not names
            everything = "".join(before)
            assert not re.search(r"strange|did:plc|127[.]0[.]0[.]1", everything)
            assert 'chive_records_total{action="create",collection="other"' in everything
            assert 'chive_xrpc_requests_total{code="501",nsid="other"}' in everything
