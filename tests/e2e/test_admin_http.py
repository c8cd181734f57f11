"""HTTP as the methods see it: verbs, encodings, framing and repeated headers, byte by byte."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.daemon import PASSWORD
from tests.e2e.test_admin_methods import ADMIN, INDEXER, Stage, staged
from tests.unit.admin.raw_http import Answer, connected, exchange, request

BASIC = ("Authorization", "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode())
JSON = ("Content-Type", "application/json")
OVERVIEW = f"/xrpc/{ADMIN}getOverview"
RESUME = f"/xrpc/{INDEXER}resumeStream"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


def admin_port(stage: Stage) -> int:
    return int(stage.daemon.addresses.admin_url.rpartition(":")[2])


async def test_a_query_answers_head_as_get_without_a_body_and_other_verbs_are_refused(stage: Stage):
    port = admin_port(stage)
    got = await exchange(port, request(OVERVIEW, BASIC))
    head = await exchange(port, request(OVERVIEW, BASIC, method="HEAD"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await exchange(port, request(OVERVIEW, method="HEAD"))).status == 401
    for verb in ("OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE"):
        answer = await exchange(port, request(OVERVIEW, BASIC, JSON, method=verb, body=b"{}"))
        assert (answer.status, answer.error) == (400, "InvalidRequest"), verb
        assert b"is a query: use GET" in answer.body
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    for verb in ("HEAD", "GET", "OPTIONS", "PUT"):
        answer = await exchange(port, request(RESUME, BASIC, method=verb))
        assert answer.status == 400, verb
    assert (await stage.get(ADMIN + "getAuditLog"))["total"] == 0


async def test_two_credentials_are_none_even_if_both_are_good(stage: Stage):
    answer = await exchange(admin_port(stage), request(OVERVIEW, BASIC, BASIC))
    assert (answer.status, answer.error) == (401, "AuthenticationRequired")


async def test_a_body_that_is_not_plain_json_is_an_unsupported_medium(stage: Stage):
    odd: list[list[tuple[str, str]]] = [
        [],
        [("Content-Type", "text/plain")],
        [("Content-Type", "application/x-www-form-urlencoded")],
        [("Content-Type", "application/json; charset=latin-1")],
        [JSON, ("Content-Encoding", "gzip")],
        [JSON, ("Content-Encoding", "identity")],
    ]
    for headers in odd:
        asked = request(RESUME, BASIC, *headers, method="POST", body=b"{}")
        answer = await exchange(admin_port(stage), asked)
        assert (answer.status, answer.error) == (415, "UnsupportedMediaType"), headers


async def chunked(stage: Stage, *headers: tuple[str, str]) -> Answer:
    head = request(RESUME, BASIC, JSON, *headers, method="POST")
    return await exchange(admin_port(stage), head + b"2\r\n{}\r\n0\r\n\r\n")


async def test_of_transfer_codings_only_chunked_is_taken_and_never_with_a_length(stage: Stage):
    assert (await chunked(stage, ("Transfer-Encoding", "chunked"))).status == 200
    assert (await chunked(stage, ("Transfer-Encoding", "Chunked"))).status == 200
    answer = await chunked(stage, ("Transfer-Encoding", "gzip, chunked"))
    assert (answer.status, answer.error) == (501, "MethodNotImplemented")
    answer = await chunked(stage, ("Transfer-Encoding", "chunked"), ("Content-Length", "2"))
    assert (answer.status, answer.error) == (400, "InvalidRequest")
    assert answer.headers["connection"] == "close", "whatever follows is not taken for a request"


async def test_a_body_is_asked_for_only_behind_a_good_credential(stage: Stage):
    expects = ("Expect", "100-continue")
    good = request(RESUME, BASIC, JSON, expects, ("Content-Length", "2"), method="POST")
    async with connected(admin_port(stage)) as connection:
        await connection.send(good)
        assert (await connection.informed()) == 100
        await connection.send(b"{}")
        assert (await connection.answer()).status == 200
    bad = request(RESUME, JSON, expects, ("Content-Length", "2"), method="POST")
    assert (await exchange(admin_port(stage), bad)).status == 401


async def test_paths_and_bodies_beyond_what_is_served_have_their_own_answers(stage: Stage):
    port = admin_port(stage)
    wanted = {
        "/xrpc/com.example.nothing.ofOurs": (501, "MethodNotImplemented"),
        f"/xrpc/{ADMIN}getoverview": (501, "MethodNotImplemented"),
        "/xrpc/../x": (400, "InvalidRequest"),
        "/xrpc/": (400, "InvalidRequest"),
        "/xrpc/a": (400, "InvalidRequest"),
        f"/xrpc/{ADMIN}getOverview/": (400, "InvalidRequest"),
    }
    for path, expected in wanted.items():
        answer = await exchange(port, request(path, BASIC))
        assert (answer.status, answer.error) == expected, path
    long = request(RESUME, BASIC, JSON, method="POST", body=b"{" + b" " * 2_000_000 + b"}")
    async with connected(port) as connection:
        with suppress(ConnectionError):
            await connection.send(long)
        answer = await connection.answer()
    assert (answer.status, answer.error) == (413, "PayloadTooLarge")
    for body in (b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}'):
        answer = await exchange(port, request(RESUME, BASIC, JSON, method="POST", body=body))
        assert (answer.status, answer.error) == (400, "InvalidRequest"), body


async def test_a_cancel_of_what_is_not_running_says_so(stage: Stage):
    cancel = ADMIN + "cancelBackfill"
    assert await stage.refused(cancel, id="nothing") == (400, "InvalidRequest")
    done = await stage.daemon.backfill("governanceSync")
    answer = await stage.do(cancel, id=done["id"])
    assert answer == {"success": False, "id": done["id"], "status": done["status"]}
