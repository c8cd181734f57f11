"""A host that was set back, through the admin surface: refused, then taken with consent."""

from __future__ import annotations

from pathlib import Path

from tests.devnet import Devnet
from tests.e2e.daemon import running_daemon
from tests.e2e.test_stream_gaps import settings, tag
from tests.oracle import wait_until_equal

ADMIN = "pub.chive.admin."


async def test_a_did_sync_takes_an_older_state_only_with_consent(tmp_path: Path):
    async with Devnet(seed=18) as net:
        account = await net.create_account()
        tag(net, account)
        old = net.repo(account).copy()
        async with running_daemon(tmp_path, settings(net)) as daemon:
            await wait_until_equal(net, daemon.database, 20.0, heads=True)
            tag(net, account)
            await wait_until_equal(net, daemon.database, 20.0, heads=True)
            net.hosting(account).repo = old
            refused = await daemon.backfill("didSync", did=account.did)
            assert refused["status"] == "failed" and "older than our" in refused["error"]
            assert daemon.rows("SELECT count(*) FROM records") == [(2,)]
            status, body = await daemon.call(
                ADMIN + "triggerBackfill", type="governanceSync", acceptRollback=True
            )
            assert (status, body["error"]) == (400, "InvalidRequest")
            taken = await daemon.backfill("didSync", did=account.did, acceptRollback=True)
            assert taken["status"] == "completed"
            await wait_until_equal(net, daemon.database, 20.0, heads=True)
