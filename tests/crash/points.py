"""Crash points: named moments in the paths of the daemon at which its process dies.

Owns the list and the process that dies there. A moment is found from outside, by the statements
that the process gives to SQLite and the files that it renames, so the product has no code for it:
after some statements of one transaction, before another, before its commit or right after it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.daemon import run_daemon_until
from indexer.logs import configure_logging
from indexer.settings import load_settings
from indexer.world import World
from tests.crash.process import run

COMMIT = "COMMIT"
COMMITTED = "the transaction is durable and nobody knows"
RENAME = "os.rename"
COMMENTS = r"(?:--[^\n]*\n|\s)*"
MARKER = "crash point: "
"""What the process says last, so that nobody takes another death for this one."""


@dataclass(frozen=True, slots=True)
class Point:
    """One moment: `at` comes after all of `after` and none of `unless` in the same transaction.

    `needs` is what brings the daemon there: a type of backfill, a request, or something that the
    network does. At most its `times_max`-th coming is the fatal one.
    """

    after: tuple[str, ...]
    at: str
    needs: str = "traffic"
    unless: tuple[str, ...] = ()
    times_max: int = 3


CURSOR = r"INSERT INTO firehose_cursor"
HEAD = r"UPDATE repo SET (state = .*data = |rev = )"
ROW = r"(INSERT INTO record |UPDATE record SET cid|DELETE FROM record )"
CLAIM = r"UPDATE repo SET claim = claim \+ 1"
RELEASE = r"UPDATE repo SET pending_bytes = \S+ rounds"
OPERATION = r"INSERT INTO operation \("
END = r"UPDATE operation SET status"
UNIT = r"INSERT INTO operation_unit \("
COPY = r'INSERT INTO "?\w+__\d+'
COPIED = r"UPDATE generation SET collection"
RENAMED = r"UPDATE sqlite_schema SET name"
CURRENT = r"UPDATE generation SET state = 'current'"
STAGED = r"INSERT INTO citation_extraction"
IN_PLACE = r"UPDATE citation_extraction SET record_id = \d"
SCAN = "pdsScan"

POINTS: dict[str, Point] = {
    # the start
    "after-tables-before-their-version": Point(
        (r"CREATE TABLE repo ",), "PRAGMA user_version=", "fresh store", times_max=1
    ),
    "after-a-migration-before-the-next": Point(
        (), r"CREATE TABLE generation ", "fresh store", times_max=1
    ),
    "after-generation-before-ready": Point(
        ("INSERT INTO generation",), COMMITTED, "fresh store", times_max=1
    ),
    "after-claims-given-back-before-commit": Point(
        (r"UPDATE repo SET wanted = wanted \| claimed",), COMMIT, "start", times_max=1
    ),
    "after-crashes-counted-before-work": Point(
        ("UPDATE operation_unit_begun SET is_at_work = 0, crashes",),
        COMMITTED,
        "start",
        times_max=1,
    ),
    # the stream
    "after-cursor-before-heads": Point((CURSOR,), HEAD),
    "after-heads-before-rows": Point((CURSOR, HEAD), ROW),
    "after-rows-before-commit": Point((CURSOR, ROW), COMMIT),
    "after-batch-before-memory": Point((CURSOR, ROW), COMMITTED),
    "after-cursor-alone-before-commit": Point((CURSOR,), COMMIT, "foreign", unless=(ROW, HEAD)),
    "after-first-sight-before-commit": Point(
        (CURSOR, r"INSERT INTO repo "), COMMIT, "newcomer", times_max=1
    ),
    "after-buffering-before-commit": Point(
        (r"INSERT INTO pending_commit",), COMMIT, "slow newcomer", times_max=1
    ),
    # resync
    "after-claim-before-commit": Point((CLAIM,), COMMIT, "import"),
    "after-claim-before-fetch": Point((CLAIM,), COMMITTED, "import"),
    "after-portion-before-commit": Point((ROW,), COMMIT, "import", unless=(CURSOR, RELEASE)),
    "after-portion-before-the-next": Point((ROW,), COMMITTED, "import", unless=(CURSOR, RELEASE)),
    "after-last-rows-before-release": Point((ROW,), RELEASE, "import", times_max=1),
    "after-release-before-commit": Point((RELEASE,), COMMIT, "import", times_max=2),
    "after-resync-before-memory": Point((RELEASE,), COMMITTED, "import", times_max=2),
    "after-replay-before-buffer-is-dropped": Point(
        (HEAD,), r"DELETE FROM pending_commit", "slow newcomer", times_max=1
    ),
    # operations
    "after-operation-row-before-commit": Point((OPERATION,), COMMIT, "didSync"),
    "after-operation-row-before-answer": Point((OPERATION,), COMMITTED, "didSync"),
    "after-unit-begun-before-work": Point(
        (r"INSERT INTO operation_unit_begun",), COMMITTED, "didSync"
    ),
    "after-unit-before-commit": Point((UNIT,), COMMIT, "freshnessScan"),
    "after-unit-before-the-next": Point((UNIT,), COMMITTED, "freshnessScan"),
    "after-cancel-before-answer": Point(
        (r"UPDATE operation SET cancel_requested",), COMMITTED, "cancel"
    ),
    "after-end-before-commit": Point((END,), COMMIT, "didSync"),
    "after-end-before-the-next": Point((END,), COMMITTED, "governanceSync"),
    "after-audit-row-before-effect": Point((r"INSERT INTO audit_entry",), COMMITTED, "didSync"),
    "after-host-is-leased-before-its-list": Point((r"UPDATE host SET leased",), COMMITTED, SCAN),
    "after-page-before-commit": Point((r"UPDATE host SET cursor",), COMMIT, SCAN),
    "after-host-before-the-next": Point((r"UPDATE host SET (status|failures)",), COMMITTED, SCAN),
    "after-citations-before-their-place": Point(
        (STAGED,), COMMITTED, "citationExtraction", times_max=1
    ),
    "after-citations-in-place-before-commit": Point(
        (IN_PLACE,), COMMIT, "citationExtraction", times_max=1
    ),
    # rebuild
    "after-new-tables-before-copy": Point(
        (r"INSERT INTO generation",), COMMITTED, "fullReindex", times_max=1
    ),
    "after-copy-before-its-place": Point((COPY,), COPIED, "fullReindex", times_max=1),
    "after-part-before-the-next": Point((COPIED,), COMMITTED, "fullReindex"),
    "after-views-before-rename": Point((r"DROP VIEW",), RENAMED, "fullReindex", times_max=1),
    "after-rename-before-current": Point((RENAMED,), CURRENT, "fullReindex", times_max=1),
    "after-swap-before-commit": Point((CURRENT,), COMMIT, "fullReindex", times_max=1),
    "after-swap-before-clearing": Point((CURRENT,), COMMITTED, "fullReindex", times_max=1),
    "after-emptying-before-drop": Point(
        (r'DELETE FROM "\w+__\d+',), r'DROP TABLE "', "fullReindex", times_max=2
    ),
    "after-old-tables-before-commit": Point(
        (r"DELETE FROM generation",), COMMIT, "fullReindex", times_max=1
    ),
    # files
    "after-copy-before-its-name": Point((), RENAME, "backup", times_max=1),
    "after-stop-before-checkpoint": Point((), r"PRAGMA wal_checkpoint", "stop", times_max=1),
}


def die_at(config: Path, name: str, times: int) -> None:
    """Run the daemon until it comes to this point for the `times`-th time; the process dies there."""
    watch = _Watch(name, POINTS[name], times, signal.SIGKILL)
    settings = load_settings(config, {})
    configure_logging(settings.log.format, settings.log.level)
    asyncio.run(_live(settings, World(reach=watch.reached)))


def stop_at(config: Path, name: str) -> None:
    """Run the daemon as the command does; at this point it gets the signal that ends it."""
    point = POINTS[name]
    assert point.at != COMMITTED, "only the daemon's own hook knows that moment"
    _Watch(name, point, 1, signal.SIGTERM)
    run(config)


async def _live(settings: Any, world: World) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run_daemon_until(stop, settings, world=world)


class _Watch:
    """Sees every statement of every connection, and files being renamed."""

    def __init__(self, name: str, point: Point, times: int, number: signal.Signals) -> None:
        self._name = name
        self._signal = number
        self._left = times
        self._point = point
        self._at = re.compile(COMMENTS + point.at)
        self._patterns = [
            (pattern, re.compile(COMMENTS + pattern, re.DOTALL))
            for pattern in (*point.after, *point.unless)
        ]
        self._seen: set[str] = set()  # by the one connection that writes
        sys.addaudithook(self.heard)
        connect = sqlite3.connect

        def connect_watched(*arguments: Any, **named: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **named)
            connection.set_trace_callback(self.statement)
            return connection

        sqlite3.connect = connect_watched  # of this process alone, which is about to end

    def heard(self, event: str, _: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event == self._point.at:
            self._count()

    def reached(self, moment: str) -> None:
        """The daemon's own hook, on the writer's thread."""
        if moment == "after-commit" and self._point.at == COMMITTED and self._is_met():
            self._count()

    def statement(self, sql: str) -> None:
        """SQLite is about to run this."""
        if sql.startswith("BEGIN"):
            self._seen.clear()
        elif self._is_met() and self._at.match(sql):
            self._count()
        for pattern, compiled in self._patterns:
            if pattern not in self._seen and compiled.match(sql):
                self._seen.add(pattern)

    def _is_met(self) -> bool:
        return self._seen.issuperset(self._point.after) and self._seen.isdisjoint(
            self._point.unless
        )

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.write(1, f"{MARKER}{self._name}\n".encode())
            os.kill(os.getpid(), self._signal)
