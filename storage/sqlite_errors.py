"""What SQLite's errors mean: what passes by itself, and what ends the process."""

from __future__ import annotations

import sqlite3

from indexer.errors import LocalBusy, LocalFault

FULL_CODES = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
"""No space, for the file and its log, or for the index of the log."""

BUSY_CODES = FULL_CODES | {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN"}
"""Conditions that pass: the transaction was rolled back and may be tried again."""


def error_code(error: sqlite3.Error) -> str:
    """SQLite's symbolic name of the error, such as SQLITE_FULL or SQLITE_IOERR_WRITE."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite found something in a file that it cannot have written so."""
    return error_code(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def translated(error: sqlite3.Error) -> LocalBusy | LocalFault:
    """The policy family of an SQLite error, with its symbolic code in the message."""
    code = error_code(error)
    if code in BUSY_CODES or code.startswith(("SQLITE_BUSY_", "SQLITE_LOCKED_")):
        return LocalBusy(f"{code}: {error}")
    return LocalFault(f"{code}: {error}")
