"""Memory of the daemon's own process while it takes in a repo archive that is far larger.

`LARGE_REPO_MB=300` runs the long form, whose peak must stay below 150 MB.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from indexer.network.spool import BLOCKS_MAX
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.devnet.car import car_section
from tests.devnet.records import FOREIGN
from tests.interop.daemon_process import DaemonProcess, daemon_process

MB = 1_000_000
SIZE_MB = int(os.environ.get("LARGE_REPO_MB", "30"))
PEAK_MB_MAX = 150
GROWTH_MB_MAX = 60
TAG = "pub.chive.eprint.userTag"
TAGS = 300
LARGE_BYTES = 60_000
SMALL_BYTES = 1_000
SMALL_RECORDS = 100 * SIZE_MB
MINIMAL_BLOCKS = 60_000 if SIZE_MB < 300 else 2_000_001
FETCH_S = 600.0
RAW_BLOCK = b"\x01\x55\x12\x20"  # CIDv1 of bytes, SHA-256


async def followed(net: Devnet, rng: random.Random) -> Account:
    account = await net.create_account()
    net.create(account, TAG, realistic_record(rng, TAG, did=account.did))
    for method in ("getRecord", "getBlocks"):  # no walk: the archive it has to be
        net.faults.schedule(
            FaultKind.HTTP_STATUS,
            times=None,
            endpoint=f"com.atproto.sync.{method}",
            status=400,
            error="InvalidRequest",
        )
    return account


def foreign(account: Account, rng: random.Random) -> Iterator[tuple[str, object]]:
    """Some thousand small posts, and large ones for the rest of the size."""
    small = [SMALL_BYTES] * SMALL_RECORDS
    large = [LARGE_BYTES] * ((SIZE_MB * MB - sum(small)) // LARGE_BYTES)
    for size in small + large:
        text = rng.randbytes(size // 2).hex()
        record = {"$type": FOREIGN, "text": text, "createdAt": "2026-01-01T00:00:00Z"}
        yield f"{FOREIGN}/{account.tids.next()}", record


def proc_mb(daemon: DaemonProcess, name: str) -> float:
    """VmRSS or VmHWM of the daemon."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / MB


def following(net: Devnet, folder: Path) -> AbstractAsyncContextManager[DaemonProcess]:
    return daemon_process(
        folder,
        firehose_url=net.relay_url,
        plc_url=net.plc_url,
        handle_resolver_url=net.handle_resolver_url,
        start_at="live",
    )


async def bytes_fetched(daemon: DaemonProcess) -> float:
    samples = await daemon.metrics("chive_resync_bytes_total")
    return sum(value for labels, value in samples.items() if ("method", "car") in labels)


def minimal_blocks(count: int) -> bytes:
    """Sections of blocks of four bytes, which nothing links to."""
    return b"".join(
        car_section(RAW_BLOCK + hashlib.sha256(block).digest(), block)
        for block in (number.to_bytes(4) for number in range(count))
    )


async def test_archives_of_large_and_of_minimal_blocks_cost_little_memory(tmp_path: Path):
    """In the short form both are taken in; in the long one the second is beyond all bounds."""
    rng = random.Random(5)
    async with Devnet(seed=5) as net:
        large, crumbly = await followed(net, rng), await followed(net, rng)
        tags = [
            (f"{TAG}/{large.tids.next()}", realistic_record(rng, TAG, did=large.did))
            for _ in range(TAGS)
        ]
        net.import_records(large, records=[*tags, *foreign(large, rng)], announce=False)
        crumbs = net.faults.schedule(
            FaultKind.HTTP_BODY,
            endpoint="com.atproto.sync.getRepo",
            did=crumbly.did,
            body=net.car(crumbly) + minimal_blocks(MINIMAL_BLOCKS),
            content_type="application/vnd.ipld.car",
        )
        async with following(net, tmp_path) as daemon:
            daemon.operation_s = FETCH_S
            idle_mb = proc_mb(daemon, "VmRSS")
            operation = await daemon.backfill("didSync", did=large.did)
            assert operation["status"] == "completed", operation
            assert len(daemon.records(large.did)) == TAGS + 1
            assert await bytes_fetched(daemon) > SIZE_MB * MB
            whole_mb = proc_mb(daemon, "VmHWM")
            operation = await daemon.backfill("didSync", did=crumbly.did)
            assert crumbs.fired == 1
            state = daemon.account(crumbly.did)["state"]
            assert state == ("active" if MINIMAL_BLOCKS < BLOCKS_MAX else "too_large"), operation
            peak_mb = proc_mb(daemon, "VmHWM")
    print(f"idle {idle_mb:.0f} MB; {SIZE_MB} MB: {whole_mb:.0f} MB; blocks: {peak_mb:.0f} MB")
    assert peak_mb < PEAK_MB_MAX
    assert peak_mb - idle_mb < GROWTH_MB_MAX
