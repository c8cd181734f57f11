"""Copies of the store while it is written to: consistent, checked, complete or absent.

`VACUUM INTO` reads one snapshot on a connection of its own, so that live writes go on; they grow
the WAL meanwhile, which is watched. A copy gets its name only when it is checked and on disk. One
that nobody waits for any more is given up, so that a stop does not take as long as a copy does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from indexer.clock import Clock
from indexer.errors import LocalBusy, LocalFault, RequestRefused
from storage.sqlite_errors import is_damage, translated

WAL_BYTES_MAX = 1024 * 1024 * 1024
"""A copy that has let the WAL grow beyond this is given up."""

WATCH_S = 0.02
"""Between two looks at the WAL, and at whether the copy is still waited for."""

PARTIAL = ".partial"
NAMES = "index-*-[0-9][0-9][0-9]Z.db"
"""Of copies by `BackupFolder`; those of the command `backup` name no milliseconds."""


class BackupFolder:
    """Where copies are written. Satisfies `admin_api.ports.Backups`."""

    def __init__(self, database: Path, folder: Path | None, *, clock: Clock) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self._is_free = asyncio.Lock()

    async def create(self) -> tuple[str, int]:
        """Write a checked copy; its file name and size in bytes.

        Raises `RequestRefused` (BackupsOff, InsufficientSpace, or while another is written),
        `LocalBusy` when the copy could not be made now.
        """
        if self._folder is None:
            raise RequestRefused(
                "BackupsOff", "no backup directory is configured: set storage.backup_dir"
            )
        if self._is_free.locked():
            raise RequestRefused("RateLimitExceeded", "a backup is being written", status=429)
        async with self._is_free:
            at = datetime.fromtimestamp(self._clock.now(), UTC)
            name = f"index-{at:%Y%m%dT%H%M%S}-{at.microsecond // 1000:03d}Z.db"
            left = threading.Event()
            try:
                size_bytes = await asyncio.to_thread(
                    _copy_into_folder, self._database, self._folder / name, left.is_set
                )
            finally:
                left.set()  # a thread is not cancelled with whoever waits for it
        return name, size_bytes


def _copy_into_folder(database: Path, target: Path, is_over: Callable[[], bool]) -> int:
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in target.parent.glob(NAMES + PARTIAL):
            left.unlink(missing_ok=True)  # by a process that was killed: there is no other writer
        return copy_store(database, target, place="storage.backup_dir", is_over=is_over)
    except OSError as error:
        raise LocalBusy(f"storage.backup_dir: {error.strerror}") from error
    except LocalFault as error:
        if isinstance(error.__cause__, sqlite3.Error) and is_damage(error.__cause__):
            raise  # of the store, which was read
        # The copy's disk, its quota or its file system: none of it speaks against the store.
        raise LocalBusy(f"storage.backup_dir: {error}") from error


def copy_store(
    database: Path, target: Path, *, place: str, is_over: Callable[[], bool] = lambda: False
) -> int:
    """Write a checked copy of a store that may be in use; its size in bytes.

    `target` is complete or absent. `place` is how the operator knows its folder. The copy is given
    up once it `is_over`. Raises `RequestRefused` (InsufficientSpace), OSError, and what
    `translated` makes of SQLite's errors.
    """
    partial = target.with_name(target.name + PARTIAL)
    try:
        _check_space(database, target.parent, place)
        try:
            _vacuum_into(database, partial, is_over)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(target.parent)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise translated(error) from error


def _check_space(database: Path, folder: Path, place: str) -> None:
    needed = 2 * sum(
        path.stat().st_size
        for path in (database, database.with_name(database.name + "-wal"))
        if path.exists()
    )
    free = shutil.disk_usage(folder).free
    if free <= needed:
        raise RequestRefused(
            "InsufficientSpace",
            f"{place} has {free} bytes free, and a copy needs more than {needed}",
        )


def _vacuum_into(database: Path, partial: Path, is_over: Callable[[], bool]) -> None:
    wal = database.with_name(database.name + "-wal")

    def is_too_costly() -> bool:
        return wal.exists() and wal.stat().st_size > WAL_BYTES_MAX

    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as source:
        source.execute("PRAGMA busy_timeout=5000")
        try:
            with _interrupted(source, lambda: is_over() or is_too_costly()):
                source.execute("VACUUM INTO ?", (str(partial),))
        except sqlite3.OperationalError as error:
            if is_too_costly():
                raise LocalBusy("the WAL has grown too large while the copy was made") from error
            raise
    # Not made anew where somebody has removed it: an empty file is sound.
    with (
        closing(sqlite3.connect(f"{partial.absolute().as_uri()}?mode=rw", uri=True)) as copy,
        _interrupted(copy, is_over),
    ):
        problems = copy.execute("PRAGMA integrity_check").fetchall()
    if problems != [("ok",)]:
        raise LocalBusy(f"the copy is not sound: {problems[0][0]}")


@contextmanager
def _interrupted(connection: sqlite3.Connection, is_over: Callable[[], bool]) -> Iterator[None]:
    """Cuts short what the connection does in the block once it `is_over`.

    By a thread: a check goes through all pages of a file in one step of SQLite's machine, and a
    progress handler is asked between two steps only.
    """
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(WATCH_S):
            if is_over():
                connection.interrupt()

    watching = threading.Thread(target=watch, name="backup-watch", daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_done.set()
        watching.join()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
