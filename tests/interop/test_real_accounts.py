"""What accounts go through on the real PDS: moves between two hosts, and every status.

The old host is heard late, or says things that no longer concern it. What the account's own host
lists is what the index holds in the end.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.e2e.daemon import wait_until
from tests.interop.daemon_process import DaemonProcess
from tests.interop.real_network import Account, Network, create
from tests.interop.test_real_network import (
    COMMENT,
    a_record,
    ends_as_listed,
    following,
    is_followed,
)

pytestmark = pytest.mark.network

HEARD_S = 60.0


async def has_settled(daemon: DaemonProcess, account: Account, status: str, state: str) -> None:
    """The account is shown as its host has it."""
    wanted = {"status": status, "state": state}
    await wait_until(
        lambda: {key: daemon.account(account.did).get(key) for key in wanted} == wanted,
        what=lambda: f"{wanted}: {daemon.account(account.did)}\n{daemon.log}",
        deadline_s=HEARD_S,
    )


async def lists_the_same(network: Network, daemon: DaemonProcess, account: Account) -> None:
    await daemon.becomes(await network.listed_of(account.url, account.did), account.did)
    assert daemon.account(account.did)["pds_url"] == account.url


async def an_author(network: Network, daemon: DaemonProcess, rng: random.Random) -> Account:
    author = await network.account()
    await author.apply_writes([create(a_record(rng, COMMENT)) for _ in range(5)])
    await is_followed(daemon, author)
    return author


async def delete_at(network: Network, pds: int, did: str) -> None:
    await network.administer(pds, "com.atproto.admin.deleteAccount", {"did": did})


async def test_the_old_host_is_heard_when_the_account_has_long_been_elsewhere(
    network: Network, tmp_path: Path
):
    rng = random.Random(31)
    async with following(network, tmp_path) as daemon:
        author = await an_author(network, daemon, rng)
        await author.create(a_record(rng, COMMENT))
        assert await daemon.stop(signal.SIGTERM) == 0
        moved = await author.migrate(pds=1)
        await moved.create(a_record(rng, COMMENT))
        await daemon.start()
        bystander = await an_author(network, daemon, rng)
        await has_settled(daemon, moved, "active", "active")
        await lists_the_same(network, daemon, moved)
        await lists_the_same(network, daemon, bystander)
        assert len(daemon.records(moved.did)) == 7
    await delete_at(network, 1, moved.did)


async def test_a_deletion_at_the_old_host_concerns_nobody_and_the_account_may_come_back(
    network: Network, tmp_path: Path
):
    """Gone at the host that is followed, alive at its own, and then at the first one again."""
    rng = random.Random(32)
    async with following(network, tmp_path) as daemon:
        author = await an_author(network, daemon, rng)
        moved = await author.migrate(pds=1)
        await has_settled(daemon, moved, "active", "active")
        await delete_at(network, 0, author.did)
        bystander = await an_author(network, daemon, rng)  # all before it has been heard
        await has_settled(daemon, moved, "active", "active")
        await lists_the_same(network, daemon, moved)
        returned = await moved.migrate(pds=0)
        await returned.create(a_record(rng, COMMENT))
        await has_settled(daemon, returned, "active", "active")
        await lists_the_same(network, daemon, returned)
        assert len(daemon.records(returned.did)) == 6
        await delete_at(network, 1, moved.did)
        await returned.create(a_record(rng, COMMENT))
        await lists_the_same(network, daemon, returned)
        await lists_the_same(network, daemon, bystander)
        await ends_as_listed(network, daemon)


async def test_every_status_that_came_and_went_while_the_daemon_was_away(
    network: Network, tmp_path: Path
):
    rng = random.Random(33)
    async with following(network, tmp_path) as daemon:
        authors = [await an_author(network, daemon, rng) for _ in range(6)]
        assert await daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        hidden, back, taken, lifted, both, gone = authors
        for account in (hidden, back, both):
            await account.call("com.atproto.server.deactivateAccount", {})
        for account in (taken, lifted, both):
            await network.set_takedown(account, applied=True)
        await back.call("com.atproto.server.activateAccount")
        await back.create(a_record(rng, COMMENT))
        await network.set_takedown(lifted, applied=False)
        await lifted.create(a_record(rng, COMMENT))
        await network.set_takedown(both, applied=False)
        await delete_at(network, 0, gone.did)
        await daemon.start()
        for account, status in (
            (hidden, "deactivated"),
            (back, "active"),
            (taken, "takendown"),
            (lifted, "active"),
            (both, "deactivated"),
            (gone, "deleted"),
        ):
            await wait_until(
                lambda account=account, status=status: (
                    daemon.account(account.did).get("status") == status
                ),
                what=lambda account=account, status=status: (
                    f"{status}: {daemon.account(account.did)}\n{daemon.log}"
                ),
                deadline_s=HEARD_S,
            )
        await ends_as_listed(network, daemon)
        await both.call("com.atproto.server.activateAccount")
        await network.set_takedown(taken, applied=False)
        await has_settled(daemon, both, "active", "active")
        await has_settled(daemon, taken, "active", "active")
        await ends_as_listed(network, daemon)
