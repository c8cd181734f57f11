"""Many rows a statement.

Python's sqlite3 lets go of the interpreter lock for each step of a statement and must win it back
after: with one row a statement the writer waits, row by row, for whatever thread is verifying the
next batch. One statement that writes 64 rows does so once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain

SIZES = (64, 8, 1)
"""Rows of one statement, largest first: few enough texts for the connection's statement cache.

64 rows of 30 columns are far from the 32,766 parameters that SQLite allows.
"""


def insert_rows(
    connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[object]]
) -> None:
    """Insert `rows`, all of one width. `into` is a table, with names of columns if not all."""
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            row = f"({', '.join('?' * len(rows[at]))})"
            connection.execute(
                f"INSERT INTO {into} VALUES {', '.join([row] * size)}",  # noqa: S608 - declared names
                tuple(chain.from_iterable(rows[at : at + size])),
            )
            at += size
