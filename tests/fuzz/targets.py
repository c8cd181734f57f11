"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.archives import Archives, Trees
from tests.fuzz.documents import Answers, DidDocuments, Logs
from tests.fuzz.engine import Target
from tests.fuzz.frames import Frames
from tests.fuzz.records import Records, Requests
from tests.fuzz.texts import Citations, SettingsFiles
from tests.fuzz.tokens import Tokens

WORLD = 1
"""Repos, documents and texts to start from are the same in every campaign; its seed mutates them."""

TARGETS: dict[str, Callable[[int], Target]] = {
    kind.name: kind
    for kind in (
        Frames, Archives, Trees, Records, DidDocuments, Logs, Answers, Tokens, Requests, SettingsFiles,
        Citations,
    )
}  # fmt: skip


def open_target(name: str) -> Target:
    """A target made ready."""
    return TARGETS[name](WORLD)
