"""A document's own process: what it gives, what it cannot do, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from indexer.citations.extraction import references_of_lines
from indexer.citations.packages import Unreadable
from indexer.extraction import process
from indexer.extraction.answer import Answer
from indexer.extraction.pdf import pdf_lines
from indexer.extraction.process import STARTS_MAX, DocumentReader, NoProcess
from indexer.extraction.sandbox import CPU_S_MAX, FILES_MAX, MEMORY_BYTES_MAX
from tests.documents.hostile import endless_pdf, swollen_docx, swollen_pdf
from tests.documents.labelled import labelled_document

DOCUMENT = labelled_document()


async def read(data: bytes, form: str = "pdf", **options: float) -> Answer:
    with tempfile.TemporaryFile() as document:
        document.write(data)
        document.seek(0)
        return await DocumentReader(processes_max=1, **options).read(document, form)


async def test_a_document_is_read_as_it_would_be_here():
    answer = await read(DOCUMENT.data)
    assert answer.problem is None
    assert answer.references == references_of_lines(pdf_lines(DOCUMENT.data), is_wrapped=True)
    assert len(answer.references) == len(DOCUMENT.works)


async def test_a_text_format_is_read_too():
    answer = await read(
        "References\n\n1. Roe, A. (2001). A title of words. X.".encode("utf-16"), "txt"
    )
    assert [each.title for each in answer.references] == ["A title of words"]


@pytest.mark.parametrize(
    ("data", "form", "problem"),
    [
        (b"%PDF-1.7\n" + bytes(range(256)) * 50, "pdf", "no PDF"),
        (swollen_pdf(), "pdf", "SIGABRT"),
        (swollen_docx(), "docx", "unpacked"),
        (b"x", "no such form", "exit code"),
    ],
    ids=["garbage", "swollen pdf", "swollen docx", "bug"],
)
async def test_what_a_document_does_to_its_process_is_the_answer(data, form, problem):
    answer = await read(data, form)
    assert answer.references == []
    assert problem in (answer.problem or "")


async def test_a_process_that_cannot_be_started_is_tried_a_few_times_and_no_more(tmp_path):
    reader = DocumentReader(processes_max=1, start_retry_s=0.0, python=str(tmp_path / "absent"))
    with (
        tempfile.TemporaryFile() as document,
        capture_logs() as logged,
        pytest.raises(NoProcess, match=f"{STARTS_MAX} attempts: No such file"),
    ):
        await reader.read(document, "txt")
    events = [each["event"] for each in logged]
    assert events == ["extraction.no_process"] * STARTS_MAX


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", DOCUMENT.data[: len(DOCUMENT.data) // 3]])
def test_what_is_no_whole_pdf_is_unreadable(data: bytes):
    with pytest.raises(Unreadable):
        pdf_lines(data)


@given(at=st.integers(0, 1_000_000), junk=st.binary(min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_a_damaged_pdf_gives_lines_or_is_unreadable(at: int, junk: bytes):
    data = DOCUMENT.data
    place = at % len(data)
    with contextlib.suppress(Unreadable):
        pdf_lines(data[:place] + junk + data[place + len(junk) :])


async def test_a_document_that_takes_for_ever_is_given_up():
    answer = await read(endless_pdf(), wall_s_max=0.5)
    assert "more than 0.5 s" in (answer.problem or "")


async def test_a_caller_that_goes_away_has_the_process_killed():
    started: list[int] = []

    async def look() -> None:
        while True:
            started[:] = [
                int(pid)
                for pid in _children_of_this_process()
                if "extraction.child" in _command(pid)
            ]
            if started:
                return
            await asyncio.sleep(0.005)

    reading = asyncio.get_running_loop().create_task(read(endless_pdf()))
    async with asyncio.timeout(10):
        await look()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not [pid for pid in started if "extraction.child" in _command(str(pid))]


def _children_of_this_process() -> list[str]:
    from pathlib import Path

    return [
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]


def _command(pid: str) -> str:
    from pathlib import Path

    try:
        return (Path("/proc") / pid / "cmdline").read_bytes().decode()
    except OSError:
        return ""


def test_the_limits_and_the_filter_hold_in_the_kernel():
    """Run as the process runs: everything but computing fails, and cannot be had back."""
    script = textwrap.dedent(
        """
        import ctypes, os, platform, resource, socket, sys
        from indexer.extraction.sandbox import forbid_calls, limit_resources
        limit_resources()
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
            print(*resource.getrlimit(kind))
        forbid_calls()
        libc, tgkill = ctypes.CDLL(None, use_errno=True), {"x86_64": 234, "aarch64": 131}
        def signal(pid):
            if libc.syscall(tgkill[platform.machine()], pid, pid, 0) != 0:
                raise OSError(ctypes.get_errno(), "tgkill")
        def refused(what):
            try:
                what()
            except (PermissionError, BlockingIOError) as error:
                return error.errno
            except ValueError:
                return 1  # how Python words it for limits
            return None
        print(
            refused(lambda: socket.socket()),
            refused(lambda: open("/etc/passwd")),
            refused(lambda: open("/tmp/x", "w")),
            refused(lambda: os.fork()),
            refused(lambda: os.execv("/bin/true", ["true"])),
            refused(lambda: os.kill(os.getppid(), 0)),
            refused(lambda: signal(os.getppid())),
            refused(lambda: os.listdir("/")),
            refused(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))),
        )
        print(refused(lambda: signal(os.getpid())))
        print(sum(range(1000)), len(bytearray(10_000_000)))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:6] == [
        f"{MEMORY_BYTES_MAX} {MEMORY_BYTES_MAX}",
        f"{CPU_S_MAX} {CPU_S_MAX}",
        f"{FILES_MAX} {FILES_MAX}",
        " ".join(["1"] * 9),
        "None",
        "499500 10000000",
    ], done


async def test_a_process_gets_nothing_from_our_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHIVE_INDEXER_SECRET", "hunter2")
    script = "import os; print(sorted(os.environ))"
    env = process.environment()
    found = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True)
    assert b"SECRET" not in found.stdout


@pytest.mark.parametrize(
    "output", [b"", b"{", b'{"problem": "\xff"}', b"[" * 100_000, b'{"left_out": 1e999}']
)
def test_found_by_fuzzing_whatever_a_process_writes_is_an_answer(output: bytes):
    assert "gave no answer" in (process._checked(output).problem or "")
