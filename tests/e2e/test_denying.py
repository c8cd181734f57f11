"""Denying, on a whole daemon: nothing comes in, nothing is asked, and allow brings it back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.daemon import wait_until
from tests.e2e.test_admin_methods import ADMIN, INDEXER, PASSWORD_ACTOR, TAG, Stage, staged

COUNT = "SELECT count(*) FROM records WHERE did = ?"


async def metric(stage: Stage, start: str) -> float:
    async with (
        aiohttp.ClientSession() as session,
        session.get(stage.daemon.addresses.metrics_url) as response,
    ):
        lines = (await response.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))


async def caught_up(stage: Stage) -> None:
    """Everything that was emitted before this is applied."""
    stage.create(stage.admin)
    await stage.equal(stage.admin)


async def test_a_denied_account_stays_out_of_stream_resync_and_restart(tmp_path: Path):
    async with staged(tmp_path) as stage:
        account = await stage.net.create_account()
        stage.create(account)
        await stage.equal(account)
        answer = await stage.do(INDEXER + "deny", subject=account.did, reason="spam")
        assert answer == {"success": True, "hiddenRecords": 1}
        assert stage.daemon.rows(COUNT, account.did) == [(0,)]
        for _ in range(5):
            stage.create(account)
        stage.net.set_account_status(account, "deactivated")
        stage.net.set_account_status(account, "active")
        await caught_up(stage)
        seen = len(stage.net.pds[0].server.seen)
        synced = await stage.daemon.backfill("didSync", did=account.did)
        assert synced["status"] == "failed" and "denied" in synced["error"]
        asked = list(stage.net.pds[0].server.seen)[seen:]
        assert not [each for each in asked if account.did in each.query.values()]
        assert stage.daemon.rows(COUNT, account.did) == [(0,)]
        state = await stage.get(INDEXER + "getRepoState", did=account.did)
        assert (state["repo"]["state"], state["repo"]["status"]) == ("denied", "denied")
        listed = await stage.get(INDEXER + "listDenied")
        [denial] = listed["denied"]
        assert denial["subject"] == account.did and denial["kind"] == "account"
        assert (denial["reason"], denial["purged"]) == ("spam", False)
        log = await stage.get(ADMIN + "getAuditLog")
        assert [e["targetUri"] for e in log["entries"] if e["action"] == INDEXER + "deny"] == [
            account.did
        ]
        assert log["entries"][0].items() >= PASSWORD_ACTOR.items()
        assert await stage.do(INDEXER + "allow", subject=account.did) == {"success": True}
        await stage.equal(account)
        stage.create(account)
        await stage.equal(account)
        assert await stage.do(INDEXER + "allow", subject=account.did) == {"success": False}


async def test_events_of_a_denied_account_are_not_even_verified(tmp_path: Path):
    """A commit with a bad signature of a tracked account fails a check; of a denied one, none."""
    from tests.devnet import FaultKind

    async with staged(tmp_path) as stage:
        account = await stage.net.create_account()
        stage.create(account)
        await stage.equal(account)
        await stage.do(INDEXER + "deny", subject=account.did, reason="spam", purge=True)
        stage.net.faults.schedule(FaultKind.BAD_SIGNATURE, did=account.did)
        stage.create(account)
        await caught_up(stage)
        assert stage.net.faults.fired[FaultKind.BAD_SIGNATURE] >= 1
        assert await metric(stage, 'chive_verify_failures_total{check="signature"}') == 0
        rows = "SELECT count(*) FROM record JOIN repo ON repo.id = repo_id WHERE did = ?"
        await wait_until(
            lambda: stage.daemon.rows(rows, account.did) == [(0,)], what="the rows to be purged"
        )
        await wait_until(
            lambda: stage.daemon.rows("SELECT purged FROM denials") == [(1,)],
            what="the purge to be noted",
        )
        await stage.do(INDEXER + "allow", subject=account.did)
        await stage.equal(account)


async def test_a_denied_record_stays_away_and_comes_back_when_allowed(tmp_path: Path):
    async with staged(tmp_path) as stage:
        account = await stage.net.create_account()
        stage.create(account)
        stage.create(account)
        await stage.equal(account)
        uri, _ = stage.daemon.rows(
            "SELECT uri, cid FROM records WHERE did = ? ORDER BY uri", account.did
        )[0]
        answer = await stage.do(INDEXER + "deny", subject=uri, reason="personal data")
        assert answer == {"success": True, "hiddenRecords": 1}
        _, _, _, collection, rkey = uri.split("/")
        value = {"$type": TAG, "eprintUri": f"at://{account.did}/pub.chive.eprint.submission/1",
                 "tag": "again", "createdAt": "2026-11-25T12:00:00Z"}  # fmt: skip
        stage.net.update(account, collection, rkey, value)
        await caught_up(stage)
        await stage.daemon.backfill("didSync", did=account.did)
        assert stage.daemon.rows("SELECT count(*) FROM records WHERE uri = ?", uri) == [(0,)]
        assert stage.daemon.rows(COUNT, account.did) == [(1,)]
        await stage.do(INDEXER + "allow", subject=uri)
        await stage.equal(account)


async def test_a_denied_host_is_never_asked_and_its_repos_are_hidden(tmp_path: Path):
    async with staged(tmp_path) as stage:
        # The second host: the first one resolves handles, which the settings name.
        account = await stage.net.create_account(pds=1)
        stranger = await stage.net.create_account(pds=1)
        stage.create(account)
        await stage.equal(account)
        host = stage.net.pds[1]
        await stage.do(INDEXER + "deny", subject=urlsplit(host.url).netloc, reason="a spam farm")
        assert stage.daemon.rows(COUNT, account.did) == [(0,)]
        asked = host.server.requests.total()
        stage.create(stranger)
        stage.create(account)
        await caught_up(stage)
        status = "SELECT account_status FROM repo WHERE did = ?"
        await wait_until(
            lambda: stage.daemon.rows(status, stranger.did) == [("denied",)],
            what="the stranger to be found on a denied host",
        )
        synced = await stage.daemon.backfill("didSync", did=account.did)
        assert synced["status"] == "failed" and "its host is denied" in synced["error"]
        assert host.server.requests.total() == asked
        await stage.do(INDEXER + "allow", subject=urlsplit(host.url).netloc)
        await stage.equal(account)
        await stage.equal(stranger)


async def test_what_cannot_be_denied_is_refused(tmp_path: Path):
    async with staged(tmp_path) as stage:
        for subject in ("", "spam", f"at://{stage.admin.did}", "a b"):
            refusal = await stage.refused(INDEXER + "deny", subject=subject, reason="x")
            assert refusal == (400, "InvalidRequest")
        refusal = await stage.refused(INDEXER + "deny", subject=stage.admin.did, reason="")
        assert refusal == (400, "InvalidRequest")
        assert await stage.get(INDEXER + "listDenied") == {"denied": []}
        status, body = await stage.daemon.query(INDEXER + "listDenied", cursor="x")
        assert (status, body["error"]) == (400, "InvalidRequest")
