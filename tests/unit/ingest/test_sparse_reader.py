"""Walks over any repo and scope, by a host in memory: the same content as the whole archive's."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from indexer.claims import CHUNK_ROWS, Claim
from indexer.errors import NotServed
from indexer.ingest import sparse
from indexer.ingest.snapshot import RepoSnapshot, open_snapshot
from indexer.ingest.sparse import SparseReader, path_at
from indexer.metrics import Metrics
from indexer.model import AccountStatus, RepoState, Scope
from indexer.planning import Repo as RepoRow
from indexer.protocol.cid import cid_text
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.mst import MissingBlock
from indexer.protocol.syntax import is_nsid, is_rkey
from tests.devnet.car import write_car
from tests.devnet.cbor import encode
from tests.devnet.clock import ManualClock, TidClock
from tests.devnet.keys import derive_key, multibase
from tests.devnet.repo import Repo

DID = "did:plc:abcdefghijklmnopqrstuvwx"
KEY = derive_key("k256", "sparse", "account")
PDS_URL = "https://pds.example.com"
NAMES = ("pub.chive.a", "pub.chive.eprint.userTag", "pub.chive.z.z", "pub.chiver.b")
FOREIGN = [
    (f"{name}/a{number:05}", encode({"n": number}))
    for name in ("app.bsky.feed.post", "zone.example.other")
    for number in range(700)
]
"""Enough, under these keys, that no scope below makes it a small repo."""
paths = st.builds(
    lambda name, number: f"{name}/r{number:05}", st.sampled_from(NAMES), st.integers(0, 99999)
)
SCOPES = [
    ("pub.chive.*",),
    ("pub.chive.eprint.userTag",),
    ("pub.chive.a", "pub.chive.z.*", "pub.chiver.b"),
    ("aaa.none.*",),
    ("zzz.none.such",),
]


@dataclass
class MemoryHost:
    """Proofs and blocks of one repo; it may offer only some of it."""

    repo: Repo
    is_proving: bool = True
    is_giving_blocks: bool = True
    asked: Counter[str] = field(default_factory=Counter)
    cids: list[bytes] = field(default_factory=list)

    async def fetch_proof(self, pds_url, did, path, *, bytes_max):
        self.asked[f"proof {pds_url}"] += 1
        if not self.is_proving:
            raise NotServed("no proofs here")
        return write_car([self.repo.commit_cid], self.repo.record_proof("/".join(path)))

    async def fetch_blocks(self, pds_url, did, cids, *, bytes_max):
        self.asked[f"blocks {pds_url}"] += 1
        self.cids += cids
        if not self.is_giving_blocks:
            return None
        return write_car([], [(cid, self.repo.blocks[cid].data) for cid in cids])


@dataclass
class HeldRows:
    """Our rows of the repo: path -> CID text."""

    cids: dict[str, str] = field(default_factory=dict)

    async def cids_between(self, claim, after, upto):
        within = [
            path for path in sorted(self.cids) if after < path and (upto is None or path <= upto)
        ]
        return {path: self.cids[path] for path in within[:CHUNK_ROWS]}


class SetClock:
    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return 1_790_000_100.0

    def monotonic(self) -> float:
        return self.at


CLAIM = Claim(
    repo=RepoRow(id=1, did=DID, state=RepoState.RESYNCING, account_status=AccountStatus.ACTIVE),
    pds_url=PDS_URL,
)


def repo_of(pairs) -> Repo:
    repo = Repo(DID, KEY, TidClock(ManualClock(), 7))
    repo.bulk_put([*FOREIGN, *pairs])
    return repo


def opened(root, load, scope: Scope) -> RepoSnapshot:
    key = VerifyingKey.parse(multibase(KEY))
    known = (None, None)
    return open_snapshot(
        root, load, did=DID, key=key, scope=scope, known=known, now_s=SetClock().now()
    )


def reader_of(host: MemoryHost, rows: HeldRows, scope: Scope, clock: SetClock) -> SparseReader:
    return SparseReader(host, rows, scope, clock=clock, metrics=Metrics([]))


async def read(reader: SparseReader, scope: Scope, pds_url: str = PDS_URL) -> RepoSnapshot | None:
    async def verify(root, load):
        return opened(root, load, scope)

    return await reader.read(CLAIM, pds_url, verify)


def leaves_of(snapshot: RepoSnapshot) -> list[tuple[str, bytes]]:
    found = []
    while True:
        leaves = snapshot.next_leaves()
        found += leaves.items
        if leaves.upto is None:
            return found


@settings(max_examples=15, deadline=None)
@given(st.sets(paths, max_size=200), st.sampled_from(SCOPES), st.randoms(use_true_random=False))
async def test_a_walk_ends_in_what_the_whole_archive_shows(found, patterns, rng: random.Random):
    repo = repo_of((path, encode({"text": path})) for path in sorted(found))
    scope = Scope(patterns)
    whole = opened(repo.commit_cid, lambda cid: repo.blocks[cid].data, scope)
    expected = leaves_of(whole)
    held = {path: cid_text(cid) for path, cid in expected if rng.random() < 0.5}
    held |= {path: "stale" for path in held if rng.random() < 0.2}
    held |= {f"{path}x": "gone" for path, _ in expected if rng.random() < 0.2}
    host, rows = MemoryHost(repo), HeldRows(held)
    snapshot = await read(reader_of(host, rows, scope, SetClock()), scope)
    assume(snapshot is not None)  # a high key right beside the scope can hide the repo's size
    assert (snapshot.commit, snapshot.data_text) == (whole.commit, whole.data_text)
    assert leaves_of(snapshot) == expected
    for path, cid in expected:
        if held.get(path) != cid_text(cid):
            assert snapshot.block(cid) == encode({"text": path})
    assert len(host.cids) == len(set(host.cids))
    assert not set(host.cids) & {cid for path, cid in expected if held.get(path) == cid_text(cid)}


@pytest.mark.parametrize("patterns", SCOPES)
async def test_a_repo_with_nothing_in_scope_is_walked_to_prove_it(patterns):
    scope, repo = Scope(patterns), repo_of([])
    snapshot = await read(reader_of(MemoryHost(repo), HeldRows(), scope, SetClock()), scope)
    assert snapshot is not None
    assert leaves_of(snapshot) == []


async def test_a_walk_holds_no_foreign_record():
    scope = Scope(("pub.chive.*",))
    repo = repo_of([("pub.chive.a/x", encode({"text": "x"}))])
    host = MemoryHost(repo)
    snapshot = await read(reader_of(host, HeldRows(), scope, SetClock()), scope)
    assert snapshot is not None
    with pytest.raises(MissingBlock):
        snapshot.block(repo.records[FOREIGN[0][0]])


@pytest.mark.parametrize("offer", ["is_proving", "is_giving_blocks"])
async def test_a_host_that_offers_no_walk_is_asked_again_after_hours(offer: str):
    scope, clock = Scope(("pub.chive.*",)), SetClock()
    repo = repo_of([(f"pub.chive.a/{number}", encode({"n": number})) for number in range(30)])
    host = MemoryHost(repo)
    setattr(host, offer, False)
    reader = reader_of(host, HeldRows(), scope, clock)
    assert await read(reader, scope) is None
    asked = host.asked.copy()
    clock.at += sparse.NOT_SERVED_S - 1
    assert await read(reader, scope) is None
    assert host.asked == asked
    setattr(host, offer, True)
    assert await read(reader, scope, "https://other.example.com") is not None
    clock.at += 2
    assert await read(reader, scope) is not None


async def test_the_memory_of_hosts_that_offer_no_walk_is_bounded():
    scope, clock = Scope(("pub.chive.*",)), SetClock()
    host = MemoryHost(Repo(DID, KEY, TidClock(ManualClock(), 7)), is_proving=False)
    reader = reader_of(host, HeldRows(), scope, clock)
    urls = [f"https://h{number}.example.com" for number in range(sparse.HOSTS_MAX + 1)]
    for url in urls:
        assert await read(reader, scope, url) is None
    for url in (urls[0], urls[-1]):
        await read(reader, scope, url)
    assert host.asked[f"proof {urls[0]}"] == 2
    assert host.asked[f"proof {urls[-1]}"] == 1


@pytest.mark.parametrize("pattern", ["pub.chive.*", "pub.chive.eprint.userTag", "pub.*"])
def test_the_path_that_is_proved_is_valid_and_in_scope(pattern: str):
    scope = Scope((pattern,))
    collection, rkey = path_at(scope.prefixes[0])
    assert is_nsid(collection)
    assert is_rkey(rkey)
    assert f"{collection}/{rkey}" in scope
