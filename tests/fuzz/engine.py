"""The loop: make an input, judge it, count, keep what reached new lines, save what broke a promise."""

from __future__ import annotations

import gc
import hashlib
import math
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import CodeType, FrameType, ModuleType
from typing import Any, Protocol

from tests.fuzz.mutation import havoc

CPU_MS_MAX = 100.0
GROWTH_MB_MAX = 50.0
TRACED_EVERY = 200
"""One input in so many runs under the tracer, which makes it some ten times slower."""

TRACED_FIRST = 30
FOUND_SHARE = 0.1
"""Of the inputs, those made from one that reached a new line."""

FOUND_MAX = 2000
WARM_UP = 0.2
WARM_UP_MAX = 20_000
"""Inputs before memory is measured first: caches of the product are full by then."""
FAILURES_MAX = 20


class Target(Protocol):
    """One reader of what strangers send."""

    name: str
    modules: tuple[ModuleType, ...]  # whose lines guide the mutation

    def make(self, rng: Random) -> bytes:
        """One input."""

    def check(self, data: bytes) -> str:
        """`accepted ...` or `refused ...`; AssertionError or anything else is a defect."""


@dataclass(slots=True)
class Outcome:
    """What a campaign has seen; outcomes of several processes add up."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    worst_ms: float = 0.0
    growth_mb: float = 0.0
    found: int = 0
    lines_hit: int = 0
    lines: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        """Inputs that gave a value."""
        return sum(n for verdict, n in self.verdicts.items() if verdict.startswith("accepted"))

    def add(self, other: Outcome) -> None:
        """Take in what another process has seen."""
        self.inputs += other.inputs
        self.seconds += other.seconds
        self.verdicts += other.verdicts
        self.worst_ms = max(self.worst_ms, other.worst_ms)
        self.growth_mb = max(self.growth_mb, other.growth_mb)
        self.found = max(self.found, other.found)
        self.lines_hit = max(self.lines_hit, other.lines_hit)
        self.lines = max(self.lines, other.lines)
        self.failures += other.failures

    def table(self) -> str:
        """For people."""
        rate = self.inputs / max(self.seconds, 1e-9)
        head = (
            f"{self.target}: {self.inputs} inputs in {self.seconds:.0f} s ({rate:.0f}/s),"
            f" {self.accepted} accepted, worst {self.worst_ms:.1f} ms of CPU,"
            f" {self.growth_mb:.1f} MB grown, {self.lines_hit} of {self.lines} lines,"
            f" {self.found} kept for new lines, {len(self.failures)} failures"
        )
        return "\n".join([head, *(f"  {n:9} {verdict}" for verdict, n in self.verdicts.most_common())])  # fmt: skip


class Coverage:
    """Lines of some modules that were reached, by the interpreter's own tracing."""

    def __init__(self, modules: tuple[ModuleType, ...]) -> None:
        files = [str(module.__file__) for module in modules]
        self._files = frozenset(files)
        self.lines = sum(len(_lines_of(Path(file))) for file in files)
        self.hit: set[tuple[str, int]] = set()

    def run(self, act: Callable[[bytes], str], data: bytes) -> tuple[str, bool]:
        """What `act` says, and whether it reached a line for the first time."""
        before = len(self.hit)
        sys.settrace(self._call)
        try:
            verdict = act(data)
        finally:
            sys.settrace(None)
        return verdict, len(self.hit) > before

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.hit.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def _lines_of(file: Path) -> set[int]:
    """Lines inside functions: those of the module itself ran at its import."""
    top = compile(file.read_text(), str(file), "exec")
    return {line for code in _codes(top) if code.co_name != "<module>" and code.co_flags & 2
            for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno}  # fmt: skip


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


class Campaign:
    """One seeded run against one target."""

    def __init__(self, target: Target, *, seed: str, folder: Path, command: str) -> None:
        self._target = target
        self._rng = Random(f"{target.name} {seed}")
        self._folder = folder
        self._command = command
        self._coverage = Coverage(target.modules)
        self._found: list[bytes] = []
        self.outcome = Outcome(target.name)

    def run(self, inputs: int, seconds_max: float = math.inf) -> Outcome:
        """Judge so many inputs, or fewer where the time is up or too many of them fail."""
        outcome, started = self.outcome, time.monotonic()
        warm_at, resident = min(max(int(inputs * WARM_UP), 1), WARM_UP_MAX), 0.0
        for number in range(inputs):
            if number == warm_at:
                resident = resident_mb()
            self._one(number)
            outcome.inputs += 1
            is_late = number % 256 == 0 and time.monotonic() - started > seconds_max
            if is_late or len(outcome.failures) >= FAILURES_MAX:
                break
        outcome.seconds = time.monotonic() - started
        outcome.growth_mb = max(resident_mb() - resident, 0.0) if resident else 0.0
        if outcome.growth_mb > GROWTH_MB_MAX:
            outcome.failures.append(f"memory grew by {outcome.growth_mb:.1f} MB")
        outcome.found = len(self._found)
        outcome.lines_hit, outcome.lines = len(self._coverage.hit), self._coverage.lines
        return outcome

    def _one(self, number: int) -> None:
        rng = self._rng
        if self._found and rng.random() < FOUND_SHARE:
            data = havoc(rng, rng.choice(self._found), rng.choice(self._found))
        else:
            data = self._target.make(rng)
        is_traced = number % TRACED_EVERY == 0 or number < TRACED_FIRST
        started = time.thread_time_ns()
        try:
            if is_traced:
                verdict, is_new = self._coverage.run(self._target.check, data)
                if is_new and len(self._found) < FOUND_MAX:
                    self._found.append(data)
            else:
                verdict = self._target.check(data)
        except Exception:
            self._fail(data, traceback.format_exc(limit=-6))
            return
        took_ms = (time.thread_time_ns() - started) / 1e6
        if took_ms > CPU_MS_MAX / 2:
            # Anything may have come between, and the tracer did: what counts is the best of three.
            took_ms = min(took_ms, *(cpu_ms(self._target.check, data) for _ in range(2)))
        if took_ms > CPU_MS_MAX:
            self._fail(data, f"took {took_ms:.0f} ms of CPU")
        if not is_traced:
            self.outcome.worst_ms = max(self.outcome.worst_ms, took_ms)
        self.outcome.verdicts[verdict] += 1

    def _fail(self, data: bytes, why: str) -> None:
        small = minimised(self._target.check, data)
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{self._target.name}-{hashlib.sha256(small).hexdigest()[:12]}"
        file.write_bytes(small)
        text = (
            f"{why.strip()}\n  repeat: {self._command} --target {self._target.name} --replay {file}"
        )
        print(text, flush=True)
        self.outcome.failures.append(text)


def minimised(check: Callable[[bytes], str], data: bytes, tries: int = 300) -> bytes:
    """A shorter input that fails in the same way, by leaving out ever smaller pieces."""
    kind = failure_kind(check, data)
    size = len(data) // 2
    while size and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            tries -= 1
            shorter = data[:at] + data[at + size :]
            if failure_kind(check, shorter) == kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def failure_kind(check: Callable[[bytes], str], data: bytes) -> str:
    """By what an input fails: the error and where it was raised, or how long it takes."""
    started = time.thread_time_ns()
    try:
        check(data)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {frame.filename}:{frame.lineno}"
    return "slow" if (time.thread_time_ns() - started) / 1e6 > CPU_MS_MAX else "fine"


def cpu_ms(check: Callable[[bytes], str], data: bytes) -> float:
    """Milliseconds of CPU that one judgement takes."""
    started = time.thread_time_ns()
    check(data)
    return (time.thread_time_ns() - started) / 1e6


def resident_mb() -> float:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
