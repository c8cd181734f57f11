"""The search index of a rebuild, made in a file of its own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from indexer.records.projection import SEARCH
from storage.search_build import COPIED_BYTES, COPIED_ROWS, IndexCopy, begin_index, merge_some

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


@pytest.mark.parametrize(("chars", "rows"), [(10, COPIED_ROWS), (1 + COPIED_BYTES // 3, 3)])
def test_a_piece_of_copying_is_bounded_by_rows_and_by_what_they_hold(
    tmp_path: Path, chars: int, rows: int
):
    """Once 64 rows were a piece, however much text each of them held."""
    file, place, table = str(tmp_path / "search.db"), str(tmp_path / "place.db"), "eprint_search__7"
    for each in (file, place):
        begin_index(each, table, SEARCH)
    titles = [(f"{number} " + "x" * chars,) for number in range(2 * COPIED_ROWS)]
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executemany(f'INSERT INTO "{table}" (title) VALUES (?)', titles)
    copy = IndexCopy(file, table)
    pieces, statements = [], []
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.set_trace_callback(statements.append)
        is_more = True
        while is_more:
            statements.clear()
            is_more = copy.step(connection, lambda: True)
            copy.settle()
            pieces.append(sum(f'INTO "{table}_content"' in text for text in statements))
        connection.set_trace_callback(None)
        found = connection.execute(f'SELECT title FROM "{table}" ORDER BY rowid').fetchall()
        connection.execute(f'INSERT INTO "{table}" ("{table}") VALUES (?)', ("integrity-check",))
    assert found == titles
    assert max(pieces) == rows
    assert sum(pieces) == len(titles)
