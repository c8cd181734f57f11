"""Parts of a repo from one PDS: what is asked for, and what its refusals mean."""

from __future__ import annotations

import json

import pytest
from loopback import Loopback, answer, answering

from indexer.errors import Check, InvalidUpstream, NotServed, Unavailable
from indexer.network.identity import IdentityResolver
from indexer.network.pds import RepoNetwork
from indexer.network.spool import SpoolFolder
from indexer.protocol.car import parse_car
from tests.devnet.car import write_car
from tests.devnet.cbor import cid_of, cid_text, encode

DID = "did:plc:" + "a" * 24
PATH = ("pub.chive.a", "self")
BLOCKS = {cid_of(block): block for block in (encode({"n": number}) for number in range(100))}
CIDS = [*BLOCKS]
CAR = write_car([], BLOCKS.items())
BYTES_MAX = 1 << 20


@pytest.fixture
async def network(client, clock, tmp_path):
    http = await client(allow_private=True)
    identities = IdentityResolver(
        http,
        plc_url="http://127.0.0.1:1",
        handle_resolver_url=None,
        allow_private=True,
        clock=clock,
    )
    folder = SpoolFolder(tmp_path / "spool", bytes_max=1 << 20, archive_bytes_max=1 << 20)
    return RepoNetwork(http, identities, folder, idle_s=5.0, total_s=10.0)


async def proof(network: RepoNetwork, pds_url: str, bytes_max: int = BYTES_MAX) -> bytes:
    return await network.fetch_proof(pds_url, DID, PATH, bytes_max=bytes_max)


async def blocks(network: RepoNetwork, pds_url: str, bytes_max: int = BYTES_MAX) -> bytes | None:
    return await network.fetch_blocks(pds_url, DID, CIDS, bytes_max=bytes_max)


def refusing(status: int, error: str, message: str = "x"):
    return answering(json.dumps({"error": error, "message": message}), status=status)


async def test_a_proof_is_asked_for_by_its_path(network):
    async with Loopback(answering(CAR)) as pds:
        assert await proof(network, pds.url) == CAR
        (path,) = pds.paths
    assert path.startswith("/xrpc/com.atproto.sync.getRecord?")
    assert path.endswith("&collection=pub.chive.a&rkey=self")


async def test_a_hundred_blocks_are_asked_for_in_one_request_that_proxies_let_pass(network):
    async with Loopback(answering(CAR)) as pds:
        data = await blocks(network, pds.url)
        (path,) = pds.paths
    assert data is not None
    assert parse_car(data).blocks == BLOCKS
    assert path.partition("&")[2] == "&".join(f"cids={cid_text(cid)}" for cid in CIDS)
    assert len(path) < 8000


@pytest.mark.parametrize("error", ["RepoNotFound", "RepoTakendown", "RepoDeactivated"])
@pytest.mark.parametrize("ask", [proof, blocks])
async def test_a_refusal_of_the_repo_itself_is_looked_at_again(network, ask, error):
    async with Loopback(refusing(400, error)) as pds:
        with pytest.raises(Unavailable) as caught:
            await ask(network, pds.url)
    assert not isinstance(caught.value, NotServed)


@pytest.mark.parametrize(
    "sent",
    [
        refusing(400, "InvalidRequest", "No service configured for com.atproto.sync.getRecord"),
        refusing(400, "RecordNotFound"),
        refusing(404, "NotFound"),
        refusing(501, "MethodNotImplemented"),
        answering("<html>", status=404, kind="text/html"),
    ],
)
async def test_a_host_that_gives_no_proof_does_not_offer_it_and_one_without_blocks_gives_none(
    network, sent
):
    async with Loopback(sent) as pds:
        with pytest.raises(NotServed):
            await proof(network, pds.url)
        assert await blocks(network, pds.url) is None


@pytest.mark.parametrize("ask", [proof, blocks])
async def test_an_answer_beyond_the_bytes_asked_for_is_refused(network, ask):
    async with Loopback(answering(CAR)) as pds:
        with pytest.raises(InvalidUpstream) as caught:
            await ask(network, pds.url, bytes_max=len(CAR) - 1)
    assert caught.value.check is Check.LIMITS


@pytest.mark.parametrize("ask", [proof, blocks])
async def test_a_host_that_fails_is_no_host_that_does_not_offer(network, ask):
    async def script(wire):
        await wire.send(answer("", status=503))

    async with Loopback(script) as pds:
        with pytest.raises(Unavailable) as caught:
            await ask(network, pds.url)
    assert not isinstance(caught.value, NotServed)
