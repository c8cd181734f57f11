"""citationExtraction of a whole daemon on the devnet: documents in, citations out."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.devnet import Devnet, FaultKind, realistic_record
from tests.devnet.account import Account
from tests.documents import styles
from tests.documents.hostile import endless_pdf
from tests.documents.layout import Paragraph, set_pages
from tests.documents.pdf import write_pdf
from tests.documents.works import Work, works
from tests.e2e.daemon import RunningDaemon, running_daemon, to_toml, wait_until
from tests.e2e.test_admin_kill import process, sections
from tests.e2e.test_admin_methods import ADMIN, TAG
from tests.e2e.test_operation_runs import call, stored, write_steadily
from tests.oracle import wait_until_equal

SUBMISSION = "pub.chive.eprint.submission"
OFF = {"crossref_url": "", "semantic_scholar_url": ""}
BLOB = "com.atproto.sync.getBlob"
RUNNING = "SELECT count(*) FROM operations WHERE status = 'running'"


def document(cited: Sequence[Work]) -> bytes:
    entries = [Paragraph(f"[{at}] {styles.ieee(each)}", 0, 18) for at, each in enumerate(cited, 1)]
    return write_pdf(set_pages([Paragraph("A study"), Paragraph("References"), *entries]))


def submit(net: Devnet, account: Account, data: bytes, **changed: Any) -> str:
    """A new eprint with this document; its URI."""
    value = realistic_record(net.rng, SUBMISSION, did=account.did)
    for name in ("publishedVersion", "externalIds", "documentFormatSlug"):
        value.pop(name, None)
    value["document"] = net.add_blob(account, data, "application/pdf")
    value.update(changed)
    return net.create(account, SUBMISSION, value).uri


def settings(folder: Path, net: Devnet, **citations: Any) -> dict[str, dict[str, Any]]:
    return sections(folder, net) | {"citations": OFF | citations}


async def indexed(daemon: RunningDaemon, *uris: str) -> None:
    def are_there() -> bool:
        known = {uri for (uri,) in daemon.rows("SELECT uri FROM eprint_submission")}
        return known >= set(uris)

    await wait_until(are_there, what="the eprints")


def cited_titles(daemon: RunningDaemon, uri: str) -> list[str]:
    sql = "SELECT title FROM citations WHERE eprint_uri = ? AND source = 'document'"
    return [title for (title,) in daemon.rows(sql, uri)]


@pytest.mark.parametrize("mode", ["supplement", "pause"])
async def test_every_eprint_gets_its_citations_beside_live_traffic(tmp_path: Path, mode: str):
    async with Devnet(seed=6) as net:
        writers = [await net.create_account() for _ in range(3)]
        cited = [works(net.rng, 6) for _ in writers]
        uris = [
            submit(net, account, document(each))
            for account, each in zip(writers, cited, strict=True)
        ]
        async with running_daemon(tmp_path, settings(tmp_path, net)) as daemon:
            await indexed(daemon, *uris)
            traffic = asyncio.get_running_loop().create_task(write_steadily(net, writers, [0]))
            ended = await daemon.backfill("citationExtraction", mode=mode)
            traffic.cancel()
            await asyncio.wait([traffic])
            assert (ended["status"], ended["mode"]) == ("completed", mode), ended
            assert (ended["recordsProcessed"], ended["unitsProcessed"], ended["totalUnits"]) == (
                3,
                3,
                3,
            )
            assert ended["outcomes"] == [{"name": "extracted", "units": 3}]
            for uri, each in zip(uris, cited, strict=True):
                assert cited_titles(daemon, uri) == [work.title for work in each]
            await wait_until_equal(net, daemon.database, 15.0, heads=True)
            again = await daemon.backfill("citationExtraction", mode=mode)
            assert (again["status"], again["recordsProcessed"]) == ("completed", 0)


async def test_one_eprint_is_read_again_when_asked_for_and_a_changed_document_by_itself(
    tmp_path: Path,
):
    async with Devnet(seed=7) as net:
        account = await net.create_account()
        first, second = works(net.rng, 4), works(net.rng, 5)
        uri = submit(net, account, document(first))
        async with running_daemon(tmp_path, settings(tmp_path, net)) as daemon:
            await indexed(daemon, uri)
            ended = await daemon.backfill("citationExtraction", uri=uri)
            assert (ended["status"], ended["recordsProcessed"]) == ("completed", 1)
            again = await daemon.backfill("citationExtraction", uri=uri)
            assert again["outcomes"] == [{"name": "extracted", "units": 1}]
            value = realistic_record(net.rng, SUBMISSION, did=account.did)
            value["document"] = net.add_blob(account, document(second), "application/pdf")
            value.pop("documentFormatSlug", None)
            net.update(account, SUBMISSION, uri.rpartition("/")[2], value)
            await wait_until_equal(net, daemon.database, 10.0, heads=True)
            assert cited_titles(daemon, uri) == [work.title for work in first]
            ended = await daemon.backfill("citationExtraction")
            assert ended["recordsProcessed"] == 1
            assert cited_titles(daemon, uri) == [work.title for work in second]
            net.delete(account, SUBMISSION, uri.rpartition("/")[2])
            await wait_until(
                lambda: daemon.rows("SELECT * FROM citations") == [], what="no citation"
            )
            await wait_until(
                lambda: daemon.rows("SELECT count(*) FROM extracted_citation") == [(0,)],
                what="the rows to be cleared away",
            )


async def test_requests_that_cannot_be_met_are_refused_before_anything_starts(tmp_path: Path):
    async with Devnet(seed=8) as net:
        account = await net.create_account()
        unknown = f"at://{account.did}/{SUBMISSION}/3kaaaaaaaaa22"
        async with running_daemon(tmp_path, settings(tmp_path, net)) as daemon:
            for uri in ("at://x y", unknown, f"at://{account.did}", unknown.replace(SUBMISSION, TAG),
                        f"at://handle.example/{SUBMISSION}/3kaaaaaaaaa22"):  # fmt: skip
                for nsid, extra in (
                    ("triggerBackfill", {"type": "citationExtraction"}),
                    ("triggerCitationExtraction", {}),
                ):
                    status, answer = await daemon.call(ADMIN + nsid, uri=uri, **extra)
                    assert (status, answer["error"]) == (400, "InvalidRequest"), uri
                    assert "uri" in answer["message"]
            status, answer = await daemon.call(
                ADMIN + "triggerBackfill", type="citationExtraction", did=account.did
            )
            assert (status, answer["error"]) == (400, "InvalidRequest")
            assert daemon.rows("SELECT * FROM operations") == []


async def test_what_goes_wrong_with_one_document_is_that_eprints_outcome(tmp_path: Path):
    async with Devnet(seed=9) as net:
        account = await net.create_account()
        good = submit(net, account, document(works(net.rng, 5)))
        garbage = submit(net, account, b"%PDF-1.7 and nothing else")
        absent = submit(net, account, document(works(net.rng, 3)))
        wrong = submit(net, account, document(works(net.rng, 4)))
        large = submit(net, account, b"x" * 150_000)
        other = submit(net, account, b"?", documentFormatSlug="papyrus")
        blobs = net.hosting(account).blobs
        cids = {uri: _cid(net, account, uri) for uri in (absent, wrong)}
        del blobs[cids[absent]]
        blobs[cids[wrong]] = ("application/pdf", document(works(net.rng, 2)))
        values = settings(tmp_path, net, document_bytes_max=100_000)
        async with running_daemon(tmp_path, values) as daemon:
            await indexed(daemon, good, garbage, absent, wrong, large, other)
            ended = await daemon.backfill("citationExtraction")
            assert ended["status"] == "completed"
            outcomes = {each["name"]: each["units"] for each in ended["outcomes"]}
            assert outcomes == dict.fromkeys(
                ("extracted", "unreadable", "not_found", "wrong_cid", "too_large", "unsupported"), 1
            )
            assert {each["unit"]: each["outcome"] for each in ended["failures"]} == {
                garbage: "unreadable", absent: "not_found", wrong: "wrong_cid", large: "too_large",
            }  # fmt: skip
            # What would come out the same is not tried again; what may have changed is.
            again = await daemon.backfill("citationExtraction")
            assert {each["name"] for each in again["outcomes"]} == {"not_found", "wrong_cid"}
            assert again["status"] == "failed"


def _cid(net: Devnet, account: Account, uri: str) -> str:
    path = uri.removeprefix(f"at://{account.did}/")
    ((_, _, value),) = net.records(account, path.__eq__)
    return value["document"]["ref"]["$link"]


async def test_a_cancel_kills_the_process_of_a_document_within_two_seconds(tmp_path: Path):
    async with Devnet(seed=10) as net:
        account = await net.create_account()
        uri = submit(net, account, endless_pdf())
        async with running_daemon(tmp_path, settings(tmp_path, net)) as daemon:
            await indexed(daemon, uri)
            _, started = await daemon.call(ADMIN + "triggerCitationExtraction", uri=uri)
            await wait_until(lambda: bool(children()), what="the process of the document")
            asked_at = time.monotonic()
            await daemon.cancel_only(started["operationId"], within_s=2.0)
            await wait_until(lambda: not children(), what="no process", deadline_s=2.0)
            assert time.monotonic() - asked_at < 2.0


def children() -> list[str]:
    """Processes that this one has started to read documents."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            try:
                command = (Path("/proc") / pid / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            if b"indexer.extraction.child" in command:
                found.append(pid)
    return found


async def test_a_run_that_is_killed_ends_as_any_other_and_asks_for_nothing_settled(tmp_path: Path):
    async with Devnet(seed=11) as net:
        accounts = [await net.create_account() for _ in range(4)]
        cited = [works(net.rng, 3) for _ in accounts]
        uris = [submit(net, *each) for each in zip(accounts, map(document, cited), strict=True)]
        values = settings(tmp_path, net, workers=1)
        config = tmp_path / "killed.toml"
        config.write_text(to_toml(values))
        database = tmp_path / "index.db"
        async with process(config) as (daemon, url):
            known = "SELECT count(*) FROM eprint_submission"
            await wait_until(lambda: stored(database, known) == [(4,)], what="the eprints")
            order = stored(database, "SELECT did FROM eprint_submission ORDER BY rowid")
            third = net.faults.schedule(
                FaultKind.HTTP_HANG, times=1, endpoint=BLOB, did=order[2][0]
            )
            await call(url, ADMIN + "triggerCitationExtraction")
            await wait_until(lambda: third.fired > 0, what="the third document")
            daemon.send_signal(signal.SIGKILL)
            await daemon.wait()
        assert stored(database, "SELECT count(*) FROM operation_unit") == [(2,)]
        asked = net.pds[0].server.requests[BLOB]
        async with running_daemon(tmp_path, values) as running:
            await wait_until(lambda: running.rows(RUNNING) == [(0,)], what="the end")
            assert running.rows("SELECT status, records_processed FROM operations") == [
                ("completed", 4)
            ]
            for uri, each in zip(uris, cited, strict=True):
                assert cited_titles(running, uri) == [work.title for work in each]
        assert net.pds[0].server.requests[BLOB] - asked == 2


async def test_a_service_that_fails_is_asked_again_and_the_others_stand(tmp_path: Path):
    """GROBID and Crossref on loopback; Crossref is broken for the first run."""
    asked: list[str] = []
    is_broken, has_grobid_failed = True, False

    async def grobid(request: web.Request) -> web.Response:
        form = await request.post()
        assert form["input"].file.read().startswith(b"%PDF")
        asked.append("grobid")
        if has_grobid_failed:
            return web.Response(status=503)
        return web.Response(text=TEI, content_type="application/xml")

    async def crossref(request: web.Request) -> web.Response:
        asked.append(request.path)
        if is_broken:
            return web.Response(status=500, text="oops")
        if request.path == "/works":
            return web.json_response({"message": {"items": []}})
        entry = {
            "key": "1",
            "DOI": "10.1000/deposited",
            "article-title": "Only its publisher knows",
        }
        return web.json_response({"message": {"reference": [entry]}})

    app = web.Application(client_max_size=1 << 26)
    app.add_routes(
        [web.post("/api/processReferences", grobid), web.get("/works{doi:.*}", crossref)]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with Devnet(seed=12) as net:
            account = await net.create_account()
            cited = works(net.rng, 3)
            uri = submit(net, account, document(cited), publishedVersion={"doi": "10.1000/own"})
            values = settings(tmp_path, net, grobid_url=site.name, crossref_url=site.name)
            async with running_daemon(tmp_path, values) as daemon:
                await indexed(daemon, uri)
                first = await daemon.backfill("citationExtraction")
                assert first["outcomes"] == [{"name": "incomplete", "units": 1}], first
                sources = "SELECT source, count(*) FROM citations GROUP BY 1 ORDER BY 1"
                assert daemon.rows(sources) == [("document", 3), ("grobid", 1)]
                is_broken = False
                second = await daemon.backfill("citationExtraction")
                assert second["outcomes"] == [{"name": "extracted", "units": 1}]
                assert daemon.rows(sources) == [("crossref", 1), ("document", 3), ("grobid", 1)]
                third = await daemon.backfill("citationExtraction")
                assert third["recordsProcessed"] == 0
                assert asked.count("grobid") == 2
                # What both said stays through an outage, also for who asks for this eprint.
                before = daemon.rows("SELECT * FROM citations ORDER BY title")
                is_broken = has_grobid_failed = True
                fourth = await daemon.backfill("citationExtraction", uri=uri)
                assert fourth["outcomes"] == [{"name": "incomplete", "units": 1}]
                assert "crossref: " in fourth["note"] and "grobid: " in fourth["note"]
                assert daemon.rows("SELECT * FROM citations ORDER BY title") == before
    finally:
        await runner.cleanup()


TEI = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><back><listBibl><biblStruct><analytic>
<title level="a">Only the service can read this</title></analytic><monogr><imprint>
<date when="2001"/></imprint></monogr></biblStruct></listBibl></back></text></TEI>"""
