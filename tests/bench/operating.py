"""A daemon kept at work on operations while something else of it is measured.

Everything is observed from outside, in the rows of operations: what they came to, for how long no
counter of one moved, and how long one took to end that was cancelled.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from tests.bench.benchmark import Figures, WrongResultError
from tests.bench.daemon import Daemon

POLL_S = 0.02
END_S_MAX = 300.0

_AT_WORK = """
SELECT id, units_processed + records_processed FROM operation
WHERE status = 'running' AND phase = 'running'
"""
_RUNNING = "SELECT id FROM operation WHERE status = 'running' ORDER BY phase DESC"
_ENDED = "SELECT status <> 'running' FROM operation WHERE id = ?"
_DONE = """
SELECT count(*), coalesce(sum(units_processed), 0), coalesce(sum(records_processed), 0)
FROM operation WHERE started_at >= ?
"""
_FAILED = "SELECT type, error FROM operation WHERE status = 'failed' OR error IS NOT NULL"


class Operating:
    """Who triggers, watches and cancels. `load`: what to trigger at once, then, after it, next.

    An empty list is waited for without being triggered: the daemon begins something by itself.
    """

    def __init__(self, daemon: Daemon, load: Iterable[list[dict[str, str]]]) -> None:
        self._daemon = daemon
        self._load = load
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._began_at = time.time()
        self._counts: dict[str, int] = {}  # id -> what its counters came to
        self._moved: dict[str, float] = {}  # id -> when they did, monotonic seconds
        self._standstill_s = 0.0
        self._cancel_s = 0.0
        self.ended = float("-inf")
        """When the last operation had ended, or was cancelled, monotonic seconds."""

    @contextmanager
    def during(self) -> Iterator[None]:
        """Be at it for as long as the block runs; what is at work then is cancelled."""
        self._thread.start()
        yield
        self._is_over.set()
        self._thread.join(END_S_MAX)
        if self._thread.is_alive():
            raise self._daemon.process.failure("did not end its operations")

    def figures(self) -> Figures:
        """What came of it. Raises `WrongResultError` where an operation has failed."""
        with closing(self._daemon.reader()) as connection:
            runs, units, records = connection.execute(_DONE, (self._began_at,)).fetchone()
            failed = connection.execute(_FAILED).fetchone()
        if failed is not None or runs == 0:
            raise WrongResultError(f"{self._daemon.database}: {runs} operations, failed: {failed}")
        return {
            "units": units,
            "records": records,
            "standstill_s": self._standstill_s,
            "cancel_s": self._cancel_s,
        }

    def _work(self) -> None:
        with closing(self._daemon.reader()) as connection:
            for operations in self._load:
                for parameters in operations:
                    self._daemon.trigger_backfill(**parameters)
                    self._look(connection)
                while not connection.execute(_DONE, (self._began_at,)).fetchone()[0]:
                    time.sleep(POLL_S)
                self._watch(connection)
                if self._is_over.is_set():
                    return

    def _watch(self, connection: sqlite3.Connection) -> None:
        while running := [row[0] for row in connection.execute(_RUNNING)]:
            self._look(connection)
            if self._is_over.is_set():
                self.ended = time.monotonic()
                for operation_id in running:
                    self._cancel(connection, operation_id)
                return
            time.sleep(POLL_S)
        self.ended = time.monotonic()

    def _look(self, connection: sqlite3.Connection) -> None:
        now = time.monotonic()
        for operation_id, count in connection.execute(_AT_WORK):
            if self._counts.get(operation_id) != count:
                self._counts[operation_id] = count
                self._moved[operation_id] = now
            still_s = now - self._moved[operation_id]
            self._standstill_s = max(self._standstill_s, still_s)

    def _cancel(self, connection: sqlite3.Connection, operation_id: str) -> None:
        asked = time.monotonic()
        self._daemon.cancel_backfill(operation_id)
        while not connection.execute(_ENDED, (operation_id,)).fetchone()[0]:
            time.sleep(POLL_S)
        self._cancel_s = max(self._cancel_s, time.monotonic() - asked)
