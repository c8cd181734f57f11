"""Authors: anybody whose host vouches for them, for methods that only queue work on their own repo.

A token is read before the input of the call is, and proved after everything else was checked. The
key of a tracked account comes from the store and costs nobody a request; only for others is the
directory asked, seldom, and only for did:plc: a did:web would make us call a host of a stranger's
choice. A token serves one call of this process; those issued before it began are not accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from admin_api.auth import Actor, Authenticator, IssuerUnavailable, Unauthenticated
from admin_api.clients import ClientAddresses
from admin_api.limits import RequestLimit
from admin_api.ports import AuthorIndex, DidDocuments
from admin_api.service_auth import (
    RESOLVE_S,
    Flaw,
    Token,
    TokenRefused,
    UsedTokens,
    audiences_of,
    is_signed,
    read_token,
)
from indexer.clock import Clock
from indexer.errors import Check, InvalidUpstream, RequestRefused, Unavailable
from indexer.metrics import Metrics
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.syntax import is_plc_did

ASKED_PER_S = 1.0
"""DIDs that the directory is asked for because strangers call, all together."""

ASKED_PER_CLIENT_S = 5 / 60
ASKED_BURST = 5.0
EVERYBODY = "everybody"
WANTED = "a service-auth token for this method is required, made by the host of your account"


class AccountDenied(RequestRefused):
    """The author, or the host, is kept out by an operator."""

    def __init__(self) -> None:
        super().__init__("Forbidden", "this account is not served here", status=403)


class Authors:
    """Finds the author behind a request, in two steps."""

    def __init__(
        self,
        auth: Authenticator,
        index: AuthorIndex,
        documents: DidDocuments,
        *,
        own_did: str,
        addresses: ClientAddresses,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._auth = auth
        self._index = index
        self._documents = documents
        self._audiences = audiences_of(own_did)
        self._addresses = addresses
        self._metrics = metrics
        self._clock = clock
        self._used = UsedTokens(0, clock=clock)
        self._began_at = clock.monotonic()
        self._of_client = RequestLimit(ASKED_PER_CLIENT_S, clock=clock, burst=ASKED_BURST)
        self._of_all = RequestLimit(ASKED_PER_S, clock=clock, burst=ASKED_BURST)

    def read(self, request: web.BaseRequest, nsid: str) -> Token:
        """A token for this method whose claims are in order. Nothing is asked of anybody.

        Raises `Unauthenticated` or `Limited`.
        """
        headers = request.headers.getall("Authorization", ())
        if not headers:
            self._metrics.auth_failures.labels("missing").inc()
            raise Unauthenticated(WANTED)
        token = _bearer(headers)
        if token is None:
            raise self._refused(request, "repeated" if len(headers) > 1 else "scheme")
        try:
            found = read_token(token, audiences=self._audiences, nsid=nsid, now=self._clock.now())
        except TokenRefused as error:
            raise self._refused(request, error.flaw) from error
        return found

    async def prove(self, request: web.BaseRequest, token: Token) -> Actor:
        """The author, once the signature is known to be theirs; the token is used up.

        Only the author is told of a denial. Raises `Unauthenticated`, `AccountDenied`, `Limited` or
        `IssuerUnavailable`.
        """
        try:
            self._check_age(token)
            self._used.check(token)
            _check_signature(token, await self._key(request, token.iss))
            self._used.use(token)
        except TokenRefused as error:
            raise self._refused(request, error.flaw) from error
        if self._index.is_denied(token.iss):
            raise AccountDenied
        return Actor(token.iss, is_password=False)

    def _check_age(self, token: Token) -> None:
        """By the time since the process began: the clock may have been set since then."""
        uptime_s = self._clock.monotonic() - self._began_at
        if token.iat < int(self._clock.now() - uptime_s):
            raise TokenRefused(Flaw.STALE)

    async def _key(self, request: web.BaseRequest, did: str) -> VerifyingKey:
        known = await self._index.signing_key(did)
        try:
            return VerifyingKey.parse(known or await self._asked_key(request, did))
        except InvalidUpstream as error:
            raise TokenRefused(Flaw.ISSUER_UNKNOWN) from error

    async def _asked_key(self, request: web.BaseRequest, did: str) -> str:
        """The key of an account that we know nothing of. Raises as `resolve`, or `Limited`."""
        if not is_plc_did(did):
            raise InvalidUpstream(Check.DID_DOCUMENT, "only a did:plc is asked for")
        self._of_client.take(self._addresses.client_of(request))
        self._of_all.take(EVERYBODY)
        try:
            async with asyncio.timeout(RESOLVE_S):
                document = await self._documents.resolve(did, fresh=True)
        except (TimeoutError, Unavailable) as error:
            self._metrics.auth_failures.labels(Flaw.ISSUER_UNAVAILABLE).inc()
            raise IssuerUnavailable from error
        return document.signing_key or ""

    def _refused(self, request: web.BaseRequest, reason: str) -> RequestRefused:
        return self._auth.refused(request, reason, wanted=WANTED)


def _check_signature(token: Token, key: VerifyingKey) -> None:
    if not is_signed(token, key):
        raise TokenRefused(Flaw.SIGNATURE if token.alg == key.jwt_alg else Flaw.KEY)


def _bearer(headers: Sequence[str]) -> str | None:
    """The one token of a request."""
    scheme, _, credential = headers[0].strip().partition(" ") if len(headers) == 1 else ("", "", "")
    return credential.strip() if scheme.lower() == "bearer" else None
