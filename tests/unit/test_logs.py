from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from indexer.logs import (
    EVENTS_REMEMBERED,
    LINES_PER_MINUTE,
    MINUTE_S,
    PRIORITIES,
    REPEATS_PER_MINUTE,
    RepeatLimit,
)

EVENTS = """
import sys, structlog
from indexer.logs import configure_logging
configure_logging(sys.argv[1] or None, sys.argv[2])
log = structlog.get_logger()
log.debug("store.opened", path="index.db")
log.info("repo.resynced", did="did:plc:a", reason="\\x1b]0;owned\\x07 and more")
log.warning("host.slow", host=b"raw", seconds=object)
try:
    raise ValueError("first\\nsecond \\x1b[31m")
except ValueError:
    log.exception("resync.crashed")
log.critical("daemon.failed")
print("carries on")
"""
FLOOD = """
import structlog
from indexer.logs import configure_logging
configure_logging("json", "info")
log = structlog.get_logger()
for number in range(10):
    log.info("log.filled", number=number, text="x" * 6000)
print("carries on", flush=True)
input()
log.info("log.again")
"""
STALL_S = 20.0
LEVELS = ["debug", "info", "warning", "error", "critical"]
NAMES = ["store.opened", "repo.resynced", "host.slow", "resync.crashed", "daemon.failed"]


class SteppedClock:
    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def written(form: str = "", level: str = "debug", stderr=subprocess.PIPE, **environment: str):
    """A process of its own, because the configuration of structlog is one for the process."""
    done = subprocess.run(
        [sys.executable, "-c", EVENTS, form, level],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={"PATH": os.environ["PATH"], **environment},
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"carries on\n"
    return (done.stderr or b"").decode()


def passed(limit: RepeatLimit, times: int, **event: object) -> list[dict[str, object]]:
    """What of `times` equal events is written."""
    result = []
    for _ in range(times):
        try:
            result.append(dict(limit(None, "info", {"event": "host.slow", **event})))
        except structlog.DropEvent:
            continue
    return result


def test_without_a_terminal_each_event_is_one_line_of_json():
    lines = [json.loads(line) for line in written().splitlines()]
    assert [line["event"] for line in lines] == NAMES
    assert [line["level"] for line in lines] == LEVELS
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"]) for line in lines)
    assert lines[0]["path"] == "index.db"
    assert "ValueError: first\nsecond" in lines[3]["exception"]


def test_json_lines_hold_no_raw_control_character():
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", written())


@pytest.mark.parametrize(("level", "expected"), [("info", NAMES[1:]), ("error", NAMES[3:])])
def test_less_important_events_are_left_out(level: str, expected: list[str]):
    assert [json.loads(line)["event"] for line in written(level=level).splitlines()] == expected


def test_console_form_without_a_terminal_has_no_colours():
    text = written("console")
    assert "\x1b" not in text and "\x07" not in text
    assert all(name in text for name in NAMES)
    assert "\nValueError: first\nsecond" in text


def test_a_terminal_gets_the_console_form_in_colour_and_nothing_that_steers_it():
    ours, theirs = pty.openpty()
    try:
        written(stderr=theirs)
        os.set_blocking(ours, False)
        text = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "repo.resynced" in text and "\x1b[" in text
    assert "\x1b]" not in text and "\x07" not in text and "second \x1b" not in text
    assert not text.startswith("{")


@pytest.mark.parametrize("form", ["json", "console"])
def test_under_the_journal_every_line_has_its_priority(form: str):
    lines = written(form, JOURNAL_STREAM="8:12345").splitlines()
    assert all(re.match(r"<[2-7]>", line) for line in lines), lines
    firsts = [line for line in lines if any(name in line for name in NAMES)]
    assert [line[:3] for line in firsts] == [f"<{PRIORITIES[level]}>" for level in LEVELS]
    assert ("<3>ValueError: first" in lines) == (form == "console")


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else():
    with Path("/dev/full").open("wb") as full:
        written(stderr=full)  # asserts that the process carries on


def test_a_reader_of_the_log_that_stalls_holds_up_nothing_and_later_lines_are_whole_again():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with (
        os.fdopen(reader, "rb") as log,
        subprocess.Popen(
            [sys.executable, "-c", FLOOD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=writer,
        ) as process,
    ):  # fmt: skip
        os.close(writer)
        try:
            # It says so only after it has written more than the pipe takes.
            output, answer = process.stdout, process.stdin
            assert select.select([output], [], [], STALL_S)[0], "the log held up the work"
            assert output.readline() == b"carries on\n"
            os.set_blocking(reader, False)
            first = log.read()
            answer.write(b"\n")
            answer.close()
            process.wait(STALL_S)
            *_, cut, last = (first + log.read()).splitlines()
        finally:
            process.kill()
    assert json.loads(last)["event"] == "log.again"
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut)


def test_an_event_that_repeats_is_held_back_until_the_minute_is_over():
    clock = SteppedClock()
    limit = RepeatLimit(clock)
    assert len(passed(limit, REPEATS_PER_MINUTE + 30)) == REPEATS_PER_MINUTE
    clock.at += MINUTE_S
    assert passed(limit, 5) == []
    clock.at += 0.001
    [first, *rest] = passed(limit, 3)
    assert first["suppressed"] == 35
    assert len(rest) == 2 and all("suppressed" not in event for event in rest)


def test_a_slow_event_is_never_held_back():
    clock = SteppedClock()
    limit = RepeatLimit(clock)
    for _ in range(10 * REPEATS_PER_MINUTE):
        [event] = passed(limit, 1)
        assert "suppressed" not in event
        clock.at += MINUTE_S / (REPEATS_PER_MINUTE - 1)


def test_another_reason_is_another_event():
    limit = RepeatLimit(SteppedClock())
    passed(limit, REPEATS_PER_MINUTE + 1, reason="refused")
    assert len(passed(limit, 1, reason="closed")) == 1
    assert passed(limit, 1, reason="refused") == []


def test_an_event_of_ever_new_reasons_is_held_back_too():
    clock = SteppedClock()
    limit = RepeatLimit(clock)
    flood = LINES_PER_MINUTE + 30
    assert sum(len(passed(limit, 1, reason=str(n))) for n in range(flood)) == LINES_PER_MINUTE
    assert len(passed(limit, 1, event="another", reason="0")) == 1
    clock.at += MINUTE_S + 0.001
    [event] = passed(limit, 1, reason="after the flood")
    assert event["suppressed"] == 30


def test_a_flood_of_different_events_is_remembered_only_in_part():
    limit = RepeatLimit(SteppedClock())
    passed(limit, REPEATS_PER_MINUTE + 1, event="first")
    assert all(len(passed(limit, 1, event=str(n))) == 1 for n in range(EVENTS_REMEMBERED))
    assert len(passed(limit, 1, event="first")) == 1
