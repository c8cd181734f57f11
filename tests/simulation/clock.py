"""Time that does not pass while everything waits: a simulated hour costs what is done in it.

Owns an event loop whose clock jumps to the next timer as soon as nothing else can happen: no
socket is ready and no other thread of the process works. Both ends of every connection live in
this process, so there is nothing outside to wait for. Timers fire in their order and at their time,
work takes as long as it takes, and no timeout is met because the machine was slow at SQLite's.
"""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import threading
import time

_LOOK_S = 0.0002
"""Real time between two looks at sockets and threads."""

_SHORT_S = 0.02
_LONG_S = 0.1

_THREADS = "/proc/self/task"
_SLEEPING = b"S"


class SimulatedClock:
    """Wall and monotonic time of a simulation: the machine's, and what was jumped over."""

    def __init__(self) -> None:
        self.step_s = 5.0
        """A long wait ends with a whole step: what ticks then ticks together, and a little late,
        as on a machine that was held up. The longer the step, the cheaper is idle time."""
        self._ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self._ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def jump_to(self, at: float) -> None:
        """Let time pass until then, by the monotonic clock."""
        self._ahead_s += max(at - self.monotonic(), 0.0)


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for sockets as any selector, but jumps over time in which nothing can happen."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__()
        self._clock = clock
        self._threads = _OtherThreads()

    def close(self) -> None:
        super().close()
        self._threads.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ends = self._clock.monotonic() + timeout
        while (left_s := ends - self._clock.monotonic()) > 0:
            ready = super().select(min(left_s, _LOOK_S))
            if ready:
                return ready
            if self._threads.have_slept():
                self._clock.jump_to(self._rounded(ends, timeout))
        return []

    def _rounded(self, at: float, waited_s: float) -> float:
        if waited_s < _SHORT_S:
            return at
        step_s = self._clock.step_s if waited_s >= _LONG_S else 1.0
        return math.ceil(at / step_s) * step_s


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in simulated time; `clock` is that time for whoever takes one."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        super().__init__(_JumpingSelector(self.clock))

    def time(self) -> float:
        return self.clock.monotonic()


class _OtherThreads:
    """All threads of the process but the one that asks.

    A thread that waits for the interpreter's lock sleeps too. It gets the lock while the selector
    waits, so only a thread that has not run between two looks has nothing to do.
    """

    def __init__(self) -> None:
        self._own = str(threading.get_native_id())
        self._files: dict[str, tuple[int, int]] = {}  # thread -> its stat, its schedstat
        self._runs: dict[str, bytes] = {}  # thread -> how often and how long it had run

    def have_slept(self) -> bool:
        """Whether none has run since the last look, runs now, or waits for processor or disk."""
        before, self._runs = self._runs, {}
        try:
            for name in os.listdir(_THREADS):  # noqa: PTH208 - a thousand times a second
                if name != self._own:
                    stat, schedstat = self._files.get(name) or self._open(name)
                    state = os.pread(stat, 100, 0).rpartition(b")")[2][1:2]
                    self._runs[name] = os.pread(schedstat, 100, 0)
                    if state != _SLEEPING:
                        return False
        except OSError:  # one has just ended
            self.close()
            return False
        return self._runs == before

    def close(self) -> None:
        for files in self._files.values():
            for file in files:
                os.close(file)
        self._files.clear()

    def _open(self, name: str) -> tuple[int, int]:
        stat = os.open(f"{_THREADS}/{name}/stat", os.O_RDONLY)
        schedstat = os.open(f"{_THREADS}/{name}/schedstat", os.O_RDONLY)
        self._files[name] = stat, schedstat
        return stat, schedstat
