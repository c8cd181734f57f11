"""Scans of hosts by a whole daemon on the devnet: what they find, and what they cost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from indexer.model import Scope
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.pds import Extra, Pds
from tests.devnet.records import FOREIGN
from tests.devnet.serving import Reply, json_reply
from tests.e2e.daemon import RunningDaemon, running_daemon, to_toml, wait_until
from tests.e2e.test_admin_kill import process, sections
from tests.e2e.test_admin_methods import ADMIN, TAG
from tests.e2e.test_operation_runs import call, metric, stored, write_steadily
from tests.oracle import wait_until_equal

LIST = "com.atproto.sync.listRepos"
BY_COLLECTION = "com.atproto.sync.listReposByCollection"
HOSTS = "com.atproto.sync.listHosts"
DESCRIBE = "com.atproto.repo.describeRepo"
STATUS = "com.atproto.sync.getRepoStatus"
GET_REPO = "com.atproto.sync.getRepo"
POST = "app.bsky.feed.post"
COMMENT = "pub.chive.review.comment"

UNCHANGED = 10_000
STRANGERS = int(os.environ.get("CHIVE_SCAN_REPOS", "150"))
"""Repos of a first scan; CHIVE_SCAN_REPOS=10000 is the size that an operator may meet."""
IN_SCOPE = 50 if STRANGERS >= 10_000 else 10
ASKERS = 2
DAY_S = 86_400.0


def scanning(folder: Path, net: Devnet, **hosts: Any) -> dict[str, dict[str, Any]]:
    values = sections(folder, net)
    values["firehose"]["start"] = "live"
    values["hosts"] = hosts
    return values


async def unheard(net: Devnet, pds: int = 0, collection: str = TAG, n: int = 3) -> Account:
    """An account of which no stream has told."""
    account = await net.create_account(pds, announce=False)
    net.import_records(account, n, [collection], announce=False)
    return account


def outcomes(operation: dict[str, Any]) -> dict[str, int]:
    return {each["name"]: each["units"] for each in operation["outcomes"]}


def asked_about(pds: Pds) -> Counter[str]:
    """DID -> describeRepo requests."""
    return Counter(each.query["repo"] for each in pds.server.seen if each.endpoint == DESCRIBE)


async def hosts_of(daemon: RunningDaemon) -> dict[str, dict[str, Any]]:
    status, body = await daemon.query(ADMIN + "listPDSes")
    assert status == 200, body
    assert body["stats"]["total"] == len(body["stats"]["items"])
    return {host["url"]: host for host in body["stats"]["items"]}


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_a_scan_of_one_host_finds_what_no_stream_has_told(tmp_path: Path, mode: str):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        heard = [await net.create_account(pds) for pds in (0, 1)]
        lost = await net.create_account()
        for _ in range(3):
            await unheard(net)
        for _ in range(20):
            await unheard(net, collection=FOREIGN)
        elsewhere = await unheard(net, 1)
        written = [0]
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            await net.relay.subscriptions.wait_connections(1)
            traffic = asyncio.get_running_loop().create_task(write_steadily(net, heard, written))
            for account in (lost, *heard):
                net.create(account, TAG, realistic_record(net.rng, TAG, did=account.did))
            active = "SELECT count(*) FROM accounts WHERE state = 'active'"
            await wait_until(lambda: daemon.rows(active) == [(3,)], what="the live repos")
            net.import_records(lost, 5, [TAG], announce=False)
            url = net.pds[0].url
            done = await daemon.backfill("pdsScan", pdsUrl=url, mode=mode)
            assert (done["status"], done["mode"]) == ("completed", mode), done
            traffic.cancel()
            await asyncio.wait([traffic])
            assert written[0] > 10
            found = outcomes(done)
            assert (found["out_of_scope"], found["fetched"], found["scanned"]) == (20, 3, 1), found
            # What the stream may yet bring is left to it, for a minute.
            assert found["put_off"] >= 1, found
            (due,) = daemon.rows(
                "SELECT retry_at - unixepoch() FROM repo WHERE did = ? AND wanted", lost.did
            )
            assert 30 < due[0] <= 61
            assert daemon.rows("SELECT 1 FROM accounts WHERE did = ?", elsewhere.did) == []
            for account in (elsewhere, lost):
                await daemon.backfill("didSync", did=account.did)
            await wait_until_equal(net, daemon.database, 10.0, heads=True)
            first = asked_about(net.pds[0])
            assert len(first) == 23 and set(first.values()) == {1}
            again = await daemon.backfill("pdsScan", pdsUrl=url)
            assert outcomes(again)["asked_before"] == 20
            assert asked_about(net.pds[0]) == first
            _, told = await daemon.query(ADMIN + "getBackfillStatus", id=again["id"])
            assert told["operation"]["hosts"] == [
                {
                    "url": url,
                    "state": "active",
                    "outcomes": [each for each in again["outcomes"] if each["name"] != "scanned"],
                }
            ]
            host = (await hosts_of(daemon))[url]
            assert (host["status"], host["state"], host["repoCount"]) == ("healthy", "active", 5)
            total = daemon.rows(
                "SELECT count(*) FROM records JOIN accounts USING (did) WHERE pds_url = ?", url
            )
            assert host["recordCount"] == again["recordsProcessed"] == total[0][0]
            assert host["operationId"] == again["id"]


async def test_where_the_relay_lists_collections_no_host_is_asked_repo_by_repo(tmp_path: Path):
    async with Devnet(seed=9, pds_count=3) as net:
        for pds in (0, 1):
            await unheard(net, pds)
            await unheard(net, pds, collection=FOREIGN)
        net.pds[0].add_extras(50, (POST,), at=time.time() - DAY_S)
        await unheard(net, 2, collection=FOREIGN)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            done = await daemon.backfill("pdsScan")
            assert done["status"] == "completed", done
            await wait_until_equal(net, daemon.database, 5.0, heads=True)
            assert outcomes(done) == {
                "fetched": 2, "out_of_scope": 52, "scanned": 2, "covered": 1
            }  # fmt: skip
            assert all(pds.server.requests[DESCRIBE] == 0 for pds in net.pds)
            assert net.pds[2].server.requests.total() == 0
            states = {url: host["state"] for url, host in (await hosts_of(daemon)).items()}
            assert states == {
                net.pds[0].url: "active", net.pds[1].url: "active", net.pds[2].url: "pending"
            }  # fmt: skip
            seen = [each for each in net.relay.server.seen if each.endpoint == BY_COLLECTION]
            assert {each.query["limit"] for each in seen} == {"2000"}
            assert await metric(daemon, "chive_pds_hosts", status="active") == 2
            assert await metric(daemon, "chive_pds_hosts", status="pending") == 1
            assert "lastScan" not in (await hosts_of(daemon))[net.pds[2].url]
            # Nothing is due for a day, and nobody is asked.
            before = [pds.server.requests.total() for pds in net.pds]
            again = await daemon.backfill("pdsScan")
            assert (again["status"], again["unitsProcessed"]) == ("completed", 0)
            assert [pds.server.requests.total() for pds in net.pds] == before


async def test_a_repo_that_cannot_be_had_is_asked_for_once_though_it_is_on_several_lists(
    tmp_path: Path,
):
    async with Devnet(seed=9) as net:
        account = await net.create_account(0, announce=False)
        for collection in (TAG, "pub.chive.graph.node", "pub.chive.review.comment"):
            net.import_records(account, 2, [collection], announce=False)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            broken = net.faults.schedule(FaultKind.HTTP_TRUNCATE, times=None, endpoint=GET_REPO)
            done = await daemon.backfill("pdsScan")
            assert broken.fired and outcomes(done)["failed"] == 1, done
            assert net.pds[0].server.requests[STATUS] == 1


async def test_a_scan_of_one_host_leaves_what_the_relay_names_elsewhere_alone(tmp_path: Path):
    async with Devnet(seed=9) as net:
        here, there = await unheard(net, 0), await unheard(net, 1)
        await unheard(net, 0, collection=FOREIGN)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            status, answer = await daemon.call(ADMIN + "rescanPDS", pdsUrl=net.pds[0].url + "/")
            assert (status, answer["success"]) == (200, True)
            await ended(daemon, answer["operationId"])
            assert daemon.rows("SELECT did FROM accounts") == [(here.did,)]
            assert there.did not in {row[0] for row in daemon.rows("SELECT did FROM repo")}
            assert net.pds[0].server.requests[DESCRIBE] == 0
            assert net.pds[1].server.requests.total() == 0
            assert daemon.rows("SELECT url, status, source FROM pds_hosts") == [
                (net.pds[0].url, "active", "operator")
            ]


async def ended(daemon: RunningDaemon, operation_id: str) -> dict[str, Any]:
    async with asyncio.timeout(15):
        while True:
            _, body = await daemon.query(ADMIN + "getBackfillStatus", id=operation_id)
            operation: dict[str, Any] = body["operation"]
            if operation["status"] != "running":
                return operation
            await asyncio.sleep(0.02)


def track(database: Path, url: str, extras: list[Extra]) -> None:
    """Repos that are at the rev of their host, as if each had been fetched."""
    scope_id = Scope(("pub.chive.*",)).scope_id
    with closing(sqlite3.connect(database)) as db, db:
        db.executemany(
            "INSERT INTO repo (did, state, account_status, account_at, pds_url, identity_at, rev,"
            " data, scope_id, wanted, claimed, claim, priority, retry_at, attempts, desyncs,"
            " synced_at, verified_at, tracked_since, updated_at)"
            " VALUES (?, 'active', 'active', 0, ?, unixepoch(), ?, 'bafy', ?, 0, 0, 0, 2, 0, 0, 0, 0, 0,"
            " '', '')",
            [(extra.did, url, extra.rev, scope_id) for extra in extras],
        )


async def test_a_rescan_of_ten_thousand_unchanged_repos_makes_a_dozen_requests(tmp_path: Path):
    async with Devnet(seed=8) as net:
        values = scanning(tmp_path, net)
        async with running_daemon(tmp_path, values) as daemon:
            database = daemon.database
        extras = net.pds[0].add_extras(UNCHANGED, (TAG,), at=time.time() - DAY_S)
        track(database, net.pds[0].url, extras)
        async with running_daemon(tmp_path, values) as daemon:
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert outcomes(done) == {"current": UNCHANGED, "scanned": 1}
            requests = net.pds[0].server.requests
            print(f"{UNCHANGED} unchanged repos: {dict(requests)}")
            assert requests.total() <= 12
            stale = daemon.rows("SELECT count(*) FROM repo WHERE verified_at = 0")
            assert stale == [(0,)]


async def test_a_first_scan_that_is_killed_asks_again_for_nothing_that_was_settled(tmp_path: Path):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        for _ in range(IN_SCOPE):
            await unheard(net, n=2)
        extras = net.pds[0].add_extras(
            STRANGERS - IN_SCOPE, (POST, "app.bsky.graph.follow"), at=time.time() - 30 * DAY_S
        )
        values = scanning(tmp_path, net)
        config = tmp_path / "killed.toml"
        config.write_text(to_toml(values))
        database = tmp_path / "index.db"
        kills = 0
        async with process(config) as (daemon, url):
            await call(url, ADMIN + "rescanPDS", pdsUrl=net.pds[0].url)
            await wait_until(
                lambda: net.pds[0].server.requests[DESCRIBE] > STRANGERS // 3,
                what="the middle",
                deadline_s=max(60.0, STRANGERS / 15),
            )
            daemon.send_signal(signal.SIGKILL)
            await daemon.wait()
            kills += 1
        asked = asked_about(net.pds[0])
        assert len(asked) < STRANGERS
        assert [row[0] for row in stored(database, "SELECT status FROM operations")] == ["running"]
        lists = net.pds[0].server.requests[LIST]
        async with running_daemon(tmp_path, values) as restarted:
            (identifier,) = restarted.rows("SELECT id FROM operations")[0]
            done = await ended_within(restarted, identifier, max(60.0, STRANGERS / 15))
            assert outcomes(done) == {
                "out_of_scope": len(extras), "fetched": IN_SCOPE, "scanned": 1
            }  # fmt: skip
            await wait_until_equal(net, restarted.database, 5.0, heads=True)
        asked = asked_about(net.pds[0])
        repeated = {did for did, times in asked.items() if times > 1}
        print(f"{len(asked)} repos asked about, {len(repeated)} of them twice")
        assert len(asked) == STRANGERS and len(repeated) <= ASKERS
        assert net.pds[0].server.requests[LIST] == lists, "the list was read again"


async def ended_within(
    daemon: RunningDaemon, operation_id: str, deadline_s: float
) -> dict[str, Any]:
    sql = "SELECT status FROM operations WHERE id = ?"
    await wait_until(
        lambda: daemon.rows(sql, operation_id) != [("running",)],
        what="the end of the scan",
        deadline_s=deadline_s,
    )
    return await ended(daemon, operation_id)


async def test_a_scan_goes_on_with_its_page_after_a_restart(tmp_path: Path):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        net.pds[0].add_extras(2500, (POST,), at=time.time() - DAY_S)
        values = scanning(tmp_path, net, ask_repos_max=10)
        async with running_daemon(tmp_path, values) as daemon:
            hang = net.faults.schedule(FaultKind.HTTP_HANG, skip=1, endpoint=LIST)
            await daemon.call(ADMIN + "rescanPDS", pdsUrl=net.pds[0].url)
            await net.faults.wait_fired(hang)
            assert daemon.rows(
                "SELECT pages, pds_hosts.status FROM host JOIN pds_hosts USING (url)"
            ) == [(1, "scanning")]
        net.faults.clear()
        async with running_daemon(tmp_path, values) as daemon:
            (identifier,) = daemon.rows("SELECT id FROM operations")[0]
            done = await ended(daemon, identifier)
            assert outcomes(done) == {"unasked": 2490, "out_of_scope": 10, "scanned": 1}
        pages = [each.query.get("cursor") for each in net.pds[0].server.seen
                 if each.endpoint == LIST]  # fmt: skip
        assert [cursor for cursor, times in Counter(pages).items() if times > 1] == [pages[1]]


async def test_a_scan_that_is_killed_after_its_pass_neither_asks_nor_counts_again(tmp_path: Path):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        extras = net.pds[0].add_extras(20, (TAG,), at=time.time() - DAY_S)
        url, values = net.pds[0].url, scanning(tmp_path, net)
        async with running_daemon(tmp_path, values) as daemon:
            database = daemon.database
        track(database, url, extras)
        async with running_daemon(tmp_path, values) as daemon:
            done = await daemon.backfill("pdsScan", pdsUrl=url)
            assert outcomes(done) == {"current": 20, "scanned": 1}
        with closing(sqlite3.connect(database)) as db, db:  # as before the last transaction
            db.execute(
                "UPDATE operation SET status = 'running', completed_at = NULL, is_folded = 0"
            )
            db.execute(
                "INSERT INTO operation_unit (operation_id, unit, outcome, records)"
                " VALUES (?, ?, 'scanned', 0) ON CONFLICT DO NOTHING",
                (done["id"], url),
            )
        asked = net.pds[0].server.requests.total()
        async with running_daemon(tmp_path, values) as daemon:
            again = await ended(daemon, done["id"])
        assert (again["status"], outcomes(again)) == ("completed", outcomes(done))
        assert net.pds[0].server.requests.total() == asked


def track_unread(database: Path, url: str, accounts: list[Account]) -> None:
    """Repos of which nothing has been read yet, and that wait for nobody but a scan."""
    with closing(sqlite3.connect(database)) as db, db:
        db.executemany(
            "INSERT INTO repo (did, state, account_status, account_at, pds_url, identity_at,"
            " wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at,"
            " verified_at, tracked_since, updated_at)"
            " VALUES (?, 'desynchronized', 'active', 0, ?, unixepoch(), 1, 0, 0, 2, 4e9, 0, 0, 0, 0, '', '')",
            [(account.did, url) for account in accounts],
        )


async def scan_of_a_page(folder: Path, *, is_killed: bool) -> tuple[Any, ...]:
    """What a scan of one host comes to, which may be killed over the only page of its list."""
    folder.mkdir()
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        differing = [await unheard(net) for _ in range(8)]
        newer = [await unheard(net) for _ in range(2)]
        equal = net.pds[0].add_extras(20, (TAG,), at=time.time() - DAY_S)
        net.pds[0].add_extras(15, (POST,), at=time.time() - DAY_S)
        url, values = net.pds[0].url, scanning(folder, net)
        async with running_daemon(folder, values) as daemon:
            database = daemon.database
        track(database, url, equal)
        track_unread(database, url, differing)
        if is_killed:
            config = folder / "killed.toml"
            config.write_text(to_toml(values))
            hang = net.faults.schedule(
                FaultKind.HTTP_HANG, times=None, skip=3, endpoint=STATUS, host=0
            )
            async with process(config) as (killed, admin_url):
                await call(admin_url, ADMIN + "rescanPDS", pdsUrl=url)
                count = "SELECT count(*) FROM operation_unit"
                await wait_until(
                    lambda: hang.fired == ASKERS and stored(database, count) == [(3,)],
                    what="the middle of the page",
                )
                assert stored(database, "SELECT pages FROM host") == [(0,)]
                killed.send_signal(signal.SIGKILL)
                await killed.wait()
            net.faults.clear()
        async with running_daemon(folder, values) as daemon:
            if is_killed:
                (identifier,) = daemon.rows("SELECT id FROM operations")[0]
                done = await ended(daemon, identifier)
            else:
                done = await daemon.backfill("pdsScan", pdsUrl=url)
            _, told = await daemon.query(ADMIN + "getBackfillStatus", id=done["id"])
            host = (await hosts_of(daemon))[url]
            known = {account.did for account in (*differing, *newer)}
            fetched = daemon.rows("SELECT did FROM repo WHERE data IS NOT NULL AND data <> 'bafy'")
            assert {row[0] for row in fetched} == known
            for account in (*differing, *newer):
                rows = daemon.rows(
                    "SELECT collection || '/' || rkey, cid FROM records WHERE did = ?", account.did
                )
                assert dict(rows) == dict(net.cids(account))
        (of_host,) = told["operation"]["hosts"]
        return (
            done["status"], outcomes(done), done["recordsProcessed"], done["unitsProcessed"],
            of_host["state"], of_host["outcomes"], host["recordCount"], host["repoCount"],
        )  # fmt: skip


async def test_a_scan_that_is_killed_over_a_page_ends_as_one_that_is_not(tmp_path: Path):
    whole = await scan_of_a_page(tmp_path / "whole", is_killed=False)
    assert whole[:2] == (
        "completed", {"current": 20, "fetched": 10, "out_of_scope": 15, "scanned": 1}
    )  # fmt: skip
    assert await scan_of_a_page(tmp_path / "killed", is_killed=True) == whole


async def test_a_repo_counts_as_compared_when_its_host_was_asked_however_long_others_take(
    tmp_path: Path,
):
    """The repair of a gap asks about none that was compared since: it may have changed unheard."""
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        (equal,) = net.pds[0].add_extras(1, (TAG,), at=time.time() - DAY_S)
        slow = await unheard(net)
        url = net.pds[0].url
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            database = daemon.database
        track(database, url, [equal])
        track_unread(database, url, [slow])
        delay = net.faults.schedule(FaultKind.HTTP_DELAY, endpoint=STATUS, host=0, seconds=1.0)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            scan = asyncio.create_task(daemon.backfill("pdsScan", pdsUrl=url))
            await wait_until(lambda: delay.fired == 1, what="the other repo of the page")
            surveyed_at = time.time()
            assert outcomes(await scan) == {"current": 1, "fetched": 1, "scanned": 1}
            compared = "SELECT verified_at FROM repo WHERE did = ?"
            assert 0.0 < daemon.rows(compared, equal.did)[0][0] < surveyed_at


async def test_only_the_newest_strangers_are_asked_about_and_the_rest_is_said_to_be_left(
    tmp_path: Path,
):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        extras = net.pds[0].add_extras(40, (POST,), at=time.time() - DAY_S)
        values = scanning(tmp_path, net, ask_repos_max=5)
        async with running_daemon(tmp_path, values) as daemon:
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert outcomes(done) == {"out_of_scope": 5, "unasked": 35, "scanned": 1}
            newest = [extra.did for extra in extras[-5:]]
            assert sorted(asked_about(net.pds[0])) == sorted(newest)
            # The next one goes on where this one ended.
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert outcomes(done) == {
                "asked_before": 5, "out_of_scope": 5, "unasked": 30, "scanned": 1
            }  # fmt: skip
            asked = asked_about(net.pds[0])
            assert len(asked) == 10 and set(asked.values()) == {1}


@pytest.mark.parametrize("is_listed", [True, False])
async def test_a_wider_scope_is_looked_for_at_all_hosts_again(tmp_path: Path, is_listed: bool):
    """Also at those that had nothing for the narrower one, which is believed for a month."""
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = is_listed
        strangers = [await unheard(net, pds) for pds in (0, 1)]
        known = await unheard(net, collection=COMMENT)
        values = scanning(tmp_path, net)
        values["backfill"] = {"bootstrap": True}
        values["scope"] = {"collections": [COMMENT]}
        is_done = "SELECT 1 FROM first_scan"
        held = "SELECT DISTINCT did FROM records"
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until(lambda: daemon.rows(is_done) != [], what="the first scan")
            assert daemon.rows(held) == [(known.did,)]
        values["scope"] = {"collections": ["pub.chive.*"]}
        rng = random.Random(2)
        async with running_daemon(tmp_path, values, rng=rng) as daemon:
            await wait_until(lambda: daemon.rows(is_done) != [], what="the scan for the new scope")
            await wait_until_equal(net, daemon.database, 10.0, heads=True)
            assert len(daemon.rows(held)) == 1 + len(strangers)
        scans = "SELECT count(*) FROM operation WHERE type = 'pdsScan'"
        rng = random.Random(3)
        async with running_daemon(tmp_path, values, rng=rng) as daemon:
            assert daemon.rows(is_done) != [] and daemon.rows(scans) == [(2,)]


async def test_where_no_account_has_anything_in_scope_a_restart_scans_nothing_again(tmp_path: Path):
    async with Devnet(seed=8) as net:
        await unheard(net, collection=COMMENT)
        values = scanning(tmp_path, net)
        values["backfill"] = {"bootstrap": True}
        values["scope"] = {"collections": [TAG]}
        is_done = "SELECT 1 FROM first_scan"
        due = "SELECT count(*) FROM host WHERE next_scan_at = 0"
        async with running_daemon(tmp_path, values) as daemon:
            await wait_until(lambda: daemon.rows(is_done) != [], what="the first scan")
        async with running_daemon(tmp_path, values, rng=random.Random(2)) as daemon:
            assert daemon.rows(is_done) != [] and daemon.rows(due) == [(0,)]
        values["scope"] = {"collections": [COMMENT]}
        async with running_daemon(tmp_path, values, rng=random.Random(3)) as daemon:
            await wait_until(lambda: daemon.rows(is_done) != [], what="the scan for the new scope")
            assert len(daemon.rows("SELECT DISTINCT did FROM records")) == 1


@pytest.mark.parametrize("changed", ["scope", "relay"])
async def test_a_scan_that_a_restart_finds_with_another_scope_or_relay_trusts_no_list_of_before(
    tmp_path: Path, changed: str
):
    async with Devnet(seed=8) as net:
        values = scanning(tmp_path, net)
        values["scope"] = {"collections": [TAG]}
        hang = net.faults.schedule(FaultKind.HTTP_HANG, times=None, endpoint=HOSTS)
        async with running_daemon(tmp_path, values) as daemon:
            status, body = await daemon.call(ADMIN + "triggerBackfill", type="pdsScan")
            assert status == 200, body
            await wait_until(lambda: hang.fired > 0, what="the end of the lists by collection")
        net.faults.clear()
        stranger = await unheard(net, collection=COMMENT if changed == "scope" else TAG)
        if changed == "scope":
            values["scope"] = {"collections": [TAG, COMMENT]}
        else:
            relay_url = net.relay_url.replace("ws://127.0.0.1", "http://localhost")
            values["network"]["relay_url"] = relay_url
        async with running_daemon(tmp_path, values, rng=random.Random(2)) as daemon:
            ended = "SELECT error FROM operations WHERE id = ? AND status <> 'running'"
            identifier = body["operation"]["id"]
            await wait_until(lambda: daemon.rows(ended, identifier) != [], what="its end")
            ((error,),) = daemon.rows(ended, identifier)
            if changed == "scope":
                assert "scope.collections" in error
                await daemon.backfill("pdsScan")
            assert daemon.rows("SELECT DISTINCT did FROM records") == [(stranger.did,)]


async def test_repos_of_busy_accounts_are_read_under_a_wider_scope_at_once(tmp_path: Path):
    """Their hosts are ahead by a commit of this minute, which the stream will bring."""
    async with Devnet(seed=8) as net:
        accounts = [await unheard(net, collection=COMMENT) for _ in range(12)]
        for account in accounts:
            net.import_records(account, 2, [TAG], announce=False)
        values = scanning(tmp_path, net)
        values["scope"] = {"collections": [COMMENT]}
        async with running_daemon(tmp_path, values) as daemon:
            await daemon.backfill("pdsScan")
        del values["scope"]
        loop = asyncio.get_running_loop()
        traffic = loop.create_task(write_steadily(net, accounts, [0]))
        async with running_daemon(tmp_path, values, rng=random.Random(2)) as daemon:
            left = "SELECT count(*) FROM repo WHERE scope_id IS NULL"
            await wait_until(lambda: daemon.rows(left) == [(0,)], what="all repos")
            traffic.cancel()
            await asyncio.wait([traffic])
            # One of which a commit came between the question how it is and the fetch is fetched
            # once more, a minute later.
            await wait_until_equal(net, daemon.database, 90.0, heads=True)


@pytest.mark.parametrize("endpoint", [LIST, DESCRIBE])
async def test_a_cancel_ends_a_scan_in_a_wait_for_a_host_within_two_seconds(
    tmp_path: Path, endpoint: str
):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        await unheard(net)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            hang = net.faults.schedule(FaultKind.HTTP_HANG, endpoint=endpoint)
            _, answer = await daemon.call(ADMIN + "rescanPDS", pdsUrl=net.pds[0].url)
            await net.faults.wait_fired(hang)
            await daemon.cancel_only(answer["operationId"], within_s=2.0)
            assert daemon.rows("SELECT status, scanned_at FROM pds_hosts") == [("pending", None)]
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert done["status"] == "completed"
            await wait_until_equal(net, daemon.database, 5.0, heads=True)


@pytest.mark.parametrize(
    ("kind", "how", "reason"),
    [
        (FaultKind.HTTP_HTML, {}, "JSON"),
        (FaultKind.HTTP_BODY, {"body": b'{"repos": 7}'}, "no list of repos"),
        (FaultKind.HTTP_STATUS, {"status": 501, "error": "MethodNotImplemented"}, "not served"),
        (FaultKind.CURSOR_LOOP, {}, "no end"),
        (FaultKind.HTTP_BODY, {"body": b'{"repos": [{"did": "x"}], "cursor": "here"}'}, "no end"),
    ],
)
async def test_a_host_that_gives_no_list_is_not_said_to_be_scanned(
    tmp_path: Path, kind: FaultKind, how: dict[str, Any], reason: str
):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        await unheard(net)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            fault = net.faults.schedule(kind, times=None, endpoint=LIST, host=0, **how)
            done = await daemon.backfill("pdsScan")
            assert fault.fired > 0
            assert net.pds[0].server.requests[LIST] < 6
            # The other host was scanned all the same.
            assert (done["status"], done["unitsFailed"]) == ("completed", 1)
            assert done["failures"][0]["unit"] == net.pds[0].url
            assert reason in done["failures"][0]["message"], done["failures"]
            hosts = await hosts_of(daemon)
            assert hosts[net.pds[1].url]["status"] == "healthy"
            bad = hosts[net.pds[0].url]
            assert "lastScan" not in bad and reason in bad["error"]
            assert (bad["status"], bad["consecutiveErrors"], bad["errorCount"]) == (
                "unhealthy", 1, 1
            )  # fmt: skip
            net.faults.clear()
            again = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert again["status"] == "completed"
            host = (await hosts_of(daemon))[net.pds[0].url]
            assert (host["status"], host["consecutiveErrors"], host["errorCount"]) == (
                "healthy", 0, 1
            )  # fmt: skip
            await wait_until_equal(net, daemon.database, 5.0, heads=True)


async def test_a_list_of_nonsense_without_end_is_left_after_a_few_pages(tmp_path: Path):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        server = net.pds[0].server

        async def go_on(request: web.Request) -> Reply:
            page = int(request.query.get("cursor", "0")) + 1
            return json_reply({"repos": [{"did": f"did:key:z{page}"}], "cursor": str(page)})

        server.route("GET", f"/xrpc/{LIST}", LIST, go_on)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert done["status"] == "failed" and "has no end" in done["error"], done
            assert server.requests[LIST] < 6


async def test_a_named_host_whose_list_breaks_off_fails_the_scan_by_its_name(tmp_path: Path):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        net.pds[0].add_extras(1500, (POST,), at=time.time() - DAY_S)
        url, values = net.pds[0].url, scanning(tmp_path, net, ask_repos_max=5)
        async with running_daemon(tmp_path, values) as daemon:
            fault = net.faults.schedule(
                FaultKind.HTTP_STATUS, times=None, skip=1, endpoint=LIST, host=0,
                status=400, error="InvalidRequest",
            )  # fmt: skip
            done = await daemon.backfill("pdsScan", pdsUrl=url)
            assert fault.fired == 1
            assert (done["status"], done["unitsFailed"]) == ("failed", 1), done
            assert url in done["error"]
            _, told = await daemon.query(ADMIN + "getBackfillStatus", id=done["id"])
            (failure,) = told["operation"]["failures"]
            assert (failure["unit"], failure["outcome"]) == (url, "unreachable")
            assert "scanned" not in outcomes(done)
            host = (await hosts_of(daemon))[url]
            assert "lastScan" not in host and host["consecutiveErrors"] == 1
            net.faults.clear()
            # What the list told before it broke off is not asked again.
            again = await daemon.backfill("pdsScan", pdsUrl=url)
            assert (again["status"], outcomes(again)["scanned"]) == ("completed", 1)
            asked = asked_about(net.pds[0])
            assert asked and set(asked.values()) == {1}


async def test_a_host_that_describes_nothing_is_left_after_a_few_questions(tmp_path: Path):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        net.pds[0].add_extras(60, (POST,), at=time.time() - DAY_S)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            refusal = net.faults.schedule(
                FaultKind.HTTP_STATUS, times=None, status=401, error="AuthMissing",
                endpoint=DESCRIBE,
            )  # fmt: skip
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert refusal.fired < 20
            found = outcomes(done)
            assert found["unreachable"] == 1 and found["refused"] + found["unasked"] == 60
            assert "AuthMissing" in done["failures"][0]["message"]
            net.faults.clear()
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert outcomes(done) == {"out_of_scope": 60, "scanned": 1}


async def test_a_hostile_host_has_nothing_fetched_that_is_not_its_own(tmp_path: Path):
    """It lists accounts of another host, known and unknown, and many that do not exist."""
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        known, unknown = await net.create_account(0), await unheard(net, 0)
        net.create(known, TAG, realistic_record(net.rng, TAG, did=known.did))
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            await daemon.backfill("didSync", did=known.did)
            for account in (known, unknown):
                stale = net.pds[0].hosted[account.did]
                net.pds[1].hosted[account.did] = stale
            net.pds[1].add_extras(40, (TAG,), at=time.time())
            bogus = net.faults.schedule(FaultKind.BOGUS_DIDS, count=80, endpoint=LIST, host=1)
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[1].url)
            assert bogus.fired == 1
            found = outcomes(done)
            assert found == {"foreign": 2, "not_found": 120, "scanned": 1}, found
            requests = net.pds[1].server.requests
            assert requests[GET_REPO] == requests["com.atproto.sync.getRepoStatus"] == 0
            assert daemon.rows("SELECT did FROM repo") == [(known.did,)]
            # What it said of another's accounts is not held against them.
            await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            await wait_until_equal(net, daemon.database, 5.0, heads=True)


async def test_a_bad_host_is_refused_before_anything_is_started(tmp_path: Path):
    async with Devnet(seed=8) as net:
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            for bad in ("pds.example.com", "ftp://pds.example.com", "https://a.example/path", ""):
                status, answer = await daemon.call(
                    ADMIN + "triggerBackfill", type="pdsScan", pdsUrl=bad
                )
                assert (status, answer["error"]) == (400, "InvalidRequest"), bad
                assert "pdsUrl" in answer["message"]
            status, answer = await daemon.call(
                ADMIN + "triggerBackfill", type="pdsScan", did="did:web:a.example"
            )
            assert (status, answer["error"]) == (400, "InvalidRequest")
            assert daemon.rows("SELECT count(*) FROM operation") == [(0,)]
            assert daemon.rows("SELECT count(*) FROM host") == [(0,)]
        values = scanning(tmp_path, net)
        values["network"]["allow_private_hosts"] = False
        values["firehose"]["url"] = "wss://relay.example"
        async with running_daemon(tmp_path, values) as daemon:
            for private in (
                net.pds[0].url,
                "https://10.0.0.1",
                "https://localhost",
                "http://a.example",
            ):
                status, answer = await daemon.call(ADMIN + "triggerPDSScan", pdsUrl=private)
                assert (status, answer["error"]) == (400, "InvalidRequest"), private
                assert "pdsUrl" in answer["message"]
            assert daemon.rows("SELECT count(*) FROM operation") == [(0,)]


async def test_new_repos_that_a_scan_finds_are_within_the_limits_of_a_day(tmp_path: Path):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        accounts = [await unheard(net) for _ in range(5)]
        values = scanning(tmp_path, net) | {"limits": {"new_repos_per_host_day": 2}}
        async with running_daemon(tmp_path, values) as daemon:
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert outcomes(done) == {"fetched": 2, "limited": 3, "scanned": 1}
            assert (done["status"], done["unitsFailed"]) == ("completed", 0)
            kept = {row[0] for row in daemon.rows("SELECT did FROM accounts WHERE rev IS NOT NULL")}
            assert len(kept) == 2 and kept < {account.did for account in accounts}
            # What is held already is none of the new ones.
            for did in kept:
                net.import_records(net.accounts[did], 2, [TAG], announce=False)
            again = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            found = outcomes(again)
            assert found.get("fetched", 0) + found.get("put_off", 0) == 2, found
            assert found["limited"] == 3, found


async def test_a_denied_host_is_passed_over_and_cannot_be_named(tmp_path: Path):
    async with Devnet(seed=8) as net:
        for pds in (0, 1):
            await unheard(net, pds)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            url = net.pds[0].url
            denial = {"subject": url.removeprefix("http://"), "reason": "spam"}
            status, answer = await daemon.call("pub.chive.indexer.deny", **denial)
            assert status == 200, answer
            done = await daemon.backfill("pdsScan")
            assert (done["status"], done["unitsFailed"]) == ("completed", 0), done
            # The repo that the relay names, and its host.
            assert (outcomes(done)["denied"], outcomes(done)["scanned"]) == (2, 1)
            assert net.pds[0].server.requests[LIST] == 0
            host = (await hosts_of(daemon))[url]
            assert "lastScan" not in host and "denied" in host["error"]
            status, answer = await daemon.call(ADMIN + "rescanPDS", pdsUrl=url)
            assert (status, answer["error"]) == (400, "InvalidRequest")


@pytest.mark.parametrize("method", ["listHosts", "listReposByCollection"])
async def test_a_scan_whose_relay_gives_no_list_says_so_and_is_not_the_first(
    tmp_path: Path, method: str
):
    async with Devnet(seed=8) as net:
        await unheard(net)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            fault = net.faults.schedule(
                FaultKind.HTTP_HTML, times=None, endpoint=f"com.atproto.sync.{method}"
            )
            done = await daemon.backfill("pdsScan")
            assert fault.fired and outcomes(done)["unlisted"] == 1, done
            assert method in done["failures"][0]["unit"] and method in done["error"]
            assert daemon.rows("SELECT count(*) FROM first_scan") == [(0,)]
            net.faults.clear()
            assert (await daemon.backfill("pdsScan"))["status"] == "completed"
            assert daemon.rows("SELECT count(*) FROM first_scan") == [(1,)]


async def test_a_scan_of_which_every_repo_failed_has_failed_and_its_host_is_not_scanned(
    tmp_path: Path,
):
    async with Devnet(seed=8) as net:
        net.relay.serves_collections = False
        for _ in range(2):
            await unheard(net)
        async with running_daemon(tmp_path, scanning(tmp_path, net)) as daemon:
            broken = net.faults.schedule(FaultKind.HTTP_TRUNCATE, times=None, endpoint=GET_REPO)
            done = await daemon.backfill("pdsScan", pdsUrl=net.pds[0].url)
            assert broken.fired and done["status"] == "failed", done
            host = (await hosts_of(daemon))[net.pds[0].url]
            assert "lastScan" not in host and "none of its 2 repos" in host["error"]


async def test_a_new_store_scans_all_hosts_once_and_says_so(tmp_path: Path):
    async with Devnet(seed=8) as net:
        for pds in (0, 1):
            await unheard(net, pds)
        values = scanning(tmp_path, net)
        values["backfill"] = {"bootstrap": True}
        delay = net.faults.schedule(FaultKind.HTTP_DELAY, seconds=1.5, endpoint=LIST)
        async with running_daemon(tmp_path, values) as daemon:
            await net.faults.wait_fired(delay)
            async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as response:
                told = await response.json()
            assert "the first scan of all hosts" in told["notes"]["bootstrap"]
            assert (response.status, told["ready"]) == (200, True)
            await wait_until_equal(net, daemon.database, 10.0, heads=True)
            done = [("pdsScan", "completed", None)]
            await wait_until(
                lambda: daemon.rows("SELECT type, status, started_by FROM operations") == done,
                what="the end of the first scan",
            )
        # A second start has nothing to do, even when the operation is forgotten.
        with closing(sqlite3.connect(daemon.database)) as db, db:
            db.execute("DELETE FROM operation_unit")
            db.execute("DELETE FROM operation")
        async with running_daemon(tmp_path, values) as daemon:
            async with asyncio.timeout(10):
                while not (await daemon.query(ADMIN + "getFirehoseStatus"))[1]["connected"]:
                    await asyncio.sleep(0.02)
            async with daemon.session.get(f"{daemon.addresses.admin_url}/readyz") as response:
                assert (await response.json())["notes"] == {}
            assert daemon.rows("SELECT count(*) FROM operation") == [(0,)]
