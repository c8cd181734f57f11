"""What goes wrong meanwhile: one fault after the other, parts of the network away, operations.

Owns when. Each kind has its turn before any comes again, and what needs a dial, a fetch or a scan
to happen gets one. Counts are kept, so that a soak in which nothing happened is no evidence.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.devnet import Devnet, FaultKind
from tests.devnet.account import Account
from tests.devnet.faults import CONNECTION
from tests.devnet.serving import Server
from tests.simulation.faults import DIALS, DOCUMENTS, LISTS, PLACES
from tests.soak.traffic import Traffic

Call = Callable[..., Awaitable[None]]
"""Triggers a backfill: (type, **parameters)."""

OPERATIONS = ("freshnessScan", "didSync", "pdsScan", "fullReindex")
LOST_S = 2.0
AWAY_S = (2.0, 20.0)
HIDDEN_S = 20.0
WINDOW_KEPT = 20
_SLOW_S = 0.001  # between the bytes of a slow frame: seconds for each, and the backlog of them


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two of a sort; the first comes after as long."""

    fault_s: float
    mishap_s: float
    operation_s: float


class Mischief:
    """Lets things happen until cancelled."""

    def __init__(self, net: Devnet, traffic: Traffic, call: Call, rng: Random) -> None:
        self.asked: Counter[str] = Counter()  # kind of fault -> times scheduled
        self.happened: Counter[str] = Counter()  # kind of mishap -> times it was over
        self._net = net
        self._traffic = traffic
        self._call = call
        self._rng = rng
        self._waiting: list[FaultKind] = []

    async def run(self, pace: Pace, kinds: Sequence[FaultKind] = tuple(PLACES)) -> None:
        """Faults of these kinds, mishaps and operations, each at its pace."""
        async with asyncio.TaskGroup() as group:
            for wait_s, deeds in (
                (pace.fault_s, self._faults(kinds)),
                (pace.mishap_s, self._mishaps()),
                (pace.operation_s, self._operations()),
            ):
                group.create_task(_repeat(wait_s, deeds), name="soak.mischief")

    def unfired(self) -> list[str]:
        """Kinds that were asked for and have never happened."""
        return sorted(kind for kind in self.asked if not self._net.faults.fired[FaultKind(kind)])

    def _faults(self, kinds: Sequence[FaultKind]) -> Callable[[], Awaitable[None]]:
        async def fault() -> None:
            if not self._waiting:
                self._waiting = self._rng.sample(sorted(kinds), len(kinds))
            await self._schedule(self._waiting.pop())

        return fault

    async def _schedule(self, kind: FaultKind) -> None:
        schedule = self._net.faults
        schedule.scheduled[:] = [
            each for each in schedule.scheduled if each.times is None or each.fired < each.times
        ]
        named = self._placed(kind)
        schedule.schedule(kind, **named)
        self.asked[kind.value] += 1
        if kind in DIALS:
            self._net.relay.server.drop_connections()
        elif kind in DOCUMENTS or named.get("service") in {"pds", "plc"}:
            if kind in LISTS:
                await self._call("pdsScan")
            else:
                await self._call("didSync", did=self._somebody().did)

    def _placed(self, kind: FaultKind) -> dict[str, Any]:
        """Conditions and parameters as in the simulation, but for the very next chance."""
        named = PLACES[kind](self._rng, 100)
        late = {"seq", "skip"} | ({"at"} if kind in CONNECTION else set())
        named = {name: value for name, value in named.items() if name not in late}
        if kind is FaultKind.SLOW_FRAME:
            named["interval_s"] = _SLOW_S
        if named.get("endpoint") == "plc.export":  # read once in a long while
            named["endpoint"] = "plc.document"
        return named

    def _mishaps(self) -> Callable[[], Awaitable[None]]:
        deeds = {
            "relay away": lambda: self._away(self._net.relay.server),
            "host away": lambda: self._away(self._rng.choice(self._net.pds).server),
            "directory away": lambda: self._away(self._net.plc_server),
            "relay lost events": self._lose,
            "account hidden for a while": self._hide,
            "account deleted": self._delete,
            "records imported": self._import,
        }
        waiting: list[str] = []

        async def mishap() -> None:
            if not waiting:
                waiting.extend(self._rng.sample(sorted(deeds), len(deeds)))
            name = waiting.pop()
            await deeds[name]()
            self.happened[name] += 1

        return mishap

    async def _away(self, server: Server) -> None:
        await server.stop()
        try:
            await asyncio.sleep(self._rng.uniform(*AWAY_S))
        finally:
            await server.start()

    async def _lose(self) -> None:
        """The relay comes back without what was sent meanwhile: a gap."""
        relay = self._net.relay
        await relay.server.stop()
        try:
            await asyncio.sleep(LOST_S)
            relay.stream.trim(WINDOW_KEPT)
        finally:
            await relay.server.start()

    async def _hide(self) -> None:
        account = self._somebody()
        self._net.set_account_status(account, self._rng.choice(("deactivated", "takendown")))
        try:
            await asyncio.sleep(HIDDEN_S)
        finally:
            self._net.set_account_status(account, "active")

    async def _delete(self) -> None:
        self._traffic.replace(self._somebody())

    async def _import(self) -> None:
        self._net.import_records(self._somebody(), 20)

    def _operations(self) -> Callable[[], Awaitable[None]]:
        turn = 0

        async def operation() -> None:
            nonlocal turn
            kind = OPERATIONS[turn % len(OPERATIONS)]
            turn += 1
            named = {"did": self._somebody().did} if kind == "didSync" else {}
            await self._call(kind, **named)

        return operation

    def _somebody(self) -> Account:
        visible = [each for each in self._net.accounts.values() if self._net.is_visible(each)]
        return self._rng.choice(visible)


async def _repeat(wait_s: float, deed: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(wait_s)
        await deed()
