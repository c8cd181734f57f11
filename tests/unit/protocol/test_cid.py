from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import assert_refused, value_or_refusal

from indexer.errors import Check
from indexer.protocol.cid import (
    cid_text,
    dag_cbor_cid,
    is_cid,
    is_cid_v1,
    is_dag_cbor_sha256,
    parse_cid,
    raw_cid,
)
from tests.devnet import cbor

BLOCK = b"\xa1aa\x01"
DIGEST = hashlib.sha256(BLOCK).digest()
SHA512 = b"\x01\x71\x13\x40" + hashlib.sha512(BLOCK).digest()


def test_cids_are_those_of_an_independent_writer():
    assert dag_cbor_cid(BLOCK) == cbor.cid_of(BLOCK)
    assert raw_cid(BLOCK) == cbor.cid_of(BLOCK, cbor.RAW)
    assert cid_text(dag_cbor_cid(BLOCK)) == cbor.cid_text(cbor.cid_of(BLOCK))


def test_only_dag_cbor_with_sha256_may_link_structure():
    assert is_dag_cbor_sha256(dag_cbor_cid(BLOCK))
    for cid in (raw_cid(BLOCK), b"\x12\x20" + DIGEST, SHA512, dag_cbor_cid(BLOCK)[:-1], b""):
        assert not is_dag_cbor_sha256(cid)
    assert not is_dag_cbor_sha256(dag_cbor_cid(BLOCK) + b"\0")


@pytest.mark.parametrize(
    "cid",
    [
        dag_cbor_cid(BLOCK),
        raw_cid(BLOCK),
        SHA512,
        b"\x01\xa9\x02\x12\x20" + DIGEST,
        b"\x01\x55\x00\x00",
        b"\x01\x55\x00\x03abc",
    ],
)
def test_other_codecs_and_hashes_have_the_shape_of_a_cid(cid):
    assert is_cid_v1(cid)
    assert is_cid(cid)
    assert parse_cid(cid_text(cid)) == cid


@pytest.mark.parametrize(
    "cid",
    [
        b"",
        b"\x01",
        b"\x01\x71",
        b"\x01\x71\x12",
        b"\x01\x71\x12\x20",
        b"\x01\x71\x12\x20" + DIGEST[:-1],
        b"\x01\x71\x12\x20" + DIGEST + b"\0",
        b"\x02\x71\x12\x20" + DIGEST,
        b"\x00\x01\x71\x12\x20" + DIGEST,
        b"\x01\xf1\x00\x12\x20" + DIGEST,
        b"\x01" + b"\x80" * 60,
        b"\x01\x71\x12\x7f" + b"x" * 127,
        b"\x12\x20" + DIGEST + b"\0",
    ],
)
def test_what_has_no_such_shape_is_no_cid(cid):
    assert not is_cid(cid)
    assert not is_cid_v1(cid)
    assert_refused(Check.FIELDS, parse_cid, cid_text(cid))


def test_version_0_is_a_cid_but_has_no_text_here():
    cid = b"\x12\x20" + DIGEST
    assert is_cid(cid)
    assert not is_cid_v1(cid)
    assert_refused(Check.FIELDS, parse_cid, cid_text(cid))


def test_only_one_text_stands_for_a_cid():
    text = cid_text(dag_cbor_cid(BLOCK))
    spare = text[:-1] + chr(ord(text[-1]) + 1)  # the same bytes, but for two bits that hold none
    for other in (
        text.upper(),
        "B" + text[1:],
        text + "=",
        text + "==",
        " " + text,
        text[1:],
        "z" + text[1:],
        text + "a",
        text[:-1],
        spare,
        text.replace("i", "\u0131"),
        "b" + "a" * 10_000,
        "b",
        "",
        "bß",
    ):
        assert_refused(Check.FIELDS, parse_cid, other)


@given(st.text(max_size=80) | st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=80))
def test_any_text_is_a_cid_or_refused(text):
    for candidate in (text, "b" + text):
        cid = value_or_refusal(parse_cid, candidate)
        assert cid is None or cid_text(cid) == candidate


@given(st.binary(max_size=120))
def test_any_bytes_are_judged_alike_binary_and_as_text(cid):
    assert is_cid_v1(cid) == (value_or_refusal(parse_cid, cid_text(cid)) == cid)


@given(st.binary())
def test_a_cid_survives_its_text(block):
    assert parse_cid(cid_text(dag_cbor_cid(block))) == dag_cbor_cid(block)
