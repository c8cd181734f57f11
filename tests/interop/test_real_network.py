"""The daemon against the real PDS and PLC directory: what they list is what the index holds.

Every test ends with the whole comparison: all accounts of the followed PDS, also those of the tests
before it, whose history the daemon reads from the start of the stream.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.devnet.records import FOREIGN, realistic_record
from tests.e2e.daemon import wait_until
from tests.interop.daemon_process import DaemonProcess, daemon_process
from tests.interop.real_network import (
    Account,
    Network,
    Refused,
    create,
    delete,
    real_network,
    update,
)

pytestmark = pytest.mark.network

COMMENT = "pub.chive.review.comment"
TAG = "pub.chive.eprint.userTag"
SUBMISSION = "pub.chive.eprint.submission"


@asynccontextmanager
async def following(
    network: Network, folder: Path, *, start_at: str = "oldest"
) -> AsyncIterator[DaemonProcess]:
    """A daemon that follows the first PDS."""
    async with daemon_process(
        folder,
        firehose_url=network.pds_urls[0].replace("http:", "ws:"),
        plc_url=network.plc_url,
        handle_resolver_url=network.control_url,
        start_at=start_at,
    ) as daemon:
        yield daemon


async def ends_as_listed(network: Network, daemon: DaemonProcess) -> None:
    """The index becomes what the followed PDS lists, and nothing that it sent was refused."""
    listed = await network.listed()
    assert listed
    await daemon.becomes(listed)
    assert await daemon.verify_failures() == {}, daemon.log


async def is_followed(daemon: DaemonProcess, account: Account) -> None:
    """The repo is fetched: what comes now comes live."""
    await wait_until(
        lambda: daemon.account(account.did).get("state") == "active",
        what=lambda: f"the repo to be active: {daemon.account(account.did)}\n{daemon.log}",
        deadline_s=30.0,
    )


def a_record(rng: random.Random, collection: str, about: str | None = None) -> dict[str, Any]:
    return realistic_record(rng, collection, eprint_uri=about)


def key_of(uri: str) -> str:
    return uri.rpartition("/")[2]


async def an_eprint(account: Account, rng: random.Random) -> str:
    """A submission with a document that the PDS really holds."""
    document = await account.upload_blob(b"%PDF-1.7\n" + rng.randbytes(2000), "application/pdf")
    record = realistic_record(rng, SUBMISSION, did=account.did)
    return await account.create(record | {"document": document})


async def test_every_kind_of_write_ends_as_listed(network: Network, tmp_path: Path):
    rng = random.Random(1)
    async with following(network, tmp_path) as daemon:
        author = await network.account()
        eprint = await an_eprint(author, rng)
        await is_followed(daemon, author)
        for _ in range(3):
            await author.create(a_record(rng, COMMENT, eprint))
            await author.create(a_record(rng, FOREIGN))
        changed = key_of(await author.create(a_record(rng, TAG, eprint)))
        await author.put(a_record(rng, TAG, eprint), changed)
        await author.delete(await author.create(a_record(rng, COMMENT, eprint)))
        batch = await author.apply_writes(
            [
                *(create(a_record(rng, COMMENT, eprint)) for _ in range(50)),
                update(a_record(rng, TAG, eprint), changed),
                create(a_record(rng, FOREIGN)),
            ]
        )
        await author.apply_writes([delete(uri) for uri in batch[:50:2]])
        await ends_as_listed(network, daemon)
        # The eight single writes may have come with a fetch that was still on its way.
        assert await daemon.live_records() >= 50 + 25
        assert daemon.rows("SELECT uri FROM records WHERE valid = 0") == []


async def test_odd_commits_of_an_honest_host_end_as_listed(network: Network, tmp_path: Path):
    """The shapes that a strict reader of the protocol would refuse."""
    rng = random.Random(2)
    async with following(network, tmp_path) as daemon:
        author = await network.account()
        first, second = a_record(rng, TAG), a_record(rng, TAG)
        for rkey in ("same", "twin1", "twin2", "replaced", "twice"):
            await author.create(first, rkey)
        await is_followed(daemon, author)

        def uri(rkey: str) -> str:
            return f"at://{author.did}/{TAG}/{rkey}"

        batches = {
            "identical content": [update(first, "same")],
            "nothing at all": [],
            "created and changed": [create(first, "new"), update(second, "new")],
            "created and gone": [create(first, "brief"), delete(uri("brief"))],
            "gone and created": [delete(uri("replaced")), create(second, "replaced")],
            "changed twice": [update(second, "twice"), update(a_record(rng, TAG), "twice")],
            "one of two equal records": [delete(uri("twin1"))],
        }
        for writes in batches.values():
            await author.apply_writes(writes)
            await author.create(a_record(rng, COMMENT))  # the chain goes on behind it
        await ends_as_listed(network, daemon)
        assert daemon.account(author.did)["state"] == "active"
        assert uri("twin2") in daemon.records()


async def test_an_imported_repo_of_2000_records_ends_as_listed(network: Network, tmp_path: Path):
    """The commit that the new host announces is signed by the key of the old one."""
    rng = random.Random(3)
    async with following(network, tmp_path) as daemon:
        author = await network.account(pds=1)
        records = [a_record(rng, rng.choice((COMMENT, TAG))) for _ in range(2000)]
        await author.apply_writes([create(record) for record in records])
        await author.apply_writes([create(a_record(rng, FOREIGN)) for _ in range(200)])
        moved = await author.migrate(pds=0)
        listed = await network.listed_of(moved.url, moved.did)
        assert len(listed) == 2000
        # An account without a commit here yet is found by a backfill; the stream names no record.
        operation = await daemon.backfill("didSync", did=moved.did)
        assert operation["status"] == "completed", (operation, daemon.log)
        await daemon.becomes(listed, moved.did)
        assert daemon.account(moved.did)["pds_url"] == moved.url
        await moved.create(a_record(rng, COMMENT))  # signed by the new key
        await moved.apply_writes([delete(uri) for uri in list(listed)[:100]])
        await ends_as_listed(network, daemon)
        assert daemon.account(moved.did) == {
            "handle": moved.handle,
            "pds_url": moved.url,
            "status": "active",
            "state": "active",
        }


async def test_a_restart_of_the_pds_loses_nothing(network: Network, tmp_path: Path):
    rng = random.Random(4)
    async with following(network, tmp_path) as daemon:
        author = await network.account()
        await author.create(a_record(rng, COMMENT))
        await is_followed(daemon, author)
        before = await author.apply_writes([create(a_record(rng, TAG)) for _ in range(20)])
        await network.control("/pds/0/stop")  # without a close frame
        await daemon.metric_becomes("chive_firehose_connected", 0)
        with pytest.raises(aiohttp.ClientError):
            await author.create(a_record(rng, COMMENT))
        await network.control("/pds/0/start")
        await author.apply_writes([create(a_record(rng, TAG)) for _ in range(20)])
        await author.apply_writes([delete(uri) for uri in before[::2]])
        newcomer = await network.account()
        await newcomer.create(a_record(rng, COMMENT))
        await daemon.metric_becomes("chive_firehose_connected", 1)
        await ends_as_listed(network, daemon)
        assert await daemon.metric("chive_firehose_reconnects_total") >= 1
        assert await daemon.metric("chive_firehose_gaps_total") == 0


async def test_dropped_connections_under_steady_writes_lose_nothing(
    network: Network, tmp_path: Path
):
    rng = random.Random(10)
    async with following(network, tmp_path) as daemon:
        authors = [await network.account() for _ in range(4)]
        for author in authors:
            await author.create(a_record(rng, COMMENT))
            await is_followed(daemon, author)
        before = await daemon.metric("chive_firehose_reconnects_total")
        drops = 0
        async with asyncio.TaskGroup() as writers:
            tasks = [writers.create_task(write_at_random(author, rng, 25)) for author in authors]
            while not all(task.done() for task in tasks):
                await network.control("/pds/0/drop-ws")
                drops += 1
                await daemon.metric_becomes("chive_firehose_connected", 1)
                await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.ALL_COMPLETED)
        await ends_as_listed(network, daemon)
        assert await daemon.metric("chive_firehose_reconnects_total") > before
        assert await daemon.metric("chive_firehose_gaps_total") == 0
        assert drops


async def write_at_random(author: Account, rng: random.Random, commits: int) -> None:
    held: list[str] = []
    for _ in range(commits):
        match rng.randrange(5):
            case 0 if held:
                await author.put(a_record(rng, TAG), key_of(rng.choice(held)))
            case 1 if held:
                await author.delete(held.pop(rng.randrange(len(held))))
            case 2:
                writes = [create(a_record(rng, TAG)) for _ in range(rng.randint(1, 20))]
                held += await author.apply_writes([*writes, create(a_record(rng, FOREIGN))])
            case 3:
                await author.create(a_record(rng, FOREIGN))
            case _:
                held.append(await author.create(a_record(rng, TAG)))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
async def test_what_is_written_while_the_daemon_is_away_is_caught_up(
    network: Network, tmp_path: Path, number: signal.Signals, code: int
):
    rng = random.Random(5)
    async with following(network, tmp_path) as daemon:
        author = await network.account()
        gone = await author.create(a_record(rng, COMMENT))
        await is_followed(daemon, author)
        batch = await author.apply_writes([create(a_record(rng, TAG)) for _ in range(50)])
        assert await daemon.stop(number) == code
        await author.delete(gone)
        await author.apply_writes([update(a_record(rng, TAG), key_of(uri)) for uri in batch])
        newcomer = await network.account()
        await newcomer.create(a_record(rng, COMMENT))
        await daemon.start()
        await ends_as_listed(network, daemon)


async def test_a_did_sync_brings_accounts_that_the_stream_never_named(
    network: Network, tmp_path: Path
):
    rng = random.Random(6)
    authors = [await network.account(pds) for pds in (0, 1)]
    for author in authors:
        records = [a_record(rng, rng.choice((COMMENT, TAG))) for _ in range(150)]
        await author.apply_writes([create(record) for record in records])
        await author.create(a_record(rng, FOREIGN))
    async with following(network, tmp_path, start_at="live") as daemon:
        assert daemon.records() == {}
        for author in authors:
            operation = await daemon.backfill("didSync", did=author.did)
            assert operation["status"] == "completed", (operation, daemon.log)
            assert operation["recordsProcessed"] == 150
            listed = await network.listed_of(author.url, author.did)
            assert daemon.records(author.did) == listed
            assert daemon.account(author.did)["handle"] == author.handle
        unknown = await daemon.backfill("didSync", did="did:plc:" + 24 * "a")
        assert unknown["status"] == "failed", unknown
        await authors[0].create(a_record(rng, COMMENT))  # from now on its commits are verified
        listed = await network.listed_of(authors[0].url, authors[0].did)
        await daemon.becomes(listed, authors[0].did)
        assert await daemon.verify_failures() == {}


async def test_the_status_of_an_account_decides_what_is_shown(network: Network, tmp_path: Path):
    rng = random.Random(7)
    async with following(network, tmp_path) as daemon:
        author, bystander = await network.account(), await network.account()
        for account in (author, bystander):
            for _ in range(3):
                await account.create(a_record(rng, COMMENT))
            await is_followed(daemon, account)
        kept = await network.listed_of(author.url, author.did)
        others = await network.listed_of(bystander.url, bystander.did)

        async def shows(status: str, records: dict[str, Any]) -> None:
            await wait_until(
                lambda: daemon.account(author.did)["status"] == status,
                what=lambda: f"{status}: {daemon.account(author.did)}\n{daemon.log}",
            )
            await daemon.becomes(records, author.did)
            assert daemon.records(bystander.did) == others

        await shows("active", kept)
        await author.call("com.atproto.server.deactivateAccount", {})
        await shows("deactivated", {})
        await author.call("com.atproto.server.activateAccount")
        await shows("active", kept)
        await network.set_takedown(author, applied=True)
        await shows("takendown", {})
        with pytest.raises(Refused):
            await network.listed_of(author.url, author.did)
        await network.set_takedown(author, applied=False)
        await shows("active", kept)
        await author.create(a_record(rng, COMMENT))
        kept = await network.listed_of(author.url, author.did)
        assert len(kept) == 4
        await shows("active", kept)
        await network.administer(author.pds, "com.atproto.admin.deleteAccount", {"did": author.did})
        await shows("deleted", {})
        await ends_as_listed(network, daemon)


async def test_an_account_that_moves_away_is_shown_as_its_new_host_lists_it(
    network: Network, tmp_path: Path
):
    """The last word on the followed stream is that the account is deactivated; it is not."""
    rng = random.Random(11)
    async with following(network, tmp_path) as daemon:
        author = await network.account()
        await author.apply_writes([create(a_record(rng, COMMENT)) for _ in range(10)])
        await is_followed(daemon, author)
        moved = await author.migrate(pds=1)
        await wait_until(
            lambda: (
                daemon.account(author.did)
                == {
                    "handle": moved.handle,
                    "pds_url": moved.url,
                    "status": "active",
                    "state": "active",
                }
            ),
            what=lambda: f"the new host: {daemon.account(author.did)}\n{daemon.log}",
            deadline_s=30.0,
        )
        await daemon.becomes(await network.listed_of(moved.url, moved.did), moved.did)
        await moved.create(a_record(rng, COMMENT))  # on a stream that nobody follows
        operation = await daemon.backfill("didSync", did=moved.did)
        assert operation["status"] == "completed", (operation, daemon.log)
        listed = await network.listed_of(moved.url, moved.did)
        assert len(listed) == 11
        assert daemon.records(moved.did) == listed
        assert await daemon.verify_failures() == {}
    # The comparisons of other tests are with what the followed host lists.
    await network.administer(moved.pds, "com.atproto.admin.deleteAccount", {"did": moved.did})


async def test_a_new_handle_is_shown_once_it_points_back(network: Network, tmp_path: Path):
    rng = random.Random(8)
    async with following(network, tmp_path) as daemon:
        author = await network.account()
        await author.create(a_record(rng, COMMENT))
        await wait_until(
            lambda: daemon.account(author.did).get("handle") == author.handle,
            what="the first handle",
        )
        renamed = network.handle(f"{author.name}x", 0)
        await author.call("com.atproto.identity.updateHandle", {"handle": renamed})
        await author.create(a_record(rng, COMMENT))
        await wait_until(
            lambda: daemon.account(author.did)["handle"] == renamed,
            what=lambda: f"the new handle: {daemon.account(author.did)}\n{daemon.log}",
        )
        await ends_as_listed(network, daemon)


async def test_documents_in_the_legacy_form_verify_too(tmp_path: Path):
    rng = random.Random(9)
    options = ("--pds", "1", "--plc-doc", "legacy")
    async with aiohttp.ClientSession() as session:
        with real_network(tmp_path / "network", *options) as info:
            network = Network(info, session)
            async with following(network, tmp_path) as daemon:
                author = await network.account()
                async with session.get(f"{network.plc_url}/{author.did}") as response:
                    (key,) = (await response.json(content_type=None))["verificationMethod"]
                assert key["type"] == "EcdsaSecp256k1VerificationKey2019"
                await author.create(a_record(rng, COMMENT))
                await is_followed(daemon, author)
                await author.apply_writes([create(a_record(rng, TAG)) for _ in range(20)])
                await ends_as_listed(network, daemon)
                assert await daemon.live_records() >= 20
