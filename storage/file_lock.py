"""The lock beside the SQLite file, which keeps a second daemon away from it.

A daemon has it exclusively. A command that needs the file for itself shares what it has, which is
how a daemon that starts meanwhile knows to wait: to be refused would end it for good.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from indexer.errors import ConfigurationError, LocalBusy

MOMENT_S = 0.1
"""A command keeps all others away before it shares what it has, for much less than this."""


class file_lock:  # noqa: N801 - used as a statement, not as a type
    """Keeps all others from the file for as long as the block runs, which is short for a command.

    Raises `ConfigurationError` while a daemon has the file, `LocalBusy` while a command has.
    """

    def __init__(self, path: Path, *, is_command: bool = False) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._is_command = is_command

    def __enter__(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            give_to_owner(self._path, self._path.parent)
        except OSError as error:
            raise ConfigurationError(
                f"storage.path: cannot write in {self._path.parent}: {error.strerror}"
            ) from error
        if self._takes(fcntl.LOCK_EX) and (not self._is_command or self._takes(fcntl.LOCK_SH)):
            return
        has_command = self._takes(fcntl.LOCK_SH)
        if not has_command:  # or it is one that has come this moment, and does not share it yet
            time.sleep(MOMENT_S)
            has_command = self._takes(fcntl.LOCK_SH)
        os.close(self._descriptor)
        if has_command:
            raise LocalBusy(f"storage.path: a command uses {self._path}")
        raise ConfigurationError(f"storage.path: another process uses {self._path}; stop it first")

    def _takes(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def give_to_owner(path: Path, like: Path) -> None:
    """Let what root has made belong to the owner of `like`, or the daemon could not open it."""
    if os.geteuid() == 0:
        owner = like.stat()
        # A root without that right, as in some containers, runs the daemon too. No link that the
        # owner has left there may make root give away another file.
        with suppress(OSError):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
