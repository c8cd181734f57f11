"""A host that the settings name for one account: what it may be asked for, and what it cannot say."""

from __future__ import annotations

import json

import pytest
from loopback import Loopback, answering

from indexer.errors import Check, InvalidUpstream, Unavailable
from indexer.model import AccountStatus
from indexer.network.identity import IdentityResolver
from indexer.network.pds import HostStatus, RepoNetwork
from indexer.network.spool import SpoolFolder

DID = "did:plc:" + "a" * 24
OTHER = "did:plc:" + "b" * 24
REV = "3n2zdkruics2u"
ACTIVE = json.dumps({"did": DID, "active": True, "rev": REV})
UNKNOWN = json.dumps({"error": "RepoNotFound", "message": "no such repo"})


def document(pds_url: str) -> str:
    service = {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": pds_url,
    }
    return json.dumps({"id": DID, "service": [service]})


async def network(client, clock, folder, *, plc_url: str, pinned: str) -> RepoNetwork:
    http = await client(allow_private=False, exempt=[plc_url, pinned])
    identities = IdentityResolver(
        http, plc_url=plc_url, handle_resolver_url=None, allow_private=True, clock=clock
    )
    spool = SpoolFolder(folder / "spool", bytes_max=1 << 20, archive_bytes_max=1 << 20)
    return RepoNetwork(http, identities, spool, idle_s=5.0, total_s=5.0, pinned={DID: pinned})


async def test_a_named_host_is_asked_for_its_account_and_may_be_private_for_that_alone(
    client, clock, tmp_path
):
    async with (
        Loopback(answering(ACTIVE)) as pds,
        Loopback(answering(document("https://pds.example.com"))) as plc,
    ):
        hosts = await network(client, clock, tmp_path, plc_url=plc.url, pinned=pds.url)
        assert (await hosts.resolve(DID)).pds_url == pds.url
        assert await hosts.fetch_status(pds.url, DID) == HostStatus(AccountStatus.ACTIVE, REV)
        asked = list(pds.paths)
        with pytest.raises(InvalidUpstream) as refused:
            await hosts.fetch_status(pds.url, OTHER)
        assert refused.value.check is Check.HOST
        assert pds.paths == asked


@pytest.mark.parametrize("names_it", [True, False])
async def test_only_a_host_that_the_document_names_can_say_that_an_account_is_gone(
    client, clock, tmp_path, names_it: bool
):
    async with Loopback(answering(UNKNOWN, status=400)) as pds:
        named = pds.url if names_it else "https://pds.example.com"
        async with Loopback(answering(document(named))) as plc:
            hosts = await network(client, clock, tmp_path, plc_url=plc.url, pinned=pds.url)
            await hosts.resolve(DID)
            if names_it:
                assert await hosts.fetch_status(pds.url, DID) is None
            else:
                with pytest.raises(Unavailable, match="which the settings name"):
                    await hosts.fetch_status(pds.url, DID)
