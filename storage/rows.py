"""Many rows a statement, in and out.

Python's sqlite3 lets go of the interpreter lock for each step of a statement and must win it back
after: with one row a statement the writer waits, row by row, for whatever thread is verifying the
next batch. A statement that writes 256 rows does so once, and one that deletes any number does too.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

SIZES = (256, 64, 16, 4, 1)
"""Rows of one statement, largest first: few enough texts for the connection's statement cache.

256 rows of 30 columns are far from the 32,766 parameters that SQLite allows.
"""


def insert_rows(
    connection: sqlite3.Connection,
    into: str,
    rows: Sequence[Sequence[object]],
    *,
    on_conflict: str = "",
) -> None:
    """Insert `rows`, all of one width. `into` is a table, with names of columns if not all.

    `on_conflict` is the clause for rows that are there, which is an error without.
    """
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            insert_at_once(connection, into, rows[at : at + size], on_conflict=on_conflict)
            at += size


def insert_at_once(
    connection: sqlite3.Connection,
    into: str,
    rows: Sequence[Sequence[object]],
    *,
    on_conflict: str = "",
) -> None:
    """The same in one statement, for up to 500 rows of few columns."""
    row = f"({', '.join('?' * len(rows[0]))})"
    connection.execute(
        f"INSERT INTO {into} VALUES {', '.join([row] * len(rows))} {on_conflict}",  # noqa: S608 - declared names
        tuple(chain.from_iterable(rows)),
    )


def delete_rows(
    connection: sqlite3.Connection, table: str, column: str, keys: Iterable[int | str]
) -> int:
    """Delete the rows of `table` in which `column` is one of `keys`; how many there were."""
    listed = json.dumps(list(keys))
    if listed == "[]":
        return 0
    return connection.execute(
        f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))",  # noqa: S608 - declared names
        (listed,),
    ).rowcount
