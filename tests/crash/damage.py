"""Pages of a store that a failing disk gives back as something else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


class SpoiltLeaves:
    """The leaves of a table, overwritten in the file at `path`, which nobody has open."""

    def __init__(self, path: Path, table: str) -> None:
        with closing(sqlite3.connect(path)) as db:
            (size,) = db.execute("PRAGMA page_size").fetchone()
            pages = db.execute(
                "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)
            ).fetchall()
        self._path = path
        self._nonsense = b"\xa5" * size
        self._offsets = [(page - 1) * size for (page,) in pages]
        assert self._offsets, f"{table} has no leaves"
        with path.open("r+b") as file:
            for offset in self._offsets:
                file.seek(offset)
                file.write(self._nonsense)

    def are_left(self) -> bool:
        """Whether nobody has written over them."""
        content = self._path.read_bytes()
        return all(content.startswith(self._nonsense, offset) for offset in self._offsets)
