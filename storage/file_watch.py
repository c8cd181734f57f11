"""Whether the file that is open is still the one at its path.

A file that somebody removes or replaces goes on to be written and read, and all of that is lost at
the next start without a word. So the process ends as soon as it is seen.
"""

from __future__ import annotations

from pathlib import Path

from indexer.errors import LocalFault


class FileWatch:
    """Remembers the file at `path`, which has just been opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = _identity(path)

    async def step(self) -> int:
        """Look once. Raises `LocalFault` when another file, or none, is there."""
        if _identity(self._path) != self._opened:
            raise LocalFault(
                f"storage.path: {self._path} was removed or replaced while it was open: what is"
                " written would be lost"
            )
        return 0


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
