"""GROBID, Crossref and Semantic Scholar as their documentation has them, and when they fail."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from loopback import Loopback, Script, Wire, answering, hanging

from indexer.citations.eprint import EprintDocument
from indexer.citations.merging import Citation
from indexer.citations.reference import REFERENCES_MAX, CitationSource, Reference, ReferenceList
from indexer.errors import InvalidUpstream, Unavailable
from indexer.network.citation_services import (
    WORKS_ASKED,
    Crossref,
    Grobid,
    SemanticScholar,
)
from indexer.network.pacing import Pacing
from indexer.operations.citation_sources import Sources

EPRINT = EprintDocument(
    record_id=1, uri="at://did:plc:a/pub.chive.eprint.submission/1", did="did:plc:a", cid="bafk",
    form="pdf", size=1, doi="10.1000/own.(1)", arxiv_id="2101.00001", semantic_scholar_id=None,
    keys=frozenset(),
)  # fmt: skip

TEI = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc><sourceDesc>
<biblStruct><analytic><title level="a">The document itself</title></analytic></biblStruct>
</sourceDesc></fileDesc></teiHeader><text><back><div><listBibl>
<biblStruct xml:id="b0"><analytic><title level="a" type="main">Slow rivers of the plain</title>
<author><persName><forename type="first">Ada</forename><surname>Müller</surname></persName></author>
<author><persName><surname>Weiss</surname></persName></author>
<idno type="DOI">10.1000/SLOW</idno><idno type="arXiv">arXiv:2001.00001[cs]</idno></analytic>
<monogr><title level="j">Open Hydrology</title><imprint><biblScope unit="volume">3</biblScope>
<date type="published" when="2019-05" /></imprint></monogr>
<note type="raw_reference">Müller A, Weiss. Slow rivers of the plain. 2019</note></biblStruct>
<biblStruct xml:id="b1"><monogr><title level="m">A book of tides</title>
<author><persName><surname>Roe</surname></persName></author>
<imprint><date>in 1999</date></imprint></monogr></biblStruct>
<biblStruct xml:id="b2"><monogr><imprint /></monogr></biblStruct>
</listBibl></div></back></text></TEI>"""


@asynccontextmanager
async def serving(*routes: web.RouteDef) -> AsyncIterator[str]:
    app = web.Application(client_max_size=100_000_000)
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


def recorded(asked: list[Any], reply: Callable[[web.Request], web.Response]):
    async def handler(request: web.Request) -> web.Response:
        asked.append((request.path, dict(request.query)))
        return reply(request)

    return handler


async def test_grobid_is_sent_the_pdf_and_its_tei_is_read(client):
    got: dict[str, Any] = {}

    async def references(request: web.Request) -> web.Response:
        form = await request.post()
        got["data"] = form["input"].file.read()
        got["raw"], got["accept"] = form["includeRawCitations"], request.headers["Accept"]
        return web.Response(text=TEI, content_type="application/xml")

    with tempfile.TemporaryFile() as document:
        document.write(b"%PDF " + b"x" * 200_000)  # and the place in it is its end
        async with serving(web.post("/api/processReferences", references)) as url:
            http = await client(allow_private=False, exempt=[url])
            found = (await Grobid(http, url).of_pdf(document)).references
    assert got == {"data": b"%PDF " + b"x" * 200_000, "raw": "1", "accept": "application/xml"}
    assert found == [
        Reference(
            source=CitationSource.GROBID, raw="Müller A, Weiss. Slow rivers of the plain. 2019",
            title="Slow rivers of the plain", authors=("Ada Müller", "Weiss"), year=2019,
            venue="Open Hydrology", doi="10.1000/slow", arxiv_id="2001.00001",
        ),
        Reference(source=CitationSource.GROBID, title="A book of tides", authors=("Roe",), year=1999),
    ]  # fmt: skip


async def test_grobid_reads_entries_of_other_formats_and_may_find_nothing(client):
    got: list[Any] = []

    async def citations(request: web.Request) -> web.Response:
        form = await request.post()
        got.append(form.getall("citations"))
        return web.Response(status=204) if len(got) > 1 else web.Response(text=TEI)

    async with serving(web.post("/api/processCitationList", citations)) as url:
        grobid = Grobid(await client(exempt=[url]), url)
        assert len((await grobid.of_entries(["one & two", "drei"])).references) == 2
        assert await grobid.of_entries(["again"]) == ReferenceList([])
        assert await grobid.of_entries([]) == ReferenceList([])
    assert got == [["one & two", "drei"], ["again"]]


async def test_crossref_gives_what_publishers_deposited(client):
    asked: list[Any] = []
    message = {
        "DOI": "10.1000/own.(1)",
        "reference": [
            {"key": "1", "DOI": "10.1000/A", "article-title": "First of the deposited", "year": "2001",
             "author": "Roe", "journal-title": "Letters", "doi-asserted-by": "crossref"},
            {"key": "2", "unstructured": "Doe, J. (2010). Second of the deposited. Letters, 3, 1-2."},
            {"key": "3", "volume": "12"},
            "nonsense",
        ],
    }  # fmt: skip
    reply = {"status": "ok", "message-type": "work", "message": message}
    handler = recorded(asked, lambda _: web.json_response(reply))
    async with serving(web.get("/works/{doi:.*}", handler)) as url:
        crossref = Crossref(await client(exempt=[url]), url, mailto="me@example.org")
        first, second = (await crossref.references(EPRINT)).references
    assert asked == [("/works/10.1000/own.(1)", {"mailto": "me@example.org"})]
    assert (first.title, first.year, first.doi, first.authors, first.venue) == (
        "First of the deposited", 2001, "10.1000/a", ("Roe",), "Letters",
    )  # fmt: skip
    assert (second.title, second.year, second.source) == (
        "Second of the deposited", 2010, CitationSource.CROSSREF,
    )  # fmt: skip


async def test_a_long_deposited_list_holds_up_nothing_else(client):
    """Its entries are texts that have to be read one by one."""
    entry = (
        "Doe, J., Roe, A. and Poe, E. ({}). Title number {} of a long list. Letters, 3(4), 1-20."
    )
    entries = [{"unstructured": entry.format(1900 + n % 100, n)} for n in range(5_000)]
    answer = json.dumps({"message": {"reference": entries}})
    async with Loopback(answering(answer)) as server:
        crossref = Crossref(await client(exempt=[server.url]), server.url, mailto=None)
        asking = asyncio.get_running_loop().create_task(crossref.references(EPRINT))
        while not asking.done() and not server.asked:
            await asyncio.sleep(0)
        turns = 0
        while not asking.done():
            await asyncio.sleep(0.001)
            turns += 1
        found = await asking
        assert (len(found.references), found.left_out) == (REFERENCES_MAX, 5_000 - REFERENCES_MAX)
        assert turns > 10


async def test_crossref_is_asked_for_many_works_at_once(client):
    asked: list[Any] = []

    def reply(request: web.Request) -> web.Response:
        dois = [each.removeprefix("doi:") for each in request.query["filter"].split(",")]
        items = [
            {"DOI": doi.upper(), "title": [f"Title of {doi}"], "container-title": ["Letters"],
             "issued": {"date-parts": [[2001, 5]]}, "author": [{"given": "Ada", "family": "Roe"}]}
            for doi in dois
        ]  # fmt: skip
        return web.json_response({"status": "ok", "message": {"total-results": 1, "items": items}})

    async with serving(web.get("/works", recorded(asked, reply))) as url:
        crossref = Crossref(await client(exempt=[url]), url, mailto=None)
        dois = [f"10.1000/{n}" for n in range(WORKS_ASKED + 3)]
        found = await crossref.works([*dois, "10.1000/with,comma", dois[0]])
    assert [len(each[1]["filter"].split(",")) for each in asked] == [WORKS_ASKED, 3]
    assert found[dois[5]] == Reference(
        source=CitationSource.CROSSREF, title="Title of 10.1000/5", authors=("Ada Roe",), year=2001,
        venue="Letters", doi="10.1000/5",
    )  # fmt: skip
    assert len(found) == WORKS_ASKED + 3


async def test_semantic_scholar_is_read_page_by_page(client):
    asked: list[Any] = []

    def reply(request: web.Request) -> web.Response:
        offset = int(request.query["offset"])
        paper = {
            "paperId": "x", "title": f"Paper from offset {offset}", "year": 2003, "venue": "ACL",
            "authors": [{"authorId": "1", "name": "A. Roe"}, {"name": None}],
            "externalIds": {"DOI": "10.1000/P", "ArXiv": "2001.00009", "PubMed": "77", "CorpusId": 5},
        }  # fmt: skip
        body: dict[str, Any] = {
            "offset": offset,
            "data": [{"citedPaper": paper}, {"citedPaper": None}],
        }
        return web.json_response(body | ({"next": 500} if offset == 0 else {}))

    route = web.get("/graph/v1/paper/{id}/references", recorded(asked, reply))
    async with serving(route) as url:
        scholar = SemanticScholar(await client(exempt=[url]), url)
        found = (await scholar.references(EPRINT)).references
    assert [path for path, _ in asked] == ["/graph/v1/paper/DOI:10.1000/own.(1)/references"] * 2
    assert [query["offset"] for _, query in asked] == ["0", "500"]
    assert [each.title for each in found] == ["Paper from offset 0", "Paper from offset 500"]
    assert (found[0].doi, found[0].arxiv_id, found[0].pmid) == ("10.1000/p", "2001.00009", "77")


@pytest.mark.parametrize("service", ["crossref", "semantic_scholar"])
async def test_a_work_that_a_service_does_not_know_has_no_references(client, service: str):
    async with Loopback(answering("Resource not found.", status=404, kind="text/plain")) as server:
        http = await client(exempt=[server.url])
        asked = services(http, server.url)[service]
        assert await asked.references(EPRINT) == ReferenceList([])
        assert len(server.asked) == 1


def services(http: Any, url: str) -> dict[str, Any]:
    return {
        "grobid": Grobid(http, url),
        "crossref": Crossref(http, url, mailto=None),
        "semantic_scholar": SemanticScholar(http, url),
    }


FAULTS = {
    "too many": answering("slow down", status=429, Retry_After="40"),
    "broken": answering("oops", status=500),
    "garbage": answering("<html>welcome</html", kind="text/html"),
    "another format": answering(json.dumps({"message": 7, "data": 7})),
    "bomb": answering('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', kind="application/xml"),
    "forbidden": answering('{"message": "Forbidden"}', status=403),
    "elsewhere": answering("", status=302, Location="http://127.0.0.2/"),
}


def after_reading(script: Script) -> Script:
    """The same answer to a request with a body, which is read until the client goes."""

    async def answer_and_read(wire: Wire) -> None:
        await script(wire)
        await wire.until_gone()

    return answer_and_read


@pytest.mark.parametrize("service", ["grobid", "crossref", "semantic_scholar"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_service_that_fails_leaves_the_others_references(client, service: str, fault: str):
    read = [Reference(source=CitationSource.DOCUMENT, title="From the document itself")]
    script = after_reading(FAULTS[fault]) if service == "grobid" else FAULTS[fault]
    async with Loopback(script) as server:
        http = await client(exempt=[server.url])
        sources = Sources(**{service: services(http, server.url)[service]})
        with tempfile.TemporaryFile() as document:
            asked = await sources.ask(EPRINT, document, read)
        assert len(server.asked) == 1
    assert list(asked.references) == read
    assert list(asked.failures) == [CitationSource(service.replace("_", "-"))]


@pytest.mark.parametrize("service", ["grobid", "crossref", "semantic_scholar"])
async def test_what_a_service_said_before_stays_while_it_fails(client, service: str):
    source = CitationSource(service.replace("_", "-"))
    read = [Reference(source=CitationSource.DOCUMENT, title="Read by ourselves", doi="10.1000/r")]
    filled_in = replace(read[0], year=2001, venue="Letters")
    known = [
        Citation(filled_in, (CitationSource.DOCUMENT,)),
        Citation(Reference(source=source, title="Only it knew this one"), (source,)),
        Citation(replace(read[0], title="Known to both", doi=None), (CitationSource.DOCUMENT, source)),
        Citation(Reference(source=CitationSource.DOCUMENT, title="Gone"), (CitationSource.DOCUMENT,)),
    ]  # fmt: skip
    script = after_reading(FAULTS["broken"]) if service == "grobid" else FAULTS["broken"]
    async with Loopback(script) as server:
        http = await client(exempt=[server.url])
        sources = Sources(**{service: services(http, server.url)[service]})
        with tempfile.TemporaryFile() as document:
            asked = await sources.ask(EPRINT, document, read, known)
    assert list(asked.failures) == [source]
    titles = {each.title: each.source for each in asked.references}
    assert titles == {
        "Read by ourselves": CitationSource.DOCUMENT,
        "Only it knew this one": source,
        "Known to both": source,
    }
    (own,) = [each for each in asked.references if each.title == "Read by ourselves"]
    assert own.year == (2001 if service == "crossref" else None)


async def test_a_service_that_asks_for_a_pause_is_left_alone(client):
    async with Loopback(FAULTS["too many"]) as server:
        scholar = SemanticScholar(await client(exempt=[server.url]), server.url)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await scholar.references(EPRINT)
        assert len(server.asked) == 1


async def test_a_service_that_never_answers_holds_up_nobody_who_gives_up(client):
    async with Loopback(hanging) as server:
        scholar = SemanticScholar(await client(exempt=[server.url]), server.url)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await scholar.references(EPRINT)
        assert len(server.asked) == 1
        await server.all_gone()


class RealClock:
    def now(self) -> float:
        return 1.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def test_questions_come_no_faster_than_the_services_rate(client):
    async with Loopback(answering('{"data": []}')) as server:
        clock = RealClock()
        http = await client(
            exempt=[server.url], pacing=Pacing(clock=clock, rate=5.0, concurrency=1), clock=clock
        )
        scholar = SemanticScholar(http, server.url)
        started = clock.monotonic()
        for _ in range(12):
            await scholar.references(EPRINT)
        # Ten at once after a rest, and then one each fifth of a second.
        assert clock.monotonic() - started >= 0.35
        assert len(server.asked) == 12


async def test_an_origin_in_the_settings_is_exempt_for_its_own_client_alone(client):
    async with Loopback(answering('{"data": []}')) as server:
        own = await client(allow_private=False, exempt=[server.url])
        assert await SemanticScholar(own, server.url).references(EPRINT) == ReferenceList([])
        other = await client(allow_private=False, exempt=["http://127.0.0.1:1"])
        with pytest.raises(InvalidUpstream):
            await SemanticScholar(other, server.url).references(EPRINT)
        with pytest.raises(InvalidUpstream):
            await Grobid(other, server.url).of_entries(["one"])
        assert len(server.asked) == 1
