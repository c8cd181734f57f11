"""Who asks: HTTP Basic with one of several passwords, or a service-auth token of a listed admin.

Whatever is wrong with a credential, the answer is the same; what it was is counted. A correct
credential is always accepted: the limit on failures slows only those who fail. Without anything
configured nobody is let in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiohttp import web

from admin_api.clients import ClientAddresses
from admin_api.limits import FailureLimit, Limited
from admin_api.service_auth import Flaw, ServiceTokens, TokenRefused
from indexer.errors import RequestRefused, Unavailable
from indexer.metrics import Metrics

log = structlog.get_logger(__name__)

USER = "admin"
LOCAL_DID = "did:web:localhost"
"""Whoever knows the password, where we have no DID of our own to name."""

HEADER_FLAWS = ("missing", "repeated", "scheme", "malformed", "wrong", "unconfigured", "limited")
"""What is counted of credentials that are no token; of tokens it is a `Flaw`."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Someone with admin rights: `did` names him in the audit log."""

    did: str
    is_password: bool  # whoever knows the password; `did` is then our own

    @property
    def own_did(self) -> str | None:
        """The admin's own DID; None for whoever knows the password."""
        return None if self.is_password else self.did


class Unauthenticated(RequestRefused):
    """No usable credential: answered with a challenge."""

    def __init__(self, message: str) -> None:
        super().__init__("AuthenticationRequired", message, status=401)


class LockedOut(Limited):
    """A wrong credential after too many: told the same whatever was wrong, and challenged.

    A correct one would have been accepted, so the challenge is what this differs by from other
    limits.
    """


class NotAdmin(RequestRefused):
    """A token whose issuer is on no list of ours; its signature has not been looked at."""

    def __init__(self) -> None:
        super().__init__("AdminRequired", "the issuer of this token is not an admin", status=403)


class IssuerUnavailable(RequestRefused):
    """The directory does not say what the issuer's key is, so nothing can be said of the token."""

    def __init__(self) -> None:
        super().__init__(
            "NotEnoughResources", "the issuer's DID document cannot be had now", status=503
        )


class Passwords:
    """The passwords of `admin`, all of them always compared."""

    def __init__(self, passwords: Sequence[str]) -> None:
        self._digests = tuple(_digest(f"{USER}:{password}".encode()) for password in passwords)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __contains__(self, credential: bytes) -> bool:
        given = _digest(credential)
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches)


class Authenticator:
    """Finds the admin behind a request."""

    def __init__(
        self,
        passwords: Passwords,
        tokens: ServiceTokens | None,
        *,
        own_did: str | None,
        addresses: ClientAddresses,
        failures: FailureLimit,
        metrics: Metrics,
    ) -> None:
        self._passwords = passwords
        self._tokens = tokens  # None: no admin has a DID
        self._password_actor = Actor(own_did or LOCAL_DID, is_password=True)
        self._addresses = addresses
        self._failures = failures
        self._metrics = metrics
        for reason in (*HEADER_FLAWS, *Flaw):
            metrics.auth_failures.labels(reason)  # a counter at 0 can be alerted on

    async def authenticate(self, request: web.BaseRequest, nsid: str) -> Actor:
        """The admin who calls the method `nsid`.

        Raises `Unauthenticated`, `NotAdmin`, `Limited` or `IssuerUnavailable`.
        """
        headers = request.headers.getall("Authorization", ())
        if not headers:
            self._metrics.auth_failures.labels("missing").inc()
            raise self._challenge()
        if len(headers) > 1:
            raise self.refused(request, "repeated")
        scheme, _, credential = headers[0].strip().partition(" ")
        match scheme.lower():
            case "basic":
                return self._by_password(request, credential.strip())
            case "bearer":
                return await self._by_token(request, credential.strip(), nsid)
        raise self.refused(request, "scheme")

    def _by_password(self, request: web.BaseRequest, credential: str) -> Actor:
        if not self._passwords:
            raise self.refused(request, "unconfigured")
        try:
            given = base64.b64decode(credential, validate=True)
        except ValueError:
            raise self.refused(request, "malformed") from None
        if given not in self._passwords:
            raise self.refused(request, "wrong")
        return self._password_actor

    async def _by_token(self, request: web.BaseRequest, token: str, nsid: str) -> Actor:
        if self._tokens is None:
            raise self.refused(request, "unconfigured")
        try:
            return Actor(await self._tokens.verify(token, nsid), is_password=False)
        except TokenRefused as refused:
            raise self.refused(request, refused.flaw) from refused
        except Unavailable as error:
            self._metrics.auth_failures.labels(Flaw.ISSUER_UNAVAILABLE).inc()
            raise IssuerUnavailable from error

    def refused(
        self, request: web.BaseRequest, reason: str, *, wanted: str | None = None
    ) -> RequestRefused:
        """The refusal of a failed attempt, once it is counted; `wanted` is what would be good."""
        client = self._addresses.client_of(request)
        self._metrics.auth_failures.labels(reason).inc()
        log.info("admin.credential_refused", client=client, reason=str(reason))
        retry_after_s = self._failures.note(client)
        if retry_after_s is not None:
            self._metrics.auth_failures.labels("limited").inc()
            return LockedOut("too many wrong credentials", retry_after_s)
        if reason == Flaw.NOT_ADMIN:
            return NotAdmin()
        return self._challenge() if wanted is None else Unauthenticated(wanted)

    def _challenge(self) -> Unauthenticated:
        if not self._passwords and self._tokens is None:
            return Unauthenticated(
                "no admin credential is configured: set admin.password_file, or admin.dids and"
                " admin.service_did, and start again"
            )
        return Unauthenticated(
            "a credential of an admin is required: HTTP Basic with the user admin and its"
            " password, or a service-auth token for this method"
        )


def _digest(credential: bytes) -> bytes:
    """Equal lengths, so that a comparison tells nothing about the length of a password."""
    return hashlib.sha256(credential).digest()
