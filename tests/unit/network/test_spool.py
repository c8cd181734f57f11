"""Archives on disk: what is read equals what was sent, and every bound holds."""

import asyncio
import errno
import hashlib
import os
import random
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import Check, InvalidUpstream, LocalBusy, LocalFault, RepoTooLarge
from indexer.network.spool import CarSpool, SpoolFolder
from indexer.protocol.mst import MissingBlock
from tests.devnet.car import car_header, car_section, varint, write_car

RAW = b"\x01\x55\x12\x20"


def cid(block: bytes) -> bytes:
    return RAW + hashlib.sha256(block).digest()


def pairs(blocks):
    return [(cid(block), block) for block in blocks]


def folder_at(path, *, bytes_max=1 << 30, archive_bytes_max=1 << 30) -> SpoolFolder:
    return SpoolFolder(path, bytes_max=bytes_max, archive_bytes_max=archive_bytes_max)


@pytest.fixture
def folder(tmp_path) -> SpoolFolder:
    return folder_at(tmp_path / "spool")


def fill(spool: CarSpool, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        spool.feed(data[at : at + size])
    spool.finish()


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=60),
    st.integers(1, 500),
    st.sampled_from([0, 100, 1 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_every_block_is_found_again_however_it_was_cut_and_flushed(
    tmp_path_factory, blocks, size, flush_bytes
):
    folder = folder_at(tmp_path_factory.getbasetemp() / "spool")
    blocks = blocks + blocks[:5]  # duplicates are legal
    data = write_car([cid(blocks[0])], pairs(blocks))
    with CarSpool(folder, flush_bytes=flush_bytes) as spool:
        fill(spool, data, size)
        assert spool.root == cid(blocks[0])
        assert spool.size_bytes == len(data)
        assert [spool.load(cid(block)) for block in blocks] == blocks
        with pytest.raises(MissingBlock):
            spool.load(cid(b"never sent" * 30))
        with pytest.raises(MissingBlock):
            spool.load(b"\x01" * 80)
        assert folder.bytes_used == sum(len(block) + 40 for block in set(blocks))
    assert folder.bytes_used == 0


def test_the_index_grows_with_the_blocks(folder):
    """Beyond several doublings of the table, in an order of the writer's choice."""
    blocks = [number.to_bytes(4) for number in range(20_000)]
    random.Random(1).shuffle(blocks)
    with CarSpool(folder) as spool:
        fill(spool, write_car([cid(blocks[0])], pairs(blocks)), 65536)
        assert all(spool.load(cid(block)) == block for block in blocks)
        assert len(spool._slots) < 4 * len(blocks)


def test_an_unusual_cid_is_checked_and_found_by_its_own_bytes(folder):
    block = b"another codec"
    other = b"\x01\x70\x12\x20" + hashlib.sha256(block).digest()
    with CarSpool(folder) as spool:
        fill(spool, write_car([other], [(other, block)]), 7)
        assert spool.load(other) == block
        with pytest.raises(MissingBlock):
            spool.load(cid(block))


@pytest.mark.parametrize(
    ("tail", "check"),
    [
        (car_section(cid(b"a"), b"b"), Check.BLOCK_HASH),
        (varint(0), Check.CAR),
        (b"\xff" * 10, Check.CAR),
        (varint(3 << 20) + b"x" * 100, Check.LIMITS),
        (b"\x25" + cid(b"a")[:20], Check.CAR),
    ],
)
def test_an_unsound_archive_is_refused(folder, tail, check):
    with CarSpool(folder) as spool:
        with pytest.raises(InvalidUpstream) as caught:
            fill(spool, write_car([cid(b"a")], pairs([b"a"])) + tail, 10)
        assert caught.value.check is check
        assert spool.has_header
    assert folder.bytes_used == 0


@pytest.mark.parametrize(
    "data", [b"", b"<!doctype html>", b"\xef\xbb\xbf<html>", b"{}", bytes(100)]
)
def test_what_is_no_archive_has_no_header(folder, data):
    with CarSpool(folder) as spool:
        with pytest.raises(InvalidUpstream):
            fill(spool, data, 100)
        assert not spool.has_header


def test_an_archive_without_root_says_so(folder):
    with CarSpool(folder) as spool:
        fill(spool, car_header([]), 100)
        with pytest.raises(InvalidUpstream, match="no root"):
            _ = spool.root


def test_an_archive_beyond_the_bytes_of_one_is_too_large(tmp_path):
    folder = folder_at(tmp_path, archive_bytes_max=1000)
    with CarSpool(folder) as spool, pytest.raises(RepoTooLarge):
        fill(spool, write_car([cid(b"")], pairs([bytes([n]) * 100 for n in range(20)])), 64)


def test_an_archive_of_too_many_blocks_is_too_large(folder):
    with CarSpool(folder, blocks_max=100) as spool, pytest.raises(RepoTooLarge, match="100 blocks"):
        fill(spool, write_car([cid(b"")], pairs([bytes([n]) for n in range(101)])), 64)


def test_all_archives_together_keep_to_the_budget_and_give_it_back(tmp_path):
    folder = folder_at(tmp_path, bytes_max=3000)
    data = write_car([cid(b"")], pairs([bytes([n]) * 100 for n in range(15)]))
    with CarSpool(folder) as first:
        fill(first, data, 100)
        assert folder.bytes_used == 15 * 140
        with CarSpool(folder) as second, pytest.raises(LocalBusy):
            fill(second, data, 100)
        assert folder.bytes_used == 15 * 140
        assert first.load(cid(bytes([3]) * 100)) == bytes([3]) * 100
    assert folder.bytes_used == 0
    with CarSpool(folder) as third:
        fill(third, data, 100)


def test_a_full_disk_is_busy_and_a_broken_one_is_a_fault(folder, tmp_path):
    data = write_car([cid(b"")], pairs([b"block"]))
    with CarSpool(folder) as spool:
        spool._file.close()
        spool._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115, PTH123
        with pytest.raises(LocalBusy, match=os.strerror(errno.ENOSPC)):
            fill(spool, data, 100)
    assert folder.bytes_used == 0
    with CarSpool(folder) as spool:
        spool._file.close()
        (tmp_path / "file").touch()
        spool._file = open(tmp_path / "file", "rb", buffering=0)  # noqa: SIM115, PTH123
        with pytest.raises(LocalFault):
            fill(spool, data, 100)
    assert folder.bytes_used == 0


def test_no_free_descriptor_is_busy(folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(LocalBusy, match=os.strerror(errno.EMFILE)):
            CarSpool(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_spool_has_no_name_and_leftovers_go_at_the_start(tmp_path):
    (tmp_path / "tmpleft").write_bytes(b"of a killed process")
    folder = folder_at(tmp_path)
    assert not list(tmp_path.iterdir())
    with CarSpool(folder) as spool:
        fill(spool, write_car([cid(b"")], pairs([b"block"])), 100)
        assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_a_fault(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LocalFault):
        folder_at(tmp_path / "file" / "spool")


async def test_closing_waits_for_a_thread_and_later_calls_do_nothing(folder):
    data = write_car([cid(b"")], pairs([bytes(1000) + bytes([n]) for n in range(200)]))
    started = threading.Event()

    def feed(spool):
        started.set()
        for at in range(0, len(data), 100):
            spool.feed(data[at : at + 100])
        spool.finish()

    with CarSpool(folder) as spool:
        feeding = asyncio.create_task(asyncio.to_thread(feed, spool))
        await asyncio.to_thread(started.wait)
    await feeding  # no error, although the file is closed
    assert folder.bytes_used == 0
    with pytest.raises(MissingBlock):
        spool.load(cid(b"x"))


MEASURE = """
import hashlib, resource, sys
from pathlib import Path
from indexer.network.spool import CarSpool, SpoolFolder
from tests.devnet.car import car_header, car_section

size, total = int(sys.argv[2]), int(sys.argv[3])

def archive():
    sent = 0
    yield car_header([b"\\x01\\x55\\x12\\x20" + bytes(32)])
    while sent < total:
        parts = []
        for number in range(60_000 // (size + 38)):
            block = (sent * 4096 + number).to_bytes(8) * (size // 8)
            parts.append(car_section(b"\\x01\\x55\\x12\\x20" + hashlib.sha256(block).digest(), block))
        data = b"".join(parts)
        sent += len(data)
        yield data

folder = SpoolFolder(Path(sys.argv[1]), bytes_max=1 << 40, archive_bytes_max=1 << 40)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with CarSpool(folder) as spool:
    for data in archive():
        spool.feed(data)
    spool.finish()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, spool.size_bytes)
"""


@pytest.mark.parametrize(("block_bytes", "total_bytes"), [(4096, 24_000_000), (8, 1_500_000)])
def test_memory_does_not_grow_with_the_archive(tmp_path, block_bytes, total_bytes):
    """In a process of its own, whose peak is not another test's. Ordinary and minimal blocks."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(block_bytes), str(total_bytes)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    grown_kib, received = map(int, done.stdout.split())
    assert received >= total_bytes
    assert grown_kib < 12_000
