"""Processes of our own code: how they are called, and what they are given of ours."""

from __future__ import annotations

import os
import sys


def command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """The program and arguments that run `module` with the code of this process."""
    return [python, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The way to the code and nothing else of ours: variables may hold settings and secrets."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
