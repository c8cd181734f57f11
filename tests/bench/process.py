"""Child processes, and what the kernel says of them.

A helper process prints JSON lines about itself; figures about a measured one are read from
`/proc`, so that nothing has to be built into it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).resolve().parents[2]


class ProcessError(RuntimeError):
    """A child ended, or said nothing in time; the message ends with its last output."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and those that it started have used so far."""

    cpu_s: float
    rss_bytes: int
    rss_bytes_max: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.cpu_s + other.cpu_s,
            self.rss_bytes + other.rss_bytes,
            self.rss_bytes_max + other.rss_bytes_max,
        )


def read_usage(pid: int) -> Usage:
    """CPU time of all threads, resident memory now and at its peak; its own processes included.

    Those that have ended are in the CPU time, and not in the memory. What processes share counts
    for each of them, and peaks are added as if they had come together: an upper bound.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    usage = Usage(
        cpu_s=sum(map(int, fields[11:15])) / TICKS_PER_S,
        rss_bytes=_bytes(status.get("VmRSS", "0")),
        rss_bytes_max=_bytes(status.get("VmHWM", "0")),
    )
    for child in _children(pid):
        with suppress(OSError):  # it may end in between
            usage += read_usage(child)
    return usage


def _bytes(kilobytes: str) -> int:
    return int(kilobytes.split(maxsplit=1)[0]) * 1024


def _children(pid: int) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may end in between
            if int(file.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(file.parent.name))
    return found


class Child:
    """A process that talks JSON lines on stdout. Leaving the context ends it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._command = [str(part) for part in command]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}

    @classmethod
    def python(cls, module: str, *arguments: str | Path, log: Path) -> Child:
        """A module of this suite, run by this interpreter."""
        return cls([sys.executable, "-m", module, *arguments], log=log)

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=self._environment,
                text=True,
            )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=100_000)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def say(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, key: str, *, timeout_s: float) -> dict[str, Any]:
        """The next line that has `key`; lines before it are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self.failure(f"said no {key!r} within {timeout_s:g} s") from None
            if line is None:
                raise self.failure(f"ended before it said {key!r}")
            if key in line:
                return line

    def heard(self, key: str) -> list[dict[str, Any]]:
        """All lines so far that have `key`; the others are dropped."""
        lines = []
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None and key in line:
                lines.append(line)
        return lines

    def terminate(self, *, timeout_s: float) -> int:
        """Ask it to end; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.failure(f"did not end within {timeout_s:g} s of SIGTERM") from None

    def failure(self, what: str) -> ProcessError:
        """An error that shows the end of the log."""
        tail = self._log.read_text(errors="replace")[-3000:]
        return ProcessError(f"{' '.join(self._command)} {what}; its log ends:\n{tail}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                facts = json.loads(line)
            except ValueError:
                continue
            if isinstance(facts, dict):
                self._lines.put(facts)
        self._lines.put(None)
