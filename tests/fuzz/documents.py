"""JSON of directories and hosts: DID documents, logs, listings, refusals and their headers."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from indexer.errors import ChiveIndexerError, InvalidUpstream
from indexer.network import answers, listings
from indexer.network.answers import exhausted_s, parsed, refusal, requested_pause_s
from indexer.network.listings import listing_page
from indexer.protocol import did_document, keys, plc_export, plc_log, syntax
from indexer.protocol.did_document import parse_did_document, parse_origin
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.plc_export import parse_export
from indexer.protocol.plc_log import parse_former_keys
from indexer.protocol.syntax import is_did, is_handle, is_tid
from tests.devnet.cbor import JsonValue
from tests.devnet.keys import base58, derive_key, did_key, multibase
from tests.fuzz.mutation import TEXTS, havoc, mangled

DID = "did:plc:abcdefghijklmnopqrstuvwx"
KEYS = [derive_key(curve, "documents", curve) for curve in ("k256", "p256")]
TIMES = ("2026-11-26T00:00:00Z", "2023-01-02T03:04:05.678Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-11-26T00:00:00+99:99", "x")  # fmt: skip
RAW = (b"[" * 100_000, b'{"id":' * 5000, b"NaN", b"1e999", b'"\\ud800"', b"", b"\xff\xfe", b"9" * 5000, b"null", b'{"id":"a","id":"b"}')  # fmt: skip


def json_bytes(rng: Random, value: JsonValue) -> bytes:
    """Text of a value that has one or more places changed, of nonsense, or spoilt after it was text."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        value = mangled(rng, value)  # type: ignore[assignment, arg-type]
    data = json.dumps(value, default=lambda odd: getattr(odd, "cid", odd).hex()).encode()
    way = rng.random()
    if way < 0.01:
        return rng.choice(RAW)
    return havoc(rng, data) if way < 0.25 else data


def document(rng: Random) -> dict[str, Any]:
    """A DID document as PLC renders it, or of an older or foreign kind."""
    key = rng.choice(KEYS)
    methods = [
        {"id": f"{DID}#atproto", "type": "Multikey", "controller": DID, "publicKeyMultibase": multibase(key)},
        {"id": "#atproto", "type": key.legacy_type, "controller": DID, "publicKeyMultibase": "z" + base58(key.uncompressed)},
    ]  # fmt: skip
    rng.shuffle(methods)
    url = rng.choice(("https://pds.example", "http://localhost:2583", "https://[::1]:8", "https://a.example:0", "https://u@h.example", "https://xn--a.example./"))  # fmt: skip
    return {
        "id": DID,
        "alsoKnownAs": ["at://alice.example", "https://alice.example"],
        "verificationMethod": methods,
        "service": [{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": url}],
    }  # fmt: skip


def log(rng: Random) -> list[dict[str, Any]]:
    """An audit log with keys that follow each other."""
    made = []
    for at in range(rng.randrange(5)):
        key = did_key(rng.choice(KEYS))
        operation = (
            {"type": "create", "signingKey": key, "handle": "a.example", "service": "https://a.example"}
            if not at
            else {"type": "plc_operation", "verificationMethods": {"atproto": key}, "alsoKnownAs": ["at://a.example"],
                  "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": "https://a.example"}}}
        )  # fmt: skip
        made.append({"did": DID, "operation": operation, "cid": "b", "nullified": rng.random() < 0.1, "createdAt": rng.choice(TIMES)})  # fmt: skip
    return made


class DidDocuments:
    """A document gives nothing that is not in it, in the one form of each."""

    name = "did-documents"
    modules = (did_document, keys, syntax)

    def __init__(self, seed: int) -> None:
        del seed

    def make(self, rng: Random) -> bytes:
        """The text of a document."""
        return json_bytes(rng, document(rng))

    def check(self, data: bytes) -> str:
        """As the resolver reads what it has fetched."""
        try:
            found = parse_did_document(parsed(data), DID)
        except InvalidUpstream as error:
            return f"refused {error.check}"
        assert found.handle is None or is_handle(found.handle)
        assert found.pds_url is None or parse_origin(found.pds_url) == found.pds_url
        if found.signing_key is None:
            return "accepted without a key"
        assert VerifyingKey.parse(found.signing_key).multibase == found.signing_key
        assert found.signing_key in KNOWN or found.signing_key.encode() in data
        return "accepted"


KNOWN = frozenset(map(multibase, KEYS))


class Logs:
    """Audit logs of one DID, and exports of a directory."""

    name = "plc-logs"
    modules = (plc_log, plc_export, keys)

    def __init__(self, seed: int) -> None:
        del seed

    def make(self, rng: Random) -> bytes:
        """An audit log, or after a line end of its own an export."""
        if rng.random() < 0.5:
            return json_bytes(rng, log(rng))  # type: ignore[arg-type]
        return b"\n" + b"\n".join(json_bytes(rng, each) for each in log(rng))

    def check(self, data: bytes) -> str:
        """Lines that cannot be read are counted, and never raise."""
        if data.startswith(b"\n"):
            page, rest = parse_export(data), parse_export(data, skips_bad=True)
            assert len(page.operations) <= len(rest.operations) <= rest.lines == page.lines
            assert all(is_did(each.did) for each in rest.operations)
            return "refused lines" if rest.bad_lines else "accepted export"
        try:
            former = parse_former_keys(parsed(data))
        except InvalidUpstream as error:
            return f"refused {error.check}"
        assert all(VerifyingKey.parse(each.key.multibase) == each.key for each in former)
        return "accepted log" if former else "accepted log without former keys"


class Answers:
    """Listings and statuses, and what a refusal says."""

    name = "answers"
    modules = (answers, listings)

    def __init__(self, seed: int) -> None:
        del seed

    def make(self, rng: Random) -> bytes:
        """A status and a header in the first line, then a body."""
        if rng.random() < 0.3:
            body: JsonValue = {"error": rng.choice(("RepoNotFound", "RepoTakendown", *TEXTS)), "message": rng.choice(TEXTS)}  # fmt: skip
        else:
            body = {"cursor": rng.choice(TEXTS), "repos": [self._entry(rng) for _ in range(rng.randrange(4))]}  # fmt: skip
        header = rng.choice(("", "5", "-1", "9" * 400, "Wed, 21 Oct 2099 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "1e9", "²", *TEXTS))  # fmt: skip
        head = f"{rng.choice((200, 400, 404, 429, 503))} {header!r}"
        return havoc_line(rng, head.encode()) + b"\n" + json_bytes(rng, body)

    def check(self, data: bytes) -> str:
        """A page, nothing, or an error of ours."""
        head, _, body = data.partition(b"\n")
        text = head[4:].decode("latin-1").strip("'")
        for headers in (
            {"Retry-After": text},
            {"RateLimit-Reset": text, "RateLimit-Remaining": "0"},
        ):
            for found in (
                requested_pause_s(headers, now_s=1.8e9),
                exhausted_s(headers, now_s=1.8e9),
            ):
                assert found is None or found > 0
        if not head.startswith(b"200"):
            assert isinstance(refusal(404, body, "https://a.example"), ChiveIndexerError)
            return "refused by status"
        value = parsed(body)
        page = listing_page(value)  # type: ignore[arg-type]
        if page is None:
            return "refused: no page"
        assert all(
            is_did(each.did) and (each.rev is None or is_tid(each.rev)) for each in page.repos
        )
        return "accepted page"

    def _entry(self, rng: Random) -> dict[str, JsonValue]:
        status = rng.choice(("takendown", "deactivated", "throttled", "desynchronized", "odd"))
        return {"did": rng.choice((DID, "did:web:a.example", *TEXTS)), "head": "b", "rev": rng.choice(("3kaaaaaaaaaa2", "x")), "active": rng.random() < 0.5, "status": status}  # fmt: skip


def havoc_line(rng: Random, line: bytes) -> bytes:
    """A line that is spoilt now and then and stays one."""
    return havoc(rng, line).replace(b"\n", b" ") if rng.random() < 0.3 else line
