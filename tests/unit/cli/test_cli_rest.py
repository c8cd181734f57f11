"""Dead letters, the held stream and denials at the terminal."""

from __future__ import annotations

import json
import os

import pytest

from indexer.cli import dead_letters, denials, stream

LETTER = {
    "id": "12",
    "errorType": "signature",
    "errorMessage": "not by\nthe key\x1b[31m",
    "retryCount": 2,
    "createdAt": "2026-11-25T12:00:00.000Z",
    "did": "did:plc:2xfy7t6cl7d3zheu72xg34qq",
}
DENIAL = {
    "subject": "spam.example",
    "kind": "host",
    "reason": "a spam farm",
    "purged": True,
    "deniedBy": "did:web:localhost",
    "deniedAt": "2026-11-25T12:00:00.000Z",
}


def bodies(admin):
    return [request.body for request in admin.asked]


def test_dead_letters_are_listed_on_a_line_each_and_the_rest_is_named(admin, client):
    path = "/xrpc/" + dead_letters.LIST
    admin.answer(path, (200, {"entries": [LETTER], "total": 3}))
    code, out, err = client("dlq", "list", "--limit", "1")
    assert code == 0
    head, line = out.splitlines()
    assert head.split() == ["id", "reason", "refused", "tries", "about", "why"]
    assert line.split()[:2] == ["12", "signature"] and "\x1b" not in line
    assert err == "2 older letters: `chive-indexer dlq list --offset 1` goes on.\n"
    code, out, _ = client("dlq", "list", "--json")
    assert json.loads(out) == {"entries": [LETTER], "total": 3}
    admin.answer(path, (200, {"entries": [], "total": 0}))
    assert client("dlq", "list") == (0, "There are no dead letters.\n", "")
    assert admin.asked[0].params == {"limit": "1", "offset": "0"}


def test_letters_are_tried_again_by_id_or_all_of_them(admin, client):
    admin.answer("/xrpc/" + dead_letters.RETRY, (200, {"success": True, "message": "is compared"}),
                 (200, {"success": False, "message": "names no account"}))  # fmt: skip
    assert client("dlq", "retry", "12") == (0, "12: is compared\n", "")
    code, out, _ = client("dlq", "retry", "13", "--json")
    assert (code, json.loads(out)) == (
        1,
        {"13": {"success": False, "message": "names no account"}},
    )
    admin.answer("/xrpc/" + dead_letters.RETRY_ALL, (200, {"retriedCount": 7}))
    assert client("dlq", "retry", "--all", "--reason", "signature") == (
        0, "7 letters will be tried again.\n", "",
    )  # fmt: skip
    assert bodies(admin) == [{"index": 12}, {"index": 13}, {"errorType": "signature"}]


@pytest.mark.parametrize(
    "arguments", [(), ("1", "--all"), ("1", "--reason", "x"), ("x",), ("--reason", "x")]
)
def test_a_retry_without_or_with_too_much_choice_is_wrong_usage(client, arguments):
    code, _, err = client("dlq", "retry", *arguments)
    assert code == os.EX_USAGE and "Usage:" in err


def test_letters_are_dropped_by_id_or_by_age(admin, client):
    admin.answer("/xrpc/" + dead_letters.DISMISS, (200, {"success": True}))
    assert client("dlq", "dismiss", "1", "2") == (0, "2 letters dropped.\n", "")
    admin.answer("/xrpc/" + dead_letters.PURGE, (200, {"purgedCount": 1}))
    assert client("dlq", "purge", "--older-than-days", "30") == (0, "1 letter dropped.\n", "")
    assert bodies(admin) == [{"index": 1}, {"index": 2}, {"olderThanDays": 30}]


UNKNOWN = (400, {"error": "InvalidRequest", "message": "parameter index: no dead letter has id 9"})


def test_of_several_letters_it_is_told_which_were_dropped(admin, client):
    path = "/xrpc/" + dead_letters.DISMISS
    good = (200, {"success": True})
    admin.answer(path, good, UNKNOWN, good)
    code, out, err = client("dlq", "dismiss", "1", "9", "3")
    assert (code, out) == (os.EX_DATAERR, "2 letters dropped: 1, 3.\n")
    assert "has id 9; `chive-indexer dlq list` shows" in err and err.count("\n") == 1
    admin.answer(path, good, UNKNOWN)
    code, out, _ = client("dlq", "dismiss", "1", "9", "--json")
    told = json.loads(out)
    assert (code, told["1"]) == (os.EX_DATAERR, {"success": True})
    assert "no dead letter has id 9" in told["9"]["error"]
    admin.answer(path, good, (503, {"error": "NotEnoughResources", "message": "disk full"}))
    code, out, err = client("dlq", "dismiss", "1", "2", "3")
    assert (code, out) == (os.EX_UNAVAILABLE, "1 letter dropped: 1.\n")
    assert "disk full" in err
    admin.answer(path, UNKNOWN)
    assert client("dlq", "dismiss", "9")[:2] == (os.EX_DATAERR, "0 letters dropped: none.\n")


def test_of_several_letters_it_is_told_which_are_tried_again(admin, client):
    admin.answer("/xrpc/" + dead_letters.RETRY, UNKNOWN, (200, {"success": True, "message": "ok"}))
    code, out, err = client("dlq", "retry", "9", "3")
    assert (code, out) == (os.EX_DATAERR, "3: ok\n")
    assert "no dead letter has id 9" in err


def test_the_stream_is_held_and_let_go_on(admin, client):
    admin.answer("/xrpc/" + stream.PAUSE, (200, {"paused": True, "cursor": "41"}))
    assert client("pause", "--reason", "maintenance") == (
        0, "The stream is held at 41; `chive-indexer resume` lets it go on.\n", "",
    )  # fmt: skip
    admin.answer("/xrpc/" + stream.RESUME, (200, {"paused": False, "cursor": "41"}))
    assert client("resume") == (0, "The stream goes on from 41.\n", "")
    _, out, _ = client("resume", "--json")
    assert json.loads(out) == {"paused": False, "cursor": "41"}
    assert bodies(admin) == [{"reason": "maintenance"}, {}, {}]


def test_that_an_operation_still_holds_the_stream_is_said(admin, client):
    admin.answer("/xrpc/" + stream.RESUME, (200, {"paused": True, "cursor": "41"}))
    code, out, _ = client("resume")
    assert code == 0
    assert out.startswith("The stream is held at 41; an operation holds it")


def test_a_denial_says_what_it_hides_and_needs_a_reason(admin, client):
    code, _, err = client("deny", "spam.example")
    assert code == os.EX_USAGE and "--reason" in err
    admin.answer("/xrpc/" + denials.DENY, (200, {"success": True, "hiddenRecords": 3}))
    assert client("deny", "did:plc:x", "--reason", "spam") == (
        0, "did:plc:x is denied, 3 records hidden.\n", "",
    )  # fmt: skip
    admin.answer("/xrpc/" + denials.DENY, (200, {"success": True}))
    code, out, _ = client("deny", "spam.example", "--reason", "spam", "--purge")
    assert "`chive-indexer denied` says when" in out
    assert bodies(admin) == [
        {"subject": "did:plc:x", "reason": "spam", "purge": False},
        {"subject": "spam.example", "reason": "spam", "purge": True},
    ]
    refusal = {"error": "InvalidRequest", "message": "input subject: must be a DID"}
    admin.answer("/xrpc/" + denials.DENY, (400, refusal))
    code, _, err = client("deny", "nonsense", "--reason", "x")
    assert code == os.EX_DATAERR and denials.REMEDY.text in err


def test_a_lifted_denial_and_none_are_told_apart(admin, client):
    admin.answer("/xrpc/" + denials.ALLOW, (200, {"success": True}), (200, {"success": False}))
    code, out, _ = client("allow", "spam.example", "--reason", "sold")
    assert code == 0 and "is being fetched again" in out
    code, out, err = client("allow", "spam.example")
    assert (code, out) == (1, "") and "`chive-indexer denied` lists what is" in err
    assert bodies(admin)[0] == {"subject": "spam.example", "reason": "sold"}


def test_all_pages_of_what_is_denied_are_listed(admin, client):
    path = "/xrpc/" + denials.LIST
    other = DENIAL | {"subject": "did:plc:x", "kind": "account", "purged": False}
    pages = ((200, {"denied": [DENIAL], "cursor": "1"}), (200, {"denied": [other]}))
    admin.answer(path, *pages)
    code, out, _ = client("denied")
    assert code == 0
    _, *lines = out.splitlines()
    assert [line.split()[2:5] for line in lines] == [
        ["host", "purged", "spam.example"], ["account", "kept", "did:plc:x"],
    ]  # fmt: skip
    assert [request.params for request in admin.asked] == [
        {"limit": "100"}, {"limit": "100", "cursor": "1"},
    ]  # fmt: skip
    admin.answer(path, *pages)
    assert json.loads(client("denied", "--json")[1]) == {"denied": [DENIAL, other]}
    admin.answer(path, (200, {"denied": []}))
    assert client("denied") == (0, "Nothing is denied.\n", "")
