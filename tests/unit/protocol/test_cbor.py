from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import COLLECTION, assert_refused, record, value_or_refusal

from indexer.errors import Check
from indexer.protocol.cbor import (
    CONTAINER_ITEMS_MAX,
    KEY_BYTES_MAX,
    NESTING_MAX,
    RECORD_BYTES_MAX,
    Link,
    decode_block,
    decode_object,
    decode_record,
    encode_block,
    encode_json,
    has_float,
    has_more_items,
    json_to_dag_cbor,
)
from tests.devnet import cbor
from tests.devnet.cbor import cid_of, encode, head, to_json

CID = cid_of(b"\xa0")
RAW_CID = cid_of(b"", cbor.RAW)

NOT_DAG_CBOR = {
    "nothing": b"",
    "two items": b"\x01\x01",
    "a truncated item": b"\x61",
    "a loose integer": b"\x18\x01",
    "a loose 16-bit integer": b"\x19\x00\x01",
    "a loose length": b"\x58\x01a",
    "an indefinite list": b"\x9f\xff",
    "an indefinite text": b"\x7f\x61a\xff",
    "an indefinite map": b"\xbf\xff",
    "keys out of order": b"\xa2\x61b\x01\x61a\x02",
    "a longer key first": b"\xa2\x62aa\x01\x61b\x02",
    "a key twice": b"\xa2\x61a\x01\x61a\x02",
    "an integer key": b"\xa1\x01\x01",
    "a bytes key": b"\xa1\x41a\x01",
    "invalid UTF-8": b"\x61\xff",
    "a surrogate": b"\x63\xed\xa0\x80",
    "another tag": b"\xd8\x2b\x41\x00",
    "a link without its zero": b"\xd8\x2a\x58\x24" + CID,
    "a link of text": b"\xd8\x2a\x61a",
    "an empty link": b"\xd8\x2a\x40",
    "a half float": b"\xf9\x3c\x00",
    "a single float": b"\xfa\x3f\x80\x00\x00",
    "not a number": b"\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "infinity": b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    "undefined": b"\xf7",
    "a simple value": b"\xf8\x20",
    "a length of 2^63 bytes": b"\x5b\x80\x00\x00\x00\x00\x00\x00\x00",
    "a length of 2^63 items": b"\x9b\x80\x00\x00\x00\x00\x00\x00\x00",
    "a length of 2^32 members": b"\xbb\x00\x00\x00\x01\x00\x00\x00\x00",
    "lists far too deep": b"\x81" * 50_000,
}
each_malformed = pytest.mark.parametrize(
    "block", NOT_DAG_CBOR.values(), ids=[name.replace(" ", "-") for name in NOT_DAG_CBOR]
)


@each_malformed
def test_a_block_that_is_not_canonical_is_refused(block):
    assert_refused(Check.CBOR, decode_block, block)
    assert_refused(Check.CBOR, decode_block, b"\xa1\x61x" + block)


@each_malformed
def test_a_record_that_is_not_canonical_has_a_reason(block):
    value, problem = decode_record(b"\xa1\x61x" + block, COLLECTION)
    assert value is None
    assert problem.startswith(("record: not DAG-CBOR", "record: more than 262144 items"))


def test_links_and_byte_strings_are_told_apart():
    value = decode_block(encode({"bytes": CID, "link": cbor.Link(CID)}))
    assert (type(value["bytes"]), type(value["link"])) == (bytes, Link)
    assert value["bytes"] == value["link"] == CID


def test_a_float_is_found_however_deep():
    double = b"\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00"
    assert has_float(decode_block(double))
    assert has_float(decode_block(b"\xa1\x61a\x82\x01\xa1\x61b" + double))
    assert not has_float(decode_block(encode({"a": [1, {"b": cbor.Link(CID)}], "c": b"\xfb"})))


def nested(depth: int) -> bytes:
    """A record whose containers are `depth` deep, itself counted."""
    value: cbor.Value = 1
    for _ in range(depth - 1):
        value = [value]
    return encode({"$type": COLLECTION, "x": value})


def linked(cid: bytes) -> bytes:
    """A link to any bytes at all."""
    return b"\xd8\x2a" + head(2, len(cid) + 1) + b"\0" + cid


def keyed(key: str) -> bytes:
    return encode({"$type": COLLECTION, key: 1})


BLOB = {"$type": "blob", "ref": cbor.Link(RAW_CID), "mimeType": "text/plain", "size": 5}


@pytest.mark.parametrize(
    "block",
    [
        record("text"),
        nested(NESTING_MAX),
        encode({"$type": COLLECTION, "x": [0] * CONTAINER_ITEMS_MAX}),
        encode({"$type": COLLECTION, "x": [2**63 - 1, -(2**63)]}),
        encode({"$type": COLLECTION, "x": "\0 and \u2028"}),
        b"\xa2\x61x" + linked(b"\x01\x71\x13\x40" + b"x" * 64) + encode({"$type": COLLECTION})[1:],
        encode({"$type": COLLECTION, "x": b"$link"}),
        encode({"$type": COLLECTION, "$unknown": "$bytes", "x": {"$type": "other"}}),
        encode({"$type": COLLECTION, "x": BLOB, "y": {**BLOB, "size": 0, "more": 1}}),
        encode({"$type": COLLECTION, "x": {"cid": "b", "mimeType": "image/png"}}),
        keyed("k" * KEY_BYTES_MAX),
        encode({"$type": COLLECTION, "x": "y" * (RECORD_BYTES_MAX - 60)}),
    ],
    ids=range(12),
)
def test_a_record_within_the_data_model_is_kept_and_encodes_back(block):
    value, problem = decode_record(block, COLLECTION)
    assert problem is None
    assert json_to_dag_cbor(encode_json(value)) == block


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (encode([1]), "must be an object"),
        (encode(None), "must be an object"),
        (encode({"x": 1}), "$type: must be"),
        (encode({"$type": "pub.chive.other.thing"}), "$type: must be"),
        (encode({"$type": None}), "$type must be a name"),
        (encode({"$type": COLLECTION, "x": {"$type": 5}}), "$type must be a name"),
        (encode({"$type": COLLECTION, "x": [{"$type": ""}]}), "$type must be a name"),
        (nested(NESTING_MAX + 1), "nested more than"),
        (nested(800), "nested more than"),
        (
            encode({"$type": COLLECTION, "x": [0] * (CONTAINER_ITEMS_MAX + 1)}),
            f"more than {CONTAINER_ITEMS_MAX} items",
        ),
        (encode({"$type": COLLECTION, "x": 2**63}), "out of range"),
        (encode({"$type": COLLECTION, "x": 2**64 - 1}), "out of range"),
        (encode({"$type": COLLECTION, "x": -(2**63) - 1}), "out of range"),
        (keyed(""), "key is empty"),
        (keyed("k" * (KEY_BYTES_MAX + 1)), "key is empty or has more"),
        (keyed("é" * (KEY_BYTES_MAX // 2 + 1)), "key is empty or has more"),
        (encode({"$type": COLLECTION, "x": {"$link": cbor.cid_text(CID)}}), "reserved key"),
        (encode({"$type": COLLECTION, "x": {"$bytes": "YQ"}}), "reserved key"),
        (encode({"$type": COLLECTION, "x": {"$link": 5, "y": 1}}), "reserved key"),
        (b"\xa1\x61x" + linked(b""), "not a CID"),
        (b"\xa1\x61x" + linked(b"\0" * 36), "not a CID"),
        (b"\xa1\x61x" + linked(CID[:-1]), "not a CID"),
        (b"\xa1\x61x" + linked(b"\x12\x20" + CID[4:]), "not a CID"),
        (encode({"$type": COLLECTION, "x": {**BLOB, "size": "5"}}), "size of a blob"),
        (encode({"$type": COLLECTION, "x": {**BLOB, "size": -1}}), "size of a blob"),
        (encode({"$type": COLLECTION, "x": {**BLOB, "mimeType": ""}}), "mimeType of a blob"),
        (encode({"$type": COLLECTION, "x": {**BLOB, "ref": cbor.cid_text(CID)}}), "ref of a blob"),
        (encode({"$type": COLLECTION, "x": {"$type": "blob"}}), "ref of a blob"),
        (encode({"$type": COLLECTION, "x": "y" * RECORD_BYTES_MAX}), "bytes, more than"),
        (b"\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00", "float"),
        (b"", "not DAG-CBOR"),
    ],
    ids=range(31),
)
def test_a_record_outside_the_data_model_has_a_reason(block, reason):
    value, problem = decode_record(block, COLLECTION)
    assert value is None
    assert reason in problem


@pytest.mark.parametrize("item", [b"\x80", b"\xa0"])
def test_a_record_of_a_million_items_is_judged_by_its_structure(item):
    inner = head(4, 100_000) + item * 100_000
    began = time.process_time()
    assert decode_object(b"\xa1\x61x\x8a" + inner * 10) == (
        None,
        "record: more than 262144 items",
    )
    assert time.process_time() - began < 1.0


def test_a_record_of_lists_in_lists_is_judged_without_recursion():
    value, problem = decode_object(b"\x81" * 200_000 + b"\x80")
    assert (value, problem) == (None, f"record: nested more than {NESTING_MAX} deep")


@given(st.binary(max_size=200))
def test_items_are_counted_in_any_bytes(data):
    assert has_more_items(data, 0) == bool(data)
    assert not has_more_items(data, len(data))


def test_stored_text_that_is_no_data_model_is_a_value_error():
    for text in ("", "{", '{"a": 1.5}', '{"a": 1e400}', '{"$link": 5}', "[" * 100_000, "NaN"):
        with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is the promise
            json_to_dag_cbor(text)
    assert json_to_dag_cbor('{"a": 1.0}') == encode({"a": 1})


# What ATProto JSON can say: keys that are not reserved, integers of 64 bits.
keys = st.text(min_size=1, max_size=8).filter(lambda key: key not in {"$link", "$bytes", "$type"})
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.binary(max_size=9).map(lambda block: cbor.Link(cid_of(block)))
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def plain(value: cbor.Value) -> object:
    """The independent form as `decode_block` has it."""
    if isinstance(value, cbor.Link):
        return Link(value.cid)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_what_an_independent_encoder_wrote_is_read_back(value):
    block = encode(value)
    assert decode_block(block) == plain(value)
    assert encode_block(decode_block(block)) == block


@given(st.dictionaries(keys, values, max_size=5))
def test_records_survive_their_json(members):
    block = encode({**members, "$type": COLLECTION})
    value, problem = decode_record(block, COLLECTION)

    assert problem is None
    assert value == to_json({**members, "$type": COLLECTION})
    assert json.loads(encode_json(value)) == value
    assert json_to_dag_cbor(encode_json(value)) == block


@given(st.binary(max_size=100))
def test_any_bytes_are_a_block_or_refused_and_a_record_or_a_reason(block):
    decoded = value_or_refusal(decode_block, block)
    if decoded is not None:
        assert encode_block(decoded) == block
    value, problem = decode_record(block, COLLECTION)
    assert (value is None) != (problem is None)


@given(values, st.data())
def test_a_changed_byte_is_another_canonical_block_or_refused(value, data):
    block = bytearray(encode(value))
    position = data.draw(st.integers(0, len(block) - 1))
    block[position] ^= data.draw(st.integers(1, 255))

    decoded = value_or_refusal(decode_block, bytes(block))
    if decoded is not None:
        assert encode_block(decoded) == bytes(block)
    decode_record(bytes(block), COLLECTION)


@pytest.mark.parametrize("leaf", ["text", 1, {}, [], None, True])
@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_nesting_is_counted_whatever_lies_at_the_bottom(leaf, wrap):
    def nested(depth: int) -> dict[str, object]:
        value = leaf
        for _ in range(depth - 1):
            value = wrap(value)
        return {"$type": "com.example.record", "a": value}

    deepest = nested(NESTING_MAX)
    assert decode_record(encode(deepest), "com.example.record") == (deepest, None)
    value, problem = decode_record(encode(nested(NESTING_MAX + 1)), "com.example.record")
    assert value is None and problem is not None and "nested" in problem
