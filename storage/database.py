"""The SQLite file: one thread that writes, aiosqlite connections that read.

The writer is the lock of the whole daemon: a write is one function that runs inside one
`BEGIN IMMEDIATE` transaction on the writer's thread, and either commits whole or leaves nothing.
Cancelling the caller does not tear a transaction. Live batches overtake all else, and while there
are any the writer rests after each other transaction for as long as that took: whoever works in the
background, and however many do, they have half of the writer, and slow down by waiting for it. Work
that can be ended anywhere ends as soon as a live batch comes, and needs half the rest.
Only the writer checkpoints, which keeps clear of the WAL-reset bug of SQLite before 3.51.3.

Refused here: a file of another program, a file of a newer version, a second daemon on the file.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from indexer.errors import ConfigurationError, LocalBusy, LocalFault
from storage.file_lock import file_lock
from storage.schema import APPLICATION_ID, migrate
from storage.sqlite_errors import error_code, translated

T = TypeVar("T")
Row = tuple[Any, ...]  # a result row: its column types are the query's, not this module's
CrashPoint = Callable[[str], None]
IsOver = Callable[[], bool]
"""Whether a change that can be ended anywhere has to end, after its next piece at the latest."""

BUSY_TIMEOUT_S = 5.0
LAST_BUSY_TIMEOUT_S = 0.1
"""The same for what is still to be done at the end: a stop has ten seconds in all."""

READ_S_MAX = 5.0
ORDINARY_READERS = 2
LIVE_S = 1.0
"""The stream counts as alive for so long after an urgent change; it saves its cursor more often."""

REST_AFTER_SOME = 0.5
"""The rest after work that can be ended anywhere, as a share of the time that it took. Without any,
what the writer copies from the log into the file came too often for the live stream."""

REST_S_MAX = 0.1
"""A rest is not longer: an operator's command may be what waits."""

STEP_S = 0.02
"""Of work that can be ended anywhere, what one transaction takes before it commits."""

LONG_STEP_S = 0.04
"""The same where no stream is alive that would have to wait for the commit."""

GIVE_WAY_S_MAX = 1.0
"""So long a thread that computes waits for a transaction at most: one may wait for the disk."""

CHECKPOINT_PAGES = 4000
"""16 MB: a page that several transactions have changed is merged into the file once."""

WAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024


class Database:
    """The opened file. Use `open_database`; `write` and `read` are all there is to it."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        readers: Sequence[aiosqlite.Connection],
        *,
        observe_s: Callable[[float], None],
        on_error: Callable[[str], None],
        reach: CrashPoint,
    ) -> None:
        self._connection = connection
        self._on_error = on_error
        self._urgent_reader = _Reader(readers[:1])
        self._ordinary_readers = _Reader(readers[1:])
        self._observe_s = observe_s
        self._reach = reach
        self._loop = asyncio.get_running_loop()
        self._urgent: deque[Callable[[], None]] = deque()
        self._ordinary: deque[Callable[[], None]] = deque()
        self._rest_share = 0.0  # of the change that is running: how long a rest it calls for
        self._urgent_at = float("-inf")  # when the last urgent change was asked for
        self._rest_until = float("-inf")  # no ordinary change begins before
        self._is_synced = True  # as the connection was opened
        self._wake = threading.Condition()
        self._closing = False
        self._is_quiet = threading.Event()  # unless a transaction makes its statements
        self._is_quiet.set()
        self._thread = threading.Thread(target=self._work, name="sqlite-writer", daemon=True)
        self._thread.start()
        self._progress_at = time.monotonic()  # when the writer last was idle or finished

    async def write(
        self,
        change: Callable[[sqlite3.Connection], T],
        *,
        urgent: bool = False,
        is_synced: bool = True,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Run `change(connection)` in one transaction of its own and return its result.

        Urgent changes (live batches) overtake the others, which make pauses for them. One that is
        not synced does not wait for the disk: a loss of power may take it, with all later ones up
        to the next that is synced and changes something, as if the process had died before them. A
        caller that is cancelled leaves a running transaction to finish whole, and `committed` is
        told its result all the same: what is kept in memory follows the file. Raises `LocalBusy`
        after a rollback that may be retried, `LocalFault` when the file can no longer be trusted.
        """
        return await self._submit(
            lambda: self._transact(change, is_synced=is_synced), urgent=urgent, committed=committed
        )

    async def write_some(self, change: Callable[[sqlite3.Connection, IsOver], T]) -> T:
        """Run as much as one transaction may take of work that can be ended anywhere.

        It should end after a piece of some milliseconds once it is over, which is when its time is
        up or an urgent change has come. It is not synced, see `write`: what a loss of power takes
        is done again. Raises as `write` does.
        """

        def some(connection: sqlite3.Connection) -> T:
            is_alive = time.monotonic() - self._urgent_at < LIVE_S
            until = time.perf_counter() + (STEP_S if is_alive else LONG_STEP_S)
            return change(connection, lambda: bool(self._urgent) or time.perf_counter() > until)

        return await self._submit(
            lambda: self._transact(some, is_synced=False), rest_share=REST_AFTER_SOME
        )

    async def attach(self, file: str, name: str) -> None:
        """Let changes read another file, or URI, under that name, in place of the former one."""
        await self.detach(name)
        await self._submit(lambda: self._directly("ATTACH DATABASE ? AS " + name, file))

    async def detach(self, name: str) -> None:
        """Let go of a file, if there is one of that name."""

        def change() -> None:
            attached = self._connection.execute("SELECT name FROM pragma_database_list").fetchall()
            if (name,) in attached:
                self._directly("DETACH DATABASE " + name)

        await self._submit(change)

    def _directly(self, sql: str, *parameters: str) -> None:
        """A statement that no transaction may hold."""
        try:
            self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            self._on_error(error_code(error))
            raise translated(error) from error

    async def _submit(
        self,
        run: Callable[[], T],
        *,
        urgent: bool = False,
        rest_share: float = 1.0,
        committed: Callable[[T], None] | None = None,
    ) -> T:
        """Have it run on the writer's thread, in its turn."""
        future: asyncio.Future[T] = self._loop.create_future()

        def settle(outcome: tuple[T] | BaseException) -> None:
            if isinstance(outcome, tuple) and committed is not None:
                committed(outcome[0])
            if future.cancelled():
                return
            if isinstance(outcome, tuple):
                future.set_result(outcome[0])
            else:
                future.set_exception(outcome)

        def job() -> None:
            outcome: tuple[T] | BaseException
            if self._closing and future.cancelled():
                return
            self._rest_share = 0.0 if urgent else rest_share
            try:
                outcome = (run(),)
            except BaseException as failure:  # noqa: BLE001 - handed to the awaiting caller
                outcome = failure
            self._loop.call_soon_threadsafe(settle, outcome)

        with self._wake:
            if self._closing:
                raise LocalFault("the store is closed")
            if urgent:
                self._urgent_at = time.monotonic()
            (self._urgent if urgent else self._ordinary).append(job)
            self._wake.notify()
        return await future

    async def read(
        self, sql: str, parameters: Sequence[object] = (), *, urgent: bool = False
    ) -> list[Row]:
        """All rows of one query, as of the last commit. Page what may be large.

        The live path's reads are urgent and wait for no other. Raises `LocalBusy` for a query
        that is cut off after `READ_S_MAX`: an open read keeps the WAL from being reset.
        """
        readers = self._urgent_reader if urgent else self._ordinary_readers
        return await readers.rows(sql, parameters)

    def _transact(self, change: Callable[[sqlite3.Connection], T], *, is_synced: bool = True) -> T:
        connection = self._connection
        started = time.perf_counter()
        try:
            self._sync(is_wanted=is_synced)
            self._is_quiet.clear()
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = change(connection)
            finally:
                self._is_quiet.set()
            self._reach("before-commit")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._on_error(error_code(error))
            self._roll_back()
            raise translated(error) from error
        except BaseException:
            self._roll_back()
            raise
        self._reach("after-commit")
        if is_synced:
            self._reach("after-sync")
        self._observe_s(time.perf_counter() - started)
        return result

    def _sync(self, *, is_wanted: bool) -> None:
        """Whether the next commit waits for the disk."""
        if self._is_synced != is_wanted:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if is_wanted else 'NORMAL'}")
            self._is_synced = is_wanted

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise translated(error) from error

    def _work(self) -> None:
        while (queue := self._awaited()) is not None:
            began = time.monotonic()
            queue.popleft()()
            self._progress_at = ended = time.monotonic()
            if self._rest_share and ended - self._urgent_at < LIVE_S:
                rest_s = self._rest_share * (ended - began)
                self._rest_until = ended + min(rest_s, REST_S_MAX)

    def _awaited(self) -> deque[Callable[[], None]] | None:
        """The queue whose first change is next, once there is one; None when all is done."""
        with self._wake:
            while not self._urgent:
                now = time.monotonic()
                rest_s = 0.0 if self._closing else self._rest_until - now
                if self._ordinary and rest_s <= 0:
                    return self._ordinary
                if self._closing:
                    return None
                self._progress_at = now
                self._wake.wait(timeout=rest_s if self._ordinary else 1.0)
            return self._urgent

    def give_way(self) -> None:
        """Wait while a transaction makes its statements: for threads that compute, between items.

        Each statement lets go of the interpreter's lock. Won back from a thread that computes it
        comes half a millisecond later, and a transaction of a hundred statements is three times as
        long, while what the thread gains is little.
        """
        if not self._is_quiet.is_set():
            self._is_quiet.wait(GIVE_WAY_S_MAX)

    def writer_stuck_s(self) -> float:
        """Seconds since the writer last was idle or finished a transaction, on the real clock."""
        return time.monotonic() - self._progress_at

    async def stop(self) -> None:
        """Finish what is queued and somebody waits for, and take nothing more.

        The lock of another program is hardly waited for any longer: it may have been all the while.
        """
        await self._submit(lambda: self._directly(_busy_timeout(LAST_BUSY_TIMEOUT_S)), urgent=True)
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)


class _Reader:
    """Connections that take turns in answering, one query each at a time."""

    def __init__(self, connections: Sequence[aiosqlite.Connection]) -> None:
        self._idle: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for connection in connections:
            self._idle.put_nowait(connection)

    async def rows(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        connection = await self._idle.get()
        is_answered = False
        try:
            async with asyncio.timeout(READ_S_MAX):
                found = await connection.execute_fetchall(sql, parameters)
                is_answered = True
                return [tuple(row) for row in found]
        except TimeoutError as error:
            raise LocalBusy(f"a read took more than {READ_S_MAX} s") from error
        except sqlite3.Error as error:
            is_answered = True
            raise translated(error) from error
        finally:
            if not is_answered:
                await connection.interrupt()
            self._idle.put_nowait(connection)


@asynccontextmanager
async def open_database(
    path: Path,
    *,
    observe_s: Callable[[float], None] = lambda _: None,
    on_error: Callable[[str], None] = lambda _: None,
    reach: CrashPoint = lambda _: None,
) -> AsyncIterator[Database]:
    """Open or create the store at `path`, migrated to the current schema.

    `observe_s` is told how long each transaction took, `on_error` the SQLite code of each that
    failed; `reach` is called at named crash points.
    Raises `ConfigurationError` for a file that is not ours to open, `LocalFault` for a broken one,
    `LocalBusy` while there is no space or another program keeps it locked.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(file_lock(path))
        connection = await asyncio.to_thread(_open_writer, path)
        stack.push_async_callback(asyncio.to_thread, _checkpoint_and_close, connection)
        readers = [await _open_reader(stack, path) for _ in range(1 + ORDINARY_READERS)]
        database = Database(
            connection, readers, observe_s=observe_s, on_error=on_error, reach=reach
        )
        stack.push_async_callback(database.stop)
        yield database


def _open_writer(path: Path) -> sqlite3.Connection:
    with ExitStack() as stack:
        try:
            connection = sqlite3.connect(
                path.absolute().as_uri(), uri=True,  # so that what is attached may be a URI too
                isolation_level=None, check_same_thread=False, cached_statements=256,
            )  # fmt: skip
            stack.enter_context(closing(connection))
            _prepare_writer(connection, path)
        except sqlite3.Error as error:
            raise _refused(error, path) from error
        stack.pop_all()
        return connection


async def _open_reader(stack: AsyncExitStack, path: Path) -> aiosqlite.Connection:
    """A connection that cannot write, closed by the stack.

    The writer had the file open by then: what fails now is a shortage, or a fault of the disk.
    """
    try:
        reader = await stack.enter_async_context(
            aiosqlite.connect(path, isolation_level=None, cached_statements=256)
        )
        for pragma in ("query_only=ON", "busy_timeout=5000", "trusted_schema=OFF"):
            await reader.execute_fetchall(f"PRAGMA {pragma}")
        # It is the first read that opens the file and its log: later no descriptor may be left.
        await reader.execute_fetchall("SELECT 1 FROM sqlite_schema LIMIT 1")
    except sqlite3.Error as error:
        raise translated(error) from error
    return reader


def _checkpoint_and_close(connection: sqlite3.Connection) -> None:
    with closing(connection):
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            fault = translated(error)
            if not isinstance(fault, LocalBusy):
                raise fault from error
            # Too full to merge the WAL into the file: it stays, and nothing of it is lost.


def _refused(error: sqlite3.Error, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorname", "")
    if code in {"SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"}:
        return ConfigurationError(f"storage.path: cannot write {path}: {error}")
    if code in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}:
        return LocalFault(
            f"storage.path: {path} is no sound SQLite file ({error}): move it away and restore a "
            "backup, or start without it and let everything be fetched again"
        )
    return translated(error)


def _busy_timeout(timeout_s: float) -> str:
    return f"PRAGMA busy_timeout={int(timeout_s * 1000)}"


def _prepare_writer(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(_busy_timeout(BUSY_TIMEOUT_S))
    _refuse_foreign(connection, path)
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=OFF",
        "cell_size_check=ON",
        "temp_store=MEMORY",
        "cache_size=-57344",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        f"journal_size_limit={WAL_SIZE_LIMIT_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    migrate(connection)


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """A file with tables that does not carry our application id is somebody else's."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if found != APPLICATION_ID and not (is_empty and found == 0):
        raise ConfigurationError(
            f"storage.path: {path} is a database of another program "
            f"(application id {found}, ours is {APPLICATION_ID})"
        )
