"""Extracted citations: stored whole, matched when they are read, gone with their eprint."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from indexer.citations.eprint import EprintDocument
from indexer.citations.merging import CITATIONS_MAX, Citation
from indexer.citations.reference import CitationSource, Reference, ReferenceList
from indexer.citations.result import Extraction, ExtractionOutcome
from indexer.errors import Check, InvalidUpstream, LocalBusy
from indexer.extraction.process import DocumentReader
from indexer.model import (
    FailedUnit,
    Operation,
    OperationMode,
    OperationStatus,
    OperationType,
    SettledUnit,
)
from indexer.operations.citation_extraction import CitationExtraction
from indexer.operations.citation_sources import Sources
from storage.citations import PART_CITATIONS, CitationStore
from tests.storage.conftest import writer_steps
from tests.storage.test_operations import engine
from tests.storage.typed_world import ALICE, BOB, CAROL, TypedWorld, typed_world
from tests.unit.records.record_examples import minimal

EPRINT = "pub.chive.eprint.submission"
CURATED = "pub.chive.eprint.citation"
DOCUMENT = CitationSource.DOCUMENT
VERSION = "1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Shelf]:
    async with typed_world(tmp_path) as opened:
        shelf = Shelf(opened)
        await shelf.begin("one")
        yield shelf


class Shelf:
    """Eprints, and extractions as an operation brings them."""

    def __init__(self, world: TypedWorld) -> None:
        self.world = world
        self.store = CitationStore(world.database, clock=world.clock)

    async def begin(self, operation_id: str) -> None:
        await self.world.operations.insert(
            Operation(
                id=operation_id, type=OperationType.CITATION_EXTRACTION, key=operation_id,
                mode=OperationMode.SUPPLEMENT, phase="running", params={},
                status=OperationStatus.RUNNING, started_at=1.0, completed_at=None, started_by=None,
                records_processed=0, total_records=None, unit="eprint", units_processed=0,
                total_units=None, outcomes={}, checkpoint=None, error=None, cancel_requested=False,
            ),
            running_max=10,
        )  # fmt: skip

    async def add(self, did: str, rkey: str, title: str, **fields: object) -> str:
        path = f"{EPRINT}/{rkey}"
        await self.world.commit(did, {path: minimal(EPRINT) | {"title": title} | fields})
        return f"at://{did}/{path}"

    async def cite(self, uri: str, *works: Reference, operation_id: str = "one", **changed):
        did, _, path = uri.removeprefix("at://").partition("/")
        eprint = await self.store.load(did, path)
        assert eprint is not None
        extraction = Extraction(
            record_id=eprint.record_id, uri=uri, document_cid=eprint.cid, version=VERSION,
            is_complete=True, outcome=ExtractionOutcome.EXTRACTED,
            citations=tuple(Citation(work, (work.source,)) for work in works),
        )  # fmt: skip
        unit = SettledUnit(unit=uri, outcome="extracted", records=1)
        return await self.store.replace(
            operation_id, replace(extraction, **changed), unit, replace(unit, outcome="changed")
        )

    async def citations(self, columns: str = "title, cited_uri, match_method, match_confidence"):
        return await self.world.rows(f"SELECT {columns} FROM citations ORDER BY eprint_uri, title")


def work(title: str, **fields: object) -> Reference:
    return Reference(source=DOCUMENT, title=title, **fields)


async def test_a_cited_eprint_is_found_whichever_of_the_two_came_first(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(
        citing,
        work("Slow rivers of the northern plain"),
        work("Another title altogether", doi="10.1000/river.1"),
        work("By its number", arxiv_id="2101.00001"),
        work("By its PubMed id", pmid="123456"),
        work("Never heard of again"),
    )
    assert {row[1] for row in await world.citations()} == {None}
    river = await world.add(BOB, "3kriver222222", "Slow Rivers of the Northern Plain.")
    doi = await world.add(
        BOB,
        "3kdoi22222222",
        "Something",
        publishedVersion={"doi": "https://doi.org/10.1000/RIVER.1"},
    )
    number = await world.add(
        CAROL, "3knumber22222", "Other", externalIds={"arxivId": "2101.00001v3"}
    )
    pmid = await world.add(CAROL, "3kpmid2222222", "Third", externalIds={"pmid": "123456"})
    assert await world.citations() == [
        ("Another title altogether", doi, "doi", 1.0),
        ("By its PubMed id", pmid, "pmid", 1.0),
        ("By its number", number, "arxiv", 1.0),
        ("Never heard of again", None, None, None),
        ("Slow rivers of the northern plain", river, "title", 0.8),
    ]
    counts = dict(await world.world.rows("SELECT uri, cited_by_count FROM eprint_submission"))
    assert counts == {citing: 0, river: 1, doi: 1, number: 1, pmid: 1}
    count = "SELECT citation_count FROM eprint_submission WHERE uri = ?"
    assert await world.world.one(count, citing) == 5
    await world.world.set_account(BOB, active=False)
    assert [row[1] for row in await world.citations()] == [None, pmid, number, None, None]


async def test_the_strongest_key_decides_and_a_shared_title_is_doubted(world):
    first = await world.add(BOB, "3kfirst222222", "One title for two eprints")
    second = await world.add(
        CAROL, "3ksecond22222", "One title for two eprints", publishedVersion={"doi": "10.1000/two"}
    )
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(citing, work("One title for two eprints"))
    assert (await world.citations())[0][1:] == (first, "title", 0.5)
    await world.begin("two")
    named = work("One title for two eprints", doi="10.1000/two")
    await world.cite(citing, named, operation_id="two")
    assert (await world.citations())[0][1:] == (second, "doi", 1.0)


async def test_a_title_that_only_a_hidden_account_shares_is_not_doubted(world):
    title = "One title for two eprints"
    first = await world.add(BOB, "3kfirst222222", title)
    await world.add(CAROL, "3ksecond22222", title)
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(citing, work(title))
    await world.world.set_account(CAROL, active=False)
    assert (await world.citations())[0][1:] == (first, "title", 0.8)
    await world.world.set_account(CAROL, active=True)
    assert (await world.citations())[0][1:] == (first, "title", 0.5)


async def test_no_eprint_is_its_own_citation(world):
    title = "A survey of quiet places and their limits"
    citing = await world.add(ALICE, "3kciting22222", title)
    await world.cite(citing, work(title))
    assert await world.citations() == [(title, None, None, None)]
    assert await world.world.one("SELECT cited_by_count FROM eprint_submission") == 0


async def test_what_people_curate_stands_beside_it_untouched(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    cited = await world.add(BOB, "3kcited222222", "Slow rivers of the northern plain")
    curated = minimal(CURATED) | {
        "eprintUri": citing, "citedWork": {"title": "By hand", "chiveUri": cited},
    }  # fmt: skip
    await world.world.commit(CAROL, {f"{CURATED}/3kcurated2222": curated})
    await world.cite(citing, work("By machine, and by nobody else"))
    uri = f"at://{CAROL}/{CURATED}/3kcurated2222"
    assert await world.citations("title, source, cited_uri, match_confidence, user_record_uri") == [
        ("By hand", "user-provided", cited, 1.0, uri),
        ("By machine, and by nobody else", "document", None, None, None),
    ]
    await world.begin("two")
    await world.cite(citing, operation_id="two", outcome=ExtractionOutcome.NO_REFERENCES)
    assert [row[0] for row in await world.citations()] == ["By hand"]
    count = "SELECT citation_count FROM eprint_submission WHERE uri = ?"
    assert await world.world.one(count, citing) == 1


async def test_a_unit_is_settled_with_its_rows_and_never_twice(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    row = await world.cite(citing, work("First and only title"))
    assert (row.records_processed, row.units_processed) == (1, 1)
    assert await world.cite(citing, work("Second and late title")) is None
    assert [title for (title,) in await world.citations("title")] == ["First and only title"]


async def test_an_eprint_that_changed_meanwhile_keeps_what_it_has(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    row = await world.cite(citing, work("Of another document"), document_cid="bafkother")
    assert row.outcomes == {"changed": 1}
    assert await world.citations() == []


class Blobs:
    """Hosts that have the same text for every document."""

    def __init__(self, text: str = "References\n\n1. Roe, A. (2001). A title of words. X.") -> None:
        self.text = text

    @asynccontextmanager
    async def fetch(self, did: str, cid: str, size: int | None) -> AsyncIterator[IO[bytes]]:
        with tempfile.TemporaryFile() as document:
            document.write(self.text.encode())
            document.seek(0)
            yield document


async def test_where_no_process_can_be_started_the_run_fails_and_no_eprint_is_settled(tmp_path):
    async with typed_world(tmp_path) as opened:
        shelf = Shelf(opened)
        for n in "345":
            await shelf.add(ALICE, f"3keprint{n}2222", f"Eprint {n}", documentFormatSlug="txt")

        async def run(**options: object) -> tuple[Operation, list[FailedUnit]]:
            documents = DocumentReader(processes_max=2, start_retry_s=0.0, **options)
            kind = CitationExtraction(shelf.store, Blobs(), documents, Sources(), workers=2)
            async with engine(opened, kind) as one:
                started = await one.runner.start("citationExtraction", {}, started_by=None)
                return await one.ended(started), await one.units.failures(started.id)

        ended, failures = await run(python=str(tmp_path / "absent"))
        assert (ended.status, ended.units_processed, failures) == (OperationStatus.FAILED, 0, [])
        assert "no process for a document in 10 attempts: No such file" in ended.error
        assert await shelf.citations() == []
        ended, _ = await run()
        assert (ended.status, ended.outcomes) == (OperationStatus.COMPLETED, {"extracted": 3})
        assert [row[0] for row in await shelf.citations()] == ["A title of words"] * 3


class TooLarge(Blobs):
    """Hosts whose documents are larger than may be."""

    @asynccontextmanager
    async def fetch(self, did: str, cid: str, size: int | None) -> AsyncIterator[IO[bytes]]:
        raise InvalidUpstream(Check.LIMITS, "more bytes than may be")
        yield


class ShortService:
    """A service that knows one reference, for which this machine lacks a socket at first."""

    def __init__(self) -> None:
        self.asked = 0

    async def references(self, eprint: EprintDocument) -> ReferenceList:
        self.asked += 1
        if self.asked == 1:
            raise LocalBusy("no socket: Too many open files")
        source = CitationSource.SEMANTIC_SCHOLAR
        return ReferenceList([Reference(source=source, title="A title of words")])


@pytest.mark.parametrize(
    ("form", "blobs", "outcome"),
    [("other", Blobs(), "unsupported"), ("txt", TooLarge(), "too_large")],
)
async def test_a_short_shortage_of_descriptors_for_a_service_fails_no_run(
    tmp_path: Path, form: str, blobs: Blobs, outcome: str
):
    service = ShortService()
    async with typed_world(tmp_path) as opened:
        shelf = Shelf(opened)
        await shelf.add(ALICE, "3keprint22222", "An eprint", documentFormatSlug=form)
        kind = CitationExtraction(
            shelf.store, blobs, DocumentReader(processes_max=1), Sources(semantic_scholar=service),
            workers=1,
        )  # fmt: skip
        async with engine(opened, kind) as one:
            ended = await one.ended(
                await one.runner.start("citationExtraction", {}, started_by=None)
            )
        assert (service.asked, ended.outcomes) == (2, {outcome: 1}), ended.error
        assert [row[0] for row in await shelf.citations()] == ["A title of words"]


async def test_a_list_that_is_cut_is_counted_as_such_and_not_read_again(tmp_path):
    entries = [
        f"{n}. Roe, A. (2001). Title number {n} of many. Letters, 3." for n in range(1, 1012)
    ]
    kind_of = partial(
        CitationExtraction, blobs=Blobs("References\n\n" + "\n".join(entries)),
        documents=DocumentReader(processes_max=1), sources=Sources(), workers=1,
    )  # fmt: skip
    async with typed_world(tmp_path) as opened:
        shelf = Shelf(opened)
        uri = await shelf.add(ALICE, "3keprint22222", "A long survey", documentFormatSlug="txt")
        async with engine(opened, kind_of(shelf.store)) as one:
            every = await one.ended(
                await one.runner.start("citationExtraction", {}, started_by=None)
            )
            assert (every.status, every.outcomes) == (OperationStatus.COMPLETED, {"shortened": 1})
            assert (every.units_failed, len(await shelf.citations())) == (0, CITATIONS_MAX)
            again = await one.ended(
                await one.runner.start("citationExtraction", {}, started_by=None)
            )
            assert again.units_processed == 0
            named = await one.ended(
                await one.runner.start("citationExtraction", {"uri": uri}, started_by=None)
            )
            assert named.outcomes == {"shortened": 1}
            assert named.note == "about 11 more references than are kept of one document"


async def test_services_are_asked_by_the_doi_of_today_while_tables_are_of_the_version_before(world):
    """Else what they do not know by another would count as asked for good."""
    doi = "10.1016/0370-2693(91)90061-(a)"
    uri = await world.add(ALICE, "3kolder222222", "Slow rivers", publishedVersion={"doi": doi})
    await world.world.database.write(
        lambda connection: connection.execute(
            "UPDATE eprint_submission__1 SET doi = ?", (doi.removesuffix(")"),)
        )
    )
    assert await world.world.rows("SELECT doi FROM eprint_submission") == [(doi[:-1],)]
    did, _, path = uri.removeprefix("at://").partition("/")
    [lacking] = await world.store.lacking("none", VERSION, 0, 10)
    assert lacking == await world.store.load(did, path)
    assert lacking.doi == doi


async def test_only_eprints_without_a_current_extraction_are_lacking(world):
    uris = [await world.add(ALICE, f"3keprint{n}2222", f"Eprint number {n} of many") for n in "345"]
    await world.cite(uris[0], work("Some title or other"))
    await world.cite(uris[1], work("Some title or other"), is_complete=False)

    async def lacking(version: str = VERSION, operation_id: str = "none"):
        return [each.uri for each in await world.store.lacking(operation_id, version, 0, 10)]

    assert await lacking() == uris[1:]
    assert await lacking(operation_id="one") == uris[2:]
    assert await lacking("1+grobid") == uris
    begun = await world.store.begin("one", VERSION)
    assert (begun.total_units, begun.total_records) == (2, 2)
    for number in ("two", "three"):
        await world.begin(number)
        await world.cite(uris[1], operation_id=number, is_complete=False)
    assert await lacking() == uris[2:]


async def test_rows_of_a_deleted_eprint_are_hidden_at_once_and_never_given_to_another(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(citing, *(work(f"Title number {n} of a long list") for n in range(600)))
    await world.world.commit(ALICE, {f"{EPRINT}/3kciting22222": None})
    # The next record gets the id that has become free.
    other = await world.add(BOB, "3kother222222", "An eprint that cites nothing at all")
    assert await world.citations() == []
    count = "SELECT citation_count FROM eprint_submission WHERE uri = ?"
    assert await world.world.one(count, other) == 0
    steps = 0
    while removed := await world.store.step():
        assert removed <= 250
        steps += 1
    assert steps > 4
    for table in ("citation_extraction", "extracted_citation", "citation_key"):
        assert await world.world.one(f"SELECT count(*) FROM {table}") == 0


async def test_a_purged_repo_takes_its_extracted_rows_with_it(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(citing, work("Some title or other"))
    await world.world.purge(ALICE)
    while await world.store.step():
        pass
    assert await world.world.one("SELECT count(*) FROM extracted_citation") == 0


async def test_a_reindex_leaves_them_as_they_are(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    cited = await world.add(BOB, "3kcited222222", "Slow rivers of the northern plain")
    await world.cite(citing, work("Slow rivers of the northern plain"))
    before = await world.citations("*")
    assert before[0][8] == cited
    await world.world.reindex("reindex")
    assert await world.citations("*") == before


def many(name: str) -> list[Reference]:
    return [
        work(f"{name} number {n} of a long list", doi=f"10.1000/{n}", raw="x" * 300, year=2000)
        for n in range(CITATIONS_MAX)
    ]


async def test_the_largest_list_is_replaced_at_once_and_others_write_meanwhile(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(citing, *many("Title"))
    await world.begin("two")
    replacing = asyncio.get_running_loop().create_task(
        world.cite(citing, *many("Other"), operation_id="two")
    )
    seen = []

    async def write_others() -> int:
        turns = 0
        while not replacing.done():
            await world.world.database.write(lambda _: None)
            turns += 1
        return turns

    others = asyncio.get_running_loop().create_task(write_others())
    while not replacing.done():
        found = await world.world.rows(
            "SELECT substr(title, 1, 5), count(*) FROM citations GROUP BY 1"
        )
        seen.append(found)
        await world.store.step()  # which leaves alone what is being written
    assert (await replacing).outcomes == {"extracted": 1}
    assert await others >= CITATIONS_MAX // PART_CITATIONS - 1
    assert seen[0] == [("Title", CITATIONS_MAX)]
    assert all(each in ([("Title", CITATIONS_MAX)], [("Other", CITATIONS_MAX)]) for each in seen)
    while removed := await world.store.step():
        assert removed <= 250
    assert await world.world.one("SELECT count(*) FROM extracted_citation") == CITATIONS_MAX
    assert await world.world.one("SELECT count(*) FROM citations") == CITATIONS_MAX


async def test_a_replacement_that_is_cancelled_leaves_the_old_rows_and_nothing_else(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(citing, work("First and only title"))
    await world.begin("two")
    replacing = asyncio.get_running_loop().create_task(
        world.cite(citing, *many("Other"), operation_id="two")
    )
    while await world.world.one("SELECT count(*) FROM extracted_citation") == 1:
        await world.world.database.write(lambda _: None)
    replacing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replacing
    assert await world.citations("title") == [("First and only title",)]
    while await world.store.step():
        pass
    for table in ("citation_extraction", "extracted_citation"):
        assert await world.world.one(f"SELECT count(*) FROM {table}") == 1


async def test_what_is_known_of_a_document_comes_back_as_it_was_stored(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    works = [
        work("First of two titles", doi="10.1000/a", authors=("Roe", "Döe"), year=2001, venue="X"),
        work("Second of two titles", arxiv_id="2101.00001", pmid="77", pmcid="PMC5", raw="2. S"),
    ]
    did, _, path = citing.removeprefix("at://").partition("/")
    eprint = await world.store.load(did, path)
    assert await world.store.known(eprint) == ()
    await world.cite(citing, *works)
    assert await world.store.known(eprint) == tuple(Citation(each, (DOCUMENT,)) for each in works)
    assert await world.store.known(replace(eprint, cid="bafkother")) == ()


async def test_looking_for_citations_of_one_eprint_reads_no_others(world):
    citing = await world.add(ALICE, "3kciting22222", "A survey of quiet places and their limits")
    await world.cite(citing, work("Slow rivers of the northern plain"))
    for sql in (
        "SELECT cited_by_count FROM eprint_submission WHERE rowid = 1",
        f"SELECT * FROM citations WHERE eprint_did = '{ALICE}' AND eprint_uri = '{citing}'",
    ):
        plan = [row[3] for row in await world.world.rows(f"EXPLAIN QUERY PLAN {sql}")]
        scans = [each for each in plan if each.startswith("SCAN")]
        assert scans in ([], ["SCAN citations"]), plan  # of the two halves, put together


async def test_eprints_of_the_same_title_are_not_read_for_each_that_cites_it(world):
    title = "Slow rivers of the northern plain"
    cited = await world.add(ALICE, "3kcited222222", title)
    for n in range(30):
        citing = await world.add(BOB, f"3kciting{n:03}", f"A survey of quiet places, volume {n}")
        await world.cite(citing, work(title))
    count = f"SELECT cited_by_count FROM eprint_submission WHERE uri = '{cited}'"
    list_all = "SELECT match_confidence FROM citations"
    queries = [partial(_all, sql) for sql in (count, list_all)]
    database = world.world.database
    before = [await writer_steps(database, database.write(query)) for query in queries]
    for n in range(30):
        await world.add(CAROL, f"3ksame{n:03}", title)
    after = [await writer_steps(database, database.write(query)) for query in queries]
    assert all(now < 2 * then for now, then in zip(after, before, strict=True)), (before, after)
    assert await world.world.one(count) == 30
    assert set(await world.citations("cited_uri, match_confidence")) == {(cited, 0.5)}


def _all(sql: str, connection: sqlite3.Connection) -> list:
    return connection.execute(sql).fetchall()
