"""Pages of a directory's log, as directories of all ages write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.protocol.plc_export import PAGE_OPERATIONS, parse_export, time_text

DID = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
KEY = "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"
OPERATION = {
    "type": "plc_operation",
    "verificationMethods": {"atproto": f"did:key:{KEY}"},
    "alsoKnownAs": ["https://elsewhere.example", "at://alice.example.com"],
    "services": {
        "atproto_pds": {
            "type": "AtprotoPersonalDataServer",
            "endpoint": "https://pds.example.com/",
        }
    },
}
CREATED_AT = "2026-11-25T23:59:18.655Z"


def line(operation=OPERATION, **changed) -> bytes:
    entry = {"did": DID, "operation": operation, "nullified": False, "createdAt": CREATED_AT}
    return json.dumps(entry | changed).encode()


def test_an_operation_says_which_key_host_and_handle_it_leads_to():
    (operation,) = parse_export(line(type="sequenced_op", seq=7)).operations
    assert (operation.did, operation.is_tombstone) == (DID, False)
    assert operation.signing_key == KEY
    assert operation.pds_url == "https://pds.example.com"
    assert operation.handle == "alice.example.com"
    assert time_text(operation.made_ms) == CREATED_AT


def test_operations_of_2022_and_of_kinds_to_come_are_read_as_far_as_they_go():
    old = {
        "type": "create",
        "signingKey": f"did:key:{KEY}",
        "handle": "bob.example.com",
        "service": "https://old.example.com",
    }
    strange = {"type": "plc_something", "services": 7, "alsoKnownAs": [7]}
    gone = {"type": "plc_tombstone"}
    page = parse_export(b"\n".join([line(old), line(strange), line(gone), b""]))
    first, second, third = page.operations
    assert (first.signing_key, first.handle) == (KEY, "bob.example.com")
    assert first.pds_url == "https://old.example.com"
    assert (second.signing_key, second.pds_url, second.handle) == (None, None, None)
    assert third.is_tombstone
    assert page.is_last


def test_a_nullified_operation_never_was():
    page = parse_export(line(nullified=True))
    assert (page.operations, page.is_last) == ((), True)


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"7",
        line(operation=None),
        line(did="did:plc:A?"),
        line(did=7),
        line(createdAt="yesterday"),
        b"[" * 100_000,
        b'{"did": "\xff"}',  # found by fuzzing: no UTF-8 is an error of its own to the decoder
    ],
)
def test_a_line_that_cannot_be_read_ends_the_page_or_is_passed_over(bad: bytes):
    data = b"\n".join([line(), bad, line()])
    page = parse_export(data)
    assert (len(page.operations), page.bad_lines, page.is_last) == (1, 1, False)
    page = parse_export(data, skips_bad=True)
    assert (len(page.operations), page.bad_lines) == (2, 1)


def test_a_full_page_is_not_the_last():
    assert not parse_export(b"\n".join([line()] * PAGE_OPERATIONS)).is_last
    assert parse_export(b"\n".join([line()] * (PAGE_OPERATIONS - 1))).is_last
    assert parse_export(b"").is_last


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_page(data: bytes):
    parse_export(data)
    parse_export(data, skips_bad=True)


def test_a_time_that_no_directory_could_write_becomes_the_nearest_one():
    assert time_text(-62_135_596_805_000) == "1970-01-01T00:00:00.000Z"
    assert time_text(253_402_300_800_000) == "9999-12-31T23:59:59.999Z"
