"""New repos of a day are counted for hosts that have answered, and refused before they are asked."""

from __future__ import annotations

import random
from pathlib import Path

from indexer.ingest.admission import DailyAdmission
from indexer.ingest.attempts import Result
from indexer.ingest.seating import Seating
from indexer.limits import Limits
from storage.admissions import AdmissionStore
from storage.room import Room
from tests.devnet import Account, Devnet, FaultKind, realistic_record
from tests.unit.ingest.resync_rig import Rig, open_rig

TAG = "pub.chive.eprint.userTag"
STATUS = "com.atproto.sync.getRepoStatus"
RNG = random.Random(13)
MOST = 2


class Named:
    """Who is behind hosts that are names: that is known once one has answered."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def groups(self, pds_url: str) -> tuple[str, ...] | None:
        answered = self._rig.metrics.registry.get_sample_value(
            "chive_http_client_requests_total", {"service": "pds", "code": "200"}
        )
        return ("domain pds.example", "address 1") if answered else None


def limit(rig: Rig) -> None:
    room = Room(Limits(new_repos_per_host_day=MOST))
    rows = AdmissionStore(rig.database, room, clock=rig.clock)
    rig.seating = Seating(
        rig.store,
        rig.hosts,
        workers=4,
        clock=rig.clock,
        admission=DailyAdmission(rows, Named(rig), rig.metrics),
    )


async def discovered(rig: Rig, count: int) -> list[Account]:
    accounts = [await rig.net.create_account() for _ in range(count)]
    for account in accounts:
        rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    return accounts


async def test_the_first_repo_of_a_host_is_counted_when_it_answers_and_one_too_many_never_asked_for(
    tmp_path: Path,
):
    async with Devnet(seed=9) as net, open_rig(net, tmp_path) as rig:
        limit(rig)
        await discovered(rig, MOST + 2)
        done = [each.result for each in await rig.work()]
        assert done == [Result.FETCHED] * MOST + [Result.LIMITED] * 2
        assert rig.asked("getRepoStatus") == rig.asked("getRepo") == MOST
        rows = await rig.rows("SELECT host_group, repos FROM admission ORDER BY 1")
        assert rows == [("address 1", MOST), ("domain pds.example", MOST)]


async def test_nothing_is_counted_for_a_host_that_never_answers(tmp_path: Path):
    async with Devnet(seed=9) as net, open_rig(net, tmp_path) as rig:
        limit(rig)
        mute = net.faults.schedule(FaultKind.HTTP_STATUS, endpoint=STATUS, times=None, status=502)
        await discovered(rig, MOST + 1)
        done = [each.result for each in await rig.work()]
        assert done == [Result.FAILED] * (MOST + 1)
        assert mute.fired == MOST + 1
        assert await rig.rows("SELECT * FROM admission") == []
        net.faults.clear()
        done = [each.result for each in await rig.work(ahead_s=600.0)]
        assert sorted(done) == sorted([Result.FETCHED] * MOST + [Result.LIMITED])


async def test_too_many_are_refused_after_the_answer_where_a_host_was_not_known_before(
    tmp_path: Path,
):
    async with Devnet(seed=9) as net, open_rig(net, tmp_path) as rig:
        limit(rig)
        await rig.database.write(
            lambda c: c.execute(
                "INSERT INTO admission VALUES (?, 'address 1', ?)",
                (int(rig.clock.now() // 86_400), MOST),
            )
        )
        await discovered(rig, 1)
        assert [each.result for each in await rig.work()] == [Result.LIMITED]
        assert (rig.asked("getRepoStatus"), rig.asked("getRepo")) == (1, 0)
