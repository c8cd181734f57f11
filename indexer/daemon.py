"""The life of the daemon: it starts, runs until a signal or a failure, and stops.

Resources are nested in one exit stack and components run in one task group. A crash of any
component ends the process with its traceback; restarting is the service manager's job. The first
SIGTERM or SIGINT stops intake and lets what was received be committed; a second one exits at once,
which is safe because every state of the file is one that a transaction has left.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import FrameType

import structlog

from admin_api.server import AdminSettings, serve_admin, serve_metrics
from indexer.assembly import Parts, assemble
from indexer.errors import ConfigurationError, LocalBusy, LocalFault
from indexer.gauges import measure_loop_lag
from indexer.operations.full_reindex import rebuild_outdated
from indexer.service_manager import ServiceManager
from indexer.settings import Settings, read_passwords
from indexer.upkeep import keep_up
from indexer.world import World

log = structlog.get_logger(__name__)

EXIT_CLEAN = 0
EXIT_BUG = 70
EXIT_STORAGE = 74
EXIT_CONFIGURATION = 78
EXIT_FORCED = 130
STOP_S = 8.0
"""Time for what was received to be committed after a signal, within the 10 s promised."""

THREADS_S = 1.0
"""Time for threads to end once all is closed: a lookup may block one for as long as it likes."""

START_RETRY_S = 1.0
START_EXTENSION_US = 60_000_000
"""Between two tries to open a store that has no space or is in use, and what each asks of the
manager."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a started daemon listens."""

    admin_url: str
    metrics_url: str


def run_daemon(settings: Settings) -> int:
    """Run until a signal or a failure; the process's exit code."""
    code = EXIT_CLEAN
    with asyncio.Runner() as runner:
        try:
            runner.run(_run_until_signal(settings))
        except Exception as error:  # noqa: BLE001 - the last word of the process
            code = _exit_code(error)
        # The runner waits for every thread, and no thread can be told to give up.
        leaving = threading.Timer(THREADS_S, os._exit, (code,))
        leaving.daemon = True
        leaving.start()
    leaving.cancel()
    return code


def _exit_code(error: Exception) -> int:
    """What the process ends with; the first cause is logged, with its traceback if it is ours."""
    cause = error
    while isinstance(cause, ExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, ConfigurationError):
        log.error("daemon.refused", reason=str(cause))
        return EXIT_CONFIGURATION
    log.critical("daemon.failed", reason=repr(cause), exc_info=cause)
    return EXIT_STORAGE if isinstance(cause, LocalFault) else EXIT_BUG


async def _run_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    is_asked = False

    def begin(number: int) -> None:
        log.info("daemon.stopping", signal=signal.Signals(number).name)
        stop.set()

    # Not by the loop's own handlers: they hear of a signal by its pipe, which is full where threads
    # have woken the loop some hundred times while it was busy, and the signal would be lost.
    def on_signal(number: int, _: FrameType | None) -> None:
        nonlocal is_asked
        if is_asked:
            os._exit(EXIT_FORCED)
        is_asked = True
        with suppress(RuntimeError):  # the loop is closed, and the process ends
            loop.call_soon_threadsafe(begin, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    world = World(manager=ServiceManager.from_environment(os.environ))
    await run_daemon_until(stop, settings, world=world, on_ready=_keep_what_is_loaded)
    log.info("daemon.stopped")


def _keep_what_is_loaded(_: Addresses) -> None:
    """Spare the garbage collector what stays: it would stop the stream to go through modules."""
    gc.collect()
    gc.freeze()


async def run_daemon_until(
    stop: asyncio.Event,
    settings: Settings,
    *,
    world: World | None = None,
    on_ready: Callable[[Addresses], None] = lambda _: None,
) -> None:
    """Run all components until `stop` is set, or until one of them fails."""
    world = world or World()
    async with AsyncExitStack() as stack:
        parts = await _assembled(stop, settings, world, stack)
        if parts is None:
            return
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(parts.verification.run(), name="verification"),
                group.create_task(parts.workers.run(), name="resync"),
                group.create_task(parts.gap_repair.run(), name="gap-repair"),
                group.create_task(parts.directory.run(), name="directory"),
                group.create_task(parts.runner.run(), name="operations"),
                group.create_task(parts.hold.run(), name="operator-hold"),
                group.create_task(measure_loop_lag(parts.metrics), name="loop-lag"),
                group.create_task(keep_up(parts.upkeep), name="upkeep"),
            ]
            stopping = group.create_task(stop.wait(), name="stop")
            starting = group.create_task(parts.runner.ready(), name="start")
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                if parts.is_outdated:
                    rebuild = group.create_task(rebuild_outdated(parts.runner), name="rebuild")
                    background.append(rebuild)
                addresses = await _listen(settings, parts, stack)
                live = group.create_task(parts.live.run(), name="live")
                background += [live, group.create_task(parts.fault.wait(), name="fault")]
                log.info("daemon.started", admin=addresses.admin_url, metrics=addresses.metrics_url)
                world.manager.tell("READY=1")
                background.append(group.create_task(parts.in_touch(), name="service-manager"))
                background.append(group.create_task(parts.bootstrap.run(), name="bootstrap"))
                background.append(group.create_task(parts.schedule.run(), name="schedule"))
                on_ready(addresses)
                await stop.wait()
                world.manager.tell("STOPPING=1")
                parts.live.stop()
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_S):
                        await asyncio.wait([live])
            for task in (*background, starting):
                task.cancel()


async def _assembled(
    stop: asyncio.Event, settings: Settings, world: World, stack: AsyncExitStack
) -> Parts | None:
    """The parts; None when the stop comes while the store has no space or is in use.

    To end instead would leave the process ended for good after some tries of the service manager.
    """
    told = ""
    while True:
        try:
            return await assemble(settings, world, stack)
        except LocalBusy as error:
            await stack.aclose()
            if str(error) != told:
                told = str(error)
                log.warning("daemon.start_waits", reason=told)
        world.manager.tell(f"STATUS=waiting: {told}", f"EXTEND_TIMEOUT_USEC={START_EXTENSION_US}")
        with suppress(TimeoutError):
            async with asyncio.timeout(START_RETRY_S):
                await stop.wait()
                return None


async def _listen(settings: Settings, parts: Parts, stack: AsyncExitStack) -> Addresses:
    admin = settings.admin
    admin_port = await stack.enter_async_context(
        serve_admin(
            AdminSettings(
                bind=admin.bind,
                port=admin.port,
                hosts=admin.hosts,
                trusted_proxies=admin.trusted_proxies,
                passwords=read_passwords(admin),
                dids=admin.dids,
                service_did=admin.service_did,
                requests_per_s=admin.requests_per_s,
                serves_authors=admin.author_methods,
            ),
            parts.admin,
            catalog=parts.registry.catalog,
            clock=parts.clock,
            metrics=parts.metrics,
            on_fault=parts.fault.notice,
        )
    )
    metrics_port = await stack.enter_async_context(
        serve_metrics(
            settings.metrics.bind,
            settings.metrics.port,
            clock=parts.clock,
            metrics=parts.metrics,
            on_fault=parts.fault.notice,
        )
    )
    return Addresses(
        f"http://{_host(admin.bind)}:{admin_port}",
        f"http://{_host(settings.metrics.bind)}:{metrics_port}/metrics",
    )


def _host(bind: str) -> str:
    return f"[{bind}]" if ":" in bind else bind
