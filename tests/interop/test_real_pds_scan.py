"""Scans of real PDSes: what they list is what the index holds, and what is known costs nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.devnet.records import FOREIGN, realistic_record
from tests.e2e.daemon import wait_until
from tests.interop.daemon_process import DaemonProcess, daemon_process
from tests.interop.real_network import Account, Network, create

pytestmark = pytest.mark.network

COMMENT = "pub.chive.review.comment"
TAG = "pub.chive.eprint.userTag"


async def requests_to_hosts(daemon: DaemonProcess) -> float:
    samples = await daemon.metrics("chive_http_client_requests_total")
    return sum(count for labels, count in samples.items() if ("service", "pds") in labels)


async def written(network: Network, pds: int, rng: random.Random) -> list[Account]:
    """Accounts that a scan has to tell apart: with records in scope, with others, inactive."""
    authors = [await network.account(pds) for _ in range(4)]
    for author in authors[:2]:
        records = [realistic_record(rng, collection) for collection in (TAG, COMMENT, FOREIGN) * 5]
        await author.apply_writes([create(record) for record in records])
    await authors[2].create(realistic_record(rng, FOREIGN))
    await authors[3].create(realistic_record(rng, TAG))
    await network.set_takedown(authors[3], applied=True)
    return authors


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_a_host_that_nobody_follows_ends_as_listed(
    network: Network, tmp_path: Path, mode: str
):
    rng = random.Random(11)
    authors = await written(network, 1, rng)
    followed = await network.account(0)
    async with daemon_process(
        tmp_path,
        firehose_url=network.pds_urls[0].replace("http:", "ws:"),
        plc_url=network.plc_url,
        handle_resolver_url=network.control_url,
        start_at="live",
    ) as daemon:
        await followed.create(realistic_record(rng, TAG))
        await wait_until(
            lambda: daemon.account(followed.did).get("state") == "active",
            what=lambda: f"the account that is followed\n{daemon.log}",
            deadline_s=30.0,
        )
        url = network.pds_urls[1]
        first = await daemon.backfill("pdsScan", pdsUrl=url, mode=mode)
        assert (first["status"], first["mode"]) == ("completed", mode), (first, daemon.log)
        listed = await network.listed(1) | await network.listed_of(followed.url, followed.did)
        assert len(listed) >= 21
        await daemon.becomes(listed)
        await authors[0].create(realistic_record(rng, COMMENT))
        await authors[2].create(realistic_record(rng, TAG))  # asked about, and not again
        before = await requests_to_hosts(daemon)
        again = await daemon.backfill("pdsScan", pdsUrl=url, mode=mode)
        outcomes = {each["name"]: each["units"] for each in again["outcomes"]}
        assert again["status"] == "completed" and outcomes["asked_before"] >= 1, outcomes
        # Two pages of the list, and the one repo that has changed: it is on nobody's stream here.
        assert await requests_to_hosts(daemon) - before <= 8
        await daemon.backfill("didSync", did=authors[2].did)
        await daemon.backfill("didSync", did=authors[0].did)
        listed = await network.listed(1) | await network.listed_of(followed.url, followed.did)
        await daemon.becomes(listed)
        rows = daemon.rows("SELECT url, status, failures FROM pds_hosts ORDER BY url")
        assert (url, "active", 0) in rows
        assert await daemon.verify_failures() == {}, daemon.log


async def test_a_new_store_that_follows_a_single_host_has_all_of_it(
    network: Network, tmp_path: Path
):
    rng = random.Random(12)
    await written(network, 0, rng)
    async with daemon_process(
        tmp_path,
        firehose_url=network.pds_urls[0].replace("http:", "ws:"),
        plc_url=network.plc_url,
        handle_resolver_url=network.control_url,
        start_at="live",
        bootstrap=True,
    ) as daemon:
        listed = await network.listed(0)
        assert len(listed) >= 20
        await daemon.becomes(listed)
        await wait_until(
            lambda: (
                daemon.rows("SELECT type, status FROM operations") == [("pdsScan", "completed")]
            ),
            what=lambda: f"the end of the first scan\n{daemon.log}",
            deadline_s=60.0,
        )
        assert await daemon.verify_failures() == {}, daemon.log
