"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.archives import Archives, Trees
from tests.fuzz.engine import Target
from tests.fuzz.frames import Frames

WORLD = 1
"""Repos, documents and texts to start from are the same in every campaign; its seed mutates them."""

TARGETS: dict[str, Callable[[int], Target]] = {
    kind.name: kind for kind in (Frames, Archives, Trees)
}


def open_target(name: str) -> Target:
    """A target made ready."""
    return TARGETS[name](WORLD)
