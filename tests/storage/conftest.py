from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import pytest

from indexer.model import PreparedRecord
from indexer.planning import AccountSeen, CommitSeen, Event, EventBatch, Policy, RecordWrite
from storage.database import Database, open_database
from storage.leftovers import PAUSE_S, LeftoverUpkeep
from storage.live import LiveStore
from storage.records import ProjectionWrite, RecordTable
from storage.resyncs import ResyncStore
from storage.room import Room
from storage.session import Sessions
from storage.tracked import TrackedRepos

DID = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
KEY = "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"
POST = "pub.chive.eprint.userTag"


class SteppedClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0
        self.set_back_s = 0.0

    def now(self) -> float:
        return self.at - self.set_back_s

    def monotonic(self) -> float:
        return self.at


class NoProjections:
    """Typed tables are another test's business."""

    def write(self, connection: object, writes: Sequence[ProjectionWrite]) -> None:
        self.last = writes

    def last_id(self, connection: object) -> int:
        return 0


class World:
    """A store on a real file, with shortcuts for events."""

    def __init__(self, database: Database, path: Path, clock: SteppedClock) -> None:
        self.database = database
        self.path = path
        self.clock = clock
        self.tracked = TrackedRepos(database)
        self.room = Room()
        sessions = Sessions(
            records=RecordTable(NoProjections()),
            policy=Policy(identity_refresh_s=60.0),
            pending_bytes_max=10_000,
            room=self.room,
        )
        self.live = LiveStore(database, self.tracked, sessions, clock=clock)
        self.resyncs = ResyncStore(database, self.tracked, sessions, clock=clock)
        self.seq = 0

    async def apply(self, *events: Event):
        self.seq += 100
        return await self.live.apply(
            EventBatch(url="ws://relay", events=events, seq=self.seq, event_at=self.clock.at)
        )

    async def rows(self, sql: str, *parameters: object):
        return await self.database.read(sql, parameters)

    async def repo(self, did: str = DID):
        columns = "state, account_status, rev, data, wanted, claimed, attempts, desyncs"
        return (await self.rows(f"SELECT {columns} FROM repo WHERE did = ?", did))[0]


async def writer_steps(database: Database, work: Awaitable[object]) -> int:
    """How much SQLite does in the longest of the writer's transactions, in hundreds of its steps.

    Unlike a time it is the same on every machine.
    """
    steps = [0]

    def count() -> int:
        steps[-1] += 1
        return 0

    def note(statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            steps.append(0)

    def watch(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(count, 100)
        connection.set_trace_callback(note)

    def leave(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(None, 0)
        connection.set_trace_callback(None)

    await database.write(watch)
    try:
        await work
    finally:
        await database.write(leave)
    return max(steps)


def commit(
    rev: str,
    since: str | None,
    *writes: RecordWrite,
    did: str = DID,
    key: str | None = KEY,
    prev_data: str | None = "same",
    **changed: object,
) -> CommitSeen:
    """A verified commit whose MST roots are named after its revs."""
    fields: dict = {
        "did": did,
        "seq": 1,
        "rev": rev,
        "since": since,
        "frame": b"frame " + rev.encode(),
        "data": f"root-{rev}",
        "prev_data": f"root-{since}" if prev_data == "same" else prev_data,
        "signing_key": key,
        "writes": writes,
        "brings_records": any(write.record for write in writes),
    }
    return CommitSeen(**(fields | changed))


def put(rkey: str, cid: str, problem: str | None = None) -> RecordWrite:
    path = f"{POST}/{rkey}"
    value = None if problem == "float" else f'{{"$type":"{POST}","cid":"{cid}"}}'
    return RecordWrite(path, PreparedRecord(path, cid, value, problem))


def gone(rkey: str) -> RecordWrite:
    return RecordWrite(f"{POST}/{rkey}", None)


def account(*, active: bool, status: str | None, time: float, did: str = DID) -> AccountSeen:
    return AccountSeen(did=did, seq=1, time=time, active=active, status=status)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def world(tmp_path: Path, clock: SteppedClock) -> AsyncIterator[World]:
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        yield World(database, path, clock)


async def add_repos(
    database: Database, number: int, *, pds_url: str = "'https://crowd.example'"
) -> None:
    """Many active repos that have nothing, at one host or, by the column `at`, at several."""
    await database.write(
        lambda connection: connection.execute(
            "WITH RECURSIVE many(at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM many WHERE at < ?)"
            " INSERT INTO repo (did, state, account_status, account_at, pds_url, identity_at,"
            " wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at,"
            " verified_at, tracked_since, updated_at)"
            f" SELECT printf('did:plc:%024d', at), 'active', 'active', 0, {pds_url}, 0, 0, 0, 0,"
            " 1, 0, 0, 0, 0, 0, '', '' FROM many",
            (number,),
        )
    )


async def walk(world: World, upkeep: LeftoverUpkeep) -> int:
    """A walk over all of them; how many were taken out."""
    world.clock.at += PAUSE_S
    return sum([await upkeep.step() for _ in range(3)])
