"""What headers and bodies of answers mean."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import Check, InvalidUpstream
from indexer.network.answers import (
    XrpcFailure,
    exhausted_s,
    is_passing,
    parsed,
    refusal,
    requested_pause_s,
    status_label,
)

NOW = 1_800_000_000.0


def pause(**headers):
    return requested_pause_s({k.replace("_", "-"): v for k, v in headers.items()}, now_s=NOW)


def test_retry_after_is_read_as_seconds_and_as_a_date():
    assert pause(Retry_After="278") == 278.0
    assert pause(Retry_After=" 5 ") == 5.0
    assert pause(Retry_After=formatdate(NOW + 90, usegmt=True)) == 90.0
    assert pause(Retry_After="Fri, 15 Jan 2027 08:01:30 +0000") == 90.0


def test_the_reset_of_a_pds_is_unix_time():
    assert pause(RateLimit_Reset=str(int(NOW) + 45), RateLimit_Remaining="0") == 45.0
    assert pause(RateLimit_Reset=str(int(NOW) + 45)) == 45.0


def test_a_small_reset_is_a_delay():
    assert pause(RateLimit_Reset="278", RateLimit_Remaining="0") == 278.0


def test_retry_after_wins_over_the_reset_unless_it_says_nothing():
    reset = str(int(NOW) + 45)
    assert pause(Retry_After="10", RateLimit_Reset=reset) == 10.0
    assert pause(Retry_After="soon", RateLimit_Reset=reset) == 45.0
    assert pause(Retry_After="0", RateLimit_Reset=reset) == 45.0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry_After": ""},
        {"Retry_After": "-5"},
        {"Retry_After": "0"},
        {"Retry_After": "1.5"},
        {"Retry_After": "\u0661\u0662"},
        {"Retry_After": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"Retry_After": "Thu, 99 Foo 99999 99:99:99 GMT"},
        {"RateLimit_Reset": "1"[:0]},
        {"RateLimit_Reset": str(int(NOW) - 10)},
        {"RateLimit_Reset": str(int(NOW) + 10), "RateLimit_Remaining": "7"},
    ],
)
def test_headers_without_a_time_to_come_say_nothing(headers):
    assert pause(**headers) is None


def test_an_answer_that_exhausts_the_budget_names_its_end():
    reset = str(int(NOW) + 45)
    assert exhausted_s({"RateLimit-Remaining": "0", "RateLimit-Reset": reset}, now_s=NOW) == 45.0
    assert exhausted_s({"RateLimit-Remaining": "1", "RateLimit-Reset": reset}, now_s=NOW) is None


def test_an_answer_that_names_only_the_reset_does_not_close_its_host():
    reset = {"RateLimit-Reset": str(int(NOW) + 3000)}
    assert exhausted_s(reset, now_s=NOW) is None
    assert requested_pause_s(reset, now_s=NOW) == 3000.0  # of a refusal


dates = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "Tue", "x", ""]),
    st.integers(-3, 40),
    st.sampled_from(["Jan", "Feb", "Dec", "Foo", "12"]),
    st.integers(-1, 100_000),
    st.integers(-1, 30), st.integers(-1, 70), st.integers(-1, 70),
    st.sampled_from(["GMT", "+0000", "-9999", "+99999999", "", "EST"]),
)  # fmt: skip


@given(st.text(max_size=200) | dates, st.text(max_size=40), st.text(max_size=5))
def test_any_headers_give_a_pause_to_come_or_nothing(after, reset, remaining):
    headers = {"Retry-After": after, "RateLimit-Reset": reset, "RateLimit-Remaining": remaining}
    found = requested_pause_s(headers, now_s=NOW)
    assert found is None or found > 0


@given(st.binary(max_size=300), st.sampled_from([300, 400, 401, 403, 404, 410, 501]))
def test_any_body_of_a_refusal_gives_an_error_of_bounded_length(data, status):
    error = refusal(status, data, "https://pds.example.com")
    assert isinstance(error, XrpcFailure | InvalidUpstream)
    assert len(str(error)) < 1200


def test_an_xrpc_error_is_the_hosts_word():
    error = refusal(400, b'{"error":"RepoNotFound","message":"no"}', "x")
    assert isinstance(error, XrpcFailure)
    assert (error.status, error.name, error.message) == (400, "RepoNotFound", "no")


def test_names_and_messages_that_are_no_text_are_empty():
    error = refusal(400, b'{"error":5,"message":["x"]}', "x")
    assert isinstance(error, XrpcFailure) and (error.name, error.message) == ("", "")


def test_a_plain_404_is_an_answer_and_a_plain_403_is_not():
    assert isinstance(refusal(404, b"<h1>", "x"), XrpcFailure)
    plain = refusal(403, b"<h1>", "x")
    assert isinstance(plain, InvalidUpstream) and plain.check is Check.RESPONSE


def test_deep_json_is_no_body():
    assert isinstance(refusal(400, b"[" * 60_000, "x"), InvalidUpstream)


@pytest.mark.parametrize("data", [b'{"error": "\xff"}', b'{"\xff": 1}', b'"\xed\xa0\x80"'])
def test_found_by_fuzzing_json_that_is_not_utf8_is_no_body(data: bytes):
    assert parsed(data) is None
    assert isinstance(refusal(400, data, "x"), InvalidUpstream)


@given(st.integers(0, 99_999))
def test_labels_are_a_closed_set(status):
    assert status_label(status) in {
        "200", "400", "401", "403", "404", "410", "429", "500", "501", "502", "503", "504",
        *(f"{n}xx" for n in range(10)),
    }  # fmt: skip


def test_which_answers_are_worth_another_try():
    assert all(is_passing(status) for status in (408, 425, 429, 500, 502, 503, 504, 599))
    assert not any(is_passing(status) for status in (200, 302, 400, 401, 403, 404, 410, 501))
