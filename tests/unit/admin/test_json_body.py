from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_api.json_body import BODY_BYTES_MAX, DEPTH_MAX, INTEGER_MAX, read_json
from indexer.errors import RequestRefused

TEXTS = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
JSON_LIKE = st.text('[]{}",:0123456789.eE-+\\untrfalsN \n\ud800', max_size=60)


@given(VALUES, st.booleans())
def test_what_a_client_encodes_is_read_back(value: object, is_ascii: bool):
    assert read_json(json.dumps(value, ensure_ascii=is_ascii).encode()) == value


@given(st.binary(max_size=200) | JSON_LIKE.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_value_or_a_refusal(body: bytes):
    try:
        value = read_json(body)
    except RequestRefused as error:
        assert (error.name, error.status) == ("InvalidRequest", 400)  # noqa: PT017 - a value is fine too
    else:
        assert read_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not valid JSON"),
        (b" ", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": 1, "a": 1}', "the same key twice"),
        (b'[{"a": {"b": 1, "\\u0062": 2}}]', "the same key twice"),
        (b"NaN", "NaN is not an integer"),
        (b"[Infinity]", "Infinity is not an integer"),
        (b'{"a": -Infinity}', "-Infinity is not an integer"),
        (b"1.0", "the body: 1.0 is not an integer"),
        (b'{"batchSize": 1.5}', "input batchSize: 1.5 is not an integer"),
        (b'{"a": {"b": [1, [2e1]]}}', "input b: 2e1 is not an integer"),
        (b'{"batchSize": 9007199254740992}', "input batchSize: 9007199254740992 is beyond 53"),
        (b'{"\\ud800": 1.5}', "lone surrogate"),
        (b"1e3", "1e3 is not an integer"),
        (b"1E400", "1E400 is not an integer"),
        (b"-0.0", "-0.0 is not an integer"),
        (b"9007199254740992", "is beyond 53 bits"),
        (b"-9007199254740992", "is beyond 53 bits"),
        (b"1" * 5000, "is beyond 53 bits"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"\xff\xfe[\0]\0", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\udc00": 1}', "lone surrogate"),
        (b'"\n"', "not valid JSON"),
        (b'"\\x41"', "not valid JSON"),
        (b"[" * 100_000, "nested more than"),
        (b'{"a":' * 20_000, "nested more than"),
        (b'""' + b"[" * 100_000, "nested more than"),
    ],
)
def test_what_lax_readers_take_is_refused_with_the_reason(body: bytes, why: str):
    with pytest.raises(RequestRefused) as caught:
        read_json(body)
    assert why in caught.value.message
    assert len(caught.value.message) < 200


def test_nesting_is_allowed_up_to_its_bound_and_brackets_in_strings_do_not_count():
    deepest = b"[" * DEPTH_MAX + b"]" * DEPTH_MAX
    assert read_json(deepest) == json.loads(deepest)
    with pytest.raises(RequestRefused, match="nested more than 32 deep"):
        read_json(b"[" + deepest + b"]")
    text = '[{"\\"' * 1000
    assert read_json(json.dumps([text]).encode()) == [text]
    assert read_json(b'["' + b"\\\\" * 100 + b'", ["]"]]') == ["\\" * 100, ["]"]]


def test_the_longest_body_of_the_worst_kind_is_judged_at_once():
    import time

    worst = [
        b'"' * BODY_BYTES_MAX,
        b'"\\' * (BODY_BYTES_MAX // 2),
        b'"' + b"\\" * (BODY_BYTES_MAX - 1),
        b"[]" * (BODY_BYTES_MAX // 2),
        b"[" + b"1" * (BODY_BYTES_MAX - 2) + b"]",
        b"-" * BODY_BYTES_MAX,
        b'{"a":' * (DEPTH_MAX - 1) + b'"' + b"x" * (BODY_BYTES_MAX - 200),
    ]
    for body in worst:
        started = time.process_time()
        with pytest.raises(RequestRefused):
            read_json(body)
        assert time.process_time() - started < 1.0
