"""Requests of every shape that the lexicons suggest and of many that they do not.

`ADMIN_FUZZ_REQUESTS=100000` makes the campaign long; `ADMIN_FUZZ_SEED` repeats one, and
`ADMIN_FUZZ_REPORT` names the file for what a long one came to.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import resource
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from indexer.records.registry import load_registry
from tests.bench.report import commit, write_campaign
from tests.devnet import Devnet
from tests.devnet.account import Account
from tests.e2e.daemon import PASSWORD
from tests.e2e.test_admin_methods import SYNC, TAG, Stage, staged
from tests.e2e.test_author_methods import token
from tests.unit.admin.raw_http import Connection, connected

REQUESTS = int(os.environ.get("ADMIN_FUZZ_REQUESTS", "600"))
SEED = int(os.environ.get("ADMIN_FUZZ_SEED", "20261125"))
REPORT = os.environ.get("ADMIN_FUZZ_REPORT")
GROWTH_BYTES_MAX = 64 * 1024 * 1024
FILES_MORE_MAX = 4
WARM_ROUNDS = 5
"""Before memory is measured first: caches are full by then."""

ROUND = 300
CONNECTIONS = 8
ANSWER_S_MAX = 5.0
STATUSES = {200, 400, 401, 403, 404, 413, 415, 429, 501, 503}

JUNK_TEXTS = [
    "", " ", "\0", "\n\x1b[31m", "<script>alert(1)</script>", "é" * 50, "x" * 3000, "null", "-1",
    "99999999999999999999", "1e3", "0x10", "NaN", "true", "../../etc/passwd", "at://", "did:plc:",
    "did:web:localhost%3A1", "'; DROP TABLE repo; --", "http://169.254.169.254/", "\ud7ff", "%00",
    "http://[::1]:1", "file:///etc/passwd", "\u202e", "🎓" * 20, "did:plc:" + "a" * 24,
]  # fmt: skip
JUNK_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**53 - 1, -(2**53) + 1, [], {}, [[]], {"$type": "x"}, [None] * 50,
    {"a": {"b": {"c": []}}},
]  # fmt: skip
RAW_BODIES = [
    b"", b"{", b"null", b"[]", b"NaN", b'{"a":1,"a":2}', b"[" * 100_000, b"\xff\xfe", b"1e999",
    b'{"index":' + b"9" * 400 + b"}", b'"\\ud800"', b"{}" + b" " * 149_000, b" " * 150_001,
    b'{"\\u0000":1}', b"\xef\xbb\xbf{}",
]  # fmt: skip
TYPES = ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"]
ODD_TYPES = ["text/plain", "", "application/json; charset=latin-1", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]  # fmt: skip
ODD_PATHS = ["", "..", "../x", "%2e%2e/x", "a", "pub.chive", "pub.chive.admin.nothingOfOurs", "pub.chive.admin.getOverview/", "pub.chive.admin.getOverview%00", "*", "x" * 2000, "pub.chive.admin.GetOverview", "com.atproto.server.getSession", "_health", "pub..chive.x"]  # fmt: skip


class Generator:
    """One seeded source of requests for the methods that are served."""

    def __init__(
        self, rng: Random, served: list[str], author: Account, subjects: list[str]
    ) -> None:
        dids = [author.did]
        catalog = load_registry(governance_did=dids[0], lexicon_dir=None).catalog
        folder = Path(__file__).parents[2] / "indexer" / "lexicons"
        self._rng = rng
        self._methods = {nsid: catalog.methods[nsid] for nsid in served}
        self._mains = {
            nsid: json.loads((folder / f"{nsid}.json").read_text())["defs"]["main"]
            for nsid in served
        }
        self._dids = dids
        self._author = author
        self._subjects = subjects  # what may be denied without an end to the test

    def request(self) -> bytes:
        rng = self._rng
        nsid = rng.choice(list(self._methods))
        main = self._mains[nsid]
        is_query = main["type"] == "query"
        verb = "GET" if is_query else "POST"
        if rng.random() < 0.03:
            verb = rng.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"])
        path = nsid if rng.random() < 0.96 else rng.choice(ODD_PATHS)
        query = self._query(main)
        headers = ["Host: localhost", *self._credentials(nsid)]
        body = None
        if not is_query or rng.random() < 0.02:
            body = self._body(main)
            odd = rng.random()
            headers.append(f"Content-Type: {rng.choice(TYPES if odd < 0.95 else ODD_TYPES)}")
            if odd > 0.99:
                headers.append("Content-Encoding: gzip")
        if rng.random() < 0.02:
            headers.append(rng.choice(["Sec-Fetch-Site: cross-site", "X-Forwarded-For: junk", "Origin: https://evil.example", "Accept: text/html", "Cookie: a=b"]))  # fmt: skip
        framed = b""
        if body is not None and rng.random() < 0.05:
            headers.append("Transfer-Encoding: chunked")
            framed = (
                f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n" if body else b"0\r\n\r\n"
            )
        elif body is not None:
            headers.append(f"Content-Length: {len(body)}")
            framed = body
        line = f"{verb} /xrpc/{path}{'?' + query if query else ''} HTTP/1.1"
        return "\r\n".join([line, *headers, "", ""]).encode("latin-1") + framed

    def _credentials(self, nsid: str) -> list[str]:
        right = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        odd = self._rng.random()
        if odd < 0.94 and nsid.startswith(SYNC):
            return [f"Authorization: Bearer {token(self._author, nsid.removeprefix(SYNC))}"]
        if odd < 0.94:
            return [f"Authorization: Basic {right}"]
        wrong = ["Basic " + right[:-4], "Bearer a.b.c", "Basic", "Bearer " + "x" * 4000, "\x7f"]
        return [] if odd < 0.97 else [f"Authorization: {self._rng.choice(wrong)}"]

    def _query(self, main: dict[str, Any]) -> str:
        rng = self._rng
        declared = main.get("parameters", {}).get("properties", {})
        pairs = []
        for name, schema in declared.items():
            for _ in range(
                rng.choice([0, 1, 1, 1, 2]) if rng.random() < 0.1 else rng.choice([0, 1])
            ):
                value = self._value(name, schema)
                text = value if isinstance(value, str) else json.dumps(value)
                pairs.append(f"{name}={quote(text, safe='')}")
        if rng.random() < 0.03:
            pairs.append(
                rng.choice(["x=1", "a=%zz", "%ff=1", "limit", "&&", "=" * 20, "a=1&" * 150])
            )
        rng.shuffle(pairs)
        return "&".join(pairs)

    def _body(self, main: dict[str, Any]) -> bytes:
        rng = self._rng
        odd = rng.random()
        if odd < 0.06:
            return rng.choice(RAW_BODIES)
        schema = main.get("input", {}).get("schema", {})
        required = set(schema.get("required", []))
        made = {
            name: self._value(name, each)
            for name, each in schema.get("properties", {}).items()
            if rng.random() < (0.95 if name in required else 0.5)
        }
        if odd > 0.95:
            made[rng.choice(JUNK_TEXTS)] = rng.choice(JUNK_VALUES)
        body = json.dumps(made).encode()
        if odd > 0.98:
            cut = rng.randrange(len(body))
            body = body[:cut] + rng.randbytes(2) + body[cut + 1 :]
        return body

    def _value(self, name: str, schema: dict[str, Any]) -> Any:
        rng = self._rng
        if rng.random() < 0.12:
            return rng.choice(JUNK_VALUES if rng.random() < 0.5 else JUNK_TEXTS)
        if schema["type"] == "integer":
            low, high = schema.get("minimum", -3), schema.get("maximum", 2**53 - 1)
            return rng.choice([low, low - 1, low + 1, high, high + 1, 10**18, 10**19 - 1, 7])
        if schema["type"] == "boolean":
            return rng.random() < 0.5
        if name == "subject":
            return rng.choice(self._subjects)
        if name in {"did", "actorDid"}:
            return rng.choice([*self._dids, "did:plc:" + "z" * 24])
        if name == "uri" and rng.random() < 0.7:
            return f"at://{self._dids[0]}/{TAG}/{rng.randrange(5)}"
        if name == "pdsUrl":
            return rng.choice(["http://localhost:1", "http://127.0.0.1:1", "http://127.0.0.1:2"])
        return rng.choice([*schema.get("knownValues", []), *JUNK_TEXTS])


async def ask(connection: Connection, data: bytes, seen: Counter[int]) -> bool:
    """Judge one answer; whether the connection may be used again."""
    started = time.monotonic()
    await connection.send(data)
    answer = await connection.answer(is_head=data.startswith(b"HEAD"))
    took_s = time.monotonic() - started
    assert answer.status in STATUSES, (answer, data[:2000])
    assert took_s < ANSWER_S_MAX, (took_s, data[:2000])
    if answer.status == 200:
        answer.json()
    elif b" /xrpc/_health" not in data:
        assert answer.error.isascii(), data[:2000]
    seen[answer.status] += 1
    return answer.headers.get("connection", "").lower() != "close"


async def send_all(port: int, generator: Generator, count: int, seen: Counter[int]) -> None:
    while count > 0:
        before = b""
        async with connected(port) as connection:
            while count > 0:
                count -= 1
                data = generator.request()
                try:
                    if not await ask(connection, data, seen):
                        break
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    raise AssertionError(
                        f"no answer to {data[:2000]!r} after {before[:500]!r}"
                    ) from error
                before = data


async def check_stream(stage: Stage, net: Devnet) -> None:
    """What an account writes now arrives, unless somebody holds the stream.

    Who resets the cursor to the present chooses to miss what is written until the stream is open
    again, for as long as the repair of that gap takes. So it is open first, and what is written
    then arrives, or shows by what it does not follow from that something is missing.
    """
    await stage.do("pub.chive.indexer.resumeStream")
    async with asyncio.timeout(15):
        while not (await stage.get("pub.chive.admin.getFirehoseStatus"))["connected"]:
            await asyncio.sleep(0.05)
    stage.create(stage.admin)
    stage.create(stage.admin)
    await stage.equal(stage.admin)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def report(
    path: Path, measured: str, seen: Counter[int], took_s: float, grown: int, more: int
) -> None:
    """Write what a campaign came to that has found nothing: what finds something ends before."""
    write_campaign(
        path,
        campaign="admin",
        title="Admin requests of every shape over HTTP",
        command=f"ADMIN_FUZZ_REQUESTS={REQUESTS} ADMIN_FUZZ_SEED={SEED} pytest"
        " tests/e2e/test_admin_fuzz.py",
        short_form="tests/e2e/test_admin_fuzz.py",
        measured=measured,
        passed=True,
        figures={
            "requests": sum(seen.values()),
            **{f"answered {status}": count for status, count in sorted(seen.items())},
            "times the live stream was shown to go on": max(REQUESTS // ROUND, 1),
            "memory growth MB": round(grown / 1e6, 1),
            "descriptors more": more,
            "requests/s": round(sum(seen.values()) / took_s),
            "seconds": round(took_s),
        },
        targets={
            "requests": "at least 100,000",
            "memory growth MB": f"at most {GROWTH_BYTES_MAX / 1e6:.0f}",
            "descriptors more": f"at most {FILES_MORE_MAX}",
        },
    )


async def test_no_request_breaks_the_daemon_or_holds_up_its_stream(tmp_path: Path):
    rng = Random(SEED)
    seen: Counter[int] = Counter()
    async with staged(tmp_path, admin={"requests_per_s": 100_000.0}, storage={}) as stage:
        stage.create(stage.admin)
        await stage.equal(stage.admin)
        status, _ = await stage.daemon.query("pub.chive.admin.getOverview")
        assert status == 200
        served = await served_methods(stage)
        other = await stage.net.create_account()
        stage.create(other)
        await stage.equal(other)
        [(uri,)] = stage.daemon.rows("SELECT uri FROM records WHERE did = ?", other.did)
        subjects = [other.did, uri, "spam.example", "127.0.0.1:1", "did:plc:" + "z" * 24, "junk"]
        generator = Generator(rng, served, stage.admin, subjects)
        port = int(stage.daemon.addresses.admin_url.rpartition(":")[2])
        before, measured, began = None, commit(), time.monotonic()
        for number in range(max(REQUESTS // ROUND, 1)):
            async with asyncio.TaskGroup() as group:
                for _ in range(CONNECTIONS):
                    group.create_task(send_all(port, generator, ROUND // CONNECTIONS + 1, seen))
            await check_stream(stage, stage.net)
            assert not stage.daemon.task.done()
            if number == WARM_ROUNDS:
                before = resident_bytes(), open_files()
        if before is not None:
            grown, more = resident_bytes() - before[0], open_files() - before[1]
            assert grown < GROWTH_BYTES_MAX, f"{grown} bytes more after {sum(seen.values())}"
            assert more <= FILES_MORE_MAX
            if REPORT is not None:
                report(Path(REPORT), measured, seen, time.monotonic() - began, grown, more)
        print(f"{sum(seen.values())} requests of seed {SEED}: {dict(sorted(seen.items()))}")
    assert sum(seen.values()) >= min(REQUESTS, ROUND)
    assert {200, 400, 401, 415} <= seen.keys()


async def served_methods(stage: Stage) -> list[str]:
    """The methods of our lexicons that are served: the others are honest about it."""
    catalog = load_registry(governance_did=stage.admin.did, lexicon_dir=None).catalog
    served = []
    for nsid, method in catalog.methods.items():
        ask_it = stage.daemon.query if method.type == "procedure" else stage.daemon.call
        status, body = await ask_it(nsid)  # with the wrong verb, so that nothing happens
        assert status in {400, 501}, (nsid, body)
        if status == 400:
            served.append(nsid)
    # A folder full of copies is no part of this test.
    return [nsid for nsid in served if nsid != "pub.chive.indexer.createBackup"]
