"""A store with its typed tables, into which records come as the daemon brings them."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import cbrrr
import pytest

from indexer.claims import Fetched, Identity, SnapshotChunk
from indexer.model import (
    Operation,
    OperationMode,
    OperationStatus,
    OperationType,
    PreparedRecord,
)
from indexer.operations.full_reindex import FullReindex
from indexer.operations.operation import Context
from indexer.planning import AccountSeen, CommitSeen, Event, EventBatch, Policy, RecordWrite
from indexer.protocol.cid import cid_text, dag_cbor_cid
from indexer.records.prepare import prepare_record, prepare_stored, prepare_trusted
from indexer.records.projection import SEARCH
from indexer.records.registry import Registry, load_registry
from storage.database import Database, Row, open_database
from storage.generation_swap import GenerationUpkeep
from storage.live import LiveStore
from storage.operation_units import OperationUnits
from storage.operations import OperationStore
from storage.projections import Projections
from storage.rebuild_parts import Preparing
from storage.rebuild_worker import WorkerSettings
from storage.rebuilds import Rebuilds
from storage.records import RecordTable
from storage.resyncs import ResyncStore
from storage.room import Room
from storage.search_upkeep import SearchUpkeep
from storage.session import Sessions
from storage.tracked import TrackedRepos
from tests.storage.conftest import KEY, SteppedClock

ALICE = "did:plc:aliceaaaaaaaaaaaaaaaaaaa"
BOB = "did:plc:bobaaaaaaaaaaaaaaaaaaaaa"
CAROL = "did:plc:carolaaaaaaaaaaaaaaaaaaa"
GOVERNANCE = "did:plc:5wzpn4a4nbqtz3q45hyud6hd"
REGISTRY = load_registry()
Values = Mapping[str, dict | bytes | None]
"""collection/rkey -> ATProto JSON, a raw block, or None for a deletion."""


class Crashed(Exception):
    """The process ends here."""


class CrashPoint:
    """Ends the process, as far as the store can tell, at the named point of one transaction."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_armed = False

    def reach(self, point: str) -> None:
        if self.is_armed and point == self.name:
            self.is_armed = False
            raise Crashed

    @contextmanager
    def expected(self) -> Iterator[None]:
        """What happens within does not survive it."""
        self.is_armed = True
        with pytest.raises(Crashed):
            yield
        assert not self.is_armed


class TypedWorld:
    """Repos whose revs count up, so that every commit continues the chain."""

    def __init__(self, database: Database, path: Path, clock: SteppedClock, registry: Registry):
        self.database, self.path, self.clock, self.registry = database, path, clock, registry
        self.projections = Projections(registry.types, SEARCH, basis=registry.governance_did)
        self.tracked = TrackedRepos(database)
        prepare = partial(prepare_stored, registry=registry)
        self.upkeep = SearchUpkeep(database, self.projections, prepare)
        trusted = partial(prepare_trusted, registry=registry)
        self.worker_settings = WorkerSettings(index=str(path), registry=registry.source)
        self.preparing = Preparing(
            prepare=prepare, prepare_trusted=trusted, types=registry.types, search=SEARCH,
            judged_by=registry.lexicon_id,
        )  # fmt: skip
        self.rebuilds = Rebuilds(
            database, path, self.projections, self.preparing, self.worker_settings
        )
        self.generations = GenerationUpkeep(database)
        self.units = OperationUnits(database)
        self.is_outdated = False
        self.operations = OperationStore(database, clock=clock)
        records = RecordTable(self.projections)
        sessions = Sessions(
            records=records,
            policy=Policy(identity_refresh_s=60.0),
            pending_bytes_max=10_000_000,
            room=Room(),
        )
        self.live = LiveStore(database, self.tracked, sessions, clock=clock)
        self.resyncs = ResyncStore(database, self.tracked, sessions, clock=clock)
        self.revs: dict[str, str] = {}
        self.numbers = itertools.count(1)

    def prepare(self, did: str, path: str, value: dict | bytes) -> PreparedRecord:
        block = (
            value if isinstance(value, bytes) else cbrrr.encode_dag_cbor(value, atjson_mode=True)
        )
        cid = cid_text(dag_cbor_cid(block))
        return prepare_record(did, path, cid, block, self.registry)

    async def apply(self, *events: Event) -> None:
        batch = EventBatch(
            url="ws://relay", events=events, seq=next(self.numbers), event_at=self.clock.at
        )
        await self.live.apply(batch)

    def commit_event(self, did: str, values: Values, *, key: str | None = KEY) -> CommitSeen:
        rev, since = f"r{next(self.numbers):09}", self.revs.get(did)
        writes = tuple(
            RecordWrite(path, None if value is None else self.prepare(did, path, value))
            for path, value in values.items()
        )
        if key is not None:
            self.revs[did] = rev
        return CommitSeen(
            did=did, seq=1, rev=rev, since=since, frame=b"frame", data=f"root-{rev}",
            prev_data=f"root-{since}", signing_key=key, writes=writes, brings_records=True,
        )  # fmt: skip

    async def fetch(self, did: str, values: Values, *, is_confirmed: bool = True) -> None:
        """Make the repo what a snapshot with exactly these records says."""
        if not self.live.is_tracked(did):
            await self.apply(self.commit_event(did, {}, key=None))
        claim = await self.resyncs.claim_repo(did)
        identity = Identity(handle=None, signing_key=KEY, pds_url="https://pds.example")
        claim = await self.resyncs.save_identity(claim, identity)
        claim = await self.resyncs.begin_fetch(claim)
        records = {path: self.prepare(did, path, v) for path, v in values.items() if v is not None}
        rev = self.revs[did] = f"r{next(self.numbers):09}"
        chunk = SnapshotChunk(
            after="",
            upto=None,
            leaves=tuple(sorted((path, record.cid) for path, record in records.items())),
            records=records,
            rev=rev,
        )
        fetched = Fetched(rev=rev, data=f"root-{rev}", host_rev=rev, scope_id="scope")
        finish = await self.resyncs.finish(
            claim, fetched, chunk, (), upto_id=0, is_confirmed=is_confirmed
        )
        assert finish.is_done

    async def commit(self, did: str, values: Values) -> None:
        """A live commit of a repo that is followed from its first."""
        if did not in self.revs:
            await self.fetch(did, {})
        await self.apply(self.commit_event(did, values))

    async def set_account(self, did: str, *, active: bool) -> None:
        self.clock.at += 1000
        status = None if active else "deactivated"
        await self.apply(
            AccountSeen(did=did, seq=1, time=self.clock.at, active=active, status=status)
        )

    async def purge(self, did: str) -> None:
        await self.resyncs.purge(await self.resyncs.claim_repo(did), "the account is gone")

    async def settle(self) -> None:
        """Let everything that is queued be done."""
        while await self.upkeep.step():
            pass

    async def begin_reindex(self, operation_id: str = "one", *, size: int = 500) -> Context:
        """A running fullReindex, or the one that a crash has left, with nothing of it done here."""
        wanted = Operation(
            id=operation_id, type=OperationType.FULL_REINDEX, key="fullReindex",
            mode=OperationMode.SUPPLEMENT, phase="running", params={"batchSize": size},
            status=OperationStatus.RUNNING, started_at=self.clock.at, completed_at=None,
            started_by=None, records_processed=0, total_records=None, unit="record",
            units_processed=0, total_units=None, outcomes={}, checkpoint=None, error=None,
            cancel_requested=False,
        )  # fmt: skip
        row = await self.operations.insert(wanted, running_max=10)
        assert row is not None
        return Context(row, self.units, lambda *_: None, clock=self.clock)

    async def reindex(self, operation_id: str = "one", *, size: int = 500) -> Operation:
        """A whole fullReindex, or the rest of one, and what is left of the old tables cleared."""
        context = await self.begin_reindex(operation_id, size=size)
        await FullReindex(self.rebuilds).run(context)
        ended = await self.operations.end(operation_id, OperationStatus.COMPLETED, None)
        while await self.generations.step():
            pass
        return ended

    async def rows(self, sql: str, *parameters: object) -> list[Row]:
        return await self.database.read(sql, parameters)

    async def one(self, sql: str, *parameters: object):
        """The single value of a query."""
        rows = await self.rows(sql, *parameters)
        assert len(rows) == 1 and len(rows[0]) == 1, rows
        return rows[0][0]

    async def derived(self) -> dict[str, list[tuple]]:
        """Everything that is made from records, without what tells when and how they came."""
        found = {}
        for kind in self.registry.types.values():
            columns = ", ".join(
                f'"{name}"'
                for name in ("uri", "cid", *(column.name for column in kind.columns),
                             *(c.column for c in kind.counts), *(x.column for x in kind.labels))
            )  # fmt: skip
            found[kind.table] = await self.rows(f"SELECT {columns} FROM {kind.table} ORDER BY uri")
            for side in kind.side_tables:
                columns = ", ".join(["uri", "position", *(c.name for c in side.columns)])
                found[side.name] = await self.rows(
                    f"SELECT {columns} FROM {side.name} ORDER BY 1, 2"
                )
        search = ", ".join(SEARCH.columns)
        found["search"] = await self.rows(
            "SELECT 'at://' || repo.did || '/' || record.path AS uri," + search +
            " FROM eprint_search JOIN record ON record.id = eprint_search.rowid"
            " JOIN repo ON repo.id = record.repo_id ORDER BY uri"
        )  # fmt: skip
        for view in ("collections", "collection_edges", "collaborations"):
            rows = await self.database.read(f"SELECT * FROM {view}")
            names = await self.database.read("SELECT name FROM pragma_table_info(?)", (view,))
            skipped = {"rowid", "indexed_at"}
            kept = [at for at, (name,) in enumerate(names) if name not in skipped]
            found[view] = sorted(json.dumps([row[at] for at in kept]) for row in rows)
        found["records"] = await self.rows(
            "SELECT uri, cid, value, valid FROM records ORDER BY uri"
        )
        return found


@asynccontextmanager
async def typed_world(
    folder: Path,
    registry: Registry = REGISTRY,
    *,
    reach: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[TypedWorld]:
    path = folder / "index.db"
    async with open_database(path, reach=reach) as database:
        world = TypedWorld(database, path, SteppedClock(), registry)
        judged_by = registry.lexicon_id
        install = partial(world.projections.install, judged_by=judged_by)
        world.is_outdated = await database.write(install)
        world.revs = dict(await database.read("SELECT did, rev FROM repo WHERE rev IS NOT NULL"))
        world.numbers = itertools.count(
            1 + max((int(r[1:]) for r in world.revs.values()), default=0)
        )
        await world.tracked.load()
        yield world
