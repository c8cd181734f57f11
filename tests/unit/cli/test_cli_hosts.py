from __future__ import annotations

import json
import os

from indexer.cli.hosts import LIST, RESCAN

HOST = {
    "url": "https://pds.example.com",
    "status": "healthy",
    "state": "active",
    "lastScan": "2026-11-25T12:00:00.000Z",
    "nextScanAt": "2026-11-26T12:00:00.000Z",
    "recordCount": 12,
    "repoCount": 3,
    "errorCount": 0,
    "consecutiveErrors": 0,
}
NEW = {"url": "https://other.example.com", "status": "unknown", "state": "pending"}


def answer(*items, cursor=None):
    value = {"stats": {"total": 2, "items": list(items)}}
    return (200, value if cursor is None else value | {"cursor": cursor})


def test_all_pages_of_hosts_are_listed(admin, client):
    admin.answer("/xrpc/" + LIST, answer(HOST, cursor=HOST["url"]), answer(NEW))
    code, out, err = client("pds", "list")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == [
        "https://pds.example.com", "active", "3", "12", "2026-11-25", "12:00", "2026-11-26", "12:00"
    ]  # fmt: skip
    assert lines[2] == ["https://other.example.com", "pending", "0", "never", "now"]
    assert [request.params.get("cursor") for request in admin.asked] == [None, HOST["url"]]


def test_hosts_are_listed_for_machines_as_the_daemon_gave_them(admin, client):
    admin.answer("/xrpc/" + LIST, answer(HOST))
    code, out, _ = client("pds", "list", "--json")
    assert (code, json.loads(out)) == (0, {"hosts": [HOST]})


def test_a_daemon_that_knows_no_host_says_so(admin, client):
    admin.answer("/xrpc/" + LIST, answer())
    assert client("pds", "list") == (0, "No host is known yet.\n", "")


def test_a_host_is_rescanned_by_name(admin, client):
    admin.answer("/xrpc/" + RESCAN, (200, {"success": True, "operationId": "abc"}))
    code, out, _ = client("pds", "rescan", "https://pds.example.com")
    assert (code, out) == (0, "Operation abc scans https://pds.example.com.\n")
    assert admin.asked[0].body == {"pdsUrl": "https://pds.example.com"}
    code, out, _ = client("pds", "rescan", "https://pds.example.com", "--json")
    assert json.loads(out)["operationId"] == "abc"


def test_a_refused_host_is_said_with_its_reason(admin, client):
    refusal = {"error": "InvalidRequest", "message": "parameter pdsUrl: is no origin of a host"}
    admin.answer("/xrpc/" + RESCAN, (400, refusal))
    code, _, err = client("pds", "rescan", "nonsense")
    assert code == os.EX_DATAERR and "pdsUrl" in err
