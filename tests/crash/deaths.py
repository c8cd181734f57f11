"""One store through a death at each of the crash points, in an order of its seed's.

After each death the file must be sound and a past of the network; at the end the daemon catches up,
and the store must equal the truth.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.crash.history import RememberingDevnet, check_past
from tests.crash.kills import catch_up, document
from tests.crash.points import MARKER, POINTS, die_at
from tests.crash.process import Life, check_derived, check_file, configure
from tests.crash.requests import TYPES, Requests
from tests.devnet import Activity, FaultKind
from tests.devnet.account import Account
from tests.devnet.records import FOREIGN, realistic_record

ACCOUNTS = 10
RATE = 40.0
DEATH_S = 60.0
IMPORTED = 70  # more than one transaction brings
BEFORE_ANYTHING = frozenset({"fresh store"})
FETCH_S = 0.3
TAG = "pub.chive.eprint.userTag"
GET_REPO = "com.atproto.sync.getRepo"
DEEDS_S = 0.05


@dataclass(slots=True)
class Deaths:
    """What one seed came to."""

    fired: dict[str, int] = field(default_factory=dict)  # point -> deaths there
    repos_compared: int = 0
    took_s: float = 0.0


async def run_points(seed: int, folder: Path, names: Iterable[str] = POINTS) -> Deaths:
    """A new store through all these points. Fails where one is not reached, or a store is wrong."""
    rng = random.Random(seed)
    began = time.monotonic()
    deaths = Deaths()
    async with RememberingDevnet(seed) as net:
        documents = [document(net.rng) for _ in range(2)]
        activity = Activity(
            net, rate=RATE, accounts_max=ACCOUNTS, is_calm=True, documents=documents
        )
        await activity.steps(60)
        config = configure(folder / str(seed), net, governance={"did": next(iter(net.accounts))})
        requests = Requests(net, rng)
        stage = _Stage(net, activity, requests, config, rng)
        order = sorted(names)
        rng.shuffle(order)
        order.sort(key=lambda name: POINTS[name].needs not in BEFORE_ANYTHING)
        for name in order:
            await stage.die(name)
            deaths.fired[name] = deaths.fired.get(name, 0) + 1
            deaths.repos_compared += check_past(net, stage.database)
        await stage.catch_up()
    deaths.took_s = time.monotonic() - began
    return deaths


class _Stage:
    """The network around one store."""

    def __init__(
        self,
        net: RememberingDevnet,
        activity: Activity,
        requests: Requests,
        config: Path,
        rng: random.Random,
    ) -> None:
        self.database = config.with_name("index.db")
        self._net = net
        self._activity = activity
        self._requests = requests
        self._config = config
        self._rng = rng
        self._outsider: Account | None = None

    async def die(self, name: str) -> None:
        """One life that ends at this point."""
        point = POINTS[name]
        if point.needs in BEFORE_ANYTHING:
            for left in self._config.parent.glob("index.db*"):
                left.unlink()
        times = self._rng.randrange(point.times_max) + 1
        async with Life(self._config, die_at, name, times) as life:
            deeds = asyncio.create_task(self._bring_on(point.needs, life))
            try:
                code = await life.ended(DEATH_S)
            except AssertionError as error:
                if deeds.done():
                    deeds.result()  # nothing was brought on any more
                raise AssertionError(f"{name} was not reached {times} times: {error}") from error
            finally:
                deeds.cancel()
                await asyncio.wait([deeds])
                self._net.faults.clear()
            if not deeds.cancelled():
                deeds.result()
            assert code == -signal.SIGKILL, (name, code, life.text[-3000:])
            assert f"{MARKER}{name}\n" in life.text, (name, life.text[-3000:])

    async def catch_up(self) -> None:
        """The last life: it must come to equal the truth."""
        async with Life(self._config) as life:
            url = await life.started()
            assert url is not None, life.text[-3000:]
            await catch_up(self._net, self._requests, url, self.database)
            await life.stop()
        check_file(self.database)
        await check_derived(self._config)

    async def _bring_on(self, needs: str, life: Life) -> None:
        """Deeds and requests, again and again until the process has died of one."""
        url = await life.started()
        if url is None:
            return  # it did not live so long
        if needs == "stop":
            await self._activity.steps(3)
            life.terminate()
            return
        with suppress(aiohttp.ClientError):
            async with self._requests.session() as session:
                while True:
                    await self._deed(needs)
                    if needs in TYPES or needs in ("cancel", "backup"):
                        await self._requests.ask(session, url, needs)
                    if needs == "cancel":
                        await self._requests.ask(session, url, "fullReindex")
                    await asyncio.sleep(DEEDS_S)

    async def _deed(self, needs: str) -> None:
        net = self._net
        match needs:
            case "import":
                # The second fetch of a repo waits a minute, the first one does not.
                newcomer = await net.create_account()
                net.import_records(newcomer, IMPORTED, [TAG])
                self._tag(newcomer)
                await asyncio.sleep(FETCH_S)
            case "newcomer":
                self._tag(await net.create_account())
            case "slow newcomer":
                delay = net.faults.schedule(
                    FaultKind.HTTP_DELAY, seconds=FETCH_S, endpoint=GET_REPO
                )
                newcomer = await net.create_account()
                self._tag(newcomer)
                await net.faults.wait_fired(delay, timeout_s=DEATH_S)
                self._tag(newcomer)
            case "foreign":
                # Of an account without a record of ours: nothing of it is stored but the cursor.
                self._outsider = self._outsider or await net.create_account()
                value = realistic_record(net.rng, FOREIGN, did=self._outsider.did)
                net.create(self._outsider, FOREIGN, value)
            case "citationExtraction":
                await self._activity.steps(5)
            case _:
                await self._activity.step()

    def _tag(self, account: Account) -> None:
        self._net.create(account, TAG, realistic_record(self._net.rng, TAG, did=account.did))
