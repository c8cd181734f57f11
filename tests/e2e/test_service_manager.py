"""What a service manager hears from a daemon on its notify socket."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from indexer.daemon import EXIT_CONFIGURATION, run_daemon_until
from indexer.model import FirehoseStatus, OperationType
from indexer.service_manager import ServiceManager, status_line
from indexer.world import World
from tests.e2e.test_start_and_stop import settings_in

WATCHDOG_S = 0.4
PATIENCE_S = 20.0


class Manager:
    """The other end of the line: a real datagram socket, read by a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.heard: list[str] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while word := self.socket.recv(4096):
                with self._changed:
                    self.heard.append(word.decode())
                    self._changed.notify_all()

    def wait_for(self, word: str, times: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: sum(each.startswith(word) for each in self.heard) >= times, PATIENCE_S
            ), (word, self.heard)

    def count(self, word: str) -> int:
        with self._changed:
            return self.heard.count(word)

    def hears_within(self, seconds: float, word: str, after: int) -> bool:
        """Whether `word` is heard again, having been heard `after` times."""
        with self._changed:
            return self._changed.wait_for(lambda: self.heard.count(word) > after, seconds)

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Writer:
    """A gate in the writer's way: shut, no transaction ends."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_waiting = threading.Event()
        self.is_open.set()

    def reach(self, point: str) -> None:
        if point == "before-commit" and not self.is_open.is_set():
            self.is_waiting.set()
            assert self.is_open.wait(PATIENCE_S)
            self.is_waiting.clear()


class Daemon:
    """A daemon on a thread and a loop of its own, so that a test can bring either to a halt."""

    def __init__(self, folder: Path, world: World) -> None:
        self.is_ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        life = run_daemon_until(
            self._stop, settings_in(folder), world=world, on_ready=lambda _: self.is_ready.set()
        )
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(life,))
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self.loop.close()


@contextmanager
def watched(folder: Path) -> Iterator[tuple[Manager, Writer, Callable[[], Daemon]]]:
    """A manager, the writer's gate, and the start of a daemon that knows both."""
    manager, writer = Manager(folder / "notify"), Writer()
    world = World(manager=ServiceManager(str(folder / "notify"), WATCHDOG_S), reach=writer.reach)
    with closing(manager), ExitStack() as stack:

        def start() -> Daemon:
            daemon = Daemon(folder, world)
            stack.callback(world.manager.close)
            stack.callback(daemon.stop)
            stack.callback(writer.is_open.set)
            return daemon

        yield manager, writer, start


def test_ready_is_said_once_the_store_is_usable_and_stopping_at_the_end(tmp_path: Path):
    with watched(tmp_path) as (manager, writer, start):
        writer.is_open.clear()
        daemon = start()
        assert writer.is_waiting.wait(PATIENCE_S)
        assert manager.heard == []
        writer.is_open.set()
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1")
        manager.wait_for("STATUS=firehose: not connected to ws://127.0.0.1:9 (connect: ")
        assert daemon.is_ready.is_set()
        with closing(sqlite3.connect(f"file:{tmp_path}/index.db?mode=ro", uri=True)) as reader:
            assert reader.execute("SELECT count(*) FROM records").fetchone() == (0,)
    assert manager.heard.count("READY=1") == 1
    assert manager.heard[-1] == "STOPPING=1"


def test_signs_of_life_end_while_the_event_loop_is_stuck(tmp_path: Path):
    with watched(tmp_path) as (manager, _, start):
        daemon = start()
        manager.wait_for("WATCHDOG=1", times=3)
        is_stuck, may_go_on = threading.Event(), threading.Event()

        def hold_up() -> None:
            is_stuck.set()
            assert may_go_on.wait(PATIENCE_S)

        daemon.loop.call_soon_threadsafe(hold_up)
        assert is_stuck.wait(PATIENCE_S)
        silence_from = manager.count("WATCHDOG=1")
        assert not manager.hears_within(2 * WATCHDOG_S, "WATCHDOG=1", silence_from)
        may_go_on.set()
        manager.wait_for("WATCHDOG=1", times=silence_from + 1)


def test_signs_of_life_end_while_the_writer_is_stuck(tmp_path: Path):
    with watched(tmp_path) as (manager, writer, start):
        start()
        manager.wait_for("WATCHDOG=1", times=3)
        writer.is_open.clear()
        assert writer.is_waiting.wait(PATIENCE_S)
        # The signs go on until the writer has been stuck for the whole of the interval.
        ends = time.monotonic() + PATIENCE_S
        while manager.hears_within(2 * WATCHDOG_S, "WATCHDOG=1", manager.count("WATCHDOG=1")):
            assert time.monotonic() < ends, "still alive"
        silence_from = manager.count("WATCHDOG=1")
        writer.is_open.set()
        manager.wait_for("WATCHDOG=1", times=silence_from + 1)


def test_nothing_is_said_of_a_start_that_is_refused(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "index.db")) as foreign:
        foreign.execute("CREATE TABLE theirs (id)")
    with closing(Manager(tmp_path / "notify")) as manager:
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = (Path(sys.executable).with_name("chive-indexer"), "run")
        variables = {"CHIVE_INDEXER_STORAGE__PATH": str(tmp_path / "index.db")}
        ended = subprocess.run(
            command, env=environment | variables, capture_output=True, timeout=60, check=False
        )
        assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
        assert manager.heard == []


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_the_environments(variables: dict[str, str], watchdog_s: float | None):
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": "/run/notify", **variables})
    assert (manager.is_there, manager.watchdog_s) == (True, watchdog_s)


def test_without_a_manager_nothing_is_told_or_watched():
    manager = ServiceManager.from_environment({"WATCHDOG_USEC": "60000000"})
    assert (manager.is_there, manager.watchdog_s) == (False, None)
    manager.tell("READY=1")


def test_an_abstract_socket_is_reached_and_a_manager_that_went_away_does_no_harm():
    name = f"@chive-indexer-test-{os.getpid()}"
    manager = ServiceManager(name)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as end:
        end.bind("\0" + name[1:])
        end.settimeout(PATIENCE_S)
        manager.tell("READY=1", "STATUS=well")
        assert end.recv(100) == b"READY=1\nSTATUS=well"
    with capture_logs() as logs:
        manager.tell("WATCHDOG=1")
        manager.tell("WATCHDOG=1")
    assert [each["event"] for each in logs] == ["service_manager.unreachable"] * 2
    manager.close()


def test_the_line_of_status_says_what_is_wrong_how_far_and_what_is_at_work():
    stream = FirehoseStatus(
        url="wss://relay.example", connected=True, paused=False, cursor=42, last_event_at=90.0,
        last_received_at=95.0,
    )  # fmt: skip
    running = {OperationType.DID_SYNC: 2, OperationType.FULL_REINDEX: 0}
    assert status_line(stream, {"store": None, "firehose": None}, running, 100.0) == (
        "following the stream; newest event 10 s old; cursor 42; operations: 2 didSync"
    )
    assert status_line(stream, {"store": "disk\nfull", "firehose": "paused"}, {}, 100.0) == (
        "store: disk full, firehose: paused; newest event 10 s old; cursor 42; no operation"
    )
