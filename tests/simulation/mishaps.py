"""What befalls whole parts of a simulated network, the daemon among them, beside single faults.

Owns what each does and when it is over. A server that is down refuses connections; traffic goes on
meanwhile, and nobody waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from random import Random
from typing import TypeAlias

from tests.devnet import Devnet
from tests.devnet.account import Account
from tests.devnet.records import FOREIGN, realistic_record
from tests.devnet.serving import Server
from tests.simulation.subject import Subject

CRASH_S_MAX = 600.0
WAIT_S_MAX = 60.0
HEARD_S_MAX = 600.0  # the relay is dialed once a minute at the least
KEPT_MAX = 2  # events, by a relay that forgets
OFF_S = (-86_400.0, -7_200.0, -900.0, 7_200.0)
STRANGERS = 25
COLLECTION = "pub.chive.eprint.userTag"
DOWN_S = (5.0, 40.0, 120.0)


class Mishap(StrEnum):
    """Every kind."""

    DAEMON_STOPPED = "daemon_stopped"
    DAEMON_CRASHED_BEFORE_COMMIT = "daemon_crashed_before_commit"
    DAEMON_CRASHED_AFTER_COMMIT = "daemon_crashed_after_commit"
    RELAY_DOWN = "relay_down"
    RELAY_FORGOT = "relay_forgot"  # its window no longer reaches back to our cursor
    RELAY_REWOUND = "relay_rewound"  # restored from a backup: its numbers end before our cursor
    HOST_DOWN = "host_down"
    DIRECTORY_DOWN = "directory_down"
    ACCOUNT_HIDDEN = "account_hidden"
    ACCOUNT_RETURNED = "account_returned"  # hidden for a while
    ACCOUNT_DELETED = "account_deleted"
    REPO_IMPORTED = "repo_imported"  # many records and no #commit
    CLOCK_WRONG = "clock_wrong"  # the daemon's, by hours, and set right again
    STRANGERS_CAME = "strangers_came"  # many accounts that nobody has heard of, one record each


class Mishaps:
    """Lets them happen. What lasts goes on in `group` while the caller does other things."""

    def __init__(
        self, net: Devnet, subject: Subject, rng: Random, group: asyncio.TaskGroup
    ) -> None:
        self._net = net
        self._subject = subject
        self._rng = rng
        self._group = group
        self._down: dict[Server, asyncio.Task[None]] = {}
        self._passing: list[asyncio.Task[None]] = []
        self.happened: Counter[Mishap] = Counter()
        """Those that the daemon had to do with: a log may be changed where it has read nothing."""

    async def happen(self, kind: Mishap) -> None:
        """Return when it has begun, or is over where it concerns the daemon or the relay's log."""
        if await _DEEDS[kind](self) is not False:
            self.happened[kind] += 1

    async def over(self) -> None:
        """Return when every server is up again, every account back that will be, time right."""
        going_on = [*self._down.values(), *self._passing]
        if going_on:
            await asyncio.wait(going_on)

    async def _daemon_stopped(self) -> None:
        await self._subject.stop()
        await self._pause()
        await self._subject.start()

    async def _daemon_crashed(self, point: str) -> None:
        await self._up(self._net.relay.server)
        crashing = self._group.create_task(self._subject.crash(point, CRASH_S_MAX), name="crash")
        while not crashing.done():
            self._net.create(self._somebody(), FOREIGN, {"text": "so that there is a transaction"})
            await asyncio.wait([crashing], timeout=5.0)
        assert crashing.result(), f"no transaction came to its point {point}"
        await self._subject.start()

    async def _crashed_before_commit(self) -> None:
        await self._daemon_crashed("before-commit")

    async def _crashed_after_commit(self) -> None:
        await self._daemon_crashed("after-commit")

    async def _relay_down(self) -> None:
        self._take_down(self._net.relay.server)

    async def _relay_forgot(self) -> bool:
        relay = self._net.relay
        await self._up(relay.server)
        await self._wait_for(lambda: self._cursor() is not None)
        await relay.server.stop()
        for account in filter(self._net.is_visible, self._net.accounts.values()):
            if self._rng.random() < 0.5:
                self._net.create(account, FOREIGN, {"text": "nobody will hear of it"})
        for _ in range(KEPT_MAX + 1):
            self._net.create(self._somebody(), FOREIGN, {"text": "and of one of these"})
        relay.stream.trim(self._rng.randrange(KEPT_MAX + 1))
        kept = relay.stream.after(0)
        oldest = kept[0].seq if kept else relay.stream.last_seq + 1
        cursor = self._cursor()
        await relay.server.start()
        return cursor is not None and cursor < oldest - 1

    async def _relay_rewound(self) -> bool:
        relay = self._net.relay
        await self._up(relay.server)
        await self._wait_for(lambda: self._cursor() == relay.stream.last_seq)
        await relay.server.stop()
        relay.stream.rewind(max(relay.stream.last_seq - self._rng.randrange(1, 20), 1))
        cursor = self._cursor()
        await relay.server.start()
        if cursor is None or cursor <= relay.stream.last_seq:
            return False
        # Who comes back when it is past our cursor again cannot know: numbers are all that tells.
        await self._wait_for(lambda: self._cursor() != cursor, most_s=HEARD_S_MAX)
        return True

    async def _host_down(self) -> None:
        self._take_down(self._rng.choice(self._net.pds).server)

    async def _directory_down(self) -> None:
        self._take_down(self._net.plc_server)

    async def _account_hidden(self) -> None:
        self._hide()

    async def _account_returned(self) -> None:
        account = self._hide()

        async def come_back() -> None:
            await self._pause()
            self._net.set_account_status(account, "active")

        self._passing.append(self._group.create_task(come_back(), name="return"))

    async def _account_deleted(self) -> None:
        self._net.set_account_status(self._somebody(), "deleted")

    async def _repo_imported(self) -> None:
        account = self._somebody()
        self._net.import_records(account, self._rng.randrange(1, 40))
        self._net.import_records(account, self._rng.randrange(1, 400), [FOREIGN])

    async def _clock_wrong(self) -> None:
        clock = self._subject.clock
        clock.off_s = self._rng.choice(OFF_S)

        async def set_right() -> None:
            await self._pause()
            clock.off_s = 0.0

        self._passing.append(self._group.create_task(set_right(), name="clock"))

    async def _strangers_came(self) -> None:
        for _ in range(STRANGERS):
            pds = self._rng.randrange(len(self._net.pds))
            account = await self._net.create_account(pds)
            value = realistic_record(self._rng, COLLECTION, did=account.did)
            self._net.create(account, COLLECTION, value)

    def _hide(self) -> Account:
        account = self._somebody()
        status = self._rng.choice(("deactivated", "takendown", "suspended"))
        self._net.set_account_status(account, status)
        return account

    def _somebody(self) -> Account:
        """A visible account; few enough are hidden that there is one."""
        return self._rng.choice([a for a in self._net.accounts.values() if self._net.is_visible(a)])

    def _take_down(self, server: Server) -> None:
        if server not in self._down or self._down[server].done():
            self._down[server] = self._group.create_task(self._absence(server), name="down")

    async def _absence(self, server: Server) -> None:
        await server.stop()
        await self._pause()
        await server.start()

    async def _up(self, server: Server) -> None:
        if server in self._down:
            await asyncio.wait([self._down[server]])

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.choice(DOWN_S) * self._rng.random())

    async def _wait_for(self, condition: Callable[[], bool], *, most_s: float = WAIT_S_MAX) -> None:
        """Wait a while: other things go on, which may keep it from coming about."""
        for _ in range(int(most_s)):
            if condition():
                return
            await asyncio.sleep(1.0)

    def _cursor(self) -> int | None:
        """The daemon's; None before it has one."""
        [(cursor,)] = self._subject.daemon.rows("SELECT max(cursor) FROM firehose")
        return None if cursor is None else int(cursor)


_Deed: TypeAlias = Callable[[Mishaps], Awaitable[bool | None]]
"""False: it made no difference to the daemon."""

_DEEDS: dict[Mishap, _Deed] = {
    Mishap.DAEMON_STOPPED: Mishaps._daemon_stopped,
    Mishap.DAEMON_CRASHED_BEFORE_COMMIT: Mishaps._crashed_before_commit,
    Mishap.DAEMON_CRASHED_AFTER_COMMIT: Mishaps._crashed_after_commit,
    Mishap.RELAY_DOWN: Mishaps._relay_down,
    Mishap.RELAY_FORGOT: Mishaps._relay_forgot,
    Mishap.RELAY_REWOUND: Mishaps._relay_rewound,
    Mishap.HOST_DOWN: Mishaps._host_down,
    Mishap.DIRECTORY_DOWN: Mishaps._directory_down,
    Mishap.ACCOUNT_HIDDEN: Mishaps._account_hidden,
    Mishap.ACCOUNT_RETURNED: Mishaps._account_returned,
    Mishap.ACCOUNT_DELETED: Mishaps._account_deleted,
    Mishap.REPO_IMPORTED: Mishaps._repo_imported,
    Mishap.CLOCK_WRONG: Mishaps._clock_wrong,
    Mishap.STRANGERS_CAME: Mishaps._strangers_came,
}
