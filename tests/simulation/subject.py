"""The daemon under test over several lives on one file: started, stopped, crashed, started again."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

from tests.e2e.daemon import RunningDaemon, running_daemon
from tests.simulation.clock import SimulatedClock


class Crashed(BaseException):
    """The process would have ended here."""


class WrongClock:
    """The daemon's clock: simulated time, with wall time that may be wrong by `off_s`."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.off_s = 0.0
        self._clock = clock

    def now(self) -> float:
        return self._clock.now() + self.off_s

    def monotonic(self) -> float:
        return self._clock.monotonic()


class Subject:
    """One daemon at a time. Use as an async context manager: it is stopped as by a signal."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, dict[str, Any]],
        *,
        clock: SimulatedClock,
        rng: random.Random,
    ) -> None:
        self.database = folder / "index.db"
        self.clock = WrongClock(clock)
        self._folder = folder
        self._settings = settings
        self._rng = rng
        self._stack = AsyncExitStack()
        self._daemon: RunningDaemon | None = None
        self._fatal_point: str | None = None
        self._is_dead = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def daemon(self) -> RunningDaemon:
        """The running one."""
        assert self._daemon is not None
        return self._daemon

    async def start(self) -> None:
        """Begin another life."""
        self._is_dead = False
        self._daemon = await self._stack.enter_async_context(
            running_daemon(
                self._folder, self._settings, clock=self.clock, rng=self._rng, reach=self._reach
            )
        )

    async def stop(self) -> None:
        """End as by a signal."""
        await self._stack.aclose()

    async def crash(self, point: str, within_s: float) -> bool:
        """End at the next transaction that reaches `point`; False if there was none in time.

        From that moment on nothing is committed: whatever the daemon still does on its way out
        is as if it had not been done.
        """
        task = self.daemon.task
        self._fatal_point = point
        await asyncio.wait([task], timeout=within_s)
        self._fatal_point = None
        if not self._is_dead:
            return False
        task.cancel()  # what waited for nobody's answer goes on otherwise
        await asyncio.wait([task])
        with suppress(asyncio.CancelledError, Crashed, BaseExceptionGroup):
            await self._stack.aclose()
        return True

    def _reach(self, point: str) -> None:
        """Called on the writer's thread."""
        if point == self._fatal_point:
            self._is_dead = True
        if self._is_dead:
            raise Crashed(point)
