"""Accounts that an operator has hidden with their host, and that have another host since."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage.denials import DenialStore
from storage.records import RecordTable
from storage.tracked import TrackedRepos
from tests.devnet import Devnet, realistic_record
from tests.unit.ingest.resync_rig import NoProjections, Rig, open_rig

TAG = "pub.chive.eprint.userTag"
RNG = random.Random(12)
SEEN = "SELECT count(*) FROM records"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Devnet(seed=8, pds_count=2) as net, open_rig(net, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("is_purged", [False, True])
async def test_an_account_that_leaves_a_denied_host_is_read_at_its_new_one(
    rig: Rig, is_purged: bool
):
    account = await rig.net.create_account(1)
    rig.net.create(account, TAG, realistic_record(RNG, TAG, did=account.did))
    await rig.hear()
    await rig.work()
    denials = DenialStore(
        rig.database, TrackedRepos(rig.database), RecordTable(NoProjections()), clock=rig.clock
    )
    host = urlsplit(rig.net.pds[1].url).netloc
    await denials.deny(host, "spam", purge=is_purged, by="did:web:admin.example")
    while await denials.step():
        pass
    assert await rig.rows(SEEN) == [(0,)]
    rig.net.migrate(account, 0)
    await rig.hear()
    await rig.work(ahead_s=70)
    assert (await rig.repo(account))[:2] == ("active", "active")
    assert await rig.rows(SEEN) == [(1,)]
