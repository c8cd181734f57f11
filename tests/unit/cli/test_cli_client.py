from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest
from scripted_admin import (
    CANCEL,
    CLOSE,
    FIREHOSE,
    HEALTH,
    OVERVIEW,
    STATUS,
    TRIGGER,
    credential,
)

ID = "0fff6da2f2e94ed1bd74b6a2d8430acb"
DID = "did:plc:2xfy7t6cl7d3zheu72xg34qq"
ALL_PARTS = ["health", "firehose", "overview", "backfills", "readiness"]


def operation(status: str = "running", **fields: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "type": "didSync",
        "key": DID,
        "status": status,
        "startedAt": "2026-11-25T12:00:00.000Z",
        "recordsProcessed": 1200,
        "unit": "repo",
        "unitsProcessed": 3,
    } | fields


RUNNING = (200, {"operation": operation(phase="running", progress=50, rate=12)})
QUEUED = (200, {"operation": operation(phase="queued", recordsProcessed=0, unitsProcessed=0)})
COMPLETED = (
    200,
    {
        "operation": operation(
            "completed",
            completedAt="2026-11-25T12:01:05.000Z",
            outcomes=[{"name": "fetched", "units": 2}, {"name": "current", "units": 1}],
        )
    },
)
OVERVIEW_ANSWER = {
    "eprints": 1234,
    "authors": 5,
    "repoStates": [
        {"state": "active", "repos": 7},
        {"state": "error", "repos": 1},
        {"state": "pending", "repos": 0},
    ],
}


def serve_status(admin):
    admin.answer(
        HEALTH,
        (
            200,
            {
                "status": "degraded",
                "databases": [{"name": "sqlite", "healthy": True, "latencyMs": 2}],
                "uptime": 11520,
                "timestamp": "2026-11-25T12:00:00.000Z",
                "version": "0.1.0",
            },
        ),
    )
    admin.answer(
        FIREHOSE,
        (
            200,
            {
                "cursor": "4294967297",
                "dlqCount": 1,
                "timestamp": "2026-11-25T12:00:00.000Z",
                "url": "wss://relay.example",
                "connected": False,
                "paused": False,
                "lastReceivedAt": "2026-11-25T11:58:00.000Z",
                "lagSeconds": 125,
            },
        ),
    )
    admin.answer(OVERVIEW, (200, OVERVIEW_ANSWER))
    admin.answer(STATUS, (200, {"operations": [operation(progress=50)]}))
    components = {"store": None, "firehose": "not connected to wss://relay.example"}
    notes = {"bootstrap": "the first scan of all hosts is under way: 7 repos"}
    answer = {"ready": False, "components": components, "notes": notes}
    admin.answer("/readyz", (503, answer))


def test_status_tells_everything_on_one_screen(admin, client):
    serve_status(admin)
    code, out, err = client("status")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"chive-indexer 0.1.0 at {admin.url}: degraded, up 3 h 12 min",
        "",
        "  ready      no; firehose: not connected to wss://relay.example",
        "  bootstrap  the first scan of all hosts is under way: 7 repos",
        "  stream     not connected to wss://relay.example",
        "  cursor     4294967297, newest event 2 min 5 s old",
        "  received   2 min ago",
        "  refused    1 dead letter",
        "  store      sqlite works, answers in 2 ms",
        "  index      1,234 eprints, 5 authors",
        "  repos      7 active, 1 error",
        f"  operation  {ID} didSync [############------------] 50 %, 1,200 records, 3 repos",
    ]


def test_every_request_has_the_credential_and_running_operations_are_asked_for(admin, client):
    serve_status(admin)
    client("status")
    assert {asked.headers["Authorization"] for asked in admin.asked} == {credential()}
    assert [asked.params for asked in admin.asked if asked.path == STATUS] == [
        {"status": "running"}
    ]


def test_status_as_json_holds_what_the_daemon_said(admin, client):
    serve_status(admin)
    code, out, err = client("status", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer.pop("url") == admin.url
    assert answer.pop("troubles") == []
    assert sorted(answer) == sorted(ALL_PARTS)
    assert answer["overview"] == OVERVIEW_ANSWER
    assert answer["readiness"]["ready"] is False


def test_status_leaves_out_what_the_daemon_does_not_serve(admin, client):
    serve_status(admin)
    for path in (FIREHOSE, OVERVIEW):
        admin.answer(path, (501, {"error": "MethodNotImplemented", "message": "not served here"}))
    code, out, _ = client("status")
    assert code == 0
    assert "  cursor " not in out and "  index " not in out and "  store " in out
    assert json.loads(client("status", "--json")[1])["overview"] is None


def test_status_shows_what_it_can_of_a_daemon_whose_disk_is_full(admin, client):
    serve_status(admin)
    busy = (503, {"error": "NotEnoughResources", "message": "the disk is full"})
    for path in (FIREHOSE, OVERVIEW, "/readyz"):
        admin.answer(path, busy)
    code, out, err = client("status")
    assert (code, err) == (os.EX_UNAVAILABLE, "")
    assert "  ready      no; the disk is full\n" in out
    assert "  store      sqlite works" in out
    trouble = f"the daemon at {admin.url} says: the disk is full; try again later"
    assert out.count("trouble") == 1
    assert f"  trouble    {trouble}\n" in out
    code, out, _ = client("status", "--json")
    assert code == os.EX_UNAVAILABLE
    assert json.loads(out)["troubles"] == [trouble, trouble]


def test_texts_of_the_daemon_cannot_steer_the_terminal(admin, client):
    serve_status(admin)
    reasons = {"store": "\x1b]0;owned\x07\r\n\x9b31m"}
    admin.answer("/readyz", (503, {"ready": False, "components": reasons}))
    _, out, _ = client("status")
    assert "owned" in out
    assert all(line.isprintable() for line in out.split("\n"))


def test_backfill_sends_what_was_given_and_prints_the_operation(admin, client):
    admin.answer(TRIGGER, QUEUED)
    code, out, err = client("backfill", "didSync", "--did", DID)
    assert (code, err) == (0, "")
    assert out == f"didSync {ID}: queued, 0 records\n  over  {DID}\n"
    [asked] = admin.asked
    assert (asked.method, asked.body) == ("POST", {"type": "didSync", "did": DID})
    assert asked.headers["Content-Type"] == "application/json"


def test_every_parameter_of_a_backfill_has_its_option(admin, client):
    admin.answer(TRIGGER, QUEUED)
    options = {
        "--uri": "at://x", "--pds-url": "https://pds.example", "--batch-size": 50, "--mode": "pause"
    }  # fmt: skip
    for option, value in options.items():
        client("backfill", "pdsScan", option, value)
    client("backfill", "didSync", "--accept-rollback")
    assert [asked.body for asked in admin.asked] == [
        {"type": "pdsScan", "uri": "at://x"},
        {"type": "pdsScan", "pdsUrl": "https://pds.example"},
        {"type": "pdsScan", "batchSize": 50},
        {"type": "pdsScan", "mode": "pause"},
        {"type": "didSync", "acceptRollback": True},
    ]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [("completed", 0, "completed"), ("failed", 1, "failed"), ("cancelled", 2, "cancelled")],
)
def test_a_watched_backfill_exits_as_the_operation_ended(admin, client, status, code, said):
    admin.answer(TRIGGER, QUEUED)
    ended = operation(status, error="because" if status == "failed" else None)
    admin.answer(STATUS, RUNNING, (200, {"operation": ended}))
    exited, out, err = client("backfill", "didSync", "--did", DID, "--watch")
    assert exited == code
    assert out.startswith(f"didSync {ID}: {said}, 1,200 records\n")
    assert ("error  because" in out) == (status == "failed")
    assert "didSync [############------------] 50 %, 1,200 records, 3 repos, 12 repos/min" in err
    assert [asked.params for asked in admin.asked if asked.path == STATUS] == [{"id": ID}] * 2


def test_an_operation_that_began_by_itself_says_so(admin, client):
    listed = operation("completed") | {"isScheduled": True}
    admin.answer(STATUS, (200, {"operation": listed}))
    _, out, _ = client("operations", ID)
    assert "  begun by itself, as scheduled" in out.splitlines()


def test_a_watched_backfill_tells_how_long_it_took_and_how_its_units_ended(admin, client):
    admin.answer(TRIGGER, QUEUED)
    admin.answer(STATUS, COMPLETED)
    _, out, _ = client("backfill", "didSync", "--did", DID, "--watch")
    assert out.splitlines() == [
        f"didSync {ID}: completed in 1 min 5 s, 1,200 records",
        f"  over  {DID}",
        "  repos  fetched 2, current 1",
    ]


def test_a_watch_as_json_prints_only_the_last_state(admin, client):
    admin.answer(TRIGGER, QUEUED)
    admin.answer(STATUS, RUNNING, COMPLETED)
    code, out, _ = client("backfill", "didSync", "--did", DID, "--watch", "--json")
    assert code == 0
    assert json.loads(out) == COMPLETED[1]


def test_a_watch_outlives_a_restart_of_the_daemon(admin, client):
    busy = (503, {"error": "NotEnoughResources", "message": "the disk is full"})
    admin.answer(TRIGGER, QUEUED)
    admin.answer(STATUS, CLOSE, busy, COMPLETED)
    code, out, err = client("backfill", "didSync", "--did", DID, "--watch")
    assert code == 0
    assert "completed" in out
    assert "the daemon does not answer: waiting for it" in err
    assert admin.count(STATUS) == 3


def test_an_operation_that_is_asked_to_stop_is_shown_stopping(admin, client):
    admin.answer(TRIGGER, QUEUED)
    stopping = operation(phase="running", cancelRequested=True)
    admin.answer(STATUS, (200, {"operation": stopping}), COMPLETED)
    _, _, err = client("backfill", "didSync", "--did", DID, "--watch")
    assert err == "didSync 1,200 records, 3 repos, stopping\n"


def test_a_watch_ends_when_the_operation_is_no_longer_known(admin, client):
    admin.answer(TRIGGER, QUEUED)
    admin.answer(
        STATUS, (400, {"error": "InvalidRequest", "message": "parameter id: no operation"})
    )
    code, _, err = client("backfill", "didSync", "--did", DID, "--watch")
    assert code == os.EX_DATAERR
    assert "`chive-indexer operations` lists those that exist" in err


def test_an_interrupted_watch_leaves_the_operation_alone_and_says_how_to_go_on(
    admin, password_file
):
    admin.answer(TRIGGER, QUEUED)
    admin.answer(STATUS, RUNNING)
    command = ["backfill", "didSync", "--did", DID, "--watch", "--url", admin.url]
    with subprocess.Popen(
        [sys.executable, "-m", "indexer", *command, "--password-file", str(password_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background has SIGINT ignored, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        admin.wait_for(STATUS, 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == ""
    assert f"`chive-indexer cancel {ID}` stops it" in err
    assert "Traceback" not in err
    assert admin.count(CANCEL) == 0


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes where its output and error are a terminal."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "indexer", *arguments],
            stdout=theirs,
            stderr=theirs,
            env={"PATH": os.environ["PATH"], **environment},
            timeout=20,
            check=False,
        )
        assert done.returncode == 0
        return os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_progress_is_redrawn_in_place_on_a_terminal(admin, password_file):
    admin.answer(TRIGGER, QUEUED)
    admin.answer(STATUS, QUEUED, RUNNING, COMPLETED)
    text = on_a_terminal(
        *("backfill", "didSync", "--did", DID, "--watch"),
        *("--url", admin.url, "--password-file", str(password_file)),
    )
    drawn = text.split("\r")
    assert drawn[1].startswith("didSync 0 records, 0 repos, queued")
    assert drawn[2].startswith("didSync [############------------] 50 %")
    assert drawn[3].strip() == ""
    assert drawn[4].startswith(f"didSync {ID}: completed")


def test_colours_are_for_terminals_and_can_be_switched_off(admin, client, password_file):
    serve_status(admin)
    options = ["status", "--url", admin.url, "--password-file", str(password_file)]
    assert "\x1b[33m\x1b[1mdegraded" in on_a_terminal(*options)
    assert "\x1b" not in on_a_terminal(*options, NO_COLOR="1")
    assert "\x1b" not in client("status")[1]


def test_operations_are_listed_as_a_table(admin, client):
    failed = operation(
        "failed",
        id="b",
        type="fullReindex",
        key="fullReindex",
        error="gone\x1b[31m",
        completedAt="2026-11-25T12:00:09Z",
    )
    admin.answer(STATUS, (200, {"operations": [COMPLETED[1]["operation"], failed]}))
    code, out, err = client("operations")
    assert (code, err) == (0, "")
    header, first, second = out.splitlines()
    assert header.split() == [
        *("ID", "TYPE", "KEY", "STATUS", "DONE", "RECORDS", "STARTED", "TOOK", "ERROR")
    ]
    assert first.split() == [
        *(ID, "didSync", DID, "completed", "1,200", "2026-11-25", "12:00:00", "1", "min", "5", "s"),
    ]
    assert second.split()[:3] == ["b", "fullReindex", "failed"]
    assert second.endswith("9 s        gone\N{REPLACEMENT CHARACTER}[31m")
    assert admin.asked[0].params == {}


def test_operations_can_be_narrowed_and_shown_one_by_one(admin, client):
    admin.answer(STATUS, (200, {"operations": []}))
    assert client("operations", "--status", "failed")[1] == "There are no operations.\n"
    admin.answer(STATUS, COMPLETED)
    shown = client("operations", ID)[1]
    assert shown.startswith(f"didSync {ID}: completed in 1 min 5 s")
    assert f"  over  {DID}\n" in shown
    assert json.loads(client("operations", ID, "--json")[1]) == COMPLETED[1]
    assert [asked.params for asked in admin.asked] == [{"status": "failed"}, {"id": ID}, {"id": ID}]


def test_an_operation_is_shown_with_what_failed_and_what_there_is_to_know(admin, client):
    failures = [
        {"unit": f"did:plc:{number}", "outcome": "unreachable", "message": "no answer"}
        for number in range(11)
    ]
    note = "the live stream went on beside it"
    made = operation(status="failed", error="11 of 11 repos failed", note=note, failures=failures)
    admin.answer(STATUS, (200, {"operation": made}))
    assert client("operations", ID)[1].splitlines()[-13:] == [
        "  error  11 of 11 repos failed",
        "  note  the live stream went on beside it",
        *(f"  failed  did:plc:{number}: unreachable, no answer" for number in range(10)),
        "  failed  and more: --json lists the first hundred",
    ]


def test_cancel_says_whether_there_was_something_to_stop(admin, client):
    admin.answer(
        CANCEL,
        (200, {"success": True, "id": ID, "status": "running"}),
        (200, {"success": False, "id": ID, "status": "completed"}),
    )
    code, out, _ = client("cancel", ID)
    assert (code, out) == (0, f"Operation {ID} stops as soon as its unit of work is done.\n")
    code, out, _ = client("cancel", ID)
    assert (code, out) == (1, f"Operation {ID} had already ended: completed.\n")
    assert json.loads(client("cancel", ID, "--json")[1])["success"] is False
    assert admin.asked[0].body == {"id": ID}
