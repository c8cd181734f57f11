from __future__ import annotations

from pathlib import Path

from indexer.errors import Check
from indexer.model import DeadLetterDraft
from storage.database import open_database
from storage.dead_letter_queue import DeadLetterStore
from storage.dead_letter_retention import DAY_S, LOOK_S, STEP_LETTERS, DeadLetterRetention
from storage.dead_letters import insert_dead_letters
from storage.tracked import TrackedRepos
from tests.storage.conftest import SteppedClock, writer_steps


def letters(count: int, did: str | None) -> list[DeadLetterDraft]:
    checks = list(Check)
    return [DeadLetterDraft(checks[n // 20], f"letter {n}", did=did) for n in range(count)]


async def drop_all(retention: DeadLetterRetention) -> int:
    total = 0
    while dropped := await retention.step():
        assert dropped <= STEP_LETTERS
        total += dropped
    return total


async def test_of_each_account_and_reason_the_newest_twenty_are_kept(
    tmp_path: Path, clock: SteppedClock
):
    async with open_database(tmp_path / "index.db") as database:
        drafts = [
            DeadLetterDraft(check, f"letter {n}", did=did)
            for n in range(25)
            for did in ("did:plc:a", "did:plc:b", None)
            for check in (Check.CHAIN, Check.SIGNATURE)
        ]
        await database.write(lambda c: insert_dead_letters(c, drafts, now=clock.at))
        kept = await database.read(
            "SELECT did, reason, count(*), min(CAST(substr(message, 8) AS INTEGER))"
            " FROM dead_letters GROUP BY did, reason"
        )
        assert len(kept) == 6 and {row[2:] for row in kept} == {(20, 5)}


async def test_letters_are_dropped_when_they_are_too_old(tmp_path: Path, clock: SteppedClock):
    async with open_database(tmp_path / "index.db") as database:
        old, new = letters(300, "did:plc:a"), letters(3, "did:plc:b")
        await database.write(lambda c: insert_dead_letters(c, old, now=clock.at - 30 * DAY_S - 1))
        await database.write(lambda c: insert_dead_letters(c, new, now=clock.at - 30 * DAY_S + 1))
        retention = DeadLetterRetention(database, clock, age_s_max=30 * DAY_S, letters_max=1000)
        assert await drop_all(retention) == 300
        assert await database.read("SELECT did, count(*) FROM dead_letters GROUP BY did") == [
            ("did:plc:b", 3)
        ]
        assert await database.read("SELECT sum(total) FROM tally WHERE kind = 'dead_letter'") == [
            (3,)
        ]


async def test_letters_that_are_too_old_are_looked_for_once_a_minute(
    tmp_path: Path, clock: SteppedClock
):
    """All are read for it, and strangers can fill the queue."""
    async with open_database(tmp_path / "index.db") as database:
        await database.write(lambda c: insert_dead_letters(c, letters(3, "a"), now=clock.at))
        retention = DeadLetterRetention(database, clock, age_s_max=DAY_S, letters_max=1000)
        clock.at += DAY_S - 1
        assert await retention.step() == 0
        clock.at += LOOK_S - 1
        assert await retention.step() == 0
        clock.at += 1
        assert await retention.step() == 3


async def test_whoever_has_most_letters_loses_the_oldest(tmp_path: Path, clock: SteppedClock):
    async with open_database(tmp_path / "index.db") as database:
        for did, count in (("did:plc:a", 200), ("did:plc:b", 50), (None, 120), ("did:plc:c", 1)):
            drafts = letters(count, did)
            await database.write(lambda c, d=drafts: insert_dead_letters(c, d, now=clock.at))
        newest = await database.read("SELECT max(id) FROM dead_letters WHERE did = 'did:plc:a'")
        retention = DeadLetterRetention(database, clock, age_s_max=DAY_S, letters_max=171)
        assert await drop_all(retention) == 200
        kept = await database.read("SELECT did, count(*), max(id) FROM dead_letters GROUP BY did")
        assert [(did, count) for did, count, _ in kept] == [
            (None, 60), ("did:plc:a", 60), ("did:plc:b", 50), ("did:plc:c", 1),
        ]  # fmt: skip
        assert kept[1][2] == newest[0][0]
        assert await drop_all(retention) == 0


async def test_looking_through_a_full_queue_holds_no_writer(tmp_path: Path, clock: SteppedClock):
    """Whatever has to look at each letter is asked of a reader, as the steps of the writer show."""
    async with open_database(tmp_path / "index.db") as database:
        drafts = [DeadLetterDraft(Check.MST, "m", did=f"did:plc:{n}") for n in range(5000)]
        await database.write(lambda c: insert_dead_letters(c, drafts, now=clock.at))
        retention = DeadLetterRetention(database, clock, age_s_max=DAY_S, letters_max=5000)
        queue = DeadLetterStore(database, TrackedRepos(database), on_work=lambda: None, clock=clock)
        for looking in (retention.step(), queue.retry_all("no such reason"), queue.purge(DAY_S)):
            assert await writer_steps(database, looking) < 20
        assert await database.read("SELECT count(*) FROM dead_letter") == [(5000,)]
