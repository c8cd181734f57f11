"""Accounts whose documents name the daemon's own listeners as their hosts."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.devnet import Devnet
from tests.e2e.daemon import running_daemon
from tests.e2e.test_operation_runs import metric
from tests.e2e.test_stream_gaps import settings

SPELLINGS = (
    "http://127.0.0.1",
    "https://127.0.0.1",
    "https://localhost",
    "https://[::ffff:127.0.0.1]",
    "https://127.1",
)
STATUS = "/xrpc/com.atproto.sync.getRepoStatus"


@pytest.mark.parametrize("listener", ["admin", "metrics"])
async def test_a_document_that_names_our_own_port_has_nobody_call_there(
    tmp_path: Path, listener: str
):
    """A call that comes from this machine may be let in where others are not."""
    async with Devnet(seed=3) as net:
        # As in operation, where no host of a stranger's may be private; the relay is not needed.
        values = settings(net, url="wss://127.0.0.1:9")
        values["network"] = {"requests_per_s_per_host": 1000}
        async with running_daemon(tmp_path, values) as daemon:
            ours = daemon.addresses
            port = urlsplit(ours.admin_url if listener == "admin" else ours.metrics_url).port
            for number, host in enumerate(SPELLINGS, start=1):
                account = await net.create_account()
                net.plc.change(account.did, pds_url=f"{host}:{port}")
                ended = await daemon.backfill("didSync", did=account.did)
                assert net.plc_server.requests["plc.document"] == number
                assert (ended["status"], ended["error"][:6]) == ("failed", "host: "), host
                rows = daemon.rows("SELECT state FROM accounts WHERE did = ?", account.did)
                assert rows == [("error",)]
            assert await metric(daemon, "chive_http_client_requests_total", service="pds") == 0

            async def calls() -> float:
                return await metric(daemon, "chive_xrpc_requests_total", nsid="other")

            assert await calls() == 0
            async with (
                aiohttp.ClientSession() as session,
                session.get(ours.admin_url + STATUS) as response,
            ):
                assert response.status == 501
            assert await calls() == 1, "a call would have been seen"
