from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import assert_refused, value_or_refusal

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.car import (
    BLOCK_BYTES_MAX,
    HEADER_BYTES_MAX,
    ROOTS_MAX,
    CarStream,
    parse_car,
)
from tests.devnet.car import car_header, car_section, varint, write_car
from tests.devnet.cbor import RAW, Link, cid_of, encode

ONE, TWO = encode({"a": 1}), encode({"b": 2})
RAW_BLOCK = b"no CBOR at all \xff"
PAIRS = [(cid_of(ONE), ONE), (cid_of(TWO), TWO), (cid_of(RAW_BLOCK, RAW), RAW_BLOCK)]
ARCHIVE = write_car([PAIRS[1][0]], PAIRS)


def stream(data: bytes, chunk_bytes: int = 7, **options) -> tuple[tuple, dict]:
    """The archive read piecewise: roots and blocks, as `parse_car` has them."""
    reader = CarStream(**options)
    blocks = {}
    for start in range(0, len(data), chunk_bytes):
        for cid, block, offset in reader.feed(data[start : start + chunk_bytes]):
            assert data[offset : offset + len(block)] == block
            blocks[cid] = block
    reader.finish()
    return reader.roots, blocks


def whole(data: bytes) -> tuple[tuple, dict]:
    car = parse_car(data)
    return car.roots, car.blocks


BOTH = pytest.mark.parametrize("read", [whole, stream])


@BOTH
def test_blocks_of_any_codec_are_read_in_any_order(read):
    assert read(ARCHIVE) == ((PAIRS[1][0],), dict(PAIRS))
    assert read(write_car([PAIRS[1][0]], PAIRS[::-1])) == ((PAIRS[1][0],), dict(PAIRS))


@BOTH
def test_an_archive_may_have_no_root_no_blocks_duplicates_and_an_empty_block(read):
    empty = cid_of(b"", RAW)

    assert read(write_car([], PAIRS)) == ((), dict(PAIRS))
    assert read(write_car([PAIRS[0][0]], [])) == ((PAIRS[0][0],), {})
    assert read(write_car([PAIRS[0][0]], [*PAIRS, *PAIRS])) == ((PAIRS[0][0],), dict(PAIRS))
    assert read(write_car([empty], [(empty, b"")])) == ((empty,), {empty: b""})


def test_of_two_roots_the_first_counts_and_of_none_none():
    car = parse_car(write_car([PAIRS[0][0], PAIRS[1][0]], PAIRS))
    assert car.root == PAIRS[0][0]
    assert_refused(Check.CAR, lambda: parse_car(write_car([], PAIRS)).root)


@BOTH
def test_a_block_of_an_uncheckable_hash_is_left_out(read):
    sha512 = b"\x01\x71\x13\x40" + hashlib.sha512(ONE).digest()
    identity = b"\x01\x71\x00\x03" + b"abc"
    data = ARCHIVE + car_section(sha512, ONE) + car_section(identity, b"abc")

    assert read(data) == ((PAIRS[1][0],), dict(PAIRS))


@BOTH
def test_other_forms_of_a_sha256_cid_are_checked(read):
    digest = hashlib.sha256(ONE).digest()
    version_0, json_codec = b"\x12\x20" + digest, b"\x01\xa9\x02\x12\x20" + digest

    assert read(car_header([]) + car_section(version_0, ONE))[1] == {version_0: ONE}
    assert read(car_header([]) + car_section(json_codec, ONE))[1] == {json_codec: ONE}
    for cid in (version_0, json_codec):
        assert_refused(Check.BLOCK_HASH, read, car_header([]) + car_section(cid, TWO))


@BOTH
def test_a_block_that_does_not_match_its_cid_is_refused_even_if_nobody_needs_it(read):
    for position in range(len(PAIRS)):
        pairs = list(PAIRS)
        cid, block = pairs[position]
        pairs[position] = (cid, block[:-1] + bytes([block[-1] ^ 1]))
        assert_refused(Check.BLOCK_HASH, read, write_car([PAIRS[1][0]], pairs))


def header(value) -> bytes:
    body = encode(value)
    return varint(len(body)) + body


ROOT = Link(PAIRS[0][0])


@BOTH
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        header([]),
        header({"roots": [ROOT]}),
        header({"roots": [ROOT], "version": 2}),
        header({"roots": [ROOT], "version": True}),
        header({"roots": [ROOT], "version": "1"}),
        header({"version": 1}),
        header({"roots": ROOT, "version": 1}),
        header({"roots": [PAIRS[0][0]], "version": 1}),
        header({"roots": [None], "version": 1}),
        header({"roots": [ROOT] * (ROOTS_MAX + 1), "version": 1}),
        varint(HEADER_BYTES_MAX * 2)[:-1],
        b"\x0a\xff",
        b"\x01\xff",
        b"\xff" * 20,
        ARCHIVE + b"\x00",
        ARCHIVE + b"\xff" * 12,
        ARCHIVE + b"\x80",
        ARCHIVE + b"\xa5\x00" + car_section(*PAIRS[0])[1:],
        ARCHIVE + varint(500) + b"short",
        ARCHIVE + varint(4) + b"\x02\x71\x12\x20",
        ARCHIVE + varint(4) + b"\x01\x71\x12\x20",
        ARCHIVE + varint(3) + b"\x01\x71\x80",
        ARCHIVE + car_section(b"\x01\x71\x13\xc8\x01" + b"x" * 200, b""),
    ],
)
def test_a_malformed_archive_is_refused(read, data):
    assert_refused(Check.CAR, read, data)


@BOTH
def test_an_archive_that_breaks_off_anywhere_is_refused_or_a_shorter_one(read):
    ends = set()
    offset = len(car_header([PAIRS[1][0]]))
    for cid, block in PAIRS:
        ends.add(offset)
        offset += len(car_section(cid, block))
    for length in range(len(ARCHIVE)):
        if length in ends:
            assert len(read(ARCHIVE[:length])[1]) < len(PAIRS)
        else:
            assert_refused(Check.CAR, read, ARCHIVE[:length])


def test_lengths_are_bounded():
    assert_refused(Check.LIMITS, parse_car, ARCHIVE, blocks_max=2)
    assert parse_car(ARCHIVE, blocks_max=3).blocks == dict(PAIRS)
    assert_refused(Check.LIMITS, stream, ARCHIVE, block_bytes_max=40)
    assert_refused(Check.LIMITS, stream, varint(HEADER_BYTES_MAX + 1) + b"x")
    assert_refused(Check.CAR, parse_car, varint(HEADER_BYTES_MAX + 1) + b"x" * 5000)


def test_a_long_section_is_refused_before_it_is_buffered():
    reader = CarStream()
    reader.feed(car_header([PAIRS[0][0]]))
    assert_refused(Check.LIMITS, reader.feed, varint(BLOCK_BYTES_MAX + 1))


def test_a_stream_keeps_no_more_than_one_unfinished_section():
    reader = CarStream()
    reader.feed(car_header([PAIRS[0][0]]))
    section = car_section(cid_of(b"x" * 1000, RAW), b"x" * 1000)
    for _ in range(200):
        assert len(reader.feed(section)) == 1
    assert len(reader._buffer) == 0


def test_a_thousand_small_sections_in_one_chunk_take_linear_time():
    data = car_header([]) + b"".join(
        car_section(cid_of(block, RAW), block) for block in (str(n).encode() for n in range(20_000))
    )
    began = time.process_time()
    assert len(stream(data, chunk_bytes=len(data))[1]) == 20_000
    assert time.process_time() - began < 2.0


def outcome(read, data: bytes):
    try:
        return read(data)
    except InvalidUpstream as refusal:
        return refusal.check


@given(st.binary(max_size=200))
def test_any_bytes_are_an_archive_or_refused(data):
    value_or_refusal(whole, data)
    value_or_refusal(stream, data)


@given(st.binary(max_size=120), st.integers(1, 50))
def test_any_bytes_after_a_header_are_blocks_or_refused_alike_by_both_readers(tail, chunk_bytes):
    data = ARCHIVE + tail
    at_once, piecewise = outcome(whole, data), outcome(lambda d: stream(d, chunk_bytes), data)
    # A section longer than the rest is over a limit to the one, cut short to the other.
    assert at_once == piecewise or (at_once, piecewise) == (Check.CAR, Check.LIMITS)


@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255))
def test_one_changed_byte_never_goes_unseen(position, change):
    data = bytearray(ARCHIVE)
    data[position] ^= change
    for read in (whole, stream):
        assert outcome(read, bytes(data)) != ((PAIRS[1][0],), dict(PAIRS))


@given(st.lists(st.binary(max_size=300), max_size=12), st.integers(1, 400))
def test_what_an_independent_writer_wrote_is_read_back_in_any_chunks(blocks, chunk_bytes):
    pairs = [(cid_of(block, RAW), block) for block in blocks]
    data = write_car([PAIRS[0][0]], pairs)

    assert whole(data) == stream(data, chunk_bytes) == ((PAIRS[0][0],), dict(pairs))
