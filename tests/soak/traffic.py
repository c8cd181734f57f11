"""What tracked accounts do: as many records come as go, so that nothing grows but by a leak."""

from __future__ import annotations

import asyncio

from tests.devnet import Activity, Devnet
from tests.devnet.account import Account
from tests.devnet.records import COLLECTIONS, FOREIGN, realistic_record

ACCOUNT_SHARE = 0.002
"""Changes of handle, key, status or host among the deeds of tracked accounts."""

UPDATE_SHARE = 0.15
REMOVE_SHARE = 0.45
FOREIGN_SHARE = 0.5
"""Tracked accounts are people: half of what they write is of other applications."""

TURN_S = 0.01


class Traffic(Activity):
    """Deeds of `accounts` accounts with about `records` records each."""

    def __init__(self, net: Devnet, *, accounts: int, records: int, rate: float) -> None:
        super().__init__(net, rate, accounts_max=accounts)
        self._records = records

    async def settle_in(self) -> None:
        """Open all accounts with their records, before anybody listens."""
        for number in range(self.accounts_max):
            account = await self.net.create_account(pds=number % len(self.net.pds))
            half = self._records // 2
            self.net.import_records(account, half, COLLECTIONS, announce=False)
            self.net.import_records(account, half, [FOREIGN])

    async def run(self) -> None:
        """Do deeds until cancelled; those that fell due while we slept are done together."""
        now = asyncio.get_running_loop().time
        began, done = now(), 0
        while True:
            due = int((now() - began) * self.rate)
            for _ in range(due - done):
                await self.step()
            done = due
            await asyncio.sleep(TURN_S)

    async def step(self) -> None:
        """One deed."""
        active = self._active()
        if not active or len(self.net.accounts) < self.accounts_max:
            await self._open()
            return
        account = self._rng.choice(active)
        chance = self._rng.random()
        if chance < ACCOUNT_SHARE:
            self._change_account(account)
        elif chance < UPDATE_SHARE:
            self._rewrite(account)
        elif self._rng.random() < REMOVE_SHARE or self._is_full(account):
            self._remove(account)
        elif self._rng.random() < FOREIGN_SHARE:
            self.done["foreign"] += 1
            self.net.create(account, FOREIGN, realistic_record(self._rng, FOREIGN, did=account.did))
        else:
            self._create(account)

    def replace(self, account: Account) -> None:
        """Let an account be deleted; another is opened for it."""
        self.accounts_max += 1
        self.net.set_account_status(account, "deleted")

    def _is_full(self, account: Account) -> bool:
        return len(self.net.repo(account).records) >= self._records
