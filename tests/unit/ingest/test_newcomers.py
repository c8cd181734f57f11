"""New accounts looked for at their hosts, some of which invent them: bounded, and none forgotten."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from indexer.ingest.newcomers import Bounds
from indexer.limits import DAY_S
from tests.devnet import Account, Devnet, realistic_record
from tests.devnet.serving import Reply, json_reply
from tests.unit.ingest.resync_rig import Rig, open_rig
from tests.unit.ingest.test_gap_repair import TAG, lose, repaired, tag

LIST = "com.atproto.sync.listRepos"
DESCRIBE = "com.atproto.repo.describeRepo"
BOUNDS = Bounds(pages_of_host=6, pages_of_group=50, accounts_of_group=40, days=3)
FOREIGN = "app.bsky.feed.post"
RNG = random.Random(4)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """No lists by collection, and one repo that is followed at the honest host 0."""
    async with Devnet(seed=8) as net, open_rig(net, tmp_path, bounds=BOUNDS) as opened:
        net.relay.serves_collections = False
        tag(opened, await net.create_account(0))
        await opened.hear()
        await opened.work()
        # What may be asked is counted by days, none of which shall end in the middle of a test.
        opened.clock.ahead_s += DAY_S - opened.clock.now() % DAY_S + 3600.0
        yield opened


class Inventor:
    """Host 1, whose list has pages without end, with new accounts on each or none but one."""

    def __init__(self, rig: Rig, *, per_page: int) -> None:
        self._per_page = per_page
        self._server = rig.net.pds[1].server
        self._server.route("GET", f"/xrpc/{LIST}", LIST, self._list)
        self._server.route("GET", f"/xrpc/{DESCRIBE}", DESCRIBE, self._describe)
        self.ends_after: int | None = None

    async def _list(self, request: web.Request) -> Reply:
        page = int(request.query.get("cursor", "0"))
        if self.ends_after is not None and page >= self.ends_after:
            return json_reply({"repos": []})
        first = page * self._per_page
        entries = [
            {"did": _did(number), "head": "x", "active": True}
            for number in range(first, first + self._per_page)
        ]
        return json_reply({"repos": entries, "cursor": str(page + 1)})

    async def _describe(self, _request: web.Request) -> Reply:
        return json_reply({"collections": [FOREIGN]})

    @property
    def pages(self) -> int:
        return self._server.requests[LIST]

    @property
    def asked(self) -> int:
        return self._server.requests[DESCRIBE]


def _did(number: int) -> str:
    return "did:plc:" + f"{number:024}".translate(str.maketrans("0189", "abcd"))


async def newcomer(rig: Rig) -> Account:
    """At the honest host, unheard."""
    account = await rig.net.create_account(0)
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    return account


async def is_tracked(rig: Rig, account: Account) -> bool:
    return bool(await rig.rows(f"SELECT 1 FROM repo WHERE did = '{account.did}'"))


async def go_on(rig: Rig, *, ahead_s: float = 0.0) -> None:
    rig.clock.ahead_s += ahead_s
    await rig.repair.go_on()
    await rig.directory.go_on()
    await rig.work(ahead_s=61.0)
    await rig.repair.go_on()
    await rig.directory.go_on()
    await rig.repair.go_on()


async def unread(rig: Rig) -> list[tuple[object, ...]]:
    return await rig.rows("SELECT unread FROM gaps")


async def test_a_list_without_end_is_cut_and_the_gap_says_so(rig: Rig):
    host = Inventor(rig, per_page=1)
    honest = await newcomer(rig)
    await lose(rig)
    await go_on(rig)
    assert host.pages <= 1 + BOUNDS.pages_of_host and host.asked <= BOUNDS.pages_of_host
    assert await is_tracked(rig, honest)
    assert await repaired(rig) and await unread(rig) == [(1,)]


async def test_a_cursor_that_does_not_move_ends_a_list(rig: Rig):
    server = rig.net.pds[1].server

    async def stuck(_request: web.Request) -> Reply:
        return json_reply({"repos": [{"did": _did(1), "active": True}], "cursor": "here"})

    server.route("GET", f"/xrpc/{LIST}", LIST, stuck)
    await lose(rig)
    await go_on(rig)
    assert server.requests[LIST] <= 3
    assert await repaired(rig) and await unread(rig) == [(1,)]


async def test_what_a_host_invents_takes_nothing_from_the_newcomers_of_another(rig: Rig):
    """And it is asked no more in a day than its share, however many gaps there are."""
    host = Inventor(rig, per_page=25)
    for _ in range(2):
        honest = await newcomer(rig)
        await lose(rig)
        await go_on(rig, ahead_s=61.0)
        assert await is_tracked(rig, honest)
        assert BOUNDS.accounts_of_group <= host.asked < BOUNDS.accounts_of_group + 25
    assert not await repaired(rig)


async def test_what_was_not_asked_today_is_asked_on_the_next_days(rig: Rig):
    host = Inventor(rig, per_page=25)
    host.ends_after = 5
    await lose(rig)
    await go_on(rig)
    assert host.asked == 50 and not await repaired(rig)
    await go_on(rig, ahead_s=DAY_S)
    assert host.asked == 100 and not await repaired(rig)
    await go_on(rig, ahead_s=DAY_S)
    assert host.asked == 125
    assert await repaired(rig) and await unread(rig) == [(0,)]


async def test_a_list_that_takes_longer_than_some_days_is_cut(rig: Rig):
    host = Inventor(rig, per_page=45)
    await lose(rig)
    for _ in range(BOUNDS.days + 1):
        await go_on(rig)
        await go_on(rig, ahead_s=DAY_S)
    assert host.asked <= 45 * (BOUNDS.days + 1)
    assert await repaired(rig) and await unread(rig) == [(1,)]
