"""The search index of a rebuild, made in a file of its own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from indexer.records.projection import SEARCH
from storage.rebuild_work import WorkFailed
from storage.search_build import (
    APPENDED_CHARS,
    APPENDED_ROWS,
    CHECK_TELLS,
    COPIED_BYTES,
    COPIED_ROWS,
    INDEX,
    IndexCopy,
    Source,
    append,
    begin_index,
    check_index,
    merge_some,
)

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
    counts = [(0,)]
    with closing(
        sqlite3.connect(Path(place).as_uri(), uri=True, isolation_level=None)
    ) as connection:
        connection.execute(f"ATTACH DATABASE ? AS {INDEX}", (copy.uri,))
        is_more = True
        while is_more:
            is_more = copy.step(connection, lambda: True)
            copy.settle()
            counts.append(connection.execute(f'SELECT count(*) FROM "{table}_content"').fetchone())
        found = connection.execute(f'SELECT title FROM "{table}" ORDER BY rowid').fetchall()
        connection.execute(f'INSERT INTO "{table}" ("{table}") VALUES (?)', ("integrity-check",))
    assert found == titles
    assert max(after - before for (before,), (after,) in pairwise(counts)) == rows


def test_a_check_and_whoever_puts_the_index_in_place_do_not_wait_for_each_other(tmp_path: Path):
    """Once a check waited 5 s for the lock of a long copying, and began again."""
    file, place, table = str(tmp_path / "search.db"), tmp_path / "place.db", "eprint_search__2"
    for each in (file, str(place)):
        begin_index(each, table, SEARCH)
    with closing(sqlite3.connect(file)) as filling, filling:
        rows = ((f"title {number}",) for number in range(2 * COPIED_ROWS))
        filling.executemany(f'INSERT INTO "{table}" (title) VALUES (?)', rows)
    copy, steps, is_more = IndexCopy(file, table), 0, True
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as checking,
        closing(sqlite3.connect(place.as_uri(), uri=True, isolation_level=None)) as writer,
    ):
        writer.execute("PRAGMA busy_timeout=0")
        writer.execute(f"ATTACH DATABASE ? AS {INDEX}", (copy.uri,))
        while is_more:
            checking.execute("BEGIN EXCLUSIVE")  # more than a check takes
            writer.execute("BEGIN IMMEDIATE")
            is_more = copy.step(writer, lambda: True)
            checking.execute("ROLLBACK")
            check_index(file, table, lambda _: None)  # raises once it has waited in vain
            writer.execute("COMMIT")
            copy.settle()
            steps += 1
        found = writer.execute(f'SELECT count(*) FROM "{table}"').fetchone()
    assert steps > 2
    assert found == (2 * COPIED_ROWS,)


@pytest.mark.parametrize(
    ("chars", "rows"), [(10, APPENDED_ROWS), (APPENDED_CHARS // 4, 4), (APPENDED_CHARS, 1)]
)
def test_a_piece_of_appending_is_bounded_by_rows_and_by_their_text(
    tmp_path: Path, chars: int, rows: int
):
    """Once 250 rows were a piece, and only time ended a step: a cancel waited for 5 s of them."""
    file, table, count = str(tmp_path / "search.db"), "eprint_search__7", 2 * rows + 1
    begin_index(file, table, SEARCH)
    source = Source(tmp_path / "index.db", tmp_path / "1.part", after_id=0)
    with closing(sqlite3.connect(source.index)) as connection, connection:
        connection.execute("CREATE TABLE repo (id INTEGER PRIMARY KEY, did, account_status)")
        connection.execute("INSERT INTO repo VALUES (1, 'did:web:a.example', 'active')")
        connection.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, repo_id, path)")
        connection.execute("CREATE TABLE mark__7 (record_id, name, subject, text)")
        records = [(number, 1, f"a.b.c/{number}") for number in range(1, count + 1)]
        connection.executemany("INSERT INTO record VALUES (?, ?, ?)", records)
    with closing(sqlite3.connect(source.part)) as connection, connection:
        columns = ", ".join(SEARCH.own)
        connection.execute(f"CREATE TABLE own (record_id INTEGER PRIMARY KEY, {columns})")
        connection.executemany(
            f"INSERT INTO own (record_id, {SEARCH.own[0]}) VALUES (?, ?)",
            [(number, "x" * chars) for number in range(1, count + 1)],
        )
    pieces: list[int] = []

    def added(more: int) -> bool:
        pieces.append(more)
        if len(pieces) == 2:
            raise WorkFailed("nobody wants it")
        return False

    with pytest.raises(WorkFailed):
        append(file, table, SEARCH, source, added)
    assert pieces == [rows, rows]
    with closing(sqlite3.connect(file)) as connection:
        # All of a step or nothing: what was given up is begun again.
        assert connection.execute(f"SELECT count(*) FROM {table}_docsize").fetchone() == (0,)
    assert append(file, table, SEARCH, source, added) is None
    assert pieces[2:] == [rows, rows, 1]


def test_a_check_tells_how_far_it_has_come_and_ends_when_nobody_waits_for_it(tmp_path: Path):
    """Once it was one statement, after which a cancel was looked at."""
    file, table = str(tmp_path / "search.db"), "eprint_search__7"
    begin_index(file, table, SEARCH)
    with closing(sqlite3.connect(file)) as connection, connection:
        rows = [(f"{number} " * 100,) for number in range(2000)]
        connection.executemany(f'INSERT INTO "{table}" (title) VALUES (?)', rows)
        connection.execute(f'INSERT INTO "{table}" ("{table}") VALUES (?)', ("optimize",))
    told: list[int] = []
    check_index(file, table, told.append)
    assert CHECK_TELLS // 3 < sum(told) <= CHECK_TELLS
    told.clear()

    def give_up(count: int) -> None:
        told.append(count)
        raise WorkFailed("nobody wants it")

    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        check_index(file, table, give_up)
    assert told == [1]
