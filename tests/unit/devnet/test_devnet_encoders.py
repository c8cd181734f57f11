"""The devnet's encoders against vectors, recorded bytes and independent libraries."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import cbrrr
import libipld
import pytest
from coincurve import PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tests.devnet.car import read_car, varint, write_car
from tests.devnet.cbor import (
    Link,
    cid_from_text,
    cid_of,
    cid_text,
    decode,
    decode_at,
    encode,
    from_json,
    to_json,
)
from tests.devnet.clock import ManualClock, TidClock, tid, time_text
from tests.devnet.keys import derive_key, did_key, high_s, multibase
from tests.devnet.lies import later_rev
from tests.devnet.mst import build, key_height

SHARED = Path(__file__).parents[4] / "shared"
CORPUS = SHARED / "corpus" / "real-pds"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="reference material is not here")

KEYS = st.text(max_size=8).filter(lambda key: key not in {"$bytes", "$link"})
"""In the JSON form those two stand for something else."""

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.binary(min_size=1, max_size=8).map(lambda raw: Link(cid_of(raw))),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


def for_cbrrr(value: object) -> object:
    if isinstance(value, Link):
        return cbrrr.CID(value.cid)
    if isinstance(value, list):
        return [for_cbrrr(item) for item in value]
    if isinstance(value, dict):
        return {key: for_cbrrr(item) for key, item in value.items()}
    return value


def recorded_frames(name: str) -> Iterator[bytes]:
    raw = (CORPUS / f"{name}.frames").read_bytes()
    at = 0
    while at < len(raw):
        (size,) = struct.unpack_from(">I", raw, at)
        yield raw[at + 4 : at + 4 + size]
        at += 4 + size


@given(values)
def test_encoding_is_that_of_an_independent_library(value) -> None:
    assert encode(value) == cbrrr.encode_dag_cbor(for_cbrrr(value))


@given(values)
def test_decoding_undoes_encoding(value) -> None:
    assert decode(encode(value)) == value


@given(values)
def test_json_form_encodes_to_the_same_block(value) -> None:
    encoded = encode(value)
    assert to_json(decode(encoded)) == cbrrr.decode_dag_cbor(encoded, atjson_mode=True)


@pytest.mark.parametrize("value", [1.5, {"a": 0.0}, [object()], {1, 2}])
def test_values_outside_the_data_model_are_refused(value) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_cid_text_is_that_of_an_independent_library() -> None:
    cid = cid_of(encode({"a": 1}))
    assert cid_text(cid) == libipld.encode_cid(cid)
    assert cid_from_text(cid_text(cid)) == cid


@needs_shared
def test_data_model_fixtures_have_their_bytes_and_cids() -> None:
    fixtures = json.loads((SHARED / "interop/data-model/data-model-fixtures.json").read_text())
    assert fixtures
    for fixture in fixtures:
        block = encode(from_json(fixture["json"]))
        assert to_json(decode(block)) == fixture["json"]
        assert cid_text(cid_of(block)) == fixture["cid"]


@needs_shared
@pytest.mark.parametrize("name", ["pds1.live", "pds1.replay", "pds2.live", "pds2.replay"])
def test_recorded_frames_encode_to_themselves(name) -> None:
    count = 0
    for frame in recorded_frames(name):
        header, at = decode_at(frame, 0)
        body, end = decode_at(frame, at)
        assert end == len(frame)
        assert encode(body) == frame[at:]
        assert header == {"t": header["t"], "op": 1}
        assert encode(header) == frame[:at]
        count += 1
    assert count > 50


@needs_shared
def test_recorded_repos_have_the_same_root_when_rebuilt() -> None:
    rebuilt = 0
    for path in sorted((CORPUS / "cars").glob("*.car")):
        header, blocks = read_car(path.read_bytes())
        root = decode(header)["roots"][0].cid
        stored = dict(blocks)
        assert all(cid_of(block, cid[1]) == cid for cid, block in blocks)
        commit = decode(stored[root])
        assert encode(commit) == stored[root]
        pairs = dict(recorded_leaves(stored, commit["data"].cid))
        tree = build(pairs.items())
        fresh = tree.seal()
        assert tree.root.cid == commit["data"].cid
        assert all(stored[node.cid] == node.block for node in fresh)
        assert write_car([root], blocks) == path.read_bytes()
        rebuilt += 1
    assert rebuilt == 13


def recorded_leaves(stored: dict[bytes, bytes], cid: bytes) -> Iterator[tuple[bytes, bytes]]:
    node = decode(stored[cid])
    if node["l"] is not None:
        yield from recorded_leaves(stored, node["l"].cid)
    key = b""
    for entry in node["e"]:
        key = key[: entry["p"]] + entry["k"]
        yield key, entry["v"].cid
        if entry["t"] is not None:
            yield from recorded_leaves(stored, entry["t"].cid)


@needs_shared
def test_key_heights_are_those_of_the_vectors() -> None:
    vectors = json.loads((SHARED / "interop/mst/key_heights.json").read_text())
    assert vectors
    for vector in vectors:
        assert key_height(vector["key"].encode()) == vector["height"]


def test_a_getblocks_header_without_roots_is_the_recorded_one() -> None:
    assert write_car([], []).hex() == "11a265726f6f7473806776657273696f6e01"


@pytest.mark.parametrize(
    ("number", "encoded"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02")]
)
def test_varints_are_leb128(number, encoded) -> None:
    assert varint(number).hex() == encoded


def test_k256_signatures_verify_and_have_the_low_s() -> None:
    key = derive_key("k256", 1, "a")
    signature = key.sign(b"message")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    assert 0 < s <= order // 2
    assert PublicKey(key.compressed).verify(der(r, s), b"message")
    assert int.from_bytes(high_s(signature, "k256")[32:]) == order - s


def der(r: int, s: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    return encode_dss_signature(r, s)


def test_p256_signatures_verify_are_low_s_and_deterministic() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = derive_key("p256", 1, "a")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key.compressed)
    for number in range(8):
        message = bytes([number])
        signature = key.sign(message)
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        assert s <= order // 2
        assert signature == key.sign(message)
        public.verify(der(r, s), message, ec.ECDSA(hashes.SHA256()))


def test_key_texts_are_read_back_by_an_independent_library() -> None:
    from atproto_crypto.did import parse_did_key

    for curve, algorithm in (("k256", "ES256K"), ("p256", "ES256")):
        key = derive_key(curve, 7, "b")
        parsed = parse_did_key(did_key(key))
        assert parsed.jwt_alg == algorithm
        assert parsed.key_bytes in (key.compressed, key.uncompressed)
        assert multibase(key).startswith("zQ3s" if curve == "k256" else "zDna")


def test_tids_rise_while_the_clock_stands_still() -> None:
    clock = TidClock(ManualClock(step_s=0), 3)
    tids = [clock.next() for _ in range(100)]
    assert tids == sorted(set(tids))
    assert all(len(text) == 13 for text in tids)


def test_tid_and_time_have_the_recorded_forms() -> None:
    assert tid(0) == "2222222222222"
    assert time_text(1_795_478_347.71) == "2026-11-23T23:59:07.710Z"
    assert later_rev(tid(5_000_000, 7), 2) == tid(7_000_000, 7)
