from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import DID, assert_refused, event_of, new_repo, record, value_or_refusal

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.frame import (
    ERROR,
    INFO,
    ITEMS_MAX,
    LARGE_FRAME_BYTES,
    SEQ_MAX,
    decode_frame,
)
from tests.devnet.cbor import encode, head
from tests.devnet.frames import (
    account_event,
    commit_event,
    error_message,
    identity_event,
    info_message,
    message,
    sync_event,
)
from tests.devnet.repo import Write

ACCOUNT_DELETED = bytes.fromhex(
    "a2617468236163636f756e74626f7001a56364696478206469643a706c633a79716b636e647a766271646770687878"
    "366f6e3434707064637365711901da6474696d657818323032362d31312d32335432333a35393a31382e3635385a66"
    "616374697665f4667374617475736764656c65746564"
)


def test_a_frame_of_the_real_pds_is_read():
    frame = decode_frame(ACCOUNT_DELETED)

    assert (frame.type, frame.seq, frame.did) == (
        "#account",
        474,
        "did:plc:yqkcndzvbqdgphxx6on44ppd",
    )
    assert frame.body["active"] is False
    assert frame.body["status"] == "deleted"


def test_every_type_of_event_gives_its_seq_and_did():
    repo = new_repo()
    commit = repo.commit([Write("create", "pub.chive.eprint.submission/a", record())])
    for event in (
        commit_event(DID, commit, 0.0),
        sync_event(repo, 0.0),
        identity_event(DID, 0.0, "a.example.org"),
        account_event(DID, 0.0, "deactivated"),
    ):
        frame = decode_frame(event.frame(77))
        assert (frame.type, frame.seq, frame.did) == (event.kind, 77, DID)


def test_errors_and_infos_have_no_seq():
    error = decode_frame(error_message("FutureCursor", "ahead"))
    info = decode_frame(info_message("OutdatedCursor", "behind"))

    assert (error.type, error.seq, error.body["error"]) == (ERROR, None, "FutureCursor")
    assert (info.type, info.seq, info.body["name"]) == (INFO, None, "OutdatedCursor")
    assert decode_frame(message(INFO, {"name": "x", "seq": 3})).seq is None


def test_the_future_is_let_through():
    unknown_type = decode_frame(message("#labels", {"seq": 9, "labels": []}))
    unknown_op = decode_frame(encode({"op": 7, "t": "#commit"}) + encode({"seq": 1}))
    more_fields = decode_frame(
        encode({"op": 1, "t": "#account", "x": [1]}) + encode({"seq": 1, "did": DID, "new": {}})
    )

    assert (unknown_type.type, unknown_type.seq, unknown_type.did) == ("#labels", 9, None)
    assert (unknown_op.type, unknown_op.seq) == ("", None)
    assert more_fields.did == DID
    for seq in (-1, 0, 2**53, "4", True):
        assert decode_frame(message("#labels", {"seq": seq})).seq is None


BODY = {"seq": 1, "did": DID, "time": "2026-01-01T00:00:00Z", "active": True}
HEADER = {"op": 1, "t": "#account"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        encode(HEADER),
        encode(HEADER) + encode(BODY)[:-1],
        encode(HEADER) + encode(BODY) + b"\x00",
        encode(HEADER) + encode(BODY) + encode(BODY),
        encode(1) + encode(BODY),
        encode([1]) + encode(BODY),
        encode(None) + encode(BODY),
        encode("op") + encode(BODY),
        encode({"t": "#account"}) + encode(BODY),
        encode({"op": "1", "t": "#account"}) + encode(BODY),
        encode({"op": [1], "t": "#account"}) + encode(BODY),
        encode({"op": True, "t": "#account"}) + encode(BODY),
        b"\xa2\x61t\x68#account\x62op\xc2\x49\x40" + bytes(8) + encode(BODY),  # 2**70
        encode({"op": 1}) + encode(BODY),
        encode({"op": 1, "t": 5}) + encode(BODY),
        encode({"op": 1, "t": ["#account"]}) + encode(BODY),
        encode(HEADER) + encode([BODY]),
        encode(HEADER) + encode(None),
        encode(HEADER) + encode("text"),
        b"\xa1\x62op\x1b\xff\xff\xff\xff\xff\xff\xff\xff"[:-1] + encode(BODY),
        b"\x81" * 200_000 + b"\x80" + encode(BODY),
        encode(HEADER) + b"\x81" * 200_000 + b"\x80",
        encode(HEADER) + b"\xbf\xff",
        encode(HEADER) + b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
        encode(HEADER) + b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_malformed_framing_is_refused(data):
    assert_refused(Check.FRAME, decode_frame, data)


@pytest.mark.parametrize("seq", [0, -1, SEQ_MAX + 1, "1", None, True, [1], b"1"])
def test_an_event_without_a_proper_seq_is_refused(seq):
    assert_refused(Check.FRAME, decode_frame, encode(HEADER) + encode({**BODY, "seq": seq}))


def test_a_seq_that_is_a_float_is_refused():
    one = encode({**BODY, "seq": 10**9})
    float_one = one.replace(b"\x1a\x3b\x9a\xca\x00", b"\xfb\x3f\xf0" + bytes(6))
    assert float_one != one
    assert_refused(Check.FRAME, decode_frame, encode(HEADER) + float_one)


def test_an_event_without_a_did_is_refused():
    for did in (None, 5, b"did:plc:x", [DID]):
        assert_refused(Check.FRAME, decode_frame, encode(HEADER) + encode({**BODY, "did": did}))
    missing = {key: value for key, value in BODY.items() if key != "did"}
    assert_refused(Check.FRAME, decode_frame, encode(HEADER) + encode(missing))


@pytest.mark.parametrize("item", [b"\x80", b"\xa0", b"\x00", b"\x61x"])
def test_a_large_frame_of_many_items_is_refused_before_it_takes_memory(item):
    count = 4_900_000 // len(item)
    body = b"\xa1\x61x" + head(4, count) + item * count
    tracemalloc.start()
    began = time.process_time()
    assert_refused(Check.FRAME, decode_frame, encode(HEADER) + body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 20_000_000  # the message itself is copied at most a few times
    assert time.process_time() - began < 1.0


def test_a_large_frame_of_few_items_is_read():
    body = {**BODY, "filling": b"\x80" * (LARGE_FRAME_BYTES + 1), "list": [[]] * (ITEMS_MAX // 2)}
    assert decode_frame(encode(HEADER) + encode(body)).did == DID


def test_the_largest_legal_commit_is_read():
    repo = new_repo()
    text = "x" * 9_000
    paths = [f"pub.chive.eprint.submission/{'k' * 500}{number:03}" for number in range(200)]
    commit = repo.commit([Write("create", path, record(text + path)) for path in paths])
    frame = commit_event(DID, commit, 0.0).frame(1)

    assert len(frame) > LARGE_FRAME_BYTES
    assert len(event_of(commit).ops) == 200


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_refused(data):
    value_or_refusal(decode_frame, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
header_like = st.fixed_dictionaries(
    {}, optional={"op": json_values | st.just(1), "t": json_values | st.just("#commit")}
)
body_like = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("seq", "did", "repo", "ops", "time"), json_values)
)


@given(header_like | json_values, body_like | json_values)
def test_any_two_values_are_a_frame_or_refused(header, body):
    value_or_refusal(decode_frame, encode(header) + encode(body))


@given(st.integers(0, len(ACCOUNT_DELETED) - 1), st.integers(1, 255))
def test_a_frame_with_one_byte_changed_is_a_frame_or_refused(position, change):
    data = bytearray(ACCOUNT_DELETED)
    data[position] ^= change
    value_or_refusal(decode_frame, bytes(data))


def test_a_refusal_quotes_little():
    with pytest.raises(InvalidUpstream) as refusal:
        decode_frame(encode(HEADER) + encode("x" * 10_000) + b"\xff" * 1000)
    assert len(json.dumps(str(refusal.value))) < 400
