"""Random histories on a real file: rows, totals and buffers are those of a simple model."""

from __future__ import annotations

import random

import pytest

from indexer.claims import Fetched, Identity, SnapshotChunk, StaleClaim, failed
from indexer.model import RepoState
from tests.storage.conftest import KEY, POST, World, account, commit, gone, put

IDENTITY = Identity(handle=None, signing_key=KEY, pds_url="https://pds.example")
DIDS = [f"did:plc:{n:024}" for n in range(4)]


class Model:
    """Four repos at their host, and the commits that the index has not been told of."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.rows: dict[str, dict[str, str]] = {did: {} for did in DIDS}
        self.rev = dict.fromkeys(DIDS, 0)
        self.frames: dict[bytes, object] = {}

    def next_commit(self, did: str):
        since = f"r{self.rev[did]:05}" if self.rev[did] else None
        self.rev[did] += 1
        writes = []
        for rkey in self.rng.sample("abcdefg", self.rng.randrange(1, 4)):
            if rkey in self.rows[did] and self.rng.random() < 0.4:
                del self.rows[did][rkey]
                writes.append(gone(rkey))
            else:
                self.rows[did][rkey] = f"c{self.rng.randrange(1000)}"
                problem = "wrong" if self.rng.random() < 0.1 else None
                writes.append(put(rkey, self.rows[did][rkey], problem))
        rev = f"r{self.rev[did]:05}"
        frame = f"{did} {rev}".encode()
        made = commit(rev, since, *writes, did=did, frame=frame)
        self.frames[frame] = made
        return made

    async def step(self) -> None:
        did, chance = self.rng.choice(DIDS), self.rng.random()
        if chance < 0.6:
            made = [
                self.next_commit(self.rng.choice(DIDS)) for _ in range(self.rng.randrange(1, 6))
            ]
            kept = [event for event in made if self.rng.random() > 0.03]
            await self.world.apply(*kept, *kept[: self.rng.randrange(2)])
        elif chance < 0.7:
            active = self.rng.random() < 0.7
            self.world.clock.at += 1.0
            status = None if active else "deactivated"
            await self.world.apply(
                account(active=active, status=status, time=self.world.clock.at, did=did)
            )
        else:
            await self.work()

    async def work(self) -> None:
        self.world.clock.at += self.rng.choice([1.0, 4000.0])
        claim = await self.world.resyncs.claim_next()
        if claim is None:
            return
        try:
            claim = await self.world.resyncs.save_identity(claim, IDENTITY)
            claim = await self.world.resyncs.begin_fetch(claim)
            leaves = sorted(self.rows[claim.did].items())
            rev = f"r{self.rev[claim.did]:05}"
            chance = self.rng.random()
            if chance < 0.3:
                await self.world.apply(self.next_commit(claim.did))
            elif chance < 0.4:
                ending = lambda repo: failed(repo, "x", delay_s=60.0, now=self.world.clock.at)  # noqa: E731
                await self.world.resyncs.settle(claim, ending)
                return
            elif chance < 0.5:
                await self.world.resyncs.give_back_all()
            await self.finish(claim, rev, leaves)
        except StaleClaim:
            pass

    async def finish(self, claim, rev: str, leaves: list[tuple[str, str]]) -> None:
        chunk = SnapshotChunk(
            after="",
            upto=None,
            leaves=tuple((f"{POST}/{rkey}", cid) for rkey, cid in leaves),
            records={f"{POST}/{rkey}": put(rkey, cid).record for rkey, cid in leaves},
            rev=rev,
        )
        fetched: Fetched | None = Fetched(
            rev=rev, data=f"root-{rev}", host_rev=rev, scope_id="scope"
        )
        after, is_done = 0, False
        while not is_done:
            pending = await self.world.resyncs.load_pending(claim, after)
            after = pending[-1][0] if pending else after
            commits = [self.frames[frame] for _, frame in pending]
            done = await self.world.resyncs.finish(
                claim, fetched, chunk, commits, upto_id=after, is_confirmed=True
            )
            fetched = chunk = None
            is_done = done.is_done

    async def check(self) -> None:
        rows = await self.world.rows("SELECT kind, name, total FROM tally WHERE total <> 0")
        counted = await self.world.rows(
            "SELECT 'repo_state', state, count(*) FROM repo GROUP BY state UNION ALL"
            " SELECT 'account_status', account_status, count(*) FROM repo GROUP BY account_status"
            " UNION ALL SELECT 'collection', collection, count(*) FROM record GROUP BY collection"
            " UNION ALL SELECT 'dead_letter', reason, count(*) FROM dead_letter GROUP BY reason"
        )
        assert sorted(rows) == sorted(counted)
        buffered = await self.world.rows(
            "SELECT count(*) FROM repo WHERE pending_bytes <> (SELECT coalesce(sum(length(frame)),"
            " 0) FROM pending_commit WHERE repo_id = repo.id)"
        )
        assert buffered == [(0,)]

    async def come_to_rest(self) -> None:
        for did in DIDS:
            self.world.clock.at += 1.0
            await self.world.apply(
                account(active=True, status=None, time=self.world.clock.at, did=did),
                self.next_commit(did),
            )
        self.rng = random.Random(1)
        for _ in range(60):
            self.world.clock.at += 90_000.0
            await self.work()
        for did in DIDS:
            state, status, rev, *_ = await self.world.repo(did)
            assert (state, status, rev) == (
                RepoState.ACTIVE, "active", f"r{self.rev[did]:05}",
            )  # fmt: skip
            stored = await self.world.rows("SELECT rkey, cid FROM records WHERE did = ?", did)
            assert dict(stored) == self.rows[did]


@pytest.mark.parametrize("seed", range(12))
async def test_rows_totals_and_buffers_follow_any_history(world: World, seed: int):
    model = Model(world, seed)
    for _ in range(60):
        await model.step()
    await model.check()
    await model.come_to_rest()
    await model.check()
