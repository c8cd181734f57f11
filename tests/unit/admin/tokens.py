"""Service-auth tokens, well made and badly made, and a directory that knows their issuers."""

from __future__ import annotations

import base64
import json
from typing import Any

from indexer.errors import DidGone, LocalBusy, Unavailable
from indexer.protocol.did_document import DidDocument
from tests.devnet.keys import SigningKey, derive_key, multibase

OWN_DID = "did:web:indexer.example"
ADMIN = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
OTHER_ADMIN = "did:web:admin.example"
STRANGER = "did:plc:bbbbbbbbbbbbbbbbbbbbbbbb"
NSID = "pub.chive.admin.getOverview"
NOW = 1_800_000_000
KEYS = {
    ADMIN: derive_key("k256", "admin"),
    OTHER_ADMIN: derive_key("p256", "other admin"),
    STRANGER: derive_key("k256", "stranger"),
}
ALGS = {"k256": "ES256K", "p256": "ES256"}


class SteppedClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = float(NOW)
        self.set_back_by = 0.0
        self.paused_s = 0.0  # time for which the monotonic clock has stood still

    def now(self) -> float:
        return self.at - self.set_back_by

    def monotonic(self) -> float:
        return self.at - self.paused_s


class Directory:
    """Documents of DIDs, and a note of every question."""

    def __init__(self) -> None:
        self.keys = {did: multibase(key) for did, key in KEYS.items()}
        self.asked: list[str] = []
        self.is_down = False

    async def resolve(self, did: str, *, fresh: bool = False) -> DidDocument:
        assert fresh
        self.asked.append(did)
        if self.is_down:
            raise Unavailable("the directory is down")
        if did not in self.keys:
            raise DidGone(f"{did}: not found", is_tombstone=False)
        return DidDocument(did, None, self.keys[did], "https://pds.example")


class Horizon:
    """What outlives the process."""

    def __init__(self) -> None:
        self.at = 0
        self.is_full = False

    async def load(self) -> int:
        return self.at

    async def raise_to(self, issued_at: int) -> None:
        assert issued_at > self.at
        if self.is_full:
            raise LocalBusy("SQLITE_FULL")
        self.at = issued_at


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def segment(value: Any) -> str:
    return b64(json.dumps(value).encode())


ABSENT = object()


def claims(**changed: Any) -> dict[str, Any]:
    """Claims as the PDS makes them; a change to `ABSENT` leaves one out."""
    made = {
        "iat": NOW,
        "iss": ADMIN,
        "aud": OWN_DID,
        "exp": NOW + 60,
        "lxm": NSID,
        "jti": "0123456789abcdef0123456789abcdef",
    } | changed
    return {name: value for name, value in made.items() if value is not ABSENT}


def mint(*, key: SigningKey | None = None, header: dict | None = None, **changed: Any) -> str:
    """A signed token; by default the issuer's own key signs."""
    body = claims(**changed)
    issuer = body.get("iss")
    signer = key or KEYS.get(issuer if isinstance(issuer, str) else "", KEYS[ADMIN])
    head = {"typ": "JWT", "alg": ALGS[signer.curve]} | (header or {})
    head = {name: value for name, value in head.items() if value is not ABSENT}
    return sign(f"{segment(head)}.{segment(body)}", signer)


def sign(signed: str, key: SigningKey) -> str:
    return f"{signed}.{b64(key.sign(signed.encode()))}"
