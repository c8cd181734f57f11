"""Steady seeded traffic: what many accounts do on an ordinary day.

Owns the choice of the next deed. Refuses time: `step` does one deed now, `run` spaces them by a
rate. About one deed in ten is foreign, and now and then a handle, key, status or host changes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.devnet.account import Account
from tests.devnet.records import COLLECTIONS, FOREIGN, SINGLETONS, Record, realistic_record

if TYPE_CHECKING:
    from tests.devnet.network import Devnet

SUBMISSION = "pub.chive.eprint.submission"

_POPULAR = (
    SUBMISSION,
    "pub.chive.eprint.userTag",
    "pub.chive.review.comment",
    "pub.chive.review.endorsement",
    "pub.chive.annotation.comment",
    "pub.chive.eprint.citation",
)


class Activity:
    """Traffic on `net`. `rate`: deeds a second. `is_calm` leaves out what happens to accounts.

    With `documents`, each a PDF, every eprint has one of them; else it names a blob that is not
    there.
    """

    def __init__(
        self,
        net: Devnet,
        rate: float = 10.0,
        *,
        accounts_max: int = 20,
        is_calm: bool = False,
        documents: Sequence[bytes] = (),
    ) -> None:
        self.net = net
        self.rate = rate
        self.accounts_max = accounts_max
        self.is_calm = is_calm
        self.documents = documents
        self.done: Counter[str] = Counter()  # kind of deed -> times
        self._rng = net.rng
        self._eprints: list[str] = []

    async def run(self) -> None:
        """Do deeds at the rate until cancelled."""
        while True:
            await self.step()
            await asyncio.sleep(self._rng.expovariate(self.rate))

    async def steps(self, count: int) -> None:
        """Do `count` deeds as fast as possible, giving way to others between them."""
        for _ in range(count):
            await self.step()
            await asyncio.sleep(0)

    async def step(self) -> None:
        """One deed."""
        rng, active = self._rng, self._active()
        if not active or (len(self.net.accounts) < self.accounts_max and rng.random() < 0.1):
            await self._open()
            return
        account = rng.choice(active)
        chance = rng.random()
        if chance < 0.03 and not self.is_calm:
            self._change_account(account)
        elif chance < 0.10:
            self._count("foreign")
            value = realistic_record(rng, FOREIGN, did=account.did)
            self.net.create(account, FOREIGN, value)
        elif chance < 0.20:
            self._rewrite(account)
        elif chance < 0.28:
            self._remove(account)
        else:
            self._create(account)

    def _count(self, kind: str) -> None:
        self.done[kind] += 1

    def _active(self) -> list[Account]:
        return [account for account in self.net.accounts.values() if self.net.is_visible(account)]

    async def _open(self) -> None:
        self._count("account")
        rng = self._rng
        account = await self.net.create_account(
            pds=rng.randrange(len(self.net.pds)), key="p256" if rng.random() < 0.2 else "k256"
        )
        profile = realistic_record(rng, "pub.chive.actor.profile", did=account.did)
        self.net.create(account, "pub.chive.actor.profile", profile)

    def _create(self, account: Account) -> None:
        self._count("create")
        rng = self._rng
        collection = rng.choice(_POPULAR if rng.random() < 0.7 else COLLECTIONS)
        about = rng.choice(self._eprints) if self._eprints else None
        value = self._record(account, collection, about)
        written = self.net.create(account, collection, value)
        if collection == SUBMISSION:
            self._eprints.append(written.uri)

    def _record(self, account: Account, collection: str, about: str | None = None) -> Record:
        value = realistic_record(self._rng, collection, did=account.did, eprint_uri=about)
        if self.documents and collection == SUBMISSION:
            content = self._rng.choice(self.documents)
            value["document"] = self.net.add_blob(account, content, "application/pdf")
            value["documentFormatSlug"] = "pdf"
        return value

    def _some_path(self, account: Account) -> tuple[str, str] | None:
        paths = self.net.repo(account).paths
        if not paths:
            return None
        collection, _, rkey = self._rng.choice(paths).partition("/")
        return collection, rkey

    def _rewrite(self, account: Account) -> None:
        chosen = self._some_path(account)
        if chosen is None:
            return
        self._count("update")
        self.net.update(account, *chosen, self._record(account, chosen[0]))

    def _remove(self, account: Account) -> None:
        chosen = self._some_path(account)
        if chosen is None or chosen[0] in SINGLETONS:
            return
        self._count("delete")
        self.net.delete(account, *chosen)

    def _change_account(self, account: Account) -> None:
        net, rng = self.net, self._rng
        match rng.randrange(4):
            case 0:
                self._count("handle")
                net.change_handle(account, f"renamed{rng.randrange(10**6)}.test")
            case 1:
                self._count("key")
                net.rotate_key(account)
            case 2:
                self._count("status")
                status = rng.choice(("deactivated", "takendown"))
                net.set_account_status(account, status)
                net.set_account_status(account, "active")
            case _:
                self._count("migration")
                net.migrate(account, (account.pds + 1) % len(net.pds))
