"""The moment in which readers go over from one generation to the next, and what follows it.

The typed tables keep their names and the views get new ones to look at; only the full-text table
is renamed, because readers know it by its name. That is done in the schema itself, by the steps
that SQLite documents for it: `ALTER TABLE` would parse the whole schema anew for each of the twelve
tables that two FTS5 tables are made of, 150 ms altogether, and views that somebody else has made
upon the full-text table would follow the old one. What is left is emptied in short steps before it
is dropped: a drop touches every page of a table at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from storage.database import Database, IsOver
from storage.generations import Generation, GenerationState
from storage.projections import Projections

PART_ROWS = 64
"""Rows deleted as one piece: some milliseconds at most."""

FTS_STRUCTURE_ID = 10
"""Up to here the rows of an FTS5 `_data` table are what the table cannot be opened without."""

_VIEWS = "SELECT name, sql FROM sqlite_schema WHERE type = 'view'"

_TABLES = """
SELECT name, sql LIKE 'CREATE VIRTUAL TABLE%' FROM sqlite_schema
WHERE type = 'table' AND name LIKE '%\\_\\_' || ? ESCAPE '\\'
"""

_ABANDON = """
UPDATE generation SET state = 'retired' WHERE state = 'building' AND NOT EXISTS (
    SELECT 1 FROM operation WHERE operation.id = operation_id AND status = 'running')
"""

_RENAME = """
UPDATE sqlite_schema SET name = ?4, tbl_name = ?4, sql = replace(sql, ?1, ?2)
WHERE type = 'table' AND name = ?3
"""

SHADOW_TABLES = ("_data", "_idx", "_content", "_docsize")
"""Parts of an FTS5 table; `config` stays, the table cannot be opened without it."""


def swap_generations(
    connection: sqlite3.Connection, projections: Projections, old: Generation, new: Generation
) -> None:
    """Make `new` the current generation and `old` a retired one."""
    for name, sql in connection.execute(_VIEWS).fetchall():
        if f"__{old.number}" in sql:
            connection.execute(f'DROP VIEW "{name}"')
    connection.execute(f"DROP TRIGGER IF EXISTS search_queue__{old.number}_repo")
    name = projections.search.table
    _rename(connection, {name: old.table(name), new.table(name): name})
    for generation, state in (
        (old, GenerationState.RETIRED),
        (new, GenerationState.CURRENT),
    ):
        connection.execute(
            "UPDATE generation SET state = ? WHERE number = ?", (state, generation.number)
        )
    projections.create_views(connection, replace(new, state=GenerationState.CURRENT))


def _rename(connection: sqlite3.Connection, names: Mapping[str, str]) -> None:
    """Give full-text tables other names, one after the other; those that are not there are not."""
    version = connection.execute("PRAGMA schema_version").fetchone()[0]
    connection.execute("PRAGMA writable_schema=ON")
    try:
        for before, after in names.items():
            for part in ("", "_config", *SHADOW_TABLES):
                connection.execute(_RENAME, (before, after, before + part, after + part))
    finally:
        connection.execute("PRAGMA writable_schema=RESET")
    connection.execute(f"PRAGMA schema_version={version + 1}")  # all connections read it anew


class GenerationUpkeep:
    """Clears away generations that nobody uses: old ones, and those of rebuilds that have ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def step(self) -> bool:
        """Do the next part; False when nothing was left to do."""
        return await self._database.write_some(_clear)


def _clear(connection: sqlite3.Connection, is_over: IsOver) -> bool:
    connection.execute(_ABANDON)
    found = connection.execute(
        "SELECT number FROM generation WHERE state = 'retired' ORDER BY number LIMIT 1"
    ).fetchone()
    if found is None:
        return False
    (number,) = found
    connection.execute(f"DROP TRIGGER IF EXISTS search_queue__{number}_repo")
    for table, is_virtual in connection.execute(_TABLES, (str(number),)).fetchall():
        if not empty_some(connection, table, is_virtual=bool(is_virtual), is_over=is_over):
            return True
        connection.execute(f'DROP TABLE "{table}"')
        if is_over():
            return True
    connection.execute("DELETE FROM generation WHERE number = ?", (number,))
    return True


def empty_some(
    connection: sqlite3.Connection, table: str, *, is_virtual: bool = True, is_over: IsOver
) -> bool:
    """Delete rows of a table, or of what a full-text table is made of; whether none is left."""
    parts = [table + part for part in SHADOW_TABLES] if is_virtual else [table]
    for part in parts:
        while _delete_some(connection, part):
            if is_over():
                return False
    return True


def _delete_some(connection: sqlite3.Connection, table: str) -> bool:
    """Whether there may be more."""
    found = connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,)
    )
    key = ", ".join(f'"{name}"' for (name,) in found)
    kept = f" WHERE id > {FTS_STRUCTURE_ID}" if table.endswith("_data") else ""
    deleted = connection.execute(
        f'DELETE FROM "{table}" WHERE ({key}) IN'  # noqa: S608 - names of the schema
        f' (SELECT {key} FROM "{table}"{kept} LIMIT {PART_ROWS})'
    ).rowcount
    return deleted == PART_ROWS
