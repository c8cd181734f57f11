"""Processes of our own code: how they are called, and what they are given of ours."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

END_S_MAX = 2.0


def command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """The program and arguments that run `module` with the code of this process."""
    return [python, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The way to the code and nothing else of ours: variables may hold settings and secrets."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill a process that has not ended, and take the rest of its output, which nobody else reads.

    Its output has to be at an end too, or the pipe outlives it.
    """
    if process.returncode is None:
        process.kill()
    with suppress(TimeoutError):  # what is not gone then hangs in the kernel
        async with asyncio.timeout(END_S_MAX):
            await process.communicate()
