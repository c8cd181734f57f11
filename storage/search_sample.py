"""Whether the search index finds the rows that it has, for some of them.

What FTS5 keeps of a row and what it finds by are tables apart, so that a row can be there and not
be found. The same rows in a small index of their own say what has to be found.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing

from indexer.records.projection import SearchIndex
from storage.typed_schema import create_search_table

WORD_CHARS_MAX = 100


def unfound(
    connection: sqlite3.Connection, table: str, search: SearchIndex, record_ids: Sequence[int]
) -> tuple[int, str] | None:
    """The first of these records that a word of its row does not find, and that word.

    Looks for the first and the last word of each text. Raises `sqlite3.Error` as the file gives it.
    """
    names = ", ".join(f'"{name}"' for name in search.columns)
    places = ", ".join("?" * (1 + len(search.columns)))
    rows = connection.execute(
        f'SELECT rowid, {names} FROM "{table}"'  # noqa: S608 - declared names
        " WHERE rowid IN (SELECT value FROM json_each(?)) ORDER BY rowid",
        (json.dumps(list(record_ids)),),
    ).fetchall()
    with closing(sqlite3.connect(":memory:")) as small:
        small.execute(create_search_table(table, search))
        small.executemany(f'INSERT INTO "{table}" (rowid, {names}) VALUES ({places})', rows)  # noqa: S608 - declared names
        for record_id, *texts in rows:
            for query, word in _queries(search.columns, texts):
                wanted = (query, record_id)
                if not _finds(connection, table, wanted) and _finds(small, table, wanted):
                    return record_id, word
    return None


def _queries(columns: Sequence[str], texts: Sequence[str | None]) -> Iterator[tuple[str, str]]:
    """Each with the word that it asks for."""
    for column, text in zip(columns, texts, strict=True):
        words = (text or "").replace('"', " ").replace("\0", " ").split()
        for word in {words[0], words[-1]} if words else ():
            yield f'{column} : "{word[:WORD_CHARS_MAX]}"', word


def _finds(connection: sqlite3.Connection, table: str, wanted: tuple[str, int]) -> bool:
    found = connection.execute(
        f'SELECT 1 FROM "{table}" WHERE "{table}" MATCH ? AND rowid = ?',  # noqa: S608 - declared names
        wanted,
    )
    return found.fetchone() is not None
