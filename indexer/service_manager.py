"""What the service manager is told: ready, a line of status, signs of life, the end.

The protocol is sd_notify: datagrams of `NAME=value` lines to the socket in $NOTIFY_SOCKET. A sign
of life says that the event loop runs and that the writer of the store finishes what it begins. It
says nothing of the upstream: restarting us would not bring a relay back.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from indexer.clock import Clock
from indexer.errors import LocalBusy
from indexer.model import FirehoseStatus, OperationType
from indexer.ports import Status

log = structlog.get_logger(__name__)

STATUS_S = 5.0
"""Between two lines of status."""


class ServiceManager:
    """The manager's end of the line; without an address every word goes nowhere.

    `watchdog_s` is how long it waits for a sign of life, None when it does not.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = address
        self._socket: socket.socket | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ServiceManager:
        """As $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID say (sd_notify(3))."""
        address = environment.get("NOTIFY_SOCKET") or None
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        is_watched = address is not None and is_ours and microseconds.isdecimal()
        return cls(address, int(microseconds) / 1e6 if is_watched and int(microseconds) else None)

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def tell(self, *lines: str) -> None:
        """Send some lines in one datagram. A manager that cannot be reached is not our failure."""
        if self._address is None:
            return
        try:
            self._connected(self._address).send("\n".join(lines).encode())
        except OSError as error:
            log.warning("service_manager.unreachable", reason=str(error))
            self.close()

    def _connected(self, address: str) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            # A leading @ stands for the null byte of an abstract address.
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        return self._socket

    def close(self) -> None:
        """Let go of the socket; the next word opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def stay_in_touch(
    manager: ServiceManager,
    status: Status,
    running: Callable[[], Mapping[OperationType, int]],
    writer_stuck_s: Callable[[], float],
    clock: Clock,
) -> None:
    """Give signs of life and keep the line of status up to date, until cancelled.

    `running` gives the operations at work of each type, `writer_stuck_s` the seconds since the
    writer last was idle or finished a transaction.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(_show_life(manager, writer_stuck_s))
        group.create_task(_show_status(manager, status, running, clock))


async def _show_life(manager: ServiceManager, writer_stuck_s: Callable[[], float]) -> None:
    while manager.watchdog_s is not None:
        if (stuck_s := writer_stuck_s()) < manager.watchdog_s:
            manager.tell("WATCHDOG=1")
        else:
            log.critical("store.writer_stuck", seconds=round(stuck_s, 1))
        await asyncio.sleep(manager.watchdog_s / 2)


async def _show_status(
    manager: ServiceManager,
    status: Status,
    running: Callable[[], Mapping[OperationType, int]],
    clock: Clock,
) -> None:
    while manager.is_there:
        with suppress(LocalBusy):
            stream = await status.firehose()
            problems = await status.readiness()
            manager.tell(f"STATUS={status_line(stream, problems, running(), clock.now())}")
        await asyncio.sleep(STATUS_S)


def status_line(
    stream: FirehoseStatus,
    problems: Mapping[str, str | None],
    running: Mapping[OperationType, int],
    now: float,
) -> str:
    """What `systemctl status` shows: what is wrong, the lag, the cursor, the operations."""
    wrong = [f"{part}: {reason}" for part, reason in problems.items() if reason is not None]
    words = [", ".join(wrong) or "following the stream"]
    if stream.last_event_at is not None:
        words.append(f"newest event {max(now - stream.last_event_at, 0.0):.0f} s old")
    words.append("no cursor yet" if stream.cursor is None else f"cursor {stream.cursor}")
    at_work = [f"{total} {kind}" for kind, total in running.items() if total]
    words.append(f"operations: {', '.join(at_work)}" if at_work else "no operation")
    return "; ".join(words).replace("\n", " ")
