"""The resync between a devnet and a real store, one attempt at a time, with a clock of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from indexer.ingest.admission import DailyAdmission
from indexer.ingest.attempts import Resync
from indexer.ingest.directory import DirectoryFollower
from indexer.ingest.gap_repair import GapRepair
from indexer.ingest.giving_way import GivingWay
from indexer.ingest.newcomers import Bounds, Newcomers
from indexer.ingest.resync import Resyncer
from indexer.ingest.seating import Seating
from indexer.ingest.verification import RawFrame, Verifier
from indexer.lanes import Standing
from indexer.metrics import Metrics
from indexer.model import Scope
from indexer.network.directory import DirectoryLog
from indexer.network.http import HttpClient
from indexer.network.identity import IdentityResolver
from indexer.network.listings import RepoListings
from indexer.network.pacing import Pacing
from indexer.network.pds import RepoNetwork
from indexer.network.spool import SpoolFolder
from indexer.planning import EventBatch, Policy
from indexer.records.prepare import prepare_record
from indexer.records.registry import Registry, load_registry
from storage.admissions import AdmissionStore
from storage.database import Database, open_database
from storage.directory import DirectoryStore
from storage.gap_repair import GapRepairStore
from storage.live import LiveStore
from storage.records import RecordTable
from storage.resyncs import ResyncStore
from storage.room import Room
from storage.session import Sessions
from storage.tracked import TrackedRepos
from tests.devnet import Account, Devnet
from tests.simulation.clock import SimulatedClock

SCOPE = Scope(("pub.chive.*",))
REGISTRY = load_registry(governance_did="did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", lexicon_dir=None)


class NoProjections:
    """Typed tables are another test's business."""

    def write(self, connection: object, writes: object) -> None:
        return

    def last_id(self, connection: object) -> int:
        return 0


class AdvancedClock:
    """The machine's clocks, each of which can be moved on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.monotonic_ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self.monotonic_ahead_s


@dataclass
class Rig:
    """A store, a live path without a socket, and a resyncer that makes one attempt at a time."""

    net: Devnet
    database: Database
    path: Path
    clock: AdvancedClock | SimulatedClock
    live: LiveStore
    store: ResyncStore
    resyncer: Resyncer
    seating: Seating
    hosts: RepoNetwork
    verifier: Verifier
    metrics: Metrics
    repair: GapRepair
    directory: DirectoryFollower
    start_directory: Callable[[], DirectoryFollower]
    connected: asyncio.Event  # whether the stream is
    heard: int = 0  # frames of the relay that have been applied

    async def hear(self) -> None:
        """Apply what the relay has sent since the last time."""
        entries = self.net.relay.stream.after(self.heard, 10_000)
        if not entries:
            return
        raws = [RawFrame.decoded(entry.frame) for entry in entries]
        dids = {raw.frame.did for raw in raws if raw.frame.did}
        keys = await self.live.signing_keys([did for did in dids if self.live.is_tracked(did)])
        events = self.verifier.events(raws, keys)
        self.heard = entries[-1].seq
        await self.live.apply(
            EventBatch(url="ws://relay", events=events, seq=self.heard, event_at=None)
        )

    async def work(self, *, ahead_s: float = 0.0) -> list[Resync]:
        """Attempt what is due, `ahead_s` from now, until nothing is."""
        self.clock.ahead_s += ahead_s
        self.clock.monotonic_ahead_s += ahead_s
        done: list[Resync] = []
        while (attempted := await self._attempt_next()) is not None:
            done += attempted
            assert len(done) < 20, done
        return done

    async def _attempt_next(self) -> list[Resync] | None:
        """One attempt at most; None where nothing is due."""
        for pool in (self.seating.tracked, self.seating.new):
            standings = pool.places.free(Standing.ANSWERS)
            claim = await self.store.claim_next(pool.lanes, standings, pool.places.busy())
            if claim is None:
                continue
            seat = await self.seating.seat(pool, claim)
            if seat is None:
                return []
            done = await self.resyncer.attempt(claim, seat=seat)
            await self.seating.learn(seat, done.result)
            seat.leave()
            return [done]
        return None

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        return await self.database.read(sql)

    async def repo(self, account: Account) -> tuple[object, ...]:
        """(state, account status, rev, wanted, claimed)."""
        found = await self.database.read(
            "SELECT state, account_status, rev, wanted, claimed FROM repo WHERE did = ?",
            (account.did,),
        )
        return found[0]

    def archives_sent(self) -> int:
        return self.asked("getRepo")

    def asked(self, method: str) -> int:
        """Requests that the hosts have had for a method of `com.atproto.sync`."""
        return sum(pds.server.requests[f"com.atproto.sync.{method}"] for pds in self.net.pds)

    def bytes_fetched(self, method: str) -> float:
        """`chive_resync_bytes_total` of a fetch method."""
        labels = {"method": method}
        found = self.metrics.registry.get_sample_value("chive_resync_bytes_total", labels)
        assert found is not None
        return found


@asynccontextmanager
async def open_rig(
    net: Devnet,
    folder: Path,
    registry: Registry = REGISTRY,
    *,
    bounds: Bounds | None = None,
    reaches_private: bool = True,
    clock: AdvancedClock | SimulatedClock | None = None,
    rate: float = 1000.0,  # requests a second, at each host
    identity_refresh_s: float = 0.0,
    gap_rows: type[GapRepairStore] = GapRepairStore,
) -> AsyncIterator[Rig]:
    clock = clock or AdvancedClock()
    metrics = Metrics(registry.types)
    verifier = Verifier(
        scope=SCOPE, prepare=partial(prepare_record, registry=registry), clock=clock
    )
    path = folder / "index.db"
    async with (
        open_database(path) as database,
        HttpClient(
            user_agent="test",
            allow_private=reaches_private,
            exempt=[net.plc_url, net.handle_resolver_url, net.relay.server.url],
            pacing=Pacing(clock=clock, rate=rate),
            clock=clock,
            metrics=metrics,
        ) as http,
    ):
        identities = IdentityResolver(
            http,
            plc_url=net.plc_url,
            handle_resolver_url=net.handle_resolver_url,
            allow_private=True,
            clock=clock,
        )
        spool = SpoolFolder(folder / "spool", bytes_max=10**9, archive_bytes_max=10**8)
        hosts = RepoNetwork(http, identities, spool, idle_s=5.0, total_s=20.0)
        tracked = TrackedRepos(database)
        records = RecordTable(NoProjections())
        policy = Policy(identity_refresh_s=identity_refresh_s)
        sessions = Sessions(
            records=records, policy=policy, pending_bytes_max=1_000_000, room=Room()
        )
        live = LiveStore(database, tracked, sessions, clock=clock)
        store = ResyncStore(database, tracked, sessions, clock=clock)
        admission = DailyAdmission(AdmissionStore(database, Room(), clock=clock), hosts, metrics)
        resyncer = Resyncer(
            store,
            store,
            hosts,
            verifier,
            clock=clock,
            rng=random.Random(1),
            metrics=metrics,
            stream_at=lambda: None,
            admission=admission,
            turn=GivingWay(clock, lambda: False).turn,
        )
        gap_store = gap_rows(database, tracked, clock=clock)
        connected = asyncio.Event()
        connected.set()
        listings = RepoListings(http, relay_url=net.relay.server.url, allow_private=True)
        repair = GapRepair(
            gap_store,
            gap_store,
            listings,
            hosts,
            Newcomers(
                gap_store,
                listings,
                clock,
                is_in_scope=lambda nsid: f"{nsid}/" in SCOPE,
                bounds=bounds,
            ),
            collections=sorted(REGISTRY.types),
            clock=clock,
            stream_at=lambda: None,
            is_followed=connected.is_set,
            on_work=lambda: None,
        )
        start_directory = partial(
            DirectoryFollower,
            DirectoryLog(http, plc_url=net.plc_url),
            DirectoryStore(database, tracked, policy, plc_url=net.plc_url, clock=clock),
            interval_s=60.0,
            clock=clock,
            on_work=lambda: None,
            on_read=metrics.directory_read_timestamp_seconds.set,
        )
        yield Rig(
            net,
            database,
            path,
            clock,
            live,
            store,
            resyncer,
            Seating(store, hosts, workers=4, clock=clock, admission=admission),
            hosts,
            verifier,
            metrics,
            repair,
            start_directory(),
            start_directory,
            connected,
        )
