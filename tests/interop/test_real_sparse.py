"""A large repo of the real PDS: what is in scope comes without the rest, and is all there is."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.devnet.car import write_car
from tests.devnet.cbor import encode, from_json
from tests.devnet.clock import TidClock
from tests.devnet.keys import derive_key
from tests.devnet.records import FOREIGN, realistic_record
from tests.devnet.repo import Repo
from tests.interop.daemon_process import daemon_process
from tests.interop.real_network import Account, Network

pytestmark = [pytest.mark.network, pytest.mark.slow]

TAG = "pub.chive.eprint.userTag"
FOREIGN_RECORDS = 100_000
IN_SCOPE = 20


async def import_large_repo(account: Account) -> int:
    """Fill the account's repo as an import does. The bytes of its archive.

    The imported commit has a signature of nobody's; the account's next write makes a true one.
    """
    rng = random.Random(1)
    tids = TidClock(time.time, 1)
    repo = Repo(account.did, derive_key("k256", "import"), tids)
    post = {"$type": FOREIGN, "createdAt": "2026-01-01T00:00:00.000Z"}
    posts = (
        (f"{FOREIGN}/{tids.next()}", encode({**post, "text": f"post {number}"}))
        for number in range(FOREIGN_RECORDS)
    )
    tags = [
        (f"{TAG}/{tids.next()}", encode(from_json(realistic_record(rng, TAG))))
        for _ in range(IN_SCOPE)
    ]
    repo.bulk_put([*posts, *tags])
    archive = write_car([repo.commit_cid], repo.snapshot())
    await account.call(
        "com.atproto.repo.importRepo", archive, content_type="application/vnd.ipld.car"
    )
    return len(archive)


async def test_twenty_records_among_a_hundred_thousand_cost_a_thousandth_of_the_archive(
    network: Network, tmp_path: Path
):
    author = await network.account()
    archive_bytes = await import_large_repo(author)
    async with daemon_process(
        tmp_path,
        firehose_url=network.pds_urls[0].replace("http:", "ws:"),
        plc_url=network.plc_url,
        handle_resolver_url=network.control_url,
        start_at="live",
    ) as daemon:
        await author.create(realistic_record(random.Random(2), TAG))
        listed = await network.listed_of(author.url, author.did)
        assert len(listed) == IN_SCOPE + 1
        await daemon.becomes(listed, author.did)
        fetched = await daemon.metrics("chive_resync_bytes_total")
        sparse, car = (fetched[frozenset({("method", name)})] for name in ("sparse", "car"))
        print(f"{sparse:.0f} of {archive_bytes} bytes")
        assert car == 0
        assert 0 < sparse < archive_bytes * 0.002
        samples = await daemon.metrics("chive_http_client_requests_total")
        requests = sum(n for labels, n in samples.items() if ("service", "pds") in labels)
        assert requests < 10
        assert await daemon.verify_failures() == {}, daemon.log
