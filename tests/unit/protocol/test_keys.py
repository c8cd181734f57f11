from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import assert_refused, signing_key, value_or_refusal, verifying_key

from indexer.errors import Check
from indexer.protocol.keys import VerifyingKey
from tests.devnet.keys import base58, did_key, high_s, multibase

MESSAGE = b"what was signed"
CURVES = pytest.mark.parametrize("curve", ["k256", "p256"])
CODES = {"k256": b"\xe7\x01", "p256": b"\x80\x24"}
TYPES = {
    "k256": "EcdsaSecp256k1VerificationKey2019",
    "p256": "EcdsaSecp256r1VerificationKey2019",
}


@CURVES
def test_a_key_in_each_of_its_texts_is_the_same_key(curve):
    key = signing_key(curve)
    parsed = verifying_key(key)

    assert parsed.multibase == multibase(key)
    assert parsed.jwt_alg == {"k256": "ES256K", "p256": "ES256"}[curve]
    assert VerifyingKey.parse(did_key(key)).multibase == parsed.multibase
    for point in (key.compressed, key.uncompressed):
        legacy = VerifyingKey.legacy(key.legacy_type, "z" + base58(point))
        assert legacy.multibase == parsed.multibase
        assert legacy.verify(MESSAGE, key.sign(MESSAGE))


@CURVES
def test_only_the_low_signature_of_the_key_over_the_message_verifies(curve):
    key = signing_key(curve)
    verify = verifying_key(key).verify
    good = key.sign(MESSAGE)

    assert verify(MESSAGE, good)
    assert not verify(MESSAGE + b"!", good)
    assert not verify(MESSAGE, signing_key(curve, "other").sign(MESSAGE))
    bad = [high_s(good, curve), good[:63], good + b"\0", b"", bytes(64), b"\xff" * 64]
    bad += [good[:32] + bytes(32), bytes(32) + good[32:], b"\x30\x44" + good[:62]]
    for position in range(0, 64, 7):
        changed = bytearray(good)
        changed[position] ^= 1
        bad.append(bytes(changed))
    for signature in bad:
        assert not verify(MESSAGE, signature)


@CURVES
def test_the_smallest_high_s_is_refused(curve):
    """Both curves take s up to half of the order, and not one more."""
    for number in range(30):
        message = str(number).encode()
        key = signing_key(curve)
        assert verifying_key(key).verify(message, key.sign(message))
        assert not verifying_key(key).verify(message, high_s(key.sign(message), curve))


@CURVES
def test_a_key_of_another_form_is_refused(curve):
    key = signing_key(curve)
    code = CODES[curve]
    off_curve = b"\x02" + b"\xff" * 32
    hybrid = bytes([6 + (key.uncompressed[-1] & 1)]) + key.uncompressed[1:]
    for raw in (
        b"",
        code,
        code + key.compressed[:-1],
        code + key.compressed + b"\0",
        code + key.uncompressed,
        code + hybrid,
        code + off_curve,
        code + b"\x05" + key.compressed[1:],
        code + bytes(33),
        b"\xed\x01" + key.compressed,
        key.compressed,
    ):
        assert_refused(Check.KEY, VerifyingKey.parse, "z" + base58(raw))
    for point in (b"", key.compressed[1:], hybrid, off_curve, key.uncompressed + b"\0", bytes(65)):
        assert_refused(Check.KEY, VerifyingKey.legacy, TYPES[curve], "z" + base58(point))
    assert_refused(Check.KEY, VerifyingKey.legacy, "Ed25519", "z" + base58(key.compressed))
    wrong = TYPES["p256" if curve == "k256" else "k256"]
    assert_refused(Check.KEY, VerifyingKey.legacy, wrong, "z" + base58(key.uncompressed))


def test_text_that_is_not_base58_is_refused():
    good = multibase(signing_key())
    for text in ("", "z", good[1:], "u" + good[1:], good[:-1] + "0", good + " ", good + "é"):
        assert_refused(Check.KEY, VerifyingKey.parse, text)
    assert_refused(Check.KEY, VerifyingKey.parse, "z" + "1" * 1_000_000)
    assert_refused(Check.KEY, VerifyingKey.parse, "did:key:did:key:" + good)


@given(st.text(max_size=60) | st.binary(max_size=70).map(lambda raw: "z" + base58(raw)))
def test_any_text_is_a_key_or_refused(text):
    for candidate in (text, "z" + text, "did:key:" + text):
        value_or_refusal(VerifyingKey.parse, candidate)
    for name in (*TYPES.values(), text):
        value_or_refusal(VerifyingKey.legacy, name, text)


@given(st.sampled_from(["k256", "p256"]), st.binary(min_size=33, max_size=33))
def test_any_33_bytes_are_a_point_or_refused(curve, point):
    key = value_or_refusal(VerifyingKey.parse, "z" + base58(CODES[curve] + point))
    if isinstance(key, VerifyingKey):
        assert key.multibase == "z" + base58(CODES[curve] + point)
        assert not key.verify(MESSAGE, point + point[:31])


@given(
    st.sampled_from(["k256", "p256"]), st.binary(max_size=70), st.binary(min_size=64, max_size=64)
)
def test_any_bytes_are_no_signature(curve, short, long):
    verify = verifying_key(signing_key(curve)).verify
    assert not verify(MESSAGE, short)
    assert not verify(MESSAGE, long)


@given(st.binary())
def test_what_either_curve_signs_verifies(message):
    for curve in ("k256", "p256"):
        key = signing_key(curve)
        assert verifying_key(key).verify(message, key.sign(message))
