from __future__ import annotations

import json

import cbrrr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_examples import DID, RECORD_NSIDS, full, record_key

from indexer.protocol.cid import cid_text, dag_cbor_cid
from indexer.records.prepare import assess_value, prepare_record, prepare_stored
from indexer.records.registry import load_registry

REGISTRY = load_registry()


def prepare(nsid, block, rkey=None):
    path = f"{nsid}/{rkey or record_key(nsid)}"
    return prepare_record(DID, path, cid_text(dag_cbor_cid(block)), block, REGISTRY)


def encode(value):
    return cbrrr.encode_dag_cbor(value, atjson_mode=True)


@pytest.mark.parametrize("nsid", RECORD_NSIDS)
def test_a_block_becomes_its_json_and_its_rows(nsid):
    value = full(nsid)
    prepared = prepare(nsid, encode(value))
    assert prepared.is_valid
    assert json.loads(prepared.value) == value
    assert (prepared.projection is not None) == (nsid in REGISTRY.types)


@pytest.mark.parametrize("nsid", RECORD_NSIDS)
def test_a_rebuild_from_the_stored_text_gives_the_same(nsid):
    prepared = prepare(nsid, encode(full(nsid)))
    again = prepare_stored(DID, prepared.path, prepared.cid, prepared.value, REGISTRY)
    assert again == prepared


def test_an_invalid_value_is_kept_with_its_reason():
    nsid = "pub.chive.review.endorsement"
    value = full(nsid) | {"contributions": []}
    prepared = prepare(nsid, encode(value))
    assert json.loads(prepared.value) == value
    assert prepared.problem == "contributions: has 0 items, at least 1 are required"
    assert prepared.projection is None


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\xff",
        b"\xa1",
        b"\x82\x01\x02",
        encode({"$type": "pub.chive.graph.vote"}),
        encode(["pub.chive.actor.mute"]),
        bytes.fromhex("a1617afb3ff0000000000000"),
        b"\x81" * 100_000,
    ],
)
def test_a_broken_data_model_is_a_row_without_value(block):
    prepared = prepare("pub.chive.actor.mute", block)
    assert prepared.value is None
    assert prepared.problem
    assert prepared.projection is None


def test_a_collection_without_type_or_lexicon_is_kept_as_it_is():
    value = {"$type": "app.bsky.feed.post", "text": "hi"}
    prepared = prepare("app.bsky.feed.post", encode(value), rkey="3kabcdefghi2b")
    assert prepared.is_valid
    assert prepared.projection is None


LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["$type", "type", "name", "uri", "ref", "cid", "label", "content"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_in_any_field_is_judged_and_never_raises(data):
    nsid = data.draw(st.sampled_from(RECORD_NSIDS))
    value = full(nsid)
    if data.draw(st.booleans()):
        value.pop("schemaRevision", None)  # the legacy path
    for name in data.draw(st.lists(st.sampled_from(sorted(value)), min_size=1, max_size=3)):
        value[name] = data.draw(JSON)
    for name in data.draw(st.lists(st.sampled_from(["fieldNodes", "license", "metadata"]))):
        value[name] = data.draw(JSON)
    problem, projection = assess_value(DID, f"{nsid}/{record_key(nsid)}", value, REGISTRY)
    assert problem is None or projection is None
