"""Where commits of the live stream are verified: in a thread, or in a process while it is behind.

Verifying and writing are two halves of about the same size, and in one interpreter they take turns.
Where the stream brings more than can be taken in, a process of its own verifies, and both halves
have a processor each. Nothing depends on it: whatever it does not say, or says to be wrong, is
verified here, and a process that dies or hangs costs time only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog

from indexer.children import command, end, environment
from indexer.errors import ChiveIndexerError
from indexer.ingest.verification import RawFrame, Verifier
from indexer.ingest.verification_wire import (
    LENGTH_BYTES,
    VERDICTS_BYTES,
    Task,
    Verdicts,
    WorkerSettings,
    decode_greeting,
    decode_verdicts,
    encode,
    framed,
)
from indexer.model import Scope
from indexer.planning import CommitSeen, Event

log = structlog.get_logger(__name__)

FULL_FRAMES = 50
"""Of one batch: a stream that is not behind comes in smaller ones."""

BEHIND_FRAMES = 1000
"""In full batches one after the other: from then on a process is worth its start."""

CAUGHT_UP_S = 30.0
"""Without a full batch for so long, the process has nothing more to do."""

LOOK_S = 1.0
START_S_MAX = 30.0
RESTART_S = 60.0
"""After a process that failed: whatever killed it will be there for a while."""

PIECE_FRAMES = 50
PIECE_BYTES = 500_000
"""Of the commits that are sent as one task, whichever comes first: some tens of milliseconds."""

PIECES_SENT = 2
"""Tasks that the process has at once: it shall find the next one when it has done one."""

PIECE_S_MAX = 30.0
READ_BYTES = 1 << 20
"""Taken from its pipe before anybody waits for it."""

ANSWER_BYTES_MAX = 2 * VERDICTS_BYTES


class ProcessFailed(ChiveIndexerError):
    """The process could not be started, is gone, or does not answer."""


class Verification:
    """Satisfies `indexer.ingest.live.Verification`. `run` keeps the process while there is need."""

    def __init__(
        self,
        verifier: Verifier,
        settings: WorkerSettings,
        *,
        piece_s_max: float = PIECE_S_MAX,
        restart_s: float = RESTART_S,
    ) -> None:
        self._verifier = verifier
        self._settings = settings
        self._clock = verifier.clock
        self._piece_s_max = piece_s_max
        self._restart_s = restart_s
        self._in_a_row = 0  # frames of full batches
        self._full_at = 0.0  # when the last full batch came, monotonic seconds
        self._wanted = asyncio.Event()
        self._process: VerificationProcess | None = None

    @property
    def scope(self) -> Scope:
        """The collections that concern us."""
        return self._verifier.scope

    @property
    def process(self) -> VerificationProcess | None:
        """The process that verifies, if one does."""
        return self._process

    async def events(self, frames: list[RawFrame], keys: Mapping[str, str | None]) -> list[Event]:
        """One event a frame, as `Verifier.events` makes them."""
        is_full = self._weigh(len(frames))
        process = self._process
        if process is None or not is_full:
            return await asyncio.to_thread(self._verifier.events, frames, keys)
        seen = await self._by_process(process, frames, keys)
        left = [raw for at, raw in enumerate(frames) if at not in seen]
        rest = iter(await asyncio.to_thread(self._verifier.events, left, keys) if left else ())
        return [seen[at] if at in seen else next(rest) for at in range(len(frames))]

    async def run(self) -> None:
        """Keep a process for as long as the stream is behind."""
        while True:
            await self._wanted.wait()
            try:
                async with started(self._settings, self._piece_s_max) as self._process:
                    log.info("verification.process_started", pid=self._process.pid)
                    await self._caught_up(self._process)
                log.info("verification.process_ended")
            except ProcessFailed as error:
                log.warning("verification.process_failed", reason=str(error))
                self._wanted.clear()
                self._in_a_row = 0
                await asyncio.sleep(self._restart_s)
            finally:
                self._process = None

    def _weigh(self, frames: int) -> bool:
        """Whether a batch is a full one; enough of them, and a process is wanted."""
        if frames < FULL_FRAMES:
            self._in_a_row = 0
            return False
        self._in_a_row += frames
        self._full_at = self._clock.monotonic()
        if self._in_a_row >= BEHIND_FRAMES:
            self._wanted.set()
        return True

    async def _caught_up(self, process: VerificationProcess) -> None:
        while process.is_asked or self._clock.monotonic() - self._full_at < CAUGHT_UP_S:
            await process.failed(within_s=LOOK_S)
        self._wanted.clear()
        self._process = None  # from here on nobody asks it, and it can be ended

    async def _by_process(
        self,
        process: VerificationProcess,
        frames: Sequence[RawFrame],
        keys: Mapping[str, str | None],
    ) -> dict[int, CommitSeen]:
        """What it says of the commits among the frames, by their place."""
        asked = [
            (at, raw.data, key)
            for at, raw in enumerate(frames)
            if raw.frame.type == "#commit" and (key := keys.get(raw.frame.did or ""))
        ]
        try:
            verdicts = await process.verdicts(
                [(data, key) for _, data, key in asked], self._clock.now()
            )
        except ProcessFailed:
            self._process = None  # and `run` says why
            return {}
        return {
            at: msgspec.structs.replace(verdict, frame=data)
            for (at, data, _), verdict in zip(asked, verdicts, strict=True)
            if verdict is not None
        }


class VerificationProcess:
    """A process that is at work, or has failed."""

    def __init__(self, process: asyncio.subprocess.Process, piece_s_max: float) -> None:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both its ends are pipes")
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self._idle = asyncio.Event()
        self._idle.set()
        self._piece_s_max = piece_s_max
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for its verdicts."""
        return not self._idle.is_set()

    async def greeted(self) -> None:
        """Wait until it is ready for its first task. Raises `ProcessFailed` where it cannot be."""
        message = await self._heard(within_s=START_S_MAX)
        try:
            problem = decode_greeting(message)
        except msgspec.DecodeError as error:
            raise ProcessFailed(f"it does not speak as agreed: {error}") from error
        if problem is not None:
            raise ProcessFailed(problem)

    async def verdicts(self, commits: Sequence[tuple[bytes, str]], now: float) -> Verdicts:
        """One a commit. Raises `ProcessFailed`; one that was not waited for is not asked again."""
        if self._failure.done():
            raise ProcessFailed("it has failed before")
        self._idle.clear()
        try:
            return await self._ask(commits, now)
        except BaseException as error:
            failed = ProcessFailed(f"it was given up: {error!r}")
            self._fail(error if isinstance(error, ProcessFailed) else failed)
            raise
        finally:
            self._idle.set()

    async def let_go(self) -> None:
        """Answer nobody from now on, and wait until nobody waits: its output has one reader."""
        self._fail(ProcessFailed("it is being ended"))
        await self._idle.wait()

    def _fail(self, error: ProcessFailed) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # somebody may look at it, nobody has to

    async def failed(self, *, within_s: float) -> None:
        """Wait so long for a failure, and raise it."""
        await asyncio.wait((self._failure,), timeout=within_s)
        if self._failure.done():
            self._failure.result()

    async def _ask(self, commits: Sequence[tuple[bytes, str]], now: float) -> Verdicts:
        verdicts: Verdicts = []
        sent: deque[int] = deque()
        for piece in _pieces(commits):
            if len(sent) == PIECES_SENT:
                verdicts += await self._verdicts(sent.popleft())
            self._input.write(framed(encode(Task(now, piece))))
            sent.append(len(piece))
        while sent:
            verdicts += await self._verdicts(sent.popleft())
        return verdicts

    async def _verdicts(self, count: int) -> Verdicts:
        message = await self._heard(within_s=self._piece_s_max)
        try:
            verdicts = decode_verdicts(message)
        except msgspec.DecodeError as error:
            raise ProcessFailed(f"it gave no verdicts: {error}") from error
        if len(verdicts) != count:
            raise ProcessFailed(f"it gave {len(verdicts)} verdicts of {count} commits")
        return verdicts

    async def _heard(self, *, within_s: float) -> bytes:
        """Its next message."""
        try:
            async with asyncio.timeout(within_s):
                return await self._read()
        except TimeoutError as error:
            raise ProcessFailed(f"it said nothing for {within_s:g} s") from error
        except OSError as error:
            raise ProcessFailed(f"it is gone: {error}") from error

    async def _read(self) -> bytes:
        try:
            length = int.from_bytes(await self._output.readexactly(LENGTH_BYTES), "big")
            if length > ANSWER_BYTES_MAX:
                raise ProcessFailed(f"an answer of {length} bytes")
            return await self._output.readexactly(length)
        except EOFError as error:
            code = await self._process.wait()
            raise ProcessFailed(f"it ended with exit code {code}") from error


def _pieces(commits: Sequence[tuple[bytes, str]]) -> Iterator[list[tuple[bytes, str]]]:
    piece: list[tuple[bytes, str]] = []
    size = 0
    for commit in commits:
        piece.append(commit)
        size += len(commit[0])
        if len(piece) == PIECE_FRAMES or size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


@asynccontextmanager
async def started(
    settings: WorkerSettings, piece_s_max: float
) -> AsyncIterator[VerificationProcess]:
    """A process that verifies, and does not outlive the block. Raises `ProcessFailed`."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command("indexer.ingest.verification_worker", msgspec.json.encode(settings).decode()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=READ_BYTES,
            env=environment(),
            start_new_session=True,  # what is typed at a terminal is for the daemon alone
        )
    except OSError as error:
        raise ProcessFailed(f"it cannot be started: {error}") from error
    working = VerificationProcess(process, piece_s_max)
    try:
        await working.greeted()
        yield working
    finally:
        if process.returncode is None:
            process.kill()
        await working.let_go()
        await end(process)
