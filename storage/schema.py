"""The schema: forward-only migrations by `user_version`, and the views for readers.

Each file of `migrations/` is one step, run in one transaction with its number. The views are
code, not data: they are made anew at every start, after the migrations.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib import resources

from indexer.errors import ConfigurationError

APPLICATION_ID = 0x43484956  # "CHIV"


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the current version, one transaction a step.

    Raises `ConfigurationError` when the file was written by a newer program.
    """
    steps = _steps()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise ConfigurationError(
            f"storage.path: the file has schema version {version}, this program knows up to "
            f"{len(steps)}: install the newer version again or restore an older file"
        )
    for number, script in enumerate(steps[version:], start=version + 1):
        # The id comes with the very first table, or a crash would leave a file of nobody's.
        mark = f"PRAGMA application_id={APPLICATION_ID}"
        _run(connection, script, mark, f"PRAGMA user_version={number}")
    views = resources.files("storage").joinpath("views.sql").read_text()
    _run(connection, views)


def schema_version() -> int:
    """The version of files that this program reads and writes."""
    return len(_steps())


def _steps() -> list[str]:
    folder = resources.files("storage").joinpath("migrations")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [file.read_text() for file in files]


def _run(connection: sqlite3.Connection, script: str, *closing_statements: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in (*_statements(script), *closing_statements):
            connection.execute(statement)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit the transaction we are in."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
