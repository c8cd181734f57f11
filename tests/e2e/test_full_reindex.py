"""fullReindex through a whole daemon: beside live traffic, cancelled, killed, and by itself."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from indexer.operations.runner import QUEUED_MAX
from indexer.records.prepare import prepare_stored
from indexer.records.projection import SEARCH
from indexer.records.registry import bundled_documents, load_registry
from storage.verification import Verification
from tests.devnet import Devnet, FaultKind, realistic_record
from tests.devnet.account import Account
from tests.e2e.daemon import RunningDaemon, running_daemon, to_toml, wait_until
from tests.e2e.test_admin_kill import process, sections
from tests.e2e.test_admin_methods import ADMIN, TAG
from tests.e2e.test_operation_runs import NODE, call, look, stored, write_steadily
from tests.oracle import wait_until_equal

EPRINT = "pub.chive.eprint.submission"
RECORDS = 1500
COPIED = "SELECT records_processed FROM operation WHERE type = 'fullReindex'"
COUNT = "SELECT count(*) FROM records"
TABLES = "SELECT name FROM sqlite_schema WHERE name GLOB 'eprint_submission__[0-9]'"


def differences(database: Path, governance_did: str | None = None) -> list[object]:
    """What `verify` finds."""
    known = {} if governance_did is None else {"governance_did": governance_did}
    registry = load_registry(**known)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        prepare = partial(prepare_stored, registry=registry)
        return list(Verification(reader, registry.types, SEARCH, prepare).differences())


def fill(net: Devnet, account: Account, collections: list[str]) -> None:
    """`RECORDS` records, the last of which the stream shows."""
    net.import_records(account, RECORDS - 1, collections)
    net.create(account, TAG, realistic_record(net.rng, TAG, did=account.did))


async def populated(net: Devnet) -> None:
    fill(net, await net.create_account(), [TAG, NODE, EPRINT])


async def holds_all(daemon: RunningDaemon) -> None:
    await wait_until(lambda: daemon.rows(COUNT)[0][0] >= RECORDS, what="all records")


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_beside_live_traffic_the_new_tables_are_those_of_the_network(
    tmp_path: Path, mode: str
):
    async with Devnet(seed=7) as net:
        await populated(net)
        writers = [await net.create_account() for _ in range(2)]
        written = [0]
        async with running_daemon(tmp_path, sections(tmp_path, net)) as daemon:
            await holds_all(daemon)
            traffic = asyncio.get_running_loop().create_task(write_steadily(net, writers, written))
            live = "SELECT count(*) FROM records WHERE source = 'live'"
            await wait_until(lambda: daemon.rows(live)[0][0] > 5, what="live records")
            # The settings say `pause`.
            given = {} if mode == "pause" else {"mode": mode}
            _, operation = await daemon.call(ADMIN + "triggerFullReindex", batchSize=1, **given)
            await wait_until(lambda: daemon.rows(f"{COPIED} AND status = 'running'") > [(3,)],
                             what="its first records")  # fmt: skip
            before, at_start = await look(daemon), written[0]
            await wait_until(lambda: written[0] > at_start + 5, what="more traffic")
            after = await look(daemon)
            assert daemon.rows("SELECT count(*) FROM operations WHERE status = 'running'")[0][0]
            assert (after == before) is (mode == "pause")
            await wait_until(
                lambda: daemon.rows("SELECT count(*) FROM operations WHERE status = 'running'")
                == [(0,)],
                what="the end",
                deadline_s=60.0,
            )  # fmt: skip
            traffic.cancel()
            await asyncio.wait([traffic])
            _, body = await daemon.query(ADMIN + "getBackfillStatus", id=operation["operationId"])
            ended = body["operation"]
            assert (ended["status"], ended["mode"], ended["unit"]) == ("completed", mode, "record")
            assert ended["recordsProcessed"] == ended["totalRecords"] == ended["unitsProcessed"]
            assert ended["recordsProcessed"] >= RECORDS
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            await wait_until(lambda: len(daemon.rows(TABLES)) == 1, what="the old tables to go")
        assert stored(tmp_path / "index.db", TABLES) != [("eprint_submission__1",)]
        assert differences(tmp_path / "index.db") == []


async def test_wrong_parameters_start_nothing_and_a_cancel_leaves_the_old_tables(tmp_path: Path):
    async with Devnet(seed=7) as net:
        await populated(net)
        async with running_daemon(tmp_path, sections(tmp_path, net)) as daemon:
            await holds_all(daemon)
            for wrong in ({"batchSize": 0}, {"batchSize": 10_001}, {"batchSize": "5"},
                          {"batchSize": 1.5}, {"did": "did:web:a.example"},
                          {"uri": "at://did:web:a.example/a.b.c/d"}):  # fmt: skip
                status, answer = await daemon.call(
                    ADMIN + "triggerBackfill", type="fullReindex", **wrong
                )
                assert (status, answer["error"]) == (400, "InvalidRequest")
                assert next(iter(wrong)) in answer["message"]
            status, answer = await daemon.call(ADMIN + "triggerFullReindex", batchSize=10_001)
            assert (status, answer["error"]) == (400, "InvalidRequest")
            assert daemon.rows("SELECT count(*) FROM operations") == [(0,)]

            _, started = await daemon.call(
                ADMIN + "triggerBackfill", type="fullReindex", batchSize=1, mode="supplement"
            )
            identifier = started["operation"]["id"]
            await wait_until(lambda: daemon.rows(COPIED) > [(3,)], what="its first records")
            _, same = await daemon.call(ADMIN + "triggerFullReindex", batchSize=500)
            assert same["operationId"] == identifier
            assert (same["mode"], same["params"]) == ("supplement", {"batchSize": 1})
            _, cancelled = await daemon.call(ADMIN + "cancelBackfill", id=identifier)
            assert cancelled["success"]
            await wait_until(
                lambda: daemon.rows("SELECT status FROM operations") == [("cancelled",)],
                what="the end",
                deadline_s=2.0,
            )
            await wait_until(
                lambda: daemon.rows(TABLES) == [("eprint_submission__1",)],
                what="the new tables to go",
            )
            assert differences(daemon.database) == []
            command = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "indexer", "backfill", "fullReindex", "--batch-size", "50",
                "--watch", "--url", daemon.addresses.admin_url,
                "--password-file", str(tmp_path / "password"),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            output, _ = await command.communicate()
            assert command.returncode == 0, output
            done = "SELECT records_processed FROM operations WHERE status = 'completed'"
            assert daemon.rows(done) == [(RECORDS,)]
        assert differences(tmp_path / "index.db") == []


async def test_a_rebuild_that_is_killed_ends_as_any_other(tmp_path: Path):
    async with Devnet(seed=7) as net:
        await populated(net)
        values = sections(tmp_path, net)
        config, database = tmp_path / "killed.toml", tmp_path / "index.db"
        config.write_text(to_toml(values))
        async with process(config) as (daemon, url):
            await wait_until(lambda: stored(database, COUNT) == [(RECORDS,)], what="all records")
            body = {"type": "fullReindex", "batchSize": 1, "mode": "supplement"}
            await call(url, ADMIN + "triggerBackfill", **body)
            await wait_until(lambda: stored(database, COPIED)[0][0] >= 5, what="records")
            daemon.send_signal(signal.SIGKILL)
            await daemon.wait()
        ((status, copied),) = stored(database, "SELECT status, records_processed FROM operation")
        assert status == "running"
        assert 5 <= copied < RECORDS
        async with running_daemon(tmp_path, values) as daemon:
            ended = "SELECT status, records_processed, total_records FROM operations"
            await wait_until(
                lambda: daemon.rows(ended) == [("completed", RECORDS, RECORDS)], what="the end"
            )
            await wait_until(lambda: len(daemon.rows(TABLES)) == 1, what="the old tables to go")
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
        assert differences(database) == []


async def test_tables_of_another_authority_are_served_while_they_are_rebuilt(tmp_path: Path):
    async with Devnet(seed=7) as net:
        authority = await net.create_account()
        fill(net, authority, [NODE])
        values = sections(tmp_path, net)
        async with running_daemon(tmp_path, values) as daemon:
            await holds_all(daemon)
            assert daemon.rows("SELECT count(*) FROM graph_node WHERE authority") == [(0,)]
        (valid,) = stored(tmp_path / "index.db", "SELECT count(*) FROM graph_node")[0]
        values |= {"governance": {"did": authority.did}}
        async with running_daemon(tmp_path, values) as daemon:
            assert daemon.rows("SELECT count(*) FROM graph_node") == [(valid,)]
            await wait_until(
                lambda: daemon.rows("SELECT type, status, mode, started_by FROM operations")
                == [("fullReindex", "completed", "supplement", None)],
                what="the rebuild",
            )  # fmt: skip
            assert daemon.rows("SELECT count(*) FROM graph_node WHERE authority") == [(valid,)]
        assert differences(tmp_path / "index.db", authority.did) == []


async def test_records_are_judged_anew_when_the_lexicons_are_others(tmp_path: Path):
    nsid = "pub.chive.actor.mute"
    folder = tmp_path / "lexicons"
    folder.mkdir()
    (document,) = (each for each in bundled_documents() if each["id"] == nsid)
    document["defs"]["main"]["record"]["required"].append("reason")
    (folder / "mute.json").write_text(json.dumps(document))
    found = (
        "SELECT (SELECT sum(valid) FROM records), (SELECT count(*) FROM actor_mute),"
        " (SELECT count(*) FROM operations WHERE status = 'completed')"
    )
    async with Devnet(seed=7) as net:
        account = await net.create_account()
        value = realistic_record(net.rng, nsid, did=account.did)
        net.create(account, nsid, {name: value[name] for name in value if name != "reason"})
        values = sections(tmp_path, net)
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until(lambda: daemon.rows(found) == [(1, 1, 0)], what="the record")
        stricter, looser = {"scope": {"lexicon_dir": str(folder)}}, {}
        for number, (changed, expected) in enumerate(
            ((stricter, (0, 0, 1)), (stricter, (0, 0, 1)), (looser, (1, 1, 2)))
        ):
            rng = random.Random(10 + number)
            async with running_daemon(tmp_path, values | changed, rng=rng) as daemon:
                await wait_until(
                    lambda daemon=daemon, expected=expected: daemon.rows(found) == [expected],
                    what="other verdicts, by one rebuild",
                )


QUEUED = """
INSERT INTO operation (id, type, key, mode, phase, params, status, started_at, records_processed,
                       unit, units_processed, outcomes, cancel_requested)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
SELECT 'q' || i, 'didSync', 'key' || i, 'supplement', 'queued', json_object('did', 'key' || i),
       'running', unixepoch(), 0, 'repo', 0, '{}', 0 FROM n
"""
REBUILDS = "SELECT status FROM operations WHERE type = 'fullReindex'"


async def test_outdated_tables_wait_for_room_in_a_full_queue_and_hold_up_no_stop(tmp_path: Path):
    async with Devnet(seed=7) as net:
        account = await net.create_account()
        values = sections(tmp_path, net)
        values["firehose"]["start"] = "live"
        values["backfill"]["max_running"] = 1
        net.faults.schedule(
            FaultKind.HTTP_HANG, times=None, endpoint="com.atproto.sync.getRepoStatus"
        )
        async with running_daemon(tmp_path, values) as daemon:
            database = daemon.database
            await daemon.call(ADMIN + "triggerDIDSync", did=account.did)
        with closing(sqlite3.connect(database)) as db, db:
            db.execute(QUEUED, (QUEUED_MAX - 1,))
            db.execute("UPDATE generation SET fingerprint = 'older' WHERE state = 'current'")
        for is_room_made in (False, True):
            with capture_logs() as logs:
                async with running_daemon(tmp_path, values) as daemon:
                    await wait_until(
                        lambda logs=logs: "reindex.put_off" in {each["event"] for each in logs},
                        what="the refusal",
                    )
                    assert daemon.rows(REBUILDS) == []
                    if is_room_made:
                        await daemon.call(ADMIN + "cancelBackfill", id="q1")
                        await wait_until(
                            lambda daemon=daemon: daemon.rows(REBUILDS) == [("running",)],
                            what="the rebuild",
                        )
