"""Service-auth tokens: nobody gets in with one that is not right in every claim, signed and unused."""

from __future__ import annotations

import asyncio
import base64
import json
import weakref
from random import Random
from typing import Any

from admin_api import json_body, service_auth
from admin_api.service_auth import Flaw, ServiceTokens, TokenRefused
from indexer.errors import DidGone
from indexer.protocol.did_document import DidDocument
from tests.devnet.keys import derive_key, high_s, multibase
from tests.fuzz.mutation import TEXTS, havoc, mangled

NOW = 1_800_000_000
OWN_DID = "did:web:indexer.example"
NSID = "pub.chive.admin.getOverview"
KEYS = {
    f"did:plc:{name * 24}": derive_key(curve, "tokens", name)
    for name, curve in (("a", "k256"), ("b", "p256"), ("c", "k256"))
}
STRANGER = "did:plc:" + "c" * 24
ALGS = {"k256": "ES256K", "p256": "ES256"}
REMEMBERED_MAX = 5000


class _Clock:
    """Moves on with every token, so that used ones are forgotten in time."""

    def __init__(self) -> None:
        self.at = float(NOW)

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class _Directory:
    async def resolve(self, did: str, *, fresh: bool = False) -> DidDocument:
        if did not in KEYS:
            raise DidGone(f"{did}: not found", is_tombstone=False)
        return DidDocument(did, None, multibase(KEYS[did]), "https://pds.example")


class _Horizon:
    def __init__(self) -> None:
        self.at = 0

    async def raise_to(self, issued_at: int) -> None:
        self.at = issued_at


class Tokens:
    """One door that sees all tokens of a campaign."""

    name = "tokens"
    modules = (service_auth, json_body)

    def __init__(self, seed: int) -> None:
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)
        self._clock = _Clock()
        self._tokens = ServiceTokens(
            [did for did in KEYS if did != STRANGER],
            own_did=OWN_DID,
            documents=_Directory(),
            accepted=_Horizon(),
            horizon=0,
            clock=self._clock,
            remembered_max=REMEMBERED_MAX,
        )
        self._number = seed

    def make(self, rng: Random) -> bytes:
        """The text of a token, and on a line before it the time at which it is shown."""
        self._number += 1
        now = self._clock.at + 0.1
        iss = rng.choice(list(KEYS))
        key = KEYS[iss]
        header: Any = {"typ": "JWT", "alg": ALGS[key.curve]}
        claims: Any = {"iat": int(now), "iss": iss, "aud": rng.choice((OWN_DID, OWN_DID + "#chive_indexer")), "exp": int(now) + 60, "lxm": NSID, "jti": f"{self._number:032x}"}  # fmt: skip
        way = rng.random()
        if way < 0.1:
            header = mangled(rng, header)
        elif way < 0.4:
            claims = mangled(rng, claims)
        elif way < 0.55:
            name = rng.choice(("iat", "exp", "nbf"))
            claims[name] = int(now) + rng.choice((-(10**9), -301, -66, -61, -6, -5, 0, 5, 6, 300, 301, 10**9, 10**25))  # fmt: skip
        elif way < 0.6:
            claims[rng.choice(list(claims))] = rng.choice(TEXTS)
        elif way < 0.65:
            key = rng.choice(list(KEYS.values()))
        signed = f"{_segment(rng, header)}.{_segment(rng, claims)}"
        signature = key.sign(signed.encode())
        if rng.random() < 0.03:
            signature = rng.choice((high_s(signature, key.curve), signature + b"\0", signature[:-1], b"", bytes(64)))  # fmt: skip
        text = f"{signed}.{_b64(signature)}".encode()
        if rng.random() < 0.2:
            text = havoc(rng, text)
        return f"{now!r}\n".encode() + text

    def check(self, data: bytes) -> str:
        """Let in, or refused with a flaw. The same a second time must be refused."""
        at, _, raw = data.partition(b"\n")
        self._clock.at = max(self._clock.at, _number(at))
        text = raw.decode("latin-1")
        actor, flaw = self._shown(text)
        if flaw is not None:
            return f"refused {flaw}"
        assert actor == rightful(text, self._clock.at), (
            "a token that is not in order let somebody in"
        )
        assert self._shown(text) == (None, Flaw.REPLAYED), "a token let somebody in twice"
        return "accepted"

    def _shown(self, text: str) -> tuple[str | None, Flaw | None]:
        try:
            return self._loop.run_until_complete(self._tokens.verify(text, NSID)), None
        except TokenRefused as error:
            return None, error.flaw


def rightful(text: str, now: float) -> str | None:
    """The admin that a token stands for by the plainest reading of the rules, or None."""
    try:
        head, body, signature = text.split(".")
        header, claims = json.loads(_unb64(head)), json.loads(_unb64(body))
        iss, iat, exp = claims["iss"], claims["iat"], claims["exp"]
        key = KEYS[iss]
    except (ValueError, KeyError, TypeError):
        return None
    is_right = (
        iss != STRANGER
        and header.get("alg") == ALGS[key.curve]
        and header.get("typ", "JWT") == "JWT"
        and header.get("kid", "#atproto") == "#atproto"
        and "crit" not in header
        and claims.get("aud") in (OWN_DID, OWN_DID + "#chive_indexer")
        and claims.get("lxm") == NSID
        and iat - 5 <= now < exp + 5
        and 0 < exp - iat <= 300
        and claims.get("nbf", 0) <= now + 5
        and 0 < len(claims["jti"]) <= 256
        and text.isascii()
        and _unb64(signature) == key.sign(f"{head}.{body}".encode())
    )
    return iss if is_right else None


def _number(text: bytes) -> float:
    try:
        at = float(text)
    except ValueError:
        return NOW
    return at if NOW <= at < NOW + 10**8 else NOW


def _segment(rng: Random, value: object) -> str:
    data = json.dumps(value, default=lambda odd: getattr(odd, "cid", odd).hex()).encode()
    return _b64(havoc(rng, data) if rng.random() < 0.05 else data)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
