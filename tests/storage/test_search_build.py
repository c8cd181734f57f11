"""The search index of a rebuild, made in a file of its own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from indexer.records.projection import SEARCH
from storage.search_build import begin_index, merge_some

PARTS = 4100
"""Twice what FTS5 holds of segments, which are those of parts until they are merged."""


def test_an_index_takes_more_parts_than_fts5_holds_segments(tmp_path: Path):
    """Once the 3,998th part of a rebuild failed as if the disk were full."""
    file, table = str(tmp_path / "search.db"), "eprint_search__7"
    begin_index(file, table, SEARCH)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for text in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF"):
            connection.execute(text).fetchall()
        for number in range(PARTS):
            connection.execute(f'INSERT INTO "{table}" (title) VALUES (?)', (f"part {number}",))
    is_first = True
    while merge_some(file, table, is_first=is_first):
        is_first = False
    with closing(sqlite3.connect(file)) as connection:
        (found,) = connection.execute(
            f'SELECT count(*) FROM "{table}" WHERE "{table}" MATCH ?', ("part",)
        ).fetchone()
        connection.execute(f'INSERT INTO "{table}" ("{table}") VALUES (?)', ("integrity-check",))
    assert found == PARTS
