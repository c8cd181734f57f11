"""Starts a process for each document, bounds it from outside too, and takes its answer."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO

import msgspec
import structlog

from indexer.children import command, end, environment
from indexer.citations.reference import REFERENCES_MAX, bounded
from indexer.errors import ChiveIndexerError
from indexer.extraction.answer import Answer

log = structlog.get_logger(__name__)

STARTS_MAX = 10
START_RETRY_S = 1.0
"""A machine that is short of something often has it back in a moment; one without it never."""

WALL_S_MAX = 60.0
"""Beside the limit on processor time: on a busy machine a process may wait for its turn."""

ANSWER_BYTES_MAX = 8 * 1024 * 1024
CHUNK_BYTES = 65536
PROBLEM_CHARS_MAX = 300
LEFT_OUT_MAX = 1_000_000


class NoProcess(ChiveIndexerError):
    """No process for a document can be started here: no document can be read."""


class DocumentReader:
    """Satisfies `indexer.operations.citation_extraction.Documents`."""

    def __init__(
        self,
        *,
        processes_max: int,
        wall_s_max: float = WALL_S_MAX,
        start_retry_s: float = START_RETRY_S,
        python: str = sys.executable,
    ) -> None:
        self._slots = asyncio.Semaphore(processes_max)
        self._wall_s_max = wall_s_max
        self._start_retry_s = start_retry_s
        self._python = python

    async def read(self, document: IO[bytes], form: str) -> Answer:
        """The references in a document; `document` is a file at its beginning.

        Whatever the document does to its process is a problem in the answer. Raises `NoProcess`
        where none could be started for a while. A caller that is cancelled has its process killed.
        """
        async with self._slots, self._started(document, form) as process:
            try:
                async with asyncio.timeout(self._wall_s_max):
                    output = await _output(process)
                    code = None if output is None else await process.wait()
            except TimeoutError:
                return Answer(problem=f"reading it took more than {self._wall_s_max:g} s")
        if output is None:
            return Answer(problem=f"reading it gave more than {ANSWER_BYTES_MAX} bytes")
        if code != 0:
            return Answer(problem=f"reading it ended with {_cause(code)}")
        return await asyncio.to_thread(_checked, output)

    @asynccontextmanager
    async def _started(
        self, document: IO[bytes], form: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process at work on the document, which does not outlive the block."""
        process = await self._start(document, form)
        try:
            yield process
        finally:
            await end(process)

    async def _start(self, document: IO[bytes], form: str) -> asyncio.subprocess.Process:
        for attempt in range(1, STARTS_MAX + 1):
            try:
                return await asyncio.create_subprocess_exec(
                    *command("indexer.extraction.child", form, python=self._python),
                    stdin=document,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=environment(),
                    start_new_session=True,
                )
            except OSError as error:
                log.warning("extraction.no_process", attempt=attempt, reason=str(error))
                reason = error.strerror
            if attempt < STARTS_MAX:
                await asyncio.sleep(self._start_retry_s)
        raise NoProcess(f"no process for a document in {STARTS_MAX} attempts: {reason}")


async def _output(process: asyncio.subprocess.Process) -> bytes | None:
    """All that it writes; None where that is more than an answer can be."""
    if process.stdout is None:
        raise AssertionError("standard output is a pipe")
    parts, size = [], 0
    while chunk := await process.stdout.read(CHUNK_BYTES):
        parts.append(chunk)
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            return None
    return b"".join(parts)


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    if -code in {signal.SIGXCPU, signal.SIGKILL}:
        return f"{signal.Signals(-code).name}: it needs too much time or memory"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def _checked(output: bytes) -> Answer:
    """The answer of a process that the document may have taken over."""
    try:
        answer = msgspec.json.decode(output, type=Answer)
    except (ValueError, RecursionError) as error:
        return Answer(problem=f"reading it gave no answer: {error}"[:PROBLEM_CHARS_MAX])
    return Answer(
        references=[bounded(each) for each in answer.references[:REFERENCES_MAX]],
        left_out=min(max(answer.left_out, 0), LEFT_OUT_MAX),
        problem=None if answer.problem is None else answer.problem[:PROBLEM_CHARS_MAX],
        is_of_machine=answer.is_of_machine,
    )
