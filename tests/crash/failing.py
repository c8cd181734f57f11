"""Calls of a daemon process that fail, the N-th of each family: of SQLite, of files, of sockets.

Owns what fails and how, in a process of its own: everything here replaces parts of the standard
library or of SQLite's file layer, none of ours. Every failure is one that the machine can give.
"""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.process import run
from tests.crash.vfs import Layer

MARKER = "failed call: "
"""What the process says when the call fails: a run without it has had fewer calls."""

SQLITE_BUSY, SQLITE_FULL, SQLITE_CANTOPEN = 5, 13, 14
IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_DELETE = 778, 1034, 1546, 2570


@dataclass(frozen=True, slots=True)
class Family:
    """Calls of one kind, counted together, and what the N-th of them fails with."""

    kind: str  # statement | storage | file | socket
    call: str
    failure: str | int
    usual: int = 1
    """A call in the middle of a run, for those who make only one."""


FAMILIES: dict[str, Family] = {
    "statement-full": Family("statement", "execute", "SQLITE_FULL", 700),
    "statement-io-error": Family("statement", "execute", "SQLITE_IOERR_READ", 600),
    "statement-locked": Family("statement", "execute", "SQLITE_BUSY", 500),
    "commit-full": Family("statement", "COMMIT", "SQLITE_FULL", 30),
    "commit-io-error": Family("statement", "COMMIT", "SQLITE_IOERR_WRITE", 35),
    "commit-locked": Family("statement", "COMMIT", "SQLITE_BUSY", 40),
    "write-full": Family("storage", "write", SQLITE_FULL, 400),
    "write-io-error": Family("storage", "write", IOERR_WRITE, 500),
    "sync-io-error": Family("storage", "sync", IOERR_FSYNC, 40),
    "truncate-io-error": Family("storage", "truncate", IOERR_TRUNCATE),
    "delete-io-error": Family("storage", "delete", IOERR_DELETE),
    "open-refused": Family("storage", "open", SQLITE_CANTOPEN),
    # Nobody is refused to let go of a lock: SQLite would not look, and would keep it for ever.
    "lock-busy": Family("storage", "lock", SQLITE_BUSY, 150),
    "file-full": Family("file", "open", errno.ENOSPC, 2),
    "file-io-error": Family("file", "open", errno.EIO, 2),
    "file-no-descriptor": Family("file", "open", errno.EMFILE, 2),
    "lookup-fails": Family("socket", "getaddrinfo", socket.EAI_AGAIN),
    "socket-no-descriptor": Family("socket", "socket", errno.EMFILE, 3),
    "connect-refused": Family("socket", "connect", errno.ECONNREFUSED, 2),
    "recv-reset": Family("socket", "recv", errno.ECONNRESET, 12),
    "send-broken": Family("socket", "send", errno.EPIPE, 9),
}


def fail_nth(config: Path, name: str, number: int) -> None:
    """Run the daemon as the command does; its `number`-th call of the family fails, and no other."""
    family = FAMILIES[name]
    count = _Count(family, number)
    match family.kind:
        case "statement":
            _fail_statements(count)
            run(config)
        case "storage":
            with Layer(count.of_storage).installed():
                run(config)
        case "file":
            sys.addaudithook(count.of_files(config.parent))
            run(config)
        case _:
            _fail_sockets(count)
            run(config)


class _Count:
    """Counts the calls of a family down to the one that fails."""

    def __init__(self, family: Family, number: int) -> None:
        self.family = family
        self._left = number

    def is_due(self, call: str, what: str) -> bool:
        """Whether this call is the one; it is said, too."""
        if call != self.family.call:
            return False
        self._left -= 1
        if self._left == 0:
            os.write(1, f"{MARKER}{call} {what[:100]!r}\n".encode())
        return self._left == 0

    def of_storage(self, call: str, path: str, _: int, __: bytes) -> int | None:
        """A hook of SQLite's file layer."""
        return int(self.family.failure) if self.is_due(call, path) else None

    def of_files(self, folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
        """An audit hook for files that the process itself opens in its folder."""

        def heard(event: str, arguments: tuple[Any, ...]) -> None:
            if event != "open" or not str(arguments[0]).startswith(str(folder)):
                return
            if self.is_due("open", str(arguments[0])):
                raise self.error()

        return heard

    def error(self) -> OSError:
        """What the call fails with."""
        number = int(self.family.failure)
        return OSError(number, os.strerror(number))


def _fail_statements(count: _Count) -> None:
    call = count.family.call

    class FailingConnection(sqlite3.Connection):
        def _check(self, sql: str) -> None:
            if call in ("execute", sql) and count.is_due(call, sql):
                error = sqlite3.OperationalError("as the test wants it")
                error.sqlite_errorname = str(count.family.failure)
                raise error

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            self._check(sql)
            return super().execute(sql, *parameters)

        def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            self._check(sql)
            return super().executemany(sql, *parameters)

    connect = sqlite3.connect

    def connect_failing(*arguments: Any, **named: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=FailingConnection, **named)

    sqlite3.connect = connect_failing


class FailingSocket(socket.socket):
    """Fails in what it does for the daemon's own requests, not in what clients ask of it."""

    count: _Count

    def __init__(self, *arguments: Any, **named: Any) -> None:
        is_accepted = named.get("fileno") is not None or len(arguments) > 3
        if not is_accepted and self.count.is_due("socket", ""):
            raise self.count.error()
        super().__init__(*arguments, **named)
        self._is_outgoing = False

    def connect(self, address: Any) -> None:
        if self.count.is_due("connect", str(address)):
            raise self.count.error()
        self._is_outgoing = True
        super().connect(address)

    def recv(self, *arguments: Any) -> bytes:
        self._check("recv")
        return super().recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._check("recv")
        return super().recv_into(*arguments)

    def send(self, *arguments: Any) -> int:
        self._check("send")
        return super().send(*arguments)

    def sendmsg(self, *arguments: Any) -> int:
        self._check("send")
        return super().sendmsg(*arguments)

    def _check(self, call: str) -> None:
        if self._is_outgoing and self.count.is_due(call, str(self.getpeername())):
            raise self.count.error()


def _fail_sockets(count: _Count) -> None:
    FailingSocket.count = count
    look_up = socket.getaddrinfo

    def getaddrinfo(*arguments: Any, **named: Any) -> Any:
        if count.is_due("getaddrinfo", str(arguments[0])):
            raise socket.gaierror(int(count.family.failure), "as the test wants it")
        return look_up(*arguments, **named)

    socket.socket = FailingSocket
    socket.getaddrinfo = getaddrinfo
