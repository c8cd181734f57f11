"""A rebuild of what the real PDS has sent, beside its stream and while that is held."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.devnet.records import realistic_record
from tests.interop.daemon_process import DaemonProcess, daemon_process
from tests.interop.real_network import Network, create

pytestmark = pytest.mark.network

COMMENT = "pub.chive.review.comment"
TAG = "pub.chive.eprint.userTag"
DERIVED = (
    "SELECT uri, cid, body_plain_text FROM review_comment ORDER BY uri",
    "SELECT uri, cid, tag FROM eprint_user_tag ORDER BY uri",
)


def derived(daemon: DaemonProcess) -> list[list[tuple[object, ...]]]:
    return [daemon.rows(sql) for sql in DERIVED]


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_tables_that_were_spoilt_are_those_of_the_listed_records_again(
    network: Network, tmp_path: Path, mode: str
):
    rng = random.Random(21)
    author = await network.account()
    await author.apply_writes(
        [create(realistic_record(rng, collection)) for collection in (TAG, COMMENT) * 30]
    )
    async with daemon_process(
        tmp_path,
        firehose_url=network.pds_urls[0].replace("http:", "ws:"),
        plc_url=network.plc_url,
        handle_resolver_url=network.control_url,
        start_at="oldest",
    ) as daemon:
        await daemon.becomes(await network.listed())
        sound = derived(daemon)
        (table,) = daemon.rows("SELECT number FROM generation WHERE state = 'current'")[0]
        with closing(sqlite3.connect(daemon.database, timeout=30)) as second, second:
            second.execute(f"DELETE FROM review_comment__{table} WHERE record_id % 2")
            second.execute(f"UPDATE eprint_user_tag__{table} SET tag = 'spoilt'")
        assert derived(daemon) != sound
        operation = await daemon.backfill("fullReindex", mode=mode, batchSize=7)
        assert (operation["status"], operation["mode"]) == ("completed", mode), operation
        assert operation["recordsProcessed"] == operation["totalRecords"] >= 60
        assert derived(daemon) == sound
        await author.create(realistic_record(rng, TAG))
        await daemon.becomes(await network.listed())
        assert len(derived(daemon)[1]) == len(sound[1]) + 1
