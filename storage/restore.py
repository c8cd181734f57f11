"""A copy put back in the place of the store, which is kept aside.

It belongs to whom the store belonged: operators work as root, the daemon does not.
Refused while a daemon has the file, and for a copy that is no sound store of ours: nothing has been
changed then. The old file takes its log with it, because a log beside another file would ruin it.
Wherever it is cut off, the old store or the new one is in its place: a start that found none would
make an empty one. Only a file system without hard links leaves a moment between the two.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from indexer.errors import ConfigurationError
from indexer.model import FROM_NOW_ON
from storage.backup import copy_store, sync_folder
from storage.file_lock import file_lock, give_to_owner
from storage.schema import APPLICATION_ID, schema_version

INCOMING = ".incoming"
SIDE_FILES = ("-wal", "-shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCopy:
    """What a copy holds."""

    version: int
    cursors: dict[str, int | None]  # stream URL -> last durable seq, None: its present
    records: int


def inspect_copy(path: Path) -> StoreCopy:
    """What is in a copy, once it is known to be one that this program can use.

    Raises `ConfigurationError` for a file that is absent, foreign, too new or not sound.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            return _inspected(connection, path)
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path} is no sound SQLite file: {error}") from error


def _inspected(connection: sqlite3.Connection, path: Path) -> StoreCopy:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a database of another program")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > schema_version():
        raise ConfigurationError(
            f"{path} has schema version {version}, this program knows up to {schema_version()}:"
            " install the newer version, or restore an older copy"
        )
    problems = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if problems != [("ok",)]:
        raise ConfigurationError(f"{path} is damaged: {problems[0][0]}; restore another copy")
    cursors = connection.execute("SELECT url, seq FROM firehose_cursor ORDER BY url").fetchall()
    records = connection.execute(
        "SELECT coalesce(sum(total), 0) FROM tally WHERE kind = 'collection'"
    ).fetchone()[0]
    return StoreCopy(
        version=version,
        cursors={url: None if seq == FROM_NOW_ON else seq for url, seq in cursors},
        records=records,
    )


def restore_store(copy: Path, database: Path) -> tuple[StoreCopy, Path | None]:
    """Put the copy in the place of the store; what it holds, and where the old file is now.

    Raises `ConfigurationError` while a daemon has the store and for an unusable copy, `LocalBusy`
    while another command has it, OSError and what `copy_store` raises where it cannot be written.
    """
    with file_lock(database, is_command=True):
        found = inspect_copy(copy)
        if database.exists() and copy.samefile(database):
            raise ConfigurationError(f"{copy} is the store itself; name a copy of it")
        incoming = database.with_name(database.name + INCOMING)
        copy_store(copy, incoming, place=str(database.parent))
        give_to_owner(incoming, database if database.exists() else database.parent)
        try:
            aside = _keep_aside(database)
        except (ConfigurationError, OSError):
            incoming.unlink()
            raise
        # On disk first: no log of the old store may be found beside the new one.
        sync_folder(database.parent)
        incoming.rename(database)
        sync_folder(database.parent)
    return found, aside


def _keep_aside(database: Path) -> Path | None:
    """Give the store a second name, and move its log there, which is empty where it can be.

    The store keeps its own name until another takes it, where a file can have two.
    """
    if not database.exists():
        for side in SIDE_FILES:
            database.with_name(database.name + side).unlink(missing_ok=True)
        return None
    with (
        suppress(sqlite3.Error),  # it may be what is broken
        closing(sqlite3.connect(database)) as connection,
    ):
        is_read, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_read:  # cut off between the renames, the old store would be without what its log has
            raise ConfigurationError(
                f"storage.path: another program reads {database}, so that its log cannot be merged"
                " into it; end that first"
            )
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z"
    aside = database.with_name(f"{database.name}.before-{stamp}")
    has_links = True
    try:
        os.link(database, aside, follow_symlinks=False)
    except OSError:
        has_links = False  # exFAT, some shares: there it has no name for a moment
    for side in SIDE_FILES:
        beside = database.with_name(database.name + side)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + side))
    if not has_links:
        database.rename(aside)
    return aside
