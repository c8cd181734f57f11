"""Logging: structlog events as JSON or for a console, never in the way of the work.

Events are static names with keys. Under systemd each line carries the journal's priority prefix.
An event that repeats faster than `REPEATS_PER_MINUTE`, or for whatever reasons faster than
`LINES_PER_MINUTE`, is held back, and the next line of it that is written says how many were
suppressed. A line that cannot be written is lost, and nothing else.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from threading import Lock
from typing import Any, Literal

import structlog

from indexer.clock import Clock, SystemClock

REPEATS_PER_MINUTE = 20
"""Of one event for one reason."""

LINES_PER_MINUTE = 200
"""Of one event: reasons may quote what strangers send."""

MINUTE_S = 60.0
EVENTS_REMEMBERED = 1000

PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Level -> syslog priority, which journald reads from `<n>` at the start of a line."""

CONTROLS = dict.fromkeys(
    {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\N{REPLACEMENT CHARACTER}"
)
"""What could steer a terminal."""

EventDict = MutableMapping[str, Any]  # structlog's own type for the keys of one event


class RepeatLimit:
    """A structlog processor that holds back repetitions of one event."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_reason = _Held(REPEATS_PER_MINUTE)
        self._by_event = _Held(LINES_PER_MINUTE)

    def __call__(self, _: object, __: str, event: EventDict) -> EventDict:
        """Pass the event on, or drop it."""
        now = self._clock.monotonic()
        name = str(event.get("event"))
        held = self._by_reason.let_pass((name, str(event.get("reason"))), now)
        held += self._by_event.let_pass((name, ""), now)
        if held:
            event["suppressed"] = held
        return event


class _Held:
    """What was let pass and held back of each key, within its minute."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, str], tuple[float, int, int]] = OrderedDict()

    def let_pass(self, key: tuple[str, str], now: float) -> int:
        """How many were held back before this one, which passes. Raises `DropEvent` instead."""
        started, passed, held = self._seen.pop(key, (now, 0, 0))
        if now - started > MINUTE_S:
            started, passed = now, 0
        is_passing = passed < self._most
        self._seen[key] = (started, passed + 1, 0) if is_passing else (started, passed, held + 1)
        if not is_passing:
            raise structlog.DropEvent
        while len(self._seen) > EVENTS_REMEMBERED:
            self._seen.popitem(last=False)
        return held


def configure_logging(
    form: Literal["json", "console"] | None,
    level: str,
    *,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Set up logging to standard error; `form` None chooses json unless it is a terminal."""
    environment = os.environ if environment is None else environment
    chosen = form or ("console" if sys.stderr.isatty() else "json")
    rendering: list[Any] = (  # structlog's processors have no common type
        [_harmless, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if chosen == "console"
        else [structlog.processors.JSONRenderer()]
    )
    if "JOURNAL_STREAM" in environment:
        rendering[-1] = _Prefixed(rendering[-1])
    lines = _Lines(sys.stderr.fileno())
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            RepeatLimit(SystemClock()),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


class _Lines:
    """Writes lines past Python's buffers, without ever waiting for who reads them.

    A pipe or socket that is said to be writable takes PIPE_BUF bytes at once, so a line goes in
    such parts. What finds no room is lost.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._is_cut = False
        # Between the look and the write no other thread may take the room.
        self._turn = Lock()

    def error(self, line: str) -> None:
        """Write the line, or lose it: no full disk, and no reader that stalls, may end the work."""
        text = f"{line}\n".encode(errors="backslashreplace")
        with self._turn, suppress(OSError):
            rest = memoryview(b"\n" + text if self._is_cut else text)
            while rest and self._room.poll(0):
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
                self._is_cut = bool(rest)

    debug = info = warning = critical = error


def _harmless(_: object, __: str, event: EventDict) -> EventDict:
    """Texts from the network reach the terminal as text."""
    return {
        key: value.translate(CONTROLS) if isinstance(value, str) else value
        for key, value in event.items()
    }


class _Prefixed:
    """A renderer whose lines begin with the journal's priority."""

    def __init__(self, render: Any) -> None:
        self._render = render

    def __call__(self, logger: object, name: str, event: EventDict) -> str:
        priority = PRIORITIES.get(str(event.get("level")), PRIORITIES["info"])
        text = str(self._render(logger, name, event))
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))
