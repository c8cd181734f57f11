"""What falls due when the wall clock was wrong for a while and is set right."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from indexer.planning import IdentitySeen
from storage.database import open_database
from storage.due_times import IN_HAND_S, REPOS_MAX, SET_BACK_S, DueTimeUpkeep
from storage.gap_closing import LET_GO_S, await_repos
from storage.gap_repair import GapRepairStore
from tests.storage.conftest import DID, World, writer_steps

YEAR_S = 365 * 86_400.0
WAIT_S = 60.0

_REPOS = """
WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT ?1)
INSERT INTO repo (did, pds_url, host_group, state, account_status, account_at, identity_at, rev,
                  wanted, claimed, claim, priority, retry_at, fetch_at, attempts, desyncs,
                  synced_at, verified_at, tracked_since, updated_at)
SELECT 'did:plc:' || value, 'https://a.example', 'a.example', 'desynchronized', 'active', 0, 0,
       '3k', 4, 0, 0, 1, ?2, ?2, 0, 0, 0, 0, '2026-11-25T00:00:00Z', '' FROM n
"""


class SetClock:
    """Wall time may be set, monotonic time goes on."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.ahead_s = 1_800_000_000.0

    def now(self) -> float:
        return self.at + self.ahead_s

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def world(tmp_path: Path, clock: SetClock) -> AsyncIterator[World]:
    path = tmp_path / "index.db"
    async with open_database(path) as database:
        yield World(database, path, clock)


async def put_off(world: World, repos: int) -> None:
    """So many repos, their host, its scan, a question to it and new repos wait for a while."""
    at = world.clock.now() + WAIT_S

    def change(connection: sqlite3.Connection) -> None:
        connection.execute(_REPOS, (repos, at))
        connection.execute("UPDATE turn SET not_before = ?", (at,))
        connection.execute(
            "INSERT INTO gap_question (kind, target, since, retry_at) VALUES ('host', 'x', 0, ?)",
            (at,),
        )
        connection.execute(
            "INSERT INTO host (url, source, status, next_scan_at, leased_until)"
            " VALUES ('https://a.example', 'repo', 'empty', ?1, ?1)",
            (at,),
        )
        connection.execute(
            "INSERT INTO gap (url, reason, detected_at, not_before) VALUES ('', 'discovery', 0, ?)",
            (at,),
        )

    await world.database.write(change)


async def test_what_a_fast_clock_has_put_off_is_due_when_it_was_meant_to_be(
    world: World, clock: SetClock
):
    upkeep = DueTimeUpkeep(world.database, clock=clock)
    clock.ahead_s += YEAR_S
    assert await upkeep.step() == 0
    await put_off(world, REPOS_MAX + 1)
    clock.ahead_s -= YEAR_S
    clock.at += 1.0
    due_at = clock.now() - 1.0 + WAIT_S
    steps = 0
    while await upkeep.step():
        steps += 1
    assert steps == 2, "so many repos are no matter of one transaction"
    for query in (
        "SELECT DISTINCT retry_at, fetch_at FROM repo",
        "SELECT due_at, not_before FROM turn",
        "SELECT retry_at, retry_at FROM gap_question",
        "SELECT next_scan_at, leased_until FROM host",
        "SELECT not_before, not_before FROM gap",
    ):
        assert await world.rows(query) == [pytest.approx((due_at, due_at))], query
    assert await world.resyncs.claim_next() is None
    clock.at = due_at - clock.ahead_s + 0.001
    assert await world.resyncs.claim_next() is not None


async def test_what_is_noted_with_the_time_of_before_is_brought_forward_too(
    world: World, clock: SetClock
):
    """What was in hand when the clock was set may have asked it for the time before."""
    upkeep = DueTimeUpkeep(world.database, clock=clock)
    clock.ahead_s += YEAR_S
    assert await upkeep.step() == 0
    clock.ahead_s -= YEAR_S
    assert await upkeep.step() == 1
    clock.ahead_s += YEAR_S
    await put_off(world, 1)
    clock.ahead_s -= YEAR_S
    assert await upkeep.step() == 0
    clock.at += IN_HAND_S
    assert await upkeep.step() == 1
    assert await upkeep.step() == 0
    assert await world.resyncs.claim_next() is not None


async def a_year_ahead(world: World, clock: SetClock) -> DueTimeUpkeep:
    """The clock is fast from now on, and the upkeep has looked at it."""
    upkeep = DueTimeUpkeep(world.database, clock=clock)
    clock.ahead_s += YEAR_S
    assert await upkeep.step() == 0
    return upkeep


def detect_gap(connection: sqlite3.Connection, at: float) -> None:
    connection.execute(
        "INSERT INTO gap (url, reason, detected_at, surveyed_at) VALUES ('', 'cursor', ?1, ?1)",
        (at,),
    )


async def test_a_key_that_a_fast_clock_has_dated_is_looked_up_again_when_it_changes(
    world: World, clock: SetClock
):
    """Otherwise an event that is older than the key would be taken for a replay for a year."""
    upkeep = await a_year_ahead(world, clock)
    await put_off(world, 1)
    await world.database.write(
        lambda connection: (
            connection.execute(
                "UPDATE repo SET did = ?, state = 'active', wanted = 0, identity_at = ?2,"
                " synced_at = ?2",
                (DID, clock.now()),
            ).rowcount
        )
    )
    clock.ahead_s -= YEAR_S
    looked_up_at = clock.now()
    while await upkeep.step():
        pass
    assert await world.rows("SELECT identity_at, synced_at FROM repo") == [
        pytest.approx((looked_up_at, looked_up_at))
    ]
    clock.at += WAIT_S
    await world.apply(IdentitySeen(did=DID, seq=1, time=clock.now()))
    assert await world.resyncs.claim_next() is not None


async def test_a_gap_that_a_fast_clock_has_dated_is_closed_by_the_next_reading_of_the_directory(
    world: World, clock: SetClock
):
    repair = GapRepairStore(world.database, world.tracked, clock=clock)
    upkeep = await a_year_ahead(world, clock)

    def change(connection: sqlite3.Connection) -> None:
        at = clock.now()
        detect_gap(connection, at)
        connection.execute("INSERT INTO directory_cursor VALUES ('', 0, 0, ?)", (at - 1.0,))

    await world.database.write(change)
    clock.ahead_s -= YEAR_S
    while await upkeep.step():
        pass
    assert await repair.close_gaps() == []
    clock.at += 1.0
    await world.database.write(
        lambda connection: (
            connection.execute("UPDATE directory_cursor SET read_at = ?", (clock.now(),)).rowcount
        )
    )
    assert await repair.close_gaps() == [0]


async def test_a_repo_that_a_gap_awaits_since_a_fast_clock_is_let_go_and_compared_in_time(
    world: World, clock: SetClock
):
    repair = GapRepairStore(world.database, world.tracked, clock=clock)
    upkeep = await a_year_ahead(world, clock)
    await put_off(world, 2)

    def change(connection: sqlite3.Connection) -> None:
        at = clock.now()
        connection.execute("DELETE FROM gap")
        detect_gap(connection, at)
        ids = connection.execute("SELECT id FROM repo").fetchall()
        await_repos(connection, [row[0] for row in ids], wanted_at=at, now=at)
        connection.execute("DELETE FROM gap_question")
        connection.execute("UPDATE turn SET standing = 2")

    await world.database.write(change)
    clock.ahead_s -= YEAR_S
    while await upkeep.step():
        pass
    clock.at += 1.0
    await world.database.write(
        lambda connection: (
            connection.execute(
                "UPDATE repo SET verified_at = ? WHERE did = 'did:plc:1'", (clock.now(),)
            ).rowcount
        )
    )
    assert await repair.close_gaps() == []
    assert await world.rows("SELECT count(*) FROM gap_repo") == [(1,)]
    clock.at += LET_GO_S
    assert await repair.close_gaps() == [1]


async def test_a_repo_that_was_compared_in_the_future_counts_as_never_compared(
    world: World, clock: SetClock
):
    """Though the clock was set while nothing ran."""
    await put_off(world, REPOS_MAX + 2)
    now = clock.now()
    await world.database.write(
        lambda connection: (
            connection.execute(
                "UPDATE repo SET verified_at = ?1 + (did <> 'did:plc:1') * ?2", (now, YEAR_S)
            ).rowcount
        )
    )
    upkeep = DueTimeUpkeep(world.database, clock=clock)
    steps = 0
    while await upkeep.step():
        steps += 1
    assert steps == 2, "so many repos are no matter of one transaction"
    verified = await world.rows("SELECT verified_at, count(*) FROM repo GROUP BY 1 ORDER BY 1")
    assert verified == [(0.0, REPOS_MAX + 1), (now, 1)]


async def test_a_clock_that_goes_ahead_or_is_slowed_brings_nothing_forward(
    world: World, clock: SetClock
):
    await put_off(world, 1)
    before = await world.rows("SELECT retry_at, fetch_at FROM repo")
    upkeep = DueTimeUpkeep(world.database, clock=clock)
    for by_s in (YEAR_S, 0.0, *[-0.9 * SET_BACK_S] * 5):
        clock.ahead_s += by_s
        clock.at += 1.0
        assert await upkeep.step() == 0
    assert await world.rows("SELECT retry_at, fetch_at FROM repo") == before


async def test_turns_are_brought_forward_a_few_at_a_time_and_each_once(
    world: World, clock: SetClock
):
    upkeep = DueTimeUpkeep(world.database, clock=clock)
    clock.ahead_s += YEAR_S
    at = clock.now() + WAIT_S
    names = ["", *(f"https://{number:05}.example" for number in range(3 * REPOS_MAX))]

    def put_off_turns(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO turn VALUES (?, ?, ?3, ?3, 0)",
            [(name, lane, at) for name in names for lane in (0, 1)],
        )

    await world.database.write(put_off_turns)
    assert await upkeep.step() == 0
    clock.ahead_s -= YEAR_S

    async def bring_forward() -> None:
        while await upkeep.step():
            pass

    assert await writer_steps(world.database, bring_forward()) < 2_000
    expected = (clock.now() + WAIT_S, clock.now() + WAIT_S, 2 * len(names))
    found = "SELECT due_at, not_before, count(*) FROM turn GROUP BY 1, 2"
    assert await world.rows(found) == [expected]
