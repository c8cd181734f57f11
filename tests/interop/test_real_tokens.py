"""Tokens made by the real PDS let its listed account in, for the method asked for and once."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.e2e.daemon import running_daemon
from tests.interop.real_network import Network

pytestmark = pytest.mark.network

OWN_DID = "did:web:indexer.example.com"
NSID = "pub.chive.admin.getOverview"
MINT = "com.atproto.server.getServiceAuth"


async def test_a_token_of_the_real_pds_serves_its_method_and_nothing_else(
    network: Network, tmp_path: Path
):
    admin, stranger = await network.account(), await network.account(1)
    values = {
        "firehose": {"url": network.pds_urls[0].replace("http:", "ws:")},
        "identity": {
            "plc_url": network.plc_url,
            "handle_resolver_url": network.control_url,
        },
        "network": {"allow_private_hosts": True},
        "admin": {"service_did": OWN_DID, "dids": [admin.did], "author_methods": True},
    }
    async with running_daemon(tmp_path, values) as daemon, aiohttp.ClientSession() as session:

        async def call(token: str, nsid: str = NSID) -> tuple[int, str | None]:
            url = f"{daemon.addresses.admin_url}/xrpc/{nsid}"
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(url, headers=headers) as response:
                return response.status, (await response.json()).get("error")

        made = [
            (await admin.query(MINT, aud=audience, lxm=NSID))["token"]
            for audience in (OWN_DID, OWN_DID + "#chive_indexer")
        ]
        for token in made:
            assert await call(token, "pub.chive.admin.getAuditLog") == (
                401,
                "AuthenticationRequired",
            )
            assert await call(token) == (200, None)
            assert await call(token) == (401, "AuthenticationRequired")
        without_method = (await admin.query(MINT, aud=OWN_DID))["token"]
        assert await call(without_method) == (401, "AuthenticationRequired")
        for_another = (await admin.query(MINT, aud="did:web:other.example.com", lxm=NSID))["token"]
        assert await call(for_another) == (401, "AuthenticationRequired")
        foreign = (await stranger.query(MINT, aud=OWN_DID, lxm=NSID))["token"]
        assert await call(foreign) == (403, "AdminRequired")


async def test_a_token_of_the_real_pds_lets_any_author_see_how_a_record_stands(
    network: Network, tmp_path: Path
):
    author = await network.account()
    values = {
        "firehose": {"url": network.pds_urls[0].replace("http:", "ws:")},
        "identity": {"plc_url": network.plc_url, "handle_resolver_url": network.control_url},
        "network": {"allow_private_hosts": True},
        "admin": {"service_did": OWN_DID, "author_methods": True},
    }
    uri = f"at://{author.did}/pub.chive.eprint.userTag/1"
    nsid = "pub.chive.sync.verify"
    async with running_daemon(tmp_path, values) as daemon, aiohttp.ClientSession() as session:
        token = (await author.query(MINT, aud=OWN_DID, lxm=nsid))["token"]
        answers = []
        for method in ("pub.chive.sync.checkStaleness", nsid, nsid):
            url = f"{daemon.addresses.admin_url}/xrpc/{method}"
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(url, headers=headers, params={"uri": uri}) as response:
                answers.append((response.status, await response.json()))
        statuses = [status for status, _ in answers]
        assert statuses == [401, 200, 401], answers
        assert answers[1][1] == {"uri": uri, "indexed": False, "inSync": False}
