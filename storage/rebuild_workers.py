"""Who does the work of a rebuild: processes of their own, or a thread where there is little.

Parts come out in the order of the copy, each as soon as it and all before it are made; a few are
made ahead. What the processes do cannot take the interpreter from the live stream, and they are
gone with the block that they were started for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from indexer.children import command, end, environment
from indexer.errors import LocalBusy
from indexer.ports import insist_on
from storage.rebuild_parts import Part, Preparing, Tell
from storage.rebuild_work import Check, Compare, Outcome, Told, Work, WorkFailed, failure, perform
from storage.rebuild_worker import WorkerSettings

log = structlog.get_logger(__name__)

AHEAD = 1
"""Parts that are made before anybody can take them, besides one for each worker."""

WORK_S_MAX = 120.0
"""For one piece of work: an ordinary one takes less than a second."""

CHECK_S_MAX = 3600.0
"""To check an index, 20 s for each GB of text where nothing else runs, or to compare records, each
of which may be a megabyte. A cancel ends it at once."""

OUTCOME_BYTES_MAX = 1 << 20


class Worker(Protocol):
    """Does one piece of work at a time."""

    async def do(self, work: Work, tell: Tell) -> Outcome:
        """What came of it. `tell` is told how far it has come while it is done: see `Told`.

        Raises `WorkFailed`, `LocalBusy` while the machine is short of something, and `LocalFault`
        where the index is found to be damaged.
        """


class Here:
    """Works in a thread of this process."""

    def __init__(self, index: Path, preparing: Preparing) -> None:
        self._index = index
        self._preparing = preparing

    async def do(self, work: Work, tell: Tell) -> Outcome:
        """As `Worker` says."""
        over, unwanted = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def tell_from_thread(count: int) -> None:
            if unwanted.is_set():
                raise WorkFailed("the rebuild was given up")
            loop.call_soon_threadsafe(tell, count)

        async def working() -> Outcome:
            try:
                return await asyncio.to_thread(
                    perform, work, self._index, self._preparing, tell_from_thread
                )
            finally:
                over.set()

        try:
            outcome = await asyncio.shield(working())
        except asyncio.CancelledError:
            # A thread ends after the piece that it is at, and writes into a folder until then that
            # is to be removed.
            unwanted.set()
            await over.wait()
            raise
        return outcome.checked()


class Elsewhere:
    """Works in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, work: Work, tell: Tell) -> Outcome:
        """As `Worker` says."""
        s_max = CHECK_S_MAX if isinstance(work, Check | Compare) else WORK_S_MAX
        try:
            async with asyncio.timeout(s_max):
                await self._ask(work)
                while isinstance(said := await self._said(), Told):
                    tell(said.count)
        except TimeoutError as error:
            raise WorkFailed(f"a process of the rebuild took more than {s_max:g} s") from error
        except OSError as error:
            raise WorkFailed(f"a process of the rebuild is gone: {error}") from error
        return said.checked()

    async def _ask(self, work: Work) -> None:
        if self._process.stdin is None:
            raise AssertionError("its input is a pipe")
        self._process.stdin.write(msgspec.json.encode(work) + b"\n")
        await self._process.stdin.drain()

    async def _said(self) -> Told | Outcome:
        if self._process.stdout is None:
            raise AssertionError("its output is a pipe")
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = await self._process.wait()
            raise WorkFailed(f"a process of the rebuild ended with exit code {code}")
        said: Told | Outcome = msgspec.json.decode(line, type=Told | Outcome)
        return said


@asynccontextmanager
async def started(count: int, settings: WorkerSettings) -> AsyncIterator[list[Elsewhere]]:
    """So many processes, which do not outlive the block. Raises `WorkFailed` where none can be."""
    async with AsyncExitStack() as stack:
        yield [Elsewhere(await stack.enter_async_context(_process(settings))) for _ in range(count)]


@asynccontextmanager
async def _process(settings: WorkerSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await insist_on(partial(_start, settings), wait)
    try:
        yield process
    finally:
        await end(process)


async def _start(settings: WorkerSettings) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command("storage.rebuild_worker", msgspec.json.encode(settings).decode()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=OUTCOME_BYTES_MAX,
            env=environment(),
            start_new_session=True,  # what is typed at a terminal is for the daemon alone
        )
    except OSError as error:
        raise failure(error, "no process can be started") from error


Plan = Callable[[Part | None], Awaitable[Part | None]]
"""The part that follows another one, or is the first; None after the last."""


class Parts:
    """The parts of a rebuild, made, in the order of the copy, and what else the workers do."""

    def __init__(
        self, workers: Sequence[Worker], plan: Plan, tell: Tell, group: asyncio.TaskGroup
    ) -> None:
        self._plan = plan
        self._tell = tell
        self._group = group
        self._idle: asyncio.Queue[Worker] = asyncio.Queue(len(workers))
        for worker in workers:
            self._idle.put_nowait(worker)
        self._coming: deque[asyncio.Task[tuple[Part, Part | None]]] = deque()
        self._ahead_max = len(workers) + AHEAD
        self._planned: Part | None = None
        self._is_all_planned = False

    async def next(self) -> Part | None:
        """The next part; None after the last."""
        while not self._is_all_planned and len(self._coming) < self._ahead_max:
            found = await insist_on(partial(self._plan, self._planned), wait)
            if found is None:
                self._is_all_planned = True
            else:
                self._planned = found
                self._coming.append(self._making(found))
        if not self._coming:
            return None
        part, rest = await self._coming.popleft()
        if rest is not None:
            self._coming.appendleft(self._making(rest))
        return part

    def _making(self, part: Part) -> asyncio.Task[tuple[Part, Part | None]]:
        return self._group.create_task(self._make(part), name="rebuild-part")

    async def _make(self, part: Part) -> tuple[Part, Part | None]:
        outcome = await insist_on(partial(self.do, part, self._tell), wait)
        return part.made(outcome.record_ids, is_more=outcome.is_more)

    async def do_all(self, works: AsyncIterator[Work], tell: Tell) -> AsyncGenerator[Outcome, None]:
        """Pieces of work that do not need each other; what came of each, in their order."""
        coming: deque[asyncio.Task[Outcome]] = deque()
        async for work in works:
            coming.append(self.begin(work, tell))
            if len(coming) == self._ahead_max:
                yield await coming.popleft()
        while coming:
            yield await coming.popleft()

    def begin(self, work: Work, tell: Tell) -> asyncio.Task[Outcome]:
        """Have a piece of work done beside all else; a failure of it ends the rebuild."""
        doing = insist_on(partial(self.do, work, tell), wait)
        return self._group.create_task(doing, name="rebuild-work")

    async def do(self, work: Work, tell: Tell = lambda _: None) -> Outcome:
        """Any piece of work, by the first worker that is idle; raises as a worker does."""
        worker = await self._idle.get()
        try:
            return await worker.do(work, tell)
        finally:
            self._idle.put_nowait(worker)


@asynccontextmanager
async def made(workers: Sequence[Worker], plan: Plan, tell: Tell) -> AsyncIterator[Parts]:
    """Parts by these workers, for as long as the block runs. `tell` is told of their records."""
    try:
        async with asyncio.TaskGroup() as group:
            yield Parts(workers, plan, tell, group)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def wait(error: LocalBusy) -> None:
    """Say why the rebuild waits."""
    log.warning("rebuild.busy", reason=str(error))
