"""Logging: structlog events as JSON or for a console, never in the way of the work.

Events are static names with keys. Under systemd each line carries the journal's priority prefix.
An event that repeats faster than `REPEATS_PER_MINUTE` is held back, and the next line of it that
is written says how many were suppressed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog

from indexer.clock import Clock, SystemClock

REPEATS_PER_MINUTE = 20
MINUTE_S = 60.0
EVENTS_REMEMBERED = 1000

PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Level -> syslog priority, which journald reads from `<n>` at the start of a line."""

EventDict = MutableMapping[str, Any]  # structlog's own type for the keys of one event


class RepeatLimit:
    """A structlog processor that holds back repetitions of one event, reason included."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], tuple[float, int, int]] = OrderedDict()

    def __call__(self, _: object, __: str, event: EventDict) -> EventDict:
        """Pass the event on, or drop it."""
        key = (str(event.get("event")), str(event.get("reason")))
        now = self._clock.monotonic()
        started, written, held = self._seen.pop(key, (now, 0, 0))
        if now - started > MINUTE_S:
            started, written = now, 0
        if written >= REPEATS_PER_MINUTE:
            self._seen[key] = (started, written, held + 1)
            raise structlog.DropEvent
        if held:
            event["suppressed"] = held
        self._seen[key] = (started, written + 1, 0)
        while len(self._seen) > EVENTS_REMEMBERED:
            self._seen.popitem(last=False)
        return event


def configure_logging(
    form: Literal["json", "console"] | None,
    level: str,
    *,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Set up logging to standard error; `form` None chooses json unless it is a terminal."""
    environment = os.environ if environment is None else environment
    chosen = form or ("console" if sys.stderr.isatty() else "json")
    renderer: Any = (  # structlog's processors have no common type
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if chosen == "console"
        else structlog.processors.JSONRenderer()
    )
    processors: list[Any] = [
        structlog.stdlib.add_log_level,
        RepeatLimit(SystemClock()),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _Prefixed(renderer) if "JOURNAL_STREAM" in environment else renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class _Prefixed:
    """A renderer whose lines begin with the journal's priority."""

    def __init__(self, render: Any) -> None:
        self._render = render

    def __call__(self, logger: object, name: str, event: EventDict) -> str:
        priority = PRIORITIES.get(str(event.get("level")), PRIORITIES["info"])
        return f"<{priority}>{self._render(logger, name, event)}"
