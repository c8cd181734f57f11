"""Service-auth tokens: JWTs by which an account's host vouches that its user makes one call.

Owns every check of a token, in an order in which nothing costly happens for a stranger: form and
claims first, then whether the issuer is a listed admin, only then its key, which may have to be
asked for, the signature, and whether the token was used before. A token serves one call.

Used tokens are remembered until they have expired. What is forgotten, because the process ended
or the table is full, is covered by a horizon: no token that was issued at or before it is
accepted, and it is durable before a call is let through.

Source: https://atproto.com/specs/xrpc#inter-service-authentication-jwt
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from admin_api.json_body import read_json
from admin_api.ports import DidDocuments, TokenHorizon
from indexer.clock import Clock
from indexer.errors import ChiveIndexerError, InvalidUpstream, RequestRefused, Unavailable
from indexer.model import Json
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.syntax import is_did

SERVICE = "#chive_indexer"
"""The fragment that names this service of our DID."""

TOKEN_CHARS_MAX = 4096
"""Hosts make tokens of some 400; a header line may have 8190 with everything in it."""

JTI_CHARS_MAX = 256
LEEWAY_S = 5.0
LIFETIME_S_MAX = 300.0
REMEMBERED_S = LIFETIME_S_MAX + 2 * LEEWAY_S
"""A token accepted now cannot be valid any more after this time."""

REMEMBERED_MAX = 100_000
KEY_S = 300.0
"""How long a key is believed without asking again."""

REFRESH_S = 60.0
"""A signature that does not match has an issuer's key asked for at most once in this time."""

RETRY_S = 10.0
"""After a failure an issuer's key is asked for again no sooner."""

RESOLVE_S = 10.0

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_KEY_NAME = "#atproto"


class Flaw(StrEnum):
    """What is wrong with a token: labels of `chive_auth_failures_total`."""

    SIZE = "token_size"
    FORM = "token_form"
    """Not three segments of canonical base64url, or a segment is not a JSON object."""
    ALG = "token_alg"
    TYP = "token_typ"
    KID = "token_kid"
    CRIT = "token_crit"
    """It asks for extensions that must be understood."""
    ISS = "token_iss"
    AUD = "token_aud"
    LXM = "token_lxm"
    EXP = "token_exp"
    """Not a whole number."""
    IAT = "token_iat"
    """Not a whole number, or not before `exp`."""
    NBF = "token_nbf"
    JTI = "token_jti"
    EXPIRED = "token_expired"
    FUTURE = "token_future"
    LIFETIME = "token_lifetime"
    NOT_ADMIN = "not_admin"
    ISSUER_UNKNOWN = "issuer_unknown"
    """Its DID cannot be resolved, or the document has no usable key."""
    ISSUER_UNAVAILABLE = "issuer_unavailable"
    KEY = "token_key"
    """The algorithm is not that of the issuer's key."""
    SIGNATURE = "token_signature"
    REPLAYED = "token_replayed"
    STALE = "token_stale"
    """Issued at or before the horizon: it may have been used before the process started."""


class TokenRefused(ChiveIndexerError):
    """A token that lets nobody in; `flaw` is counted and not told."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token whose claims are in order; its signature is yet to be checked."""

    iss: str
    jti: str
    iat: int  # unix seconds
    alg: str
    signed: bytes
    signature: bytes


class ServiceTokens:
    """Verifies tokens of listed admins for us. `horizon` is what `TokenHorizon.load` gave."""

    def __init__(
        self,
        admins: Iterable[str],
        *,
        own_did: str,
        documents: DidDocuments,
        accepted: TokenHorizon,
        horizon: int,
        clock: Clock,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        self._keys = IssuerKeys(admins, documents, clock=clock)
        self._audiences = audiences_of(own_did)
        self._accepted = accepted
        self._newest_iat = horizon
        self._used = UsedTokens(horizon, clock=clock, remembered_max=remembered_max)
        self._clock = clock

    async def verify(self, text: str, nsid: str) -> str:
        """The DID of the admin who calls `nsid`; the token is used up.

        Raises `TokenRefused`, and `Unavailable` when the issuer's key cannot be had.
        """
        token = read_token(text, audiences=self._audiences, nsid=nsid, now=self._clock.now())
        if token.iss not in self._keys:
            raise TokenRefused(Flaw.NOT_ADMIN)
        await self._check_signature(token)
        self._used.use(token)
        if token.iat > self._newest_iat:
            await self._accepted.raise_to(token.iat)
            self._newest_iat = max(self._newest_iat, token.iat)
        return token.iss

    async def _check_signature(self, token: Token) -> None:
        key = await self._keys.current(token.iss)
        if is_signed(token, key):
            return
        newer = await self._keys.newer(token.iss, key)
        if newer is not None and is_signed(token, newer):
            return
        flaw = Flaw.SIGNATURE if token.alg == (newer or key).jwt_alg else Flaw.KEY
        raise TokenRefused(flaw)


class UsedTokens:
    """Tokens that were accepted, until they have expired; none issued at or before a horizon is.

    `horizon` is in unix seconds. A full table forgets its oldest, and raises the horizon to it.
    """

    def __init__(self, horizon: int, *, clock: Clock, remembered_max: int = REMEMBERED_MAX) -> None:
        self._horizon = horizon
        self._remembered_max = remembered_max
        self._used: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()  # (at, iat)
        self._clock = clock

    def check(self, token: Token) -> None:
        """Raise `TokenRefused` for a token that is known to have been used."""
        if (token.iss, token.jti) in self._used:
            raise TokenRefused(Flaw.REPLAYED)

    def use(self, token: Token) -> None:
        """Use a token up. Raises `TokenRefused` for one that was used, or may have been."""
        now = self._clock.monotonic()
        self.check(token)
        while self._used and next(iter(self._used.values()))[0] <= now - REMEMBERED_S:
            self._forget_oldest()
        if token.iat <= self._horizon:
            raise TokenRefused(Flaw.STALE)
        if len(self._used) >= self._remembered_max:
            self._forget_oldest()
        self._used[token.iss, token.jti] = (now, token.iat)

    def _forget_oldest(self) -> None:
        _, (_, iat) = self._used.popitem(last=False)
        self._horizon = max(self._horizon, iat)


@dataclass(slots=True)
class _Issuer:
    """What is known of one admin's key. Times are monotonic."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    key: VerifyingKey | None = None
    failure: Unavailable | TokenRefused | None = None  # of the last ask
    asked_at: float = -math.inf
    known_at: float = -math.inf


class IssuerKeys:
    """The signing keys of listed admins, asked for as seldom as can be.

    Nobody else's DID is ever asked for, so that the list bounds both memory and traffic.
    """

    def __init__(self, dids: Iterable[str], documents: DidDocuments, *, clock: Clock) -> None:
        self._issuers = {did: _Issuer() for did in dids}
        self._documents = documents
        self._clock = clock

    def __contains__(self, did: str) -> bool:
        return did in self._issuers

    async def current(self, did: str) -> VerifyingKey:
        """The key that a listed DID signs with. Raises `TokenRefused` or `Unavailable`."""
        issuer = self._issuers[did]
        async with issuer.lock:
            now = self._clock.monotonic()
            if issuer.key is not None and now - issuer.known_at < KEY_S:
                return issuer.key
            if issuer.failure is not None and now - issuer.asked_at < RETRY_S:
                raise _again(issuer.failure)
            return await self._ask(did, issuer)

    async def newer(self, did: str, key: VerifyingKey) -> VerifyingKey | None:
        """The key that has replaced `key`; None where none has, or it is too soon to ask again."""
        issuer = self._issuers[did]
        async with issuer.lock:
            if issuer.key != key:
                return issuer.key
            if self._clock.monotonic() - issuer.asked_at < REFRESH_S:
                return None
            found = await self._ask(did, issuer)
            return None if found == key else found

    async def _ask(self, did: str, issuer: _Issuer) -> VerifyingKey:
        issuer.asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(RESOLVE_S):
                document = await self._documents.resolve(did, fresh=True)
            issuer.key = VerifyingKey.parse(document.signing_key or "")
        except InvalidUpstream as error:
            issuer.key, issuer.failure = None, TokenRefused(Flaw.ISSUER_UNKNOWN)
            raise _again(issuer.failure) from error
        except TimeoutError as error:
            issuer.failure = Unavailable(f"{did}: no document within {RESOLVE_S:g} s")
            raise _again(issuer.failure) from error
        except Unavailable as error:
            issuer.failure = error
            raise _again(error) from error
        issuer.failure = None
        issuer.known_at = self._clock.monotonic()
        return issuer.key


def read_token(text: str, *, audiences: frozenset[str], nsid: str, now: float) -> Token:
    """A token for one of `audiences` and the method `nsid` that is valid at `now` (unix seconds).

    Raises `TokenRefused`; nothing is looked up and no signature checked.
    """
    if len(text) > TOKEN_CHARS_MAX:
        raise TokenRefused(Flaw.SIZE)
    segments = text.split(".")
    if len(segments) != 3:  # noqa: PLR2004 - the form of a compact JWS
        raise TokenRefused(Flaw.FORM)
    raw_header, raw_claims, signature = (_segment(segment) for segment in segments)
    alg = _check_header(_object(raw_header))
    claims = _object(raw_claims)
    iss, jti = claims.get("iss"), claims.get("jti")
    aud = claims.get("aud")
    if not isinstance(aud, str) or aud not in audiences:
        raise TokenRefused(Flaw.AUD)
    if claims.get("lxm") != nsid:
        raise TokenRefused(Flaw.LXM)
    iat = _check_times(claims, now)
    if not isinstance(jti, str) or not 0 < len(jti) <= JTI_CHARS_MAX:
        raise TokenRefused(Flaw.JTI)
    if not isinstance(iss, str) or not is_did(iss):
        raise TokenRefused(Flaw.ISS)
    signed = text.rpartition(".")[0].encode()
    return Token(iss=iss, jti=jti, iat=iat, alg=alg, signed=signed, signature=signature)


def _segment(text: str) -> bytes:
    """The bytes of a base64url text that has no other spelling."""
    if not _SEGMENT.fullmatch(text) or len(text) % 4 == 1:
        raise TokenRefused(Flaw.FORM)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise TokenRefused(Flaw.FORM)
    return raw


def _object(raw: bytes) -> dict[str, Json]:
    try:
        value = read_json(raw)
    except RequestRefused as error:
        raise TokenRefused(Flaw.FORM) from error
    if not isinstance(value, dict):
        raise TokenRefused(Flaw.FORM)
    return value


def _check_header(header: dict[str, Json]) -> str:
    """The algorithm. Other kinds of token (`at+jwt`, `dpop+jwt`) are not for us."""
    alg = header.get("alg")
    if alg not in ("ES256K", "ES256"):
        raise TokenRefused(Flaw.ALG)
    if header.get("typ", "JWT") != "JWT":
        raise TokenRefused(Flaw.TYP)
    if header.get("kid", _KEY_NAME) != _KEY_NAME:
        raise TokenRefused(Flaw.KID)
    if "crit" in header:
        raise TokenRefused(Flaw.CRIT)
    return str(alg)


def _check_times(claims: dict[str, Json], now: float) -> int:
    """When the token was issued. Source of the leeway: indigo's own verifier."""
    exp, iat, nbf = claims.get("exp"), claims.get("iat"), claims.get("nbf")
    if type(exp) is not int:
        raise TokenRefused(Flaw.EXP)
    if type(iat) is not int or iat >= exp:
        raise TokenRefused(Flaw.IAT)
    if now >= exp + LEEWAY_S:
        raise TokenRefused(Flaw.EXPIRED)
    if now < iat - LEEWAY_S:
        raise TokenRefused(Flaw.FUTURE)
    if exp - iat > LIFETIME_S_MAX:
        raise TokenRefused(Flaw.LIFETIME)
    if nbf is not None and (type(nbf) is not int or now < nbf - LEEWAY_S):
        raise TokenRefused(Flaw.NBF)
    return iat


def audiences_of(own_did: str) -> frozenset[str]:
    """What a token for us may name: our DID, alone or with the service."""
    return frozenset({own_did, own_did + SERVICE})


def is_signed(token: Token, key: VerifyingKey) -> bool:
    """Whether the signature is by this key, and the algorithm the key's own."""
    return token.alg == key.jwt_alg and key.verify(token.signed, token.signature)


def _again(failure: Unavailable | TokenRefused) -> Unavailable | TokenRefused:
    """A remembered failure made anew: a raised one would gather frames with every raise."""
    if isinstance(failure, TokenRefused):
        return TokenRefused(failure.flaw)
    return Unavailable(failure.detail, retry_after_s=failure.retry_after_s)
