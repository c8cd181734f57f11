from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import DID, assert_refused, signing_key, value_or_refusal

from indexer.errors import Check
from indexer.protocol.did_document import ENTRIES_MAX, parse_did_document, parse_origin
from tests.devnet.keys import base58, multibase

KEY, OTHER = signing_key(), signing_key("p256")


def method(text=None, **change):
    return {
        "id": f"{DID}#atproto",
        "type": "Multikey",
        "controller": DID,
        "publicKeyMultibase": text or multibase(KEY),
        **change,
    }


def service(url="https://pds.example.org", **change):
    return {
        "id": "#atproto_pds",
        "type": "AtprotoPersonalDataServer",
        "serviceEndpoint": url,
        **change,
    }


def document(**change):
    return {
        "id": DID,
        "alsoKnownAs": ["at://Alice.example.org"],
        "verificationMethod": [method()],
        "service": [service()],
        **change,
    }


def read(**change):
    return parse_did_document(document(**change), DID)


def test_the_parts_that_matter_are_read():
    found = read()
    assert (found.did, found.handle, found.signing_key, found.pds_url) == (
        DID,
        "alice.example.org",
        multibase(KEY),
        "https://pds.example.org",
    )


def test_a_document_may_lack_everything_but_its_id():
    found = parse_did_document({"id": DID}, DID)
    assert (found.handle, found.signing_key, found.pds_url) == (None, None, None)
    found = read(alsoKnownAs={}, verificationMethod="x", service=5)
    assert (found.handle, found.signing_key, found.pds_url) == (None, None, None)


def test_a_document_of_another_did_is_refused():
    for bad in (None, [], "x", {}, {"id": "did:plc:other"}, {"id": [DID]}, document(id={"x": DID})):
        assert_refused(Check.DID_DOCUMENT, parse_did_document, bad, DID)


@pytest.mark.parametrize("name", ["alsoKnownAs", "verificationMethod", "service"])
def test_entries_are_limited(name):
    read(**{name: [{}] * ENTRIES_MAX})
    assert_refused(Check.DID_DOCUMENT, read, **{name: [{}] * (ENTRIES_MAX + 1)})


def test_a_key_is_read_relative_full_and_legacy():
    assert read(verificationMethod=[method(id="#atproto")]).signing_key == multibase(KEY)
    legacy = method("z" + base58(OTHER.uncompressed), type=OTHER.legacy_type)
    assert read(verificationMethod=[legacy]).signing_key == multibase(OTHER)


def test_the_first_valid_entry_counts():
    broken = [
        None,
        "x",
        {},
        method(id="#other"),
        method(id=["#atproto"]),
        method(id={"#atproto": 1}),
        method(controller="did:plc:other"),
        method(controller=None),
        method(type="Ed25519VerificationKey2020"),
        method(type=["Multikey"]),
        method("zQ3shjunk"),
        method(publicKeyMultibase=5),
        method("z" + base58(b"\xe7\x01\x02" + b"\xff" * 32)),
    ]
    for entry in broken:
        assert read(verificationMethod=[entry]).signing_key is None, entry
    found = read(verificationMethod=[*broken, method(), method(multibase(OTHER))])
    assert found.signing_key == multibase(KEY)

    bad_services = [
        None,
        service(id="#other"),
        service(id=["#atproto_pds"]),
        service(type="Other"),
        service(url="ftp://pds.example.org"),
        service(url=None),
        service(serviceEndpoint={"uri": "https://pds.example.org"}),
    ]
    for entry in bad_services:
        assert read(service=[entry]).pds_url is None, entry
    found = read(
        service=[*bad_services, service(id=f"{DID}#atproto_pds"), service("https://b.org")]
    )
    assert found.pds_url == "https://pds.example.org"


def test_a_handle_is_lower_case_and_well_formed_or_none():
    assert read(alsoKnownAs=["https://x.org", 5, "at://a.example.org"]).handle == "a.example.org"
    for names in ([], ["x"], ["at://"], ["at://not a handle"], ["at://did:plc:x"], [["at://a.b"]]):
        assert read(alsoKnownAs=names).handle is None


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://pds.example.org", "https://pds.example.org"),
        ("https://pds.example.org/", "https://pds.example.org"),
        ("HTTPS://PDS.Example.org:443", "https://pds.example.org"),
        ("http://localhost:2583", "http://localhost:2583"),
        ("http://x.org:80", "http://x.org"),
        ("https://x.org.", "https://x.org"),
        ("https://x.org:8443", "https://x.org:8443"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://127.0.0.1", "https://127.0.0.1"),
    ],
)
def test_an_origin_is_normalised(url, origin):
    assert parse_origin(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pds.example.org",
        "//pds.example.org",
        "ftp://x.org",
        "file:///etc/passwd",
        "https://",
        "https://user@x.org",
        "https://user:pw@x.org",
        "https://@x.org",
        "https://x.org/path",
        "https://x.org?q",
        "https://x.org#f",
        "https://x.org:99999",
        "https://x.org:port",
        "https://x.org..",
        "https://x.org:0",
        "https://x.org:-1",
        "https://[::1",
        "https://[not-an-ip]",
        "https://x y.org",
        "https://x%2eorg",
        "https://x.org\\@y.org",
        "https://ex\u00e4mple.org",
        "https://x\u3002org",
        "https://" + "x" * 600,
    ],
)
def test_a_url_that_is_more_than_an_origin_is_none(url):
    assert parse_origin(url) is None


@given(st.text(max_size=60))
def test_any_text_is_an_origin_or_none(text):
    for url in (text, "https://" + text, "http://x.org" + text):
        origin = parse_origin(url)
        assert origin is None or parse_origin(origin) == origin


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(DID),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "type", "controller", "publicKeyMultibase", "serviceEndpoint", "other"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(list(document())), json_values), st.booleans())
def test_any_document_is_read_or_refused(change, is_ours):
    changed = document(**change)
    if is_ours:
        changed["id"] = DID
    json.dumps(changed)
    value_or_refusal(parse_did_document, changed, DID)
