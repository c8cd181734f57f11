"""freshnessScan of real PDSes: what nobody announced is found, and ends as listed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.devnet.records import realistic_record
from tests.interop.daemon_process import daemon_process
from tests.interop.real_network import Network, create

pytestmark = pytest.mark.network

TAG = "pub.chive.eprint.userTag"
SCAN_S = 180.0
"""What is younger than a minute the stream may yet bring: so long the scan waits at least."""


async def test_what_no_stream_told_of_is_found_by_a_scan(network: Network, tmp_path: Path):
    rng = random.Random(41)
    async with daemon_process(
        tmp_path,
        firehose_url=network.pds_urls[0].replace("http:", "ws:"),  # not that of the authors
        plc_url=network.plc_url,
        handle_resolver_url=network.control_url,
        start_at="live",
    ) as daemon:
        daemon.operation_s = SCAN_S
        authors = [await network.account(1) for _ in range(6)]
        for author in authors:
            records = [realistic_record(rng, TAG) for _ in range(3)]
            await author.apply_writes([create(record) for record in records])
            assert (await daemon.backfill("didSync", did=author.did))["status"] == "completed"
        same, writing, hidden, taken, gone, moving = authors
        equal = await daemon.backfill("freshnessScan")
        assert {each["name"]: each["units"] for each in equal["outcomes"]} == {"current": 6}
        await writing.create(realistic_record(rng, TAG))
        await hidden.call("com.atproto.server.deactivateAccount", {})
        await network.set_takedown(taken, applied=True)
        await network.administer(1, "com.atproto.admin.deleteAccount", {"did": gone.did})
        moved = await moving.migrate(pds=0)
        await moved.create(realistic_record(rng, TAG))
        operation = await daemon.backfill("freshnessScan")
        assert operation["status"] == "completed", (operation, daemon.log)
        assert operation["unitsProcessed"] == 6, operation
        expected = {}
        for author in (same, writing, moved):
            expected |= await network.listed_of(author.url, author.did)
        assert len(expected) == 3 + 4 + 4
        await daemon.becomes(expected)
        assert daemon.account(moved.did)["pds_url"] == moved.url
        statuses = {each.did: daemon.account(each.did)["status"] for each in authors}
        assert [statuses[each.did] for each in (hidden, taken, gone)] == [
            "deactivated", "takendown", "deleted"
        ]  # fmt: skip
        assert await daemon.verify_failures() == {}, daemon.log
