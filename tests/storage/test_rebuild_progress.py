"""How far a rebuild has come shows at every step of it, and holds after a restart."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.model import Operation
from indexer.operations.full_reindex import FullReindex
from storage.rebuild_progress import Progress, Stage
from storage.rebuild_workers import started
from storage.search_build import SEGMENTS_MAX
from tests.storage.test_rebuilds import Meanwhile, populate
from tests.storage.test_record_paths import EPRINT, TAG
from tests.storage.typed_world import ALICE, CAROL, TypedWorld, typed_world
from tests.unit.records.record_examples import minimal

EPRINTS, OTHERS, FIRST = 2100, 300, 7  # together more than one part, so that processes work
RECORDS = EPRINTS + OTHERS + FIRST
PAPER = f"at://{ALICE}/{EPRINT}/3kpaper222222"


def keys(count: int) -> list[str]:
    digits = str.maketrans("0189", "abcd")
    return [f"3l{number:011}".translate(digits) for number in range(count)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counted")
    paper = minimal(EPRINT) | {"title": "Lowland mosses", "abstractPlainText": "Peat and " * 200}
    tag = minimal(TAG) | {"eprintUri": PAPER, "tag": "wet"}

    async def make() -> Path:
        async with typed_world(folder) as world:
            await populate(world)
            values = {f"{EPRINT}/{key}": paper for key in keys(EPRINTS)}
            await world.fetch(CAROL, values | {f"{TAG}/{key}": tag for key in keys(OTHERS)})
            await world.settle()
            return world.path

    return asyncio.run(make())


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    shutil.copy(filled, tmp_path / "index.db")
    return tmp_path


ACTS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(Stage), st.integers(0, 50)),
    st.tuples(st.just("come_to"), st.sampled_from(Stage), st.integers(0, 50)),
    st.tuples(st.just("measure"), st.sampled_from(Stage), st.integers(1, 50)),
    st.tuples(st.just("reach"), st.sampled_from(Stage)),
)


@given(records=st.integers(0, 60), eprints=st.integers(0, 60), acts=st.lists(ACTS))
def test_what_is_done_never_becomes_less_nor_more_than_all(records, eprints, acts):
    progress = Progress(records, eprints)
    before = progress.units
    assert before == 0
    for name, *arguments in acts:
        getattr(progress, name)(*arguments)
        assert before <= progress.units <= records
        before = progress.units
    progress.reach(Stage.HELD)
    progress.come_to(Stage.HELD, 60)
    assert progress.units == records


@pytest.mark.parametrize("stage", Stage)
def test_each_stage_has_its_share(stage: Stage):
    progress = Progress(10_000, 5_000)
    progress.reach(stage)
    progress.measure(stage, 500)
    before = progress.units
    progress.add(stage, 250)
    half = progress.units
    progress.add(stage, 250)
    assert 100 < half - before <= 1 + progress.units - half <= 3000


async def row_of(world: TypedWorld) -> Operation:
    await world.rebuilds.count("one")
    row = await world.operations.load("one")
    assert row is not None
    return row


async def test_a_count_moves_at_every_step_of_a_rebuild(folder: Path):
    """Once none did from the last record that was copied on, however long the rest took."""
    async with typed_world(folder) as world:
        seen: list[tuple[str, Operation]] = []

        async def look(name: str) -> None:
            if name in {"copy", "complete", "check", "swap"}:
                seen.append((name, await row_of(world)))

        context = await world.begin_reindex(size=100)
        await FullReindex(Meanwhile(world.rebuilds, look)).run(context)
        ended = await row_of(world)
    rows = [row for _, row in seen]
    for before, after in pairwise(rows):
        assert after.units_processed >= before.units_processed
        assert after.records_processed >= before.records_processed
        assert before.units_processed <= (before.total_units or 0)
    of_copy = [row for name, row in seen if name == "copy"]
    of_index = [row for name, row in seen if name != "copy"]  # some amid the copying
    for before, after in chain(pairwise(of_copy), pairwise(of_index)):
        moved = after.units_processed + after.records_processed
        assert moved > before.units_processed + before.records_processed
    names = [name for name, _ in seen]
    assert names.count("copy") >= RECORDS // 100
    assert names.count("complete") >= 4  # merged, emptied, copied, nothing owed
    assert rows[names.index("complete")].units_processed < RECORDS * 3 // 4
    assert (ended.units_processed, ended.total_units) == (RECORDS, RECORDS)
    assert (ended.records_processed, ended.total_records) == (RECORDS, RECORDS)
    assert ended.outcomes == {"rebuilt": RECORDS}


class Stopped(Exception):
    """The process ends here."""


@pytest.mark.parametrize(
    ("step", "number", "is_less"),
    [("copy", 3, False), ("copy", 20, True), ("complete", 3, True), ("check", 1, False)],
)
async def test_after_a_restart_units_are_those_that_need_no_second_time(
    folder: Path, step: str, number: int, is_less: bool
):
    """Where the search index has been begun, which is lost, they are less than before."""
    async with typed_world(folder) as world:
        steps: list[str] = []

        async def stop(name: str) -> None:
            steps.append(name)
            if steps.count(step) == number:
                raise Stopped

        context = await world.begin_reindex(size=100)
        with pytest.raises(Stopped):
            await FullReindex(Meanwhile(world.rebuilds, stop)).run(context)
        before = await row_of(world)
    async with typed_world(folder) as world:
        begun = await world.rebuilds.begin("one")
        assert 0 < begun.units_processed <= before.units_processed
        assert (begun.units_processed < before.units_processed) or not is_less
        assert begun.units_processed > before.units_processed * 2 // 3 or step != "check"
        assert begun.units_before == begun.units_processed  # what the rate is reckoned from
        assert begun.records_processed == before.records_processed
        seen = [begun.units_processed]

        async def look(_: str) -> None:
            seen.append((await row_of(world)).units_processed)

        context = await world.begin_reindex(size=100)
        await FullReindex(Meanwhile(world.rebuilds, look)).run(context)
        assert seen == sorted(seen)
        ended = await row_of(world)
        assert (ended.units_processed, ended.records_processed) == (RECORDS, RECORDS)
        again = await world.rebuilds.begin("one")  # after a crash that came before its end
        assert again.units_processed == again.total_units == RECORDS


async def test_processes_tell_how_far_a_piece_of_work_has_come(folder: Path):
    async with typed_world(folder) as world:
        context = await world.begin_reindex()
        operation = await world.rebuilds.begin(context.operation.id)
        async with world.rebuilds.open(operation) as rebuild:
            part = await rebuild.next()
            while part is not None and part.collection != EPRINT:
                left = part
                while left.record_ids:
                    copied = await rebuild.copy(left, 500)
                    assert copied is not None
                    left = copied[1]
                part = await rebuild.next()
            assert part is not None
            told: list[int] = []
            async with started(1, world.worker_settings) as (worker,):
                made = await worker.do(part, told.append)
            assert sum(told) == len(made.record_ids) > 100


def segments(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute("SELECT count(DISTINCT segid) FROM eprint_search__2_idx")
        return int(found.fetchone()[0])


async def test_segments_are_made_one_by_steps_before_fts5_does_it_at_once(folder: Path):
    """Once an append took as long as FTS5 took for 256 of them, in which no count moved."""
    async with typed_world(folder) as world:
        await world.begin_reindex()
        operation = await world.rebuilds.begin("one")
        async with world.rebuilds.open(operation) as rebuild:
            found: list[tuple[int, int]] = []
            while (part := await rebuild.next()) is not None:
                left = part
                while left.record_ids:
                    copied = await rebuild.copy(left, 500)
                    assert copied is not None
                    left = copied[1]
                await rebuild.index(part)
                if part.collection == EPRINT:
                    (file,) = folder.glob("*.rebuild/*/search.db")
                    found.append((rebuild.segments, segments(file)))
                    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
                        for number in range(5):
                            values = (10**6 * len(found) + number, "as if it were one of a part")
                            sql = "INSERT INTO eprint_search__2 (rowid, title) VALUES (?, ?)"
                            connection.execute(sql, values)
                    rebuild.segments = SEGMENTS_MAX
    assert found == [(1, 1), (1, 2)]
