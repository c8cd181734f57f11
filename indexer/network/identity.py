"""Who a DID is: its document from its own authority, and its handle if both sides agree.

did:plc is asked of the configured directory, did:web of the host in its name. Concurrent questions
for one DID share one request; answers are kept for a bounded time in a bounded table. Nothing is
believed about a handle unless the handle points back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import unquote

from indexer.clock import Clock
from indexer.errors import Check, DidGone, InvalidUpstream, NotAsked, Unavailable
from indexer.network.answers import NOT_FOUND, XrpcFailure
from indexer.network.http import HttpClient
from indexer.network.resolver import PublicResolver
from indexer.protocol.did_document import DidDocument, parse_did_document, parse_origin
from indexer.protocol.plc_log import FormerKey, parse_former_keys
from indexer.protocol.syntax import is_did, is_handle, is_plc_did

DOCUMENT_BYTES_MAX = 256 * 1024
LOG_BYTES_MAX = 4 * 1024 * 1024
WELL_KNOWN_BYTES_MAX = 4096
DOCUMENT_S = 10.0
HANDLE_S = 5.0
CACHED_S = 3600.0
FAILURE_CACHED_S = 120.0
CACHE_ENTRIES_MAX = 20_000
DEAD_TLDS = frozenset(
    {"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"}
)
DEVELOPMENT_TLD = "test"
UNKNOWN_MESSAGE = "DID not registered"
"""How the directory says that it never heard of a DID; a tombstone's is "DID not available"."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a DID has no document.

    Errors are made anew for each caller: a raised one keeps the frames that it passed through.
    """

    check: Check
    detail: str
    is_tombstone: bool | None  # None: not gone, but unusable

    def error(self) -> InvalidUpstream:
        if self.is_tombstone is None:
            return InvalidUpstream(self.check, self.detail)
        return DidGone(self.detail, is_tombstone=self.is_tombstone)


_Outcome = DidDocument | _Refusal | Unavailable
_Flight = asyncio.Future[_Outcome | None]
"""A request under way; None when whoever made it gave up."""


@dataclass(frozen=True, slots=True)
class _Answer:
    until: float  # monotonic
    outcome: DidDocument | _Refusal


class IdentityResolver:
    """Resolves DIDs and verifies handles."""

    def __init__(
        self,
        http: HttpClient,
        *,
        plc_url: str,
        handle_resolver_url: str | None,
        allow_private: bool,
        clock: Clock,
        resolver: PublicResolver | None = None,
        entries_max: int = CACHE_ENTRIES_MAX,
    ) -> None:
        self._http = http
        self._plc_url = plc_url
        self._handle_resolver_url = handle_resolver_url
        self._allow_private = allow_private
        self._clock = clock
        self._resolver = resolver or PublicResolver(clock=clock)
        self._entries_max = entries_max
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    async def resolve(self, did: str, *, fresh: bool = False) -> DidDocument:
        """The DID document; `fresh` wants one that was asked for after this call.

        Raises `DidGone` for an unknown or tombstoned DID, `InvalidUpstream` for a DID or document
        that cannot be used, `Unavailable` when its authority does not answer usefully.
        """
        if not fresh:
            known = self._answers.get(did)
            if known is not None and known.until > self._clock.monotonic():
                self._answers.move_to_end(did)
                return _unwrapped(known.outcome)
        elif (earlier := self._flights.get(did)) is not None:
            await asyncio.wait([earlier])
        while (flight := self._flights.get(did)) is not None:
            # Waiting for a future, not on it: the cancellation of a caller is its own.
            await asyncio.wait([flight])
            outcome = flight.result()
            if outcome is not None:
                return _unwrapped(outcome)
        return _unwrapped(await self._lead(did))

    async def _lead(self, did: str) -> _Outcome:
        """Ask, and let everybody else who asks meanwhile have the answer."""
        flight: _Flight = asyncio.get_running_loop().create_future()
        self._flights[did] = flight
        outcome: _Outcome | None = None
        try:
            outcome = await self._ask(did)
        finally:
            del self._flights[did]
            flight.set_result(outcome)
        if not isinstance(outcome, Unavailable):
            kept_s = CACHED_S if isinstance(outcome, DidDocument) else FAILURE_CACHED_S
            self._remember(did, _Answer(self._clock.monotonic() + kept_s, outcome))
        return outcome

    async def _ask(self, did: str) -> _Outcome:
        is_plc = did.startswith("did:plc:")
        try:
            document = await self._http.get_json(
                self._document_url(did),
                service="plc" if is_plc else "did_web",
                bytes_max=DOCUMENT_BYTES_MAX,
                timeout_s=DOCUMENT_S,
                is_configured=is_plc,
            )
            return parse_did_document(document, did)
        except XrpcFailure as error:
            if error.status not in NOT_FOUND:
                return Unavailable(f"{did}: {error}"[:300])
            detail = f"{did}: HTTP {error.status} {error.message}"[:200]
            is_tombstone = is_plc and await self._has_tombstone(did, error)
            return _Refusal(Check.DID_DOCUMENT, detail, is_tombstone)
        except InvalidUpstream as error:
            if error.check is Check.RESPONSE:
                # A page of a proxy or a portal says nothing about the DID.
                return Unavailable(error.detail)
            return _Refusal(error.check, error.detail, None)
        except Unavailable as error:
            return error

    async def former_keys(self, did: str) -> tuple[FormerKey, ...]:
        """Signing keys that the DID had before, newest first; a did:web leaves no trace of them.

        Raises `InvalidUpstream` for a log that cannot be used, `Unavailable` for none.
        """
        if not is_plc_did(did):
            return ()
        try:
            log = await self._http.get_json(
                f"{self._plc_url}/{did}/log/audit",
                service="plc",
                bytes_max=LOG_BYTES_MAX,
                timeout_s=DOCUMENT_S,
                is_configured=True,
            )
        except XrpcFailure as error:
            raise Unavailable(f"{did}: {error}"[:300]) from error
        return parse_former_keys(log)

    async def _has_tombstone(self, did: str, answer: XrpcFailure) -> bool:
        """Whether the DID's log ends in a tombstone.

        The directory answers 404 for a tombstone as for a DID that it never heard of (its
        documentation says 410), and only a tombstone may end in a purge: so its log has the word.
        """
        if answer.message.startswith(UNKNOWN_MESSAGE):
            return False
        try:
            last = await self._http.get_json(
                f"{self._plc_url}/{did}/log/last",
                service="plc",
                bytes_max=DOCUMENT_BYTES_MAX,
                timeout_s=DOCUMENT_S,
                is_configured=True,
            )
        except (XrpcFailure, InvalidUpstream, Unavailable):
            return False
        return isinstance(last, dict) and last.get("type") == "plc_tombstone"

    def _document_url(self, did: str) -> str:
        if is_plc_did(did):
            return f"{self._plc_url}/{did}"
        if did.startswith("did:web:") and is_did(did):
            host = unquote(did.removeprefix("did:web:"))
            if is_handle(host) and self._may_exist(host):
                return f"https://{host.lower()}/.well-known/did.json"
            origin = parse_origin(f"http://{host}")
            if self._allow_private and origin and host.partition(":")[0] == "localhost":
                return f"{origin}/.well-known/did.json"
        raise InvalidUpstream(Check.DID_DOCUMENT, f"DID method or host of {did[:120]!r}")

    def _may_exist(self, name: str) -> bool:
        """Whether the name's top-level domain is one that can be looked up."""
        tld = name.rpartition(".")[2].lower()
        return tld not in DEAD_TLDS and (tld != DEVELOPMENT_TLD or self._allow_private)

    def _remember(self, did: str, answer: _Answer) -> None:
        self._answers[did] = answer
        self._answers.move_to_end(did)
        while len(self._answers) > self._entries_max:
            self._answers.popitem(last=False)

    async def verify_handle(self, document: DidDocument) -> str | None:
        """The document's handle if it resolves to the same DID; None otherwise.

        Raises `Unavailable` where nobody could be asked, which says nothing of the handle. One
        that DNS does not know and whose own host does not answer is not verified now.
        """
        handle = document.handle
        if handle is None or not self._may_exist(handle):
            return None
        try:
            found = await self._resolve_handle(handle)
        except (InvalidUpstream, XrpcFailure):
            return None
        return handle if found == document.did else None

    async def _resolve_handle(self, handle: str) -> str | None:
        if self._handle_resolver_url is not None:
            answer = await self._http.get_json(
                f"{self._handle_resolver_url}/xrpc/com.atproto.identity.resolveHandle",
                service="handle",
                params={"handle": handle},
                bytes_max=WELL_KNOWN_BYTES_MAX,
                timeout_s=HANDLE_S,
                is_configured=True,
            )
            did = answer.get("did") if isinstance(answer, dict) else None
            return did if isinstance(did, str) else None
        try:
            texts = await self._resolver.lookup_texts(f"_atproto.{handle}")
        except Unavailable as failure:
            return await self._without_dns(handle, failure)
        dids = {text[4:] for text in texts if text.startswith("did=")}
        if len(dids) > 1:
            raise InvalidUpstream(Check.DID_DOCUMENT, f"DNS names several DIDs for {handle}")
        if dids:
            return dids.pop()
        try:
            return await self._well_known(handle)
        except NotAsked:
            raise
        except Unavailable:
            return None

    async def _without_dns(self, handle: str, failure: Unavailable) -> str:
        """Whom HTTPS names where DNS has failed. Raises `failure` where that is nobody.

        The DID may stand in the record that could not be had, and then the host knows of none.
        """
        try:
            did = await self._well_known(handle)
        except (InvalidUpstream, XrpcFailure, Unavailable) as error:
            raise failure from error
        if did is None:
            raise failure
        return did

    async def _well_known(self, handle: str) -> str | None:
        data = await self._http.get_bytes(
            f"https://{handle}/.well-known/atproto-did",
            service="handle",
            bytes_max=WELL_KNOWN_BYTES_MAX,
            timeout_s=HANDLE_S,
            follow=True,
        )
        text = data.decode(errors="replace").strip()
        return text if is_did(text) else None


def _unwrapped(outcome: _Outcome) -> DidDocument:
    if isinstance(outcome, DidDocument):
        return outcome
    if isinstance(outcome, _Refusal):
        raise outcome.error()
    if isinstance(outcome, NotAsked):
        raise NotAsked(outcome.detail, retry_after_s=outcome.wait_s)
    raise Unavailable(outcome.detail, retry_after_s=outcome.retry_after_s)
