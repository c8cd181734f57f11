from __future__ import annotations

import json
import os

from indexer.cli.gaps import LIST, RESET

GAP = {
    "id": "3",
    "url": "wss://relay.example",
    "reason": "outdated_cursor",
    "status": "repairing",
    "startedAt": "2026-11-25T12:00:00.000Z",
    "afterSeq": 41,
    "beforeSeq": 99,
}


def test_gaps_are_listed_and_one_that_is_not_repaired_is_said_by_the_exit_code(admin, client):
    admin.answer("/xrpc/" + LIST, (200, {"gaps": [GAP]}))
    code, out, err = client("gaps")
    assert (code, err) == (1, "")
    assert out.splitlines()[1].split()[:5] == ["3", "repairing", "outdated_cursor", "41", "99"]
    repaired = GAP | {"status": "repaired", "repairedAt": "2026-11-25T12:09:00.000Z"}
    lacking = repaired | {"unreachable": 7, "unread": 2}
    admin.answer("/xrpc/" + LIST, (200, {"gaps": [lacking]}))
    code, out, _ = client("gaps")
    assert code == 0 and "7 repos, 2 lists" in out.splitlines()[1]
    admin.answer("/xrpc/" + LIST, (200, {"gaps": [repaired]}))
    assert client("gaps")[0] == 0
    code, out, _ = client("gaps", "--json")
    assert (code, json.loads(out)) == (0, {"gaps": [repaired]})


def test_an_old_gap_on_the_last_page_is_listed_and_said_by_the_exit_code(admin, client):
    """One for which there is no room yet stays open while newer ones come and are repaired."""
    repaired = GAP | {"status": "repaired", "repairedAt": "2026-11-25T12:09:00.000Z"}
    waiting = GAP | {"id": "1", "status": "open", "reason": "discovery"}
    pages = ((200, {"gaps": [repaired], "cursor": "3"}), (200, {"gaps": [waiting]}))
    admin.answer("/xrpc/" + LIST, *pages)
    code, out, _ = client("gaps")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["3", "repaired"], ["1", "open"]]
    assert [request.params for request in admin.asked] == [
        {"limit": "100"}, {"limit": "100", "cursor": "3"},
    ]  # fmt: skip
    admin.answer("/xrpc/" + LIST, *pages)
    code, out, _ = client("gaps", "--json")
    assert (code, json.loads(out)) == (1, {"gaps": [repaired, waiting]})


def test_a_stream_without_gaps_is_said_in_a_sentence(admin, client):
    admin.answer("/xrpc/" + LIST, (200, {"gaps": []}))
    assert client("gaps") == (0, "Nothing was missed.\n", "")


def test_a_cursor_is_reset_only_with_consent(admin, client):
    code, _, err = client("reset-cursor")
    assert code == os.EX_USAGE and "--yes" in err
    admin.answer("/xrpc/" + RESET, (200, {"success": True}))
    code, out, _ = client("reset-cursor", "--yes")
    assert (code, out) == (0, "The stream is followed from its present.\n")
    admin.answer("/xrpc/" + RESET, (200, {"success": True, "cursor": "7"}))
    code, out, _ = client("reset-cursor", "--yes", "--cursor", "7", "--relay", "wss://a.example")
    assert (code, out) == (0, "The stream is followed from 7 on.\n")
    sent = [request.body for request in admin.asked]
    assert sent == [
        {"consent": True, "cursor": "live"},
        {"consent": True, "cursor": "7", "url": "wss://a.example"},
    ]
