"""The PLC directory: signed operations, documents, export.

Owns DIDs and their logs. A DID looks like the real one (24 base 32 characters) but stands for the
devnet's seed instead of its first operation, because that operation names ports which differ from
run to run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime

from aiohttp import web

from tests.devnet.cbor import JsonValue, cid_of, cid_text, encode, from_json
from tests.devnet.clock import Now, time_text
from tests.devnet.faults import FaultKind, FaultSchedule
from tests.devnet.keys import SigningKey, base58, derive_key, did_key, multibase
from tests.devnet.serving import Reply, Route, Server, json_reply

_CONTEXT = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"]
_DOCUMENT_TYPE = "application/did+ld+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a DID's latest operation says. None fields are left out of the document."""

    did: str
    handle: str | None
    key: SigningKey | None
    pds_url: str | None


@dataclass(slots=True)
class LoggedOperation:
    """An operation in the directory, with the identity that it left behind (None: tombstone)."""

    seq: int
    did: str
    operation: dict[str, JsonValue]
    cid: str
    created_at: str
    identity: Identity | None
    nullified: bool = False


@dataclass(slots=True)
class PlcDirectory:
    """The directory. `is_legacy` renders documents in the form of older servers."""

    seed: int
    now: Now
    faults: FaultSchedule
    is_legacy: bool = False
    logs: dict[str, list[LoggedOperation]] = field(default_factory=dict)
    documents: dict[str, JsonValue] = field(default_factory=dict)  # answers that replace ours
    _export: list[LoggedOperation] = field(default_factory=list)

    def new_did(self, number: int) -> str:
        """The DID of the devnet's account `number`."""
        digest = hashlib.sha256(f"{self.seed}\0did\0{number}".encode()).digest()
        return "did:plc:" + base64.b32encode(digest).decode().lower()[:24]

    def publish(self, identity: Identity) -> None:
        """Add the operation that leads to `identity`."""
        services: dict[str, JsonValue] = {}
        if identity.pds_url is not None:
            services["atproto_pds"] = {
                "type": "AtprotoPersonalDataServer",
                "endpoint": identity.pds_url,
            }
        operation: dict[str, JsonValue] = {
            "type": "plc_operation",
            "verificationMethods": {}
            if identity.key is None
            else {"atproto": did_key(identity.key)},
            "rotationKeys": [did_key(self._rotation_key)],
            "alsoKnownAs": [] if identity.handle is None else [f"at://{identity.handle}"],
            "services": services,
        }
        self._append(identity.did, operation, identity)

    def change(self, did: str, **fields: SigningKey | str | None) -> None:
        """Publish the identity of `did` with some fields (`handle`, `key`, `pds_url`) changed."""
        current = self.identity(did)
        assert current is not None
        self.publish(replace(current, **fields))  # type: ignore[arg-type]  # names checked by replace

    def tombstone(self, did: str) -> None:
        """Take the DID out of use for good."""
        self._append(did, {"type": "plc_tombstone"}, None)

    def identity(self, did: str, back: int = 1) -> Identity | None:
        """The current identity, or with `back` 2 the one before; None after a tombstone."""
        log = self.logs[did]
        return log[-min(back, len(log))].identity

    def document(self, did: str, back: int = 1) -> JsonValue:
        """The DID document as served; None where there is none."""
        if did in self.documents:
            return self.documents[did]
        identity = self.identity(did, back) if did in self.logs else None
        return None if identity is None else did_document(identity, is_legacy=self.is_legacy)

    def serve(self, server: Server) -> None:
        """Answer on `server`."""
        server.route("GET", "/export", "plc.export", self._serve_export)
        server.route("GET", "/_health", "plc.health", self._serve_health)
        server.fallback(self._choose)

    @property
    def _rotation_key(self) -> SigningKey:
        return derive_key("k256", self.seed, "rotation")

    def _append(self, did: str, operation: dict[str, JsonValue], identity: Identity | None) -> None:
        log = self.logs.setdefault(did, [])
        operation["prev"] = log[-1].cid if log else None
        signature = self._rotation_key.sign(encode(from_json(operation)))
        operation["sig"] = base64.urlsafe_b64encode(signature).decode().rstrip("=")
        cid = cid_text(cid_of(encode(from_json(operation))))
        entry = LoggedOperation(
            len(self._export) + 1, did, operation, cid, time_text(self.now()), identity
        )
        log.append(entry)
        self._export.append(entry)

    def _choose(self, request: web.Request) -> Route:
        kind = request.path.strip("/").partition("/")[2]
        return {
            "": ("plc.document", self._serve_document),
            "data": ("plc.data", self._serve_data),
            "log": ("plc.log", self._serve_log),
            "log/last": ("plc.log", self._serve_log),
            "log/audit": ("plc.audit", self._serve_log),
        }.get(kind, ("plc.unknown", self._serve_document))

    async def _serve_document(self, request: web.Request) -> Reply:
        did = request.path.strip("/")
        context = {"service": "plc", "endpoint": "plc.document", "did": did}
        back = 2 if self.faults.take((FaultKind.PLC_STALE,), **context) else 1
        document = self.document(did, back)
        if document is None or self.faults.take((FaultKind.PLC_NOT_FOUND,), **context):
            return self._not_found(did)
        return json_reply(document, content_type=_DOCUMENT_TYPE)

    async def _serve_data(self, request: web.Request) -> Reply:
        did = request.path.strip("/").partition("/")[0]
        identity = self.identity(did) if did in self.logs else None
        if identity is None:
            return self._not_found(did)
        latest = self.logs[did][-1].operation
        kept = ("verificationMethods", "rotationKeys", "alsoKnownAs", "services")
        return json_reply({"did": did, **{name: latest[name] for name in kept}})

    async def _serve_log(self, request: web.Request) -> Reply:
        did, _, kind = request.path.strip("/").partition("/")
        if did not in self.logs:
            return self._not_found(did)
        log = self.logs[did]
        if kind == "log/audit":
            return json_reply([audit_entry(entry) for entry in log])
        if kind == "log/last":
            return json_reply(log[-1].operation)
        return json_reply([entry.operation for entry in log])

    async def _serve_export(self, request: web.Request) -> Reply:
        """JSON lines after a createdAt, or with `after=<seq>` in the sequenced form."""
        after = request.query.get("after", "")
        count = min(int(request.query.get("count", "1000")), 1000)
        if after.isdigit():
            chosen = self._export[int(after) : int(after) + count]
            lines = [{"type": "sequenced_op", "seq": e.seq, **audit_entry(e)} for e in chosen]
        else:
            newer = [entry for entry in self._export if entry.created_at > after]
            newer.sort(key=lambda entry: entry.created_at)
            lines = [audit_entry(entry) for entry in newer[:count]]
        text = "\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
        date = format_datetime(datetime.fromtimestamp(self.now(), UTC), usegmt=True)
        return Reply([text.encode()], "application/jsonlines", headers={"Date": date})

    async def _serve_health(self, _request: web.Request) -> Reply:
        return json_reply({"version": "devnet"})

    def _not_found(self, did: str) -> Reply:
        known = "available" if did in self.logs else "registered"
        return json_reply({"message": f"DID not {known}: {did}"}, status=404)


def audit_entry(entry: LoggedOperation) -> dict[str, JsonValue]:
    """An operation as `/log/audit` and `/export` give it."""
    return {
        "did": entry.did,
        "operation": entry.operation,
        "cid": entry.cid,
        "nullified": entry.nullified,
        "createdAt": entry.created_at,
    }


def did_document(identity: Identity, *, is_legacy: bool = False) -> dict[str, JsonValue]:
    """The DID document of an identity: Multikey, or the legacy form with an uncompressed key."""
    did, key = identity.did, identity.key
    document: dict[str, JsonValue] = {
        "@context": [*_CONTEXT],
        "id": did,
        "alsoKnownAs": [] if identity.handle is None else [f"at://{identity.handle}"],
        "verificationMethod": [],
        "service": [],
    }
    if key is not None and is_legacy:
        document["verificationMethod"] = [
            {
                "id": "#atproto",
                "type": key.legacy_type,
                "controller": did,
                "publicKeyMultibase": "z" + base58(key.uncompressed),
            }
        ]
    elif key is not None:
        document["verificationMethod"] = [
            {
                "id": f"{did}#atproto",
                "type": "Multikey",
                "controller": did,
                "publicKeyMultibase": multibase(key),
            }
        ]
    if identity.pds_url is not None:
        document["service"] = [
            {
                "id": "#atproto_pds",
                "type": "AtprotoPersonalDataServer",
                "serviceEndpoint": identity.pds_url,
            }
        ]
    return document
