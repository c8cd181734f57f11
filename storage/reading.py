"""Reading the file beside the daemon: what the commands for readers need, without a writer.

A connection of its own, read-only, in the calling thread. Readers page: an open read keeps the
daemon from resetting its log, so no statement here stays open while somebody else is slow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from indexer.errors import ConfigurationError, LocalFault
from storage.schema import APPLICATION_ID, schema_version
from storage.sqlite_errors import error_code, is_damage

BUSY_TIMEOUT_MS = 5000
CACHE_KIB = 65_536


@contextmanager
def open_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to the index at `path`.

    Raises `ConfigurationError` where there is none, or one of another program or version, and for
    what cannot be read of it within the block; `LocalFault` where the file is damaged.
    """
    if not path.is_file():
        raise ConfigurationError(f"storage.path: there is no index at {path}; run the daemon first")
    try:
        connection = read_only(path)
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    with closing(connection):
        try:
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            connection.execute("PRAGMA trusted_schema=OFF")
            application_id = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise _unreadable(path, error) from error
        if application_id != APPLICATION_ID:
            raise ConfigurationError(f"storage.path: {path} is a database of another program")
        if version != schema_version():
            raise ConfigurationError(
                f"storage.path: {path} has schema version {version}, this program reads"
                f" {schema_version()}; run the daemon of this version once, or install the other"
            )
        try:
            yield connection
        except sqlite3.Error as error:  # damage shows where it is read
            raise _unreadable(path, error) from error


def read_only(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there, and is known to be ours. Raises `sqlite3.Error`."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One state of the file for all reads within; keep it short."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _unreadable(path: Path, error: sqlite3.Error) -> ConfigurationError | LocalFault:
    if is_damage(error) or error_code(error).startswith("SQLITE_IOERR"):
        return LocalFault(
            f"storage.path: {path} is damaged ({error}): check the disk, then restore a backup, or"
            " move the file away and let everything be fetched again"
        )
    return ConfigurationError(f"storage.path: cannot read {path}: {error}")
