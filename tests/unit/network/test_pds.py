"""One PDS about one account: recorded and invented answers, archives that break off or lie."""

import asyncio
import json
import zlib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from loopback import Loopback, answer, answering, chunk, chunked, until

from indexer.errors import Check, InvalidUpstream, LocalBusy, RepoTooLarge, Unavailable
from indexer.model import AccountStatus
from indexer.network.identity import IdentityResolver
from indexer.network.pds import HostStatus, RepoNetwork
from indexer.network.spool import SpoolFolder
from tests.devnet.car import car_header, varint, write_car
from tests.devnet.cbor import cid_of, encode

CORPUS = Path(__file__).parents[4] / "shared/corpus/real-pds"
DID = "did:plc:" + "a" * 24
BLOCKS = [
    (cid_of(block), block) for block in (encode({"n": n, "text": "x" * n}) for n in range(40))
]
CAR = write_car([BLOCKS[7][0]], BLOCKS)


@pytest.fixture
async def hosts(client, clock, tmp_path):
    """Makes networks; `.folder` and `.http` are for a look behind."""

    async def make(*, allow_private=True, bytes_max=1 << 30, archive_bytes_max=1 << 30, idle_s=5.0):
        http = await client(allow_private=allow_private)
        identities = IdentityResolver(
            http,
            plc_url="http://127.0.0.1:1",
            handle_resolver_url=None,
            allow_private=allow_private,
            clock=clock,
        )
        folder = SpoolFolder(
            tmp_path / "spool", bytes_max=bytes_max, archive_bytes_max=archive_bytes_max
        )
        made = RepoNetwork(http, identities, folder, idle_s=idle_s, total_s=10.0)
        made.folder, made.http = folder, http
        return made

    return make


# Status.


@pytest.mark.parametrize(
    ("body", "status", "rev"),
    [
        ({"active": True, "rev": "3n2zdkruics2u"}, AccountStatus.ACTIVE, "3n2zdkruics2u"),
        ({"active": True, "rev": "not a tid"}, AccountStatus.ACTIVE, None),
        ({"active": True, "rev": 5}, AccountStatus.ACTIVE, None),
        ({"active": True}, AccountStatus.ACTIVE, None),
        ({"active": True, "status": "takendown"}, AccountStatus.ACTIVE, None),
        ({"active": False, "status": "takendown"}, AccountStatus.TAKENDOWN, None),
        ({"active": False, "status": "suspended"}, AccountStatus.SUSPENDED, None),
        ({"active": False, "status": "deactivated"}, AccountStatus.DEACTIVATED, None),
    ],
)
async def test_a_status_is_read_with_its_rev(hosts, body, status, rev):
    async with Loopback(answering(json.dumps({"did": DID, **body}))) as pds:
        assert await (await hosts()).fetch_status(pds.url, DID) == HostStatus(status, rev)
        assert pds.paths == [f"/xrpc/com.atproto.sync.getRepoStatus?did={DID}"]


async def test_an_unknown_reason_still_hides(hosts):
    body = json.dumps({"did": DID, "active": False, "status": "\u0000 new"})
    async with Loopback(answering(body)) as pds:
        found = await (await hosts()).fetch_status(pds.url, DID)
    assert found is not None and found.status is not AccountStatus.ACTIVE


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("RepoNotFound", None),
        ("RepoTakendown", AccountStatus.TAKENDOWN),
        ("RepoSuspended", AccountStatus.SUSPENDED),
        ("RepoDeactivated", AccountStatus.DEACTIVATED),
    ],
)
async def test_named_refusals_are_statuses(hosts, name, status):
    body = json.dumps({"error": name, "message": "x"})
    async with Loopback(answering(body, status=400)) as pds:
        found = await (await hosts()).fetch_status(pds.url, DID)
    assert found == (status and HostStatus(status, None))


async def test_recorded_refusals_of_the_real_pds_are_statuses(hosts):
    path = CORPUS / "http-examples.json"
    if not path.exists():
        pytest.skip("../shared/corpus is absent")
    expected = {
        "RepoNotFound": None,
        "RepoTakendown": "takendown",
        "RepoDeactivated": "deactivated",
    }
    seen = set()
    for example in json.loads(path.read_text()):
        is_status = "sync.getRepoStatus" in example["url"] and "?did=did%3A" in example["url"]
        name = json.loads(example["body"]).get("error") if example["status"] == 400 else None
        if not is_status and name not in expected:
            continue
        async with Loopback(answering(example["body"], status=example["status"])) as pds:
            found = await (await hosts()).fetch_status(pds.url, DID)
        if name is not None:
            assert (found and found.status) == expected[name]
        elif is_status:
            body = json.loads(example["body"])
            assert found is not None
            assert (found.status, found.rev) == (body.get("status", "active"), body.get("rev"))
        seen.add(name)
    assert seen == {None, *expected}


@pytest.mark.parametrize(
    "sent",
    [
        answer("<html>", kind="text/html"),
        answer("[]"),
        answer('{"did":"x"}'),
        answer('{"active":"yes"}'),
        answer('{"active":1}'),
        answer('{"error":"InvalidRequest","message":"No service configured"}', status=400),
        answer('{"error":"AuthMissing"}', status=401),
        answer("<html>", status=403, kind="text/html"),
        answer("<html>", status=404, kind="text/html"),
        answer("", status=302, Location="/"),
        answer("", status=500),
        answer('{"pad":"' + "x" * (5 << 20) + '"}'),
    ],
)
async def test_an_answer_that_says_nothing_of_the_account_is_no_conclusion(hosts, sent):
    """Least of all that the repo is invalid or gone: its state must not depend on a proxy."""

    async def script(wire):
        await wire.send(sent)

    async with Loopback(script) as pds:
        with pytest.raises(Unavailable):
            await (await hosts()).fetch_status(pds.url, DID)
        assert pds.asked


@pytest.mark.parametrize(
    "pds_url", ["http://127.0.0.1:1", "https://127.0.0.1", "https://pds.example.com:22"]
)
async def test_a_pds_that_must_not_be_asked_is_refused_for_good(hosts, pds_url):
    network = await hosts(allow_private=False)
    for ask in (network.fetch_status(pds_url, DID), fetched(network, pds_url)):
        with pytest.raises(InvalidUpstream) as caught:
            await ask
        assert caught.value.check is Check.HOST


# Archives.


async def fetched(network, pds_url) -> list[bytes]:
    """All blocks, read back."""
    async with network.fetch_repo(pds_url, DID) as archive:
        assert archive.root == BLOCKS[7][0]
        return [archive.load(cid) for cid, _ in BLOCKS]


async def test_an_archive_is_read_back_whole_while_its_host_has_its_turn_back(hosts):
    network = await hosts()

    async def script(wire):
        await wire.send(chunked())
        for at in range(0, len(CAR), 333):
            await wire.send(chunk(CAR[at : at + 333]))
        await wire.send(chunk(b""))

    async with Loopback(script) as pds:
        async with network.fetch_repo(pds.url, DID) as archive:
            assert network.http._pacing._hosts[pds.url].users == 0
            assert archive.size_bytes == len(CAR)
            assert [archive.load(cid) for cid, _ in BLOCKS] == [block for _, block in BLOCKS]
        assert pds.paths == [f"/xrpc/com.atproto.sync.getRepo?did={DID}"]
    nothing_kept(network)


def nothing_kept(network) -> None:
    assert network.folder.bytes_used == 0
    assert not list(network.folder.path.iterdir())


async def test_a_gzipped_archive_is_read_as_well(hosts):
    packed = zlib.compress(CAR, wbits=31)
    async with Loopback(answering(packed, Content_Encoding="gzip")) as pds:
        assert len(await fetched(await hosts(), pds.url)) == len(BLOCKS)


@asynccontextmanager
async def failing(hosts, script, **options):
    """The error that fetching from `script` ends in is the caller's to judge."""
    network = await hosts(**options)
    async with Loopback(script) as pds:
        yield network, pds
        assert pds.asked
    nothing_kept(network)


@pytest.mark.parametrize(
    "sent",
    [
        answer("<html>", kind="text/html"),
        answer(b"\xef\xbb\xbf<html>" + b"x" * 9999, kind="text/html"),
        answer("{}"),
        answer(b""),
        answer(b"\x00" * 100),
        answer(CAR[:-1]),
        answer(CAR[:500]),
        answer(CAR, length=len(CAR) + 10),
        answer(CAR, length=len(CAR) - 10),
        answer(car_header([BLOCKS[0][0]]) + varint(0)),
        answer('{"error":"RepoNotFound"}', status=400),
        answer('{"error":"RepoDeactivated"}', status=400),
        answer("<html>", status=403, kind="text/html"),
        answer("", status=302, Location="/"),
        answer("", status=500),
    ],
)
async def test_a_transfer_that_fails_is_tried_again_and_condemns_nobody(hosts, sent):
    async def script(wire):
        wire.writer.write(sent)
        wire.writer.write_eof()
        await wire.until_gone()

    async with failing(hosts, script) as (network, pds):
        with pytest.raises(Unavailable):
            await fetched(network, pds.url)


async def test_a_block_that_belies_its_hash_is_refused(hosts):
    bad = CAR[:-3] + bytes([CAR[-3] ^ 1]) + CAR[-2:]
    async with failing(hosts, answering(bad)) as (network, pds):
        with pytest.raises(InvalidUpstream) as caught:
            await fetched(network, pds.url)
    assert caught.value.check is Check.BLOCK_HASH


async def test_an_archive_without_end_is_too_large(hosts):
    async def script(wire):
        await wire.send(chunked(), chunk(car_header([BLOCKS[0][0]])))
        while True:
            await wire.send(chunk(CAR[len(car_header([BLOCKS[7][0]])) :]))

    async with failing(hosts, script, archive_bytes_max=200_000) as (network, pds):
        with pytest.raises(RepoTooLarge):
            await fetched(network, pds.url)


async def test_a_block_beyond_the_largest_is_too_large(hosts):
    body = car_header([BLOCKS[0][0]]) + varint(3 << 20) + bytes(3 << 20)
    async with failing(hosts, answering(body)) as (network, pds):
        with pytest.raises(RepoTooLarge):
            await fetched(network, pds.url)


async def test_a_spent_disk_budget_is_our_own_shortage(hosts):
    async with failing(hosts, answering(CAR), bytes_max=1000) as (network, pds):
        with pytest.raises(LocalBusy):
            await fetched(network, pds.url)
        assert network.http._pacing._hosts[pds.url].failures == 0


async def test_an_archive_that_stalls_is_given_up(hosts):
    async def script(wire):
        await wire.send(chunked(), chunk(CAR[:700]))
        await wire.until_gone()

    async with failing(hosts, script, idle_s=0.05) as (network, pds):
        with pytest.raises(Unavailable):
            await fetched(network, pds.url)


async def test_a_connection_reset_at_any_byte_fails_cleanly(hosts):
    whole = answer(CAR)
    offsets = list(range(0, len(whole), 101))
    resets = 0

    async def script(wire):
        nonlocal resets
        await wire.send(whole[: offsets[resets]])
        resets += 1
        wire.reset()
        raise ConnectionResetError

    async with failing(hosts, script) as (network, pds):
        while resets < len(offsets):
            with pytest.raises(Unavailable):
                await fetched(network, pds.url)
            assert network.folder.bytes_used == 0
            network.http._pacing.answered(pds.url)
    assert resets == len(offsets)


async def test_a_cancelled_fetch_leaves_no_file_connection_or_budget(hosts):
    body = CAR[len(car_header([BLOCKS[7][0]])) :]

    async def endless(wire):
        await wire.send(chunked(), chunk(car_header([BLOCKS[7][0]])))
        while True:
            await wire.send(chunk(body))
            await asyncio.sleep(0)

    async with failing(hosts, endless) as (network, pds):
        for _ in range(5):
            before = len(pds.asked)
            task = asyncio.create_task(fetched(network, pds.url))
            await until(lambda before=before: len(pds.asked) > before)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert network.folder.bytes_used == 0
        assert network.http._pacing._hosts[pds.url].users == 0


async def test_the_caller_may_fail_while_it_reads(hosts):
    network = await hosts()
    async with Loopback(answering(CAR)) as pds:
        with pytest.raises(ZeroDivisionError):
            async with network.fetch_repo(pds.url, DID):
                raise ZeroDivisionError
    nothing_kept(network)
