from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import assert_refused, value_or_refusal

from indexer.errors import Check, InvalidUpstream
from indexer.protocol import syntax
from tests.devnet.clock import tid

ACCEPTED = {
    syntax.is_did: ["did:plc:abcdefghijklmnopqrstuvwx", "did:web:x.org%3A8080", "did:a:b"],
    syntax.is_plc_did: ["did:plc:abcdefghijklmnopqrstuv27"],
    syntax.is_account_did: ["did:plc:abcdefghijklmnopqrstuv27", "did:web:x.org"],
    syntax.is_handle: ["a.org", "A-b.x.org", "xn--ls8h.test"],
    syntax.is_nsid: ["com.example.fooBar", "a.b.c", "net.users.bob.ping", "a-0.b-1.c2"],
    syntax.is_rkey: ["a", "self", "~1.2-3_4:5", "x" * 512],
    syntax.is_tid: ["3kznmn7xqxl22", "2222222222222", "jzzzzzzzzzzzz"],
    syntax.is_record_path: ["com.example.fooBar/self"],
    syntax.is_at_uri: ["at://a.org", "at://did:a:b/com.example.foo", "at://a.org/a.b.c/x"],
    syntax.is_at_identifier: ["a.org", "did:a:b"],
    syntax.is_language: ["de", "de-DE", "zh-Hant-TW", "i-klingon", "en-a-foo-b-bar", "x-a-a"],
    syntax.is_uri: ["https://x.org/y", "dns:x", "at://x", "a-b.c:x", "x" + "y" * 80 + ":z"],
    syntax.is_cid: ["bafkreiccldh766hwcnuxnf2wh6jgzepf2nlu2lvcllt63eww5p6chi4ity"],
    syntax.is_datetime: [
        "2026-01-01T00:00:00Z",
        "1985-04-12T23:20:50.123456789-07:30",
        "9999-12-31T23:59:59-15:00",
        "0001-01-01T00:00:00+01:00",
    ],
}
REFUSED = {
    syntax.is_did: ["", "did:", "did:a:", "did:A:b", "did:a:b:", "did:a:b%", "did:a:b?c", "did:a:b#c",
                    "did:a:b\n", "did:a:" + "x" * 2048],
    syntax.is_plc_did: ["did:plc:abc", "did:plc:ABCDEFGHIJKLMNOPQRSTUV27", "did:web:x.org"],
    syntax.is_account_did: ["", "did:plc:abc", "did:a:b", "did:web:", "did:web:x?"],
    syntax.is_handle: ["", "org", "-a.org", "a..org", "a.org.", "a.0rg", "a_b.org", "a.org\n",
                       "x." * 130 + "org"],
    syntax.is_nsid: ["a.b", "a.b.c.", "a.b.3", "a.b.c-d", ".a.b.c", "a.b.c/x", "com.example." + "x" * 64,
                     "a.b.c\n", "x." * 200 + "c"],
    syntax.is_rkey: ["", ".", "..", "a/b", "a b", "é", "x" * 513, "a\n"],
    syntax.is_tid: ["", "3kznmn7xqxl2", "3kznmn7xqxl222", "kznmn7xqxl222", "3KZNMN7XQXL22", "0kznmn7xqxl22"],
    syntax.is_record_path: ["", "/", "a.b.c", "a.b.c/", "a.b.c/x/y", "/x", "a.b/x", "a.b.c/.."],
    syntax.is_at_uri: ["", "at://", "at://a.org/", "at://a.org/a.b.c/", "at://a.org/a.b.c/x/y",
                       "at://a.org?x", "at://a.org#x", "http://a.org", "at://a.org/a.b.c/x" + "y" * 8192],
    syntax.is_at_identifier: ["", "a", "@a.org", "did:"],
    syntax.is_language: ["", "d", "DE", "de_DE", "de--DE", "de-", "de-1996-1996", "de-Rozaj-rozaj",
                         "en-a-foo-a-bar", "en-A-foo-a-bar", "x" * 200],
    syntax.is_uri: ["", "x", "https:", "https://a b", "9x:y", "-x:y", ".x:y", "HTTPS://x.org",
                    "hTtps://x", "Https://x", "a_b:x", "a1:x", "a b:x", ":x", "x" + "y" * 81 + ":z", "https:" + "x" * 8192],
    syntax.is_cid: ["", "short", "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR", "b" * 257, "baf kre1"],
    syntax.is_datetime: ["", "0000-01-01T00:00:00+01:00", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01t00:00:00Z",
                         "2026-01-01T00:00:00z", "2026-01-01T00:00:00-00:00", "2026-13-01T00:00:00Z",
                         "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z",
                         "2026-01-01T00:00:61Z", "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+01:60",
                         "2026-01-01T00:00:00.Z", "-026-01-01T00:00:00Z", "2026-01-01T00:00:00." + "1" * 60 + "Z",
                         "\u0662026-01-01T00:00:00Z"],
}  # fmt: skip
CHECKS = list(ACCEPTED)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_format_accepts_and_refuses(check):
    for text in ACCEPTED[check]:
        assert check(text), text
    for text in REFUSED[check]:
        assert not check(text), text


PARSERS = {
    syntax.parse_did: syntax.is_did,
    syntax.parse_account_did: syntax.is_account_did,
    syntax.parse_handle: syntax.is_handle,
    syntax.parse_nsid: syntax.is_nsid,
    syntax.parse_rkey: syntax.is_rkey,
    syntax.parse_tid: syntax.is_tid,
    syntax.parse_record_path: syntax.is_record_path,
    syntax.parse_datetime: syntax.is_datetime,
}


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: PARSERS[parse].__name__)
def test_a_parser_gives_the_text_or_a_short_refusal(parse):
    for text in ACCEPTED[PARSERS[parse]]:
        assert parse(text) == text
    for text in REFUSED[PARSERS[parse]]:
        assert_refused(Check.FIELDS, parse, text)
    with pytest.raises(InvalidUpstream) as refusal:
        parse("x" * 100_000)
    assert len(str(refusal.value)) < 300


def test_the_parts_of_an_at_uri():
    assert syntax.parse_at_uri("at://a.org/a.b.c/x") == syntax.AtUri("a.org", "a.b.c", "x")
    assert syntax.parse_at_uri("at://did:a:b/a.b.c") == syntax.AtUri("did:a:b", "a.b.c", None)
    assert syntax.parse_at_uri("at://a.org") == syntax.AtUri("a.org", None, None)
    for text in REFUSED[syntax.is_at_uri]:
        assert_refused(Check.FIELDS, syntax.parse_at_uri, text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-25T14:00:00Z", datetime(2026, 11, 25, 14, tzinfo=UTC)),
        ("2026-11-25T14:00:00.250+02:00", datetime(2026, 11, 25, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-25T14:00:00-01:30", datetime(2026, 11, 25, 15, 30, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_datetime_is_a_moment(text, moment):
    assert syntax.datetime_to_unix(text) == moment.timestamp()


def test_what_is_no_datetime_is_no_moment():
    for text in REFUSED[syntax.is_datetime]:
        assert_refused(Check.FIELDS, syntax.datetime_to_unix, text)


@given(st.integers(0, 2**53 - 1), st.integers(0, 1023))
def test_a_tid_holds_its_microseconds(microseconds, clock_id):
    text = tid(microseconds, clock_id)
    assert syntax.is_tid(text)
    assert syntax.tid_timestamp_us(text) == microseconds


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_moment_of_the_calendar_is_read(moment):
    text = moment.strftime("%Y").zfill(4) + moment.strftime("-%m-%dT%H:%M:%S.%fZ")
    assert syntax.datetime_to_unix(text) == moment.timestamp()


fragments = st.lists(
    st.sampled_from(
        ["did:", "plc:", "at://", "a", "A", "0", ".", "-", "/", ":", "%", "T", "Z", "\n", "é"]
    )
).map("".join)


@given(st.text() | fragments)
def test_any_text_is_judged_and_parsed_or_refused(text):
    for check in CHECKS:
        assert check(text) in (True, False)
    for parse, check in PARSERS.items():
        assert (value_or_refusal(parse, text) is not None) == check(text)
    value_or_refusal(syntax.parse_at_uri, text)
    value_or_refusal(syntax.datetime_to_unix, text)


@pytest.mark.parametrize("unit", ["a", "a.", "a-", ".", "-", ":", "0", "a:", "aa-", "%", "\n"])
def test_no_text_makes_a_format_slow(unit):
    text = unit * 200_000
    began = time.process_time()
    for check in CHECKS:
        for prefix in ("", "did:a:", "at://", "a.b.c/", "https:"):
            check(prefix + text)
    assert time.process_time() - began < 1.0
