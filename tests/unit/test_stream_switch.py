"""The operator's hold: one at most, and not for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from admin_api.auth import Actor
from admin_api.handlers.daemon import daemon_handlers
from admin_api.xrpc import Call
from indexer import stream_switch
from indexer.errors import LocalBusy
from indexer.model import FirehoseStatus
from indexer.stream_switch import HELD_S_MAX, OperatorHold


@dataclass
class Machine:
    """A clock that is moved, and a stream that counts how often it is held."""

    at: float = 1_800_000_000.0
    holds: int = 0
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    event_at: float | None = None
    is_busy: bool = False
    arrived: int = 0  # events that are stored once one waits for that
    cursor: int = 7

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def pause(self) -> None:
        self.holds += 1

    def resume(self) -> None:
        self.holds -= 1

    async def paused(self) -> None:
        await self.quiet.wait()

    async def drained(self) -> None:
        await asyncio.sleep(0)
        self.cursor, self.arrived = self.cursor + self.arrived, 0

    async def status(self) -> FirehoseStatus:
        if self.is_busy:
            raise LocalBusy("SQLITE_BUSY")
        return FirehoseStatus(
            url="ws://relay",
            connected=not self.holds,
            paused=self.holds > 0,
            cursor=self.cursor,
            last_event_at=self.event_at,
            last_received_at=None,
        )


class NoBackups:
    """A store that is never copied."""

    async def create(self) -> tuple[str, int]:
        raise AssertionError("nobody asks for a copy")


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.quiet.set()
    return made


def hold_on(machine: Machine) -> OperatorHold:
    return OperatorHold(machine, drained=machine.drained, status=machine.status, clock=machine)


async def released(machine: Machine) -> None:
    async with asyncio.timeout(stream_switch.LOOK_S + 5):
        while machine.holds:
            await asyncio.sleep(0.02)


async def test_holding_twice_is_holding_once(machine: Machine):
    hold = hold_on(machine)
    assert (await hold.resume()).cursor == 7
    assert [await hold.pause(), await hold.pause()] == [7, 7]
    assert machine.holds == 1
    assert [(await hold.resume()).cursor, (await hold.resume()).cursor] == [7, 7]
    assert machine.holds == 0


async def test_a_resume_tells_that_an_operation_still_holds_the_stream(machine: Machine):
    hold = hold_on(machine)
    resume = daemon_handlers(hold, NoBackups())["pub.chive.indexer.resumeStream"]
    call = Call(actor=Actor("did:web:localhost", is_password=True), params={}, input={})
    machine.pause()
    await hold.pause()
    assert await resume(call) == {"paused": True, "cursor": "7"}
    machine.resume()
    assert await resume(call) == {"paused": False, "cursor": "7"}


async def test_the_cursor_of_a_hold_has_all_behind_it_that_had_arrived(machine: Machine):
    machine.arrived = 5
    assert await hold_on(machine).pause() == 12


async def test_a_hold_that_another_call_ends_is_not_waited_for(machine: Machine):
    hold = hold_on(machine)
    machine.quiet.clear()
    waiting = [asyncio.create_task(hold.pause()) for _ in range(2)]
    async with asyncio.timeout(1):
        while not machine.holds:
            await asyncio.sleep(0)
        await hold.resume()
        await hold.resume()
        for each in waiting:
            with pytest.raises(LocalBusy, match="another call has let the stream go on"):
                await each
    assert machine.holds == 0


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_hold_that_is_forgotten_ends_after_its_longest_time(
    machine: Machine, is_busy: bool
):
    hold = hold_on(machine)
    watch = asyncio.create_task(hold.run())
    await hold.pause()
    machine.is_busy = is_busy
    machine.at += HELD_S_MAX
    await released(machine)
    machine.is_busy = False
    await hold.resume()
    assert machine.holds == 0
    watch.cancel()


async def test_a_hold_ends_once_the_relay_may_forget_what_comes_next(machine: Machine):
    hold = hold_on(machine)
    watch = asyncio.create_task(hold.run())
    machine.event_at = machine.at - HELD_S_MAX + 60
    await hold.pause()
    machine.at += 60
    await released(machine)
    watch.cancel()
