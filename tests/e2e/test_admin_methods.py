"""Every admin method of a whole daemon on the devnet: what it answers and what it changes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from indexer.clock import Clock
from tests.devnet import Devnet, FaultKind, realistic_record
from tests.devnet.account import Account
from tests.e2e.daemon import RunningDaemon, running_daemon, wait_until
from tests.unit.admin.tokens import mint

OWN_DID = "did:web:indexer.example"
PASSWORD_ACTOR = {"actorDid": OWN_DID}
TAG = "pub.chive.eprint.userTag"
ADMIN = "pub.chive.admin."
INDEXER = "pub.chive.indexer."
SYNC = "pub.chive.sync."


class Stage:
    """A daemon that follows a devnet, and an admin with an account there."""

    def __init__(self, net: Devnet, daemon: RunningDaemon, admin: Account) -> None:
        self.net = net
        self.daemon = daemon
        self.admin = admin

    async def get(self, nsid: str, **params: Any) -> Any:
        status, body = await self.daemon.query(nsid, **params)
        assert status == 200, body
        return body

    async def do(self, nsid: str, **body: Any) -> Any:
        status, answer = await self.daemon.call(nsid, **body)
        assert status == 200, answer
        return answer

    async def refused(self, nsid: str, **body: Any) -> tuple[int, str]:
        status, answer = await self.daemon.call(nsid, **body)
        assert set(answer) == {"error", "message"}, answer
        return status, answer["error"]

    async def bearer(self, token: str, nsid: str) -> tuple[int, Any]:
        url = f"{self.daemon.addresses.admin_url}/xrpc/{nsid}"
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers) as response,
        ):
            return response.status, await response.json()

    def create(self, account: Account, collection: str = TAG) -> None:
        value = realistic_record(self.net.rng, collection, did=account.did)
        self.net.create(account, collection, value)

    async def equal(self, account: Account) -> None:
        """Wait until the index has what the account's host has."""
        want = dict(self.net.cids(account))

        def is_equal() -> bool:
            rows = self.daemon.rows(
                "SELECT collection || '/' || rkey, cid FROM records WHERE did = ?", account.did
            )
            return dict(rows) == want

        await wait_until(is_equal, what=f"the records of {account.did}")


@asynccontextmanager
async def staged(
    folder: Path, *, clock: Clock | None = None, **sections: dict[str, Any]
) -> AsyncIterator[Stage]:
    async with Devnet(seed=6) as net:
        admin = await net.create_account()
        values = {
            "firehose": {"url": net.relay_url, "start": "oldest"},
            "identity": {
                "plc_url": net.plc_url,
                "handle_resolver_url": net.handle_resolver_url,
                "refresh_interval_s": 0,
            },
            "network": {"allow_private_hosts": True, "requests_per_s_per_host": 1000},
            "admin": {"service_did": OWN_DID, "dids": [admin.did], "author_methods": True},
            "storage": {"backup_dir": str(folder / "backups")},
        }
        for section, keys in sections.items():
            values.setdefault(section, {}).update(keys)
        async with running_daemon(folder, values, clock=clock) as daemon:
            yield Stage(net, daemon, admin)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


def token_for(stage: Stage, nsid: str, **changed: Any) -> str:
    now = int(time.time())
    claims = {"iss": stage.admin.did, "iat": now, "exp": now + 60, "lxm": nsid} | changed
    return mint(key=stage.admin.key, **claims)


async def test_a_token_of_a_listed_admin_serves_its_method_once_and_no_other(stage: Stage):
    nsid = ADMIN + "getFirehoseStatus"
    token = token_for(stage, nsid)
    assert (await stage.bearer(token, ADMIN + "getOverview"))[0] == 401
    status, body = await stage.bearer(token, nsid)
    assert (status, body["url"]) == (200, stage.net.relay_url)
    status, body = await stage.bearer(token, nsid)
    assert (status, body["error"]) == (401, "AuthenticationRequired")


async def test_a_stranger_is_forbidden_and_costs_no_request_to_anybody(stage: Stage):
    nsid = ADMIN + "getOverview"
    stranger = await stage.net.create_account(announce=False)
    asked = stage.net.plc_server.requests
    before = asked["plc.document"]
    status, body = await stage.bearer(token_for(stage, nsid, iss=stranger.did), nsid)
    assert (status, body["error"]) == (403, "AdminRequired")
    assert asked["plc.document"] == before
    assert (await stage.bearer(token_for(stage, nsid), nsid))[0] == 200
    assert asked["plc.document"] == before + 1


async def test_a_did_web_of_ours_is_served_as_a_document(stage: Stage):
    url = f"{stage.daemon.addresses.admin_url}/.well-known/did.json"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        document = await response.json()
    assert document["id"] == OWN_DID
    assert document["service"] == [
        {
            "id": "#chive_indexer",
            "type": "ChiveIndexer",
            "serviceEndpoint": "https://indexer.example",
        }
    ]


@pytest.mark.parametrize(
    ("method", "kind", "params"),
    [
        ("triggerPDSScan", "pdsScan", {"pdsUrl": "http://localhost:1"}),
        ("triggerFreshnessScan", "freshnessScan", {}),
        ("triggerCitationExtraction", "citationExtraction", {}),
        ("triggerFullReindex", "fullReindex", {"batchSize": 10}),
        ("triggerGovernanceSync", "governanceSync", {}),
        ("rescanPDS", "pdsScan", {"pdsUrl": "http://localhost:1"}),
    ],
)
async def test_a_method_for_one_type_does_what_trigger_backfill_does_with_it(
    stage: Stage, method: str, kind: str, params: dict[str, Any]
):
    twin_status, twin = await stage.daemon.call(ADMIN + "triggerBackfill", type=kind, **params)
    status, answer = await stage.daemon.call(ADMIN + method, **params)
    assert (status, twin_status) == (200, 200), (answer, twin)
    found = await stage.get(ADMIN + "getBackfillStatus", id=answer["operationId"])
    assert found["operation"]["type"] == kind
    assert found["operation"]["params"].items() >= params.items()
    assert found["operation"]["key"] == twin["operation"]["key"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("triggerBackfill", {"type": "governanceSync", "tier": "hot"}),
        ("triggerPDSScan", {"pds_url": "http://localhost:1"}),
        ("triggerFreshnessScan", {"batchSize": 5}),
        ("triggerCitationExtraction", {"limit": 5}),
        ("triggerFullReindex", {"batch_size": 10}),
        ("triggerGovernanceSync", {"tier": "hot"}),
        ("triggerDIDSync", {"did": "did:web:a.example", "acceptrollback": True}),
        ("rescanPDS", {"pdsUrl": "http://localhost:1", "force": True}),
    ],
)
async def test_a_field_that_the_type_does_not_know_is_refused_by_name(
    stage: Stage, method: str, params: dict[str, Any]
):
    status, answer = await stage.daemon.call(ADMIN + method, **params)
    assert (status, answer["error"]) == (400, "InvalidRequest")
    assert f"parameter {list(params)[-1]} " in answer["message"]
    assert stage.daemon.rows("SELECT count(*) FROM operations") == [(0,)]


async def test_a_tier_of_older_clients_changes_nothing(stage: Stage):
    answer = await stage.do(ADMIN + "triggerFreshnessScan", tier="hot")
    assert answer["params"] == {}


async def test_a_did_sync_by_its_own_method_brings_the_repo_in(stage: Stage):
    account = await stage.net.create_account(announce=False)
    stage.net.import_records(account, 5, [TAG], announce=False)
    answer = await stage.do(ADMIN + "triggerDIDSync", did=account.did)
    assert answer["did"] == account.did
    await stage.equal(account)
    found = await stage.get(ADMIN + "getBackfillStatus", id=answer["operationId"])
    assert "startedBy" not in found["operation"]
    assert await stage.refused(ADMIN + "triggerDIDSync") == (400, "InvalidRequest")
    assert await stage.refused(ADMIN + "triggerDIDSync", did="x") == (400, "InvalidRequest")


async def test_the_overview_counts_what_the_views_show(stage: Stage):
    account, other = [await stage.net.create_account() for _ in range(2)]
    for collection in ("pub.chive.eprint.submission", TAG, "pub.chive.review.endorsement"):
        stage.create(account, collection)
    stage.create(account, "pub.chive.eprint.submission")
    stage.create(other, "pub.chive.eprint.submission")
    await stage.equal(account)
    await stage.equal(other)
    overview = await stage.get(ADMIN + "getOverview")
    wanted = {"eprints": 3, "authors": 2, "endorsements": 1, "tags": 1, "reviews": 0, "records": 5}
    assert wanted.items() <= overview.items(), overview
    stage.net.set_account_status(other, "takendown")
    await wait_until(
        lambda: stage.daemon.rows("SELECT count(*) FROM eprint_submission") == [(2,)],
        what="the taken-down account to be hidden",
    )
    overview = await stage.get(ADMIN + "getOverview")
    assert (overview["eprints"], overview["authors"], overview["records"]) == (2, 1, 5)


async def letters(stage: Stage, count: int) -> list[dict[str, Any]]:
    await wait_until(
        lambda: stage.daemon.rows("SELECT count(*) FROM dead_letters") == [(count,)],
        what=f"{count} dead letters",
    )
    return (await stage.get(ADMIN + "listDLQEntries"))["entries"]


async def refuse_a_commit(stage: Stage) -> Account:
    """An account with one dead letter, whose repo has been repaired since."""
    account = await stage.net.create_account()
    stage.create(account)
    await stage.equal(account)
    stage.net.faults.schedule(FaultKind.BAD_SIGNATURE, did=account.did)
    stage.create(account)
    await stage.equal(account)
    assert stage.net.faults.fired[FaultKind.BAD_SIGNATURE] >= 1
    return account


async def test_a_letter_is_tried_again_from_its_source_and_goes_when_that_succeeds(stage: Stage):
    account = await refuse_a_commit(stage)
    [letter] = await letters(stage, 1)
    assert (letter["did"], letter["retryCount"]) == (account.did, 0)
    before = stage.daemon.rows("SELECT claim FROM repo WHERE did = ?", account.did)[0][0]
    answer = await stage.do(ADMIN + "retryDLQEntry", index=int(letter["id"]))
    assert answer["success"] is True
    assert await letters(stage, 0) == []
    after = stage.daemon.rows("SELECT claim FROM repo WHERE did = ?", account.did)[0][0]
    assert after > before, "a worker has taken the repo up"
    refusal = await stage.refused(ADMIN + "retryDLQEntry", index=int(letter["id"]))
    assert refusal == (400, "InvalidRequest")


async def test_a_letter_about_a_record_that_is_still_refused_stays_and_says_so(stage: Stage):
    account = await stage.net.create_account()
    stage.net.create(account, TAG, {"tag": 5})
    await stage.equal(account)
    [letter] = await letters(stage, 1)
    assert letter["errorType"] == "record"
    claim = "SELECT claim, state FROM repo WHERE did = ?"
    before = stage.daemon.rows(claim, account.did)[0][0]
    assert await stage.do(ADMIN + "retryAllDLQ", errorType="chain") == {"retriedCount": 0}
    assert await stage.do(ADMIN + "retryAllDLQ", errorType="record") == {"retriedCount": 1}
    await wait_until(
        lambda: stage.daemon.rows(claim, account.did)[0] > (before, "active"),
        what="the repo to be compared",
    )
    [letter] = await letters(stage, 1)
    assert letter["retryCount"] == 1
    assert letter["lastRetryAt"] >= letter["createdAt"]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0}, {"limit": 101}, {"limit": "1e3"}, {"limit": -1}, {"limit": ""},
        {"offset": -1}, {"offset": 2**53}, {"offset": 10**19 - 1}, {"offset": "9" * 400},
    ],
)  # fmt: skip
async def test_a_page_outside_its_bounds_is_refused(stage: Stage, params: dict[str, Any]):
    status, body = await stage.daemon.query(ADMIN + "listDLQEntries", **params)
    assert (status, body["error"]) == (400, "InvalidRequest")


async def test_a_page_behind_the_last_entry_is_empty(stage: Stage):
    page = await stage.get(ADMIN + "listDLQEntries", offset=10**12, limit=100)
    assert page == {"entries": [], "total": 0}


async def test_letters_are_dismissed_by_id_and_purged_by_age(stage: Stage):
    await refuse_a_commit(stage)
    [letter] = await letters(stage, 1)
    index = int(letter["id"])
    assert await stage.do(ADMIN + "purgeOldDLQ") == {"purgedCount": 0}
    assert await stage.refused(ADMIN + "purgeOldDLQ", olderThanDays=0) == (400, "InvalidRequest")
    for other in (index + 1, 0, -1, 2**53 - 1):
        refusal = await stage.refused(ADMIN + "dismissDLQEntry", index=other)
        assert refusal == (400, "InvalidRequest")
    assert await stage.do(ADMIN + "dismissDLQEntry", index=index) == {"success": True}
    assert await letters(stage, 0) == []
    assert await stage.refused(ADMIN + "dismissDLQEntry", index=index) == (400, "InvalidRequest")


async def test_each_call_that_changes_something_is_in_the_audit_log_with_its_outcome(stage: Stage):
    await stage.do(ADMIN + "triggerDIDSync", did=stage.admin.did)
    await stage.refused(ADMIN + "dismissDLQEntry", index=7)
    await stage.refused(ADMIN + "dismissDLQEntry", index="7")
    await stage.get(ADMIN + "getOverview")
    page = await stage.get(ADMIN + "getAuditLog")
    assert page["total"] == 2
    dismissed, synced = page["entries"]
    assert (
        dismissed.items()
        >= {
            "action": ADMIN + "dismissDLQEntry",
            "actorDid": OWN_DID,
            "targetUri": "7",
            "outcome": "InvalidRequest",
        }.items()
    )
    assert synced.items() >= {"targetUri": stage.admin.did, "outcome": "ok"}.items()
    assert json.loads(synced["details"]) == {"did": stage.admin.did}
    rows = stage.daemon.rows("SELECT actor, action, target, outcome FROM audit_log ORDER BY id")
    assert [row[3] for row in rows] == ["ok", "InvalidRequest"]
    first = await stage.get(ADMIN + "getAuditLog", limit=1)
    second = await stage.get(ADMIN + "getAuditLog", limit=1, cursor=first["cursor"])
    assert first["entries"] + second["entries"] == page["entries"]
    assert (await stage.get(ADMIN + "getAuditLog", actorDid=stage.admin.did))["total"] == 0
    status, body = await stage.daemon.query(ADMIN + "getAuditLog", cursor="x")
    assert (status, body["error"]) == (400, "InvalidRequest")


async def test_a_held_stream_brings_nothing_until_it_is_resumed(stage: Stage):
    account = await stage.net.create_account()
    stage.create(account)
    await stage.equal(account)
    held = await stage.do(INDEXER + "pauseStream", reason="a look at the relay")
    assert held["paused"] is True
    assert held == await stage.do(INDEXER + "pauseStream"), "holding twice is holding once"
    assert (await stage.get(ADMIN + "getFirehoseStatus"))["paused"] is True
    assert stage.daemon.rows("SELECT cursor FROM firehose") == [(int(held["cursor"]),)]
    stage.create(account)
    assert await stage.do(INDEXER + "resumeStream") == {"paused": False, "cursor": held["cursor"]}
    await stage.equal(account)
    assert (await stage.do(INDEXER + "resumeStream"))["paused"] is False


async def test_repos_are_listed_and_shown_as_the_store_has_them(stage: Stage):
    accounts = [await stage.net.create_account() for _ in range(3)]
    for account in accounts:
        stage.create(account)
        await stage.equal(account)
    shown = await stage.get(INDEXER + "getRepoState", did=accounts[0].did)
    assert shown["collections"] == [{"collection": TAG, "records": 1}]
    assert (
        shown["repo"].items()
        >= {
            "did": accounts[0].did,
            "state": "active",
            "status": "active",
            "recordCount": 1,
            "handle": accounts[0].handle,
            "pdsUrl": stage.net.pds[0].url,
        }.items()
    )
    pages, cursor = [], {}
    while True:
        page = await stage.get(INDEXER + "listRepos", limit=2, state="active", **cursor)
        pages += [repo["did"] for repo in page["repos"]]
        if "cursor" not in page:
            break
        cursor = {"cursor": page["cursor"]}
    assert pages == sorted(account.did for account in accounts)
    assert (await stage.get(INDEXER + "listRepos", status="deleted"))["repos"] == []
    here = await stage.get(INDEXER + "listRepos", pdsUrl=stage.net.pds[1].url)
    assert here["repos"] == []
    status, body = await stage.daemon.query(INDEXER + "getRepoState", did="did:web:nobody.example")
    assert (status, body["error"]) == (404, "RepoNotFound")


async def test_a_backup_is_a_complete_store_made_while_the_stream_goes_on(
    stage: Stage, tmp_path: Path
):
    account = await stage.net.create_account()
    for _ in range(5):
        stage.create(account)
    await stage.equal(account)
    made, _ = await asyncio.gather(
        stage.daemon.call(INDEXER + "createBackup"), asyncio.to_thread(stage.create, account)
    )
    assert made[0] == 200, made
    file = tmp_path / "backups" / made[1]["name"]
    assert file.stat().st_size == made[1]["sizeBytes"]
    assert file.stat().st_mode & 0o077 == 0
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("SELECT count(*) FROM records").fetchone()[0] in {5, 6}
        assert copy.execute("PRAGMA application_id").fetchone()[0] == 0x43484956
    await stage.equal(account)


async def test_without_a_backup_directory_there_are_no_backups(tmp_path: Path):
    async with Devnet(seed=6) as net:
        values = {
            "firehose": {"url": net.relay_url},
            "network": {"allow_private_hosts": True},
            "identity": {"plc_url": net.plc_url},
        }
        async with running_daemon(tmp_path, values) as daemon:
            status, body = await daemon.call(INDEXER + "createBackup")
            assert (status, body["error"]) == (400, "BackupsOff")
            page = (await daemon.query(ADMIN + "getAuditLog"))[1]
            assert page["entries"][0]["actorDid"] == "did:web:localhost"
            assert page["entries"][0]["outcome"] == "BackupsOff"
