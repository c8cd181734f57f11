"""Questions to one PDS about one account, and its repo as a checked archive on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from urllib.parse import urlencode

from indexer.errors import (
    Check,
    InvalidUpstream,
    NotServed,
    RepoTooLarge,
    RepoWithdrawn,
    Unavailable,
)
from indexer.model import AccountStatus, account_status
from indexer.network.answers import XrpcFailure
from indexer.network.http import HttpClient
from indexer.network.identity import IdentityResolver
from indexer.network.spool import CarSpool, SpoolFolder
from indexer.protocol.cid import cid_text
from indexer.protocol.did_document import DidDocument, parse_origin
from indexer.protocol.plc_log import FormerKey
from indexer.protocol.syntax import is_tid

STATUS_S = 5.0
HURRIED_S = 1.5
STATUS_S_MAX = 30.0

NONE_PINNED: Mapping[str, str] = MappingProxyType({})

INACTIVE_ERRORS = {
    "RepoTakendown": AccountStatus.TAKENDOWN,
    "RepoSuspended": AccountStatus.SUSPENDED,
    "RepoDeactivated": AccountStatus.DEACTIVATED,
}
"""What hosts answer, always with HTTP 400, for accounts that they do not serve."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """What a host says of an account."""

    status: AccountStatus
    rev: str | None  # the host's own rev; it may differ from the commit's after an import


class RepoNetwork:
    """The network as the resync needs it: `indexer.ingest.resync.RepoHosts`.

    `pinned` says of accounts at which host the operator wants them to be asked for: DID -> origin.
    It takes the place of the host in the DID document, for that account alone. Whose the repo is,
    the document says as ever; that it is gone or hidden, a host that the document does not name
    cannot say.
    """

    def __init__(
        self,
        http: HttpClient,
        identities: IdentityResolver,
        folder: SpoolFolder,
        *,
        idle_s: float,
        total_s: float,
        pinned: Mapping[str, str] = NONE_PINNED,
    ) -> None:
        self._pinned = {did: parse_origin(url) or url for did, url in pinned.items()}
        self._elsewhere: set[str] = set()  # pinned accounts that their documents place elsewhere
        self._http = http
        self._identities = identities
        self._folder = folder
        self._idle_s = idle_s
        self._total_s = total_s

    def groups(self, pds_url: str) -> tuple[str, ...] | None:
        """Who is behind a host: its registrable domain and its address; None: not reached yet."""
        return self._http.groups(pds_url)

    def closed_s(self, origin: str) -> float:
        """Seconds until the host may be asked again; 0 when it may."""
        return self._http.pacing.closed_s(origin)

    def failures(self, origin: str) -> int:
        """How often in a row the host has not answered, or with a failure of its own."""
        return self._http.pacing.failures(origin)

    async def resolve(self, did: str) -> DidDocument:
        """The DID document as it is now, from its authority."""
        document = await self._identities.resolve(did, fresh=True)
        if did not in self._pinned:
            return document
        pds_url = self._pinned[did]
        (self._elsewhere.discard if document.pds_url == pds_url else self._elsewhere.add)(did)
        return replace(document, pds_url=pds_url)

    async def verify_handle(self, document: DidDocument) -> str | None:
        """The document's handle if it points back to the DID.

        Raises `Unavailable` where nobody could be asked.
        """
        return await self._identities.verify_handle(document)

    async def former_keys(self, did: str) -> tuple[FormerKey, ...]:
        """Signing keys that the DID had before, newest first."""
        return await self._identities.former_keys(did)

    async def fetch_status(
        self, pds_url: str, did: str, *, is_hurried: bool = False
    ) -> HostStatus | None:
        """The account's status at its host; None when the host does not know the repo.

        Where others wait too (`is_hurried`), a host that has never failed has less time.
        """
        status = await self._ask_status(pds_url, did, is_hurried=is_hurried)
        is_active = status is not None and status.status is AccountStatus.ACTIVE
        if not is_active and did in self._elsewhere:
            word = "unknown" if status is None else status.status
            raise Unavailable(f"{pds_url}, which the settings name, calls {did} {word}")
        return status

    async def _ask_status(self, pds_url: str, did: str, *, is_hurried: bool) -> HostStatus | None:
        try:
            answer = await self._http.get_json(
                f"{pds_url}/xrpc/com.atproto.sync.getRepoStatus",
                service="pds",
                params={"did": did},
                timeout_s=patience_s(self.failures(pds_url), is_hurried=is_hurried),
                is_configured=self._is_pinned(pds_url, did),
            )
        except XrpcFailure as error:
            return _refused(error)
        except InvalidUpstream as error:
            raise _of_the_moment(error) from error
        if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
            raise Unavailable(f"{pds_url}: getRepoStatus says nothing")
        word, rev = answer.get("status"), answer.get("rev")
        status = account_status(
            active=answer["active"] is True, status=word if isinstance(word, str) else None
        )
        return HostStatus(status, rev if isinstance(rev, str) and is_tid(rev) else None)

    @asynccontextmanager
    async def fetch_repo(self, pds_url: str, did: str) -> AsyncIterator[CarSpool]:
        """The whole repo. Raises `RepoTooLarge` beyond the caps, `RepoWithdrawn`."""
        with CarSpool(self._folder) as spool:
            try:
                await self._download(pds_url, did, spool)
            except XrpcFailure as error:
                # The status was active a moment ago: look again rather than conclude.
                failure = RepoWithdrawn if _is_about_repo(error) else Unavailable
                raise failure(f"{pds_url}: getRepo: {error}") from error
            except InvalidUpstream as error:
                if error.check is Check.LIMITS and not spool.has_header:
                    # No archive at all, and no word about the size of one.
                    raise Unavailable(f"{pds_url}: getRepo: {error.detail}") from error
                if error.check is Check.LIMITS:
                    raise RepoTooLarge(error.detail) from error
                raise _of_the_moment(error) from error
            yield spool

    async def fetch_proof(
        self, pds_url: str, did: str, path: tuple[str, str], *, bytes_max: int
    ) -> bytes:
        """Archive of the commit and the tree's nodes from its root to `path`, present or absent.

        `path` is (collection, rkey). Raises `NotServed` where the host has no proof to give,
        `InvalidUpstream` (`LIMITS`) beyond `bytes_max`.
        """
        collection, rkey = path
        query = [("did", did), ("collection", collection), ("rkey", rkey)]
        try:
            return await self._get_archive(pds_url, did, "getRecord", query, bytes_max)
        except XrpcFailure as error:
            if _is_about_repo(error):
                raise Unavailable(f"{pds_url}: getRecord: {error}") from error
            raise NotServed(f"{pds_url}: getRecord: {error}") from error

    async def fetch_blocks(
        self, pds_url: str, did: str, cids: Sequence[bytes], *, bytes_max: int
    ) -> bytes | None:
        """Archive of these blocks, without a root; None where the host refuses to give them.

        Hosts refuse all of them when one is gone, in the same words as a method that they do not
        know. Raises `InvalidUpstream` (`LIMITS`) beyond `bytes_max`.
        """
        query = [("did", did), *(("cids", cid_text(cid)) for cid in cids)]
        try:
            return await self._get_archive(pds_url, did, "getBlocks", query, bytes_max)
        except XrpcFailure as error:
            if _is_about_repo(error):
                raise Unavailable(f"{pds_url}: getBlocks: {error}") from error
            return None

    async def _get_archive(
        self, pds_url: str, did: str, method: str, query: list[tuple[str, str]], bytes_max: int
    ) -> bytes:
        return await self._http.get_bytes(
            f"{pds_url}/xrpc/com.atproto.sync.{method}?{urlencode(query)}",
            service="pds",
            bytes_max=bytes_max,
            timeout_s=self._idle_s,
            is_configured=self._is_pinned(pds_url, did),
        )

    async def _download(self, pds_url: str, did: str, spool: CarSpool) -> None:
        async with self._http.stream(
            f"{pds_url}/xrpc/com.atproto.sync.getRepo",
            service="pds",
            params={"did": did},
            bytes_max=self._folder.archive_bytes_max,
            idle_s=self._idle_s,
            total_s=self._total_s,
            is_configured=self._is_pinned(pds_url, did),
        ) as body:
            async for chunk in body:
                await asyncio.to_thread(spool.feed, chunk)
            await asyncio.to_thread(spool.finish)

    def _is_pinned(self, pds_url: str, did: str) -> bool:
        """Whether the operator has named the host for this account, and so vouches for it."""
        return self._pinned.get(did) == pds_url


def _is_about_repo(error: XrpcFailure) -> bool:
    return error.name == "RepoNotFound" or error.name in INACTIVE_ERRORS


def patience_s(failures: int, *, is_hurried: bool) -> float:
    """Seconds for a host to say how an account is, after so many failures in a row.

    Most of those that say nothing within a moment say nothing at all. A slow one has more time
    whenever it is asked again.
    """
    first_s = HURRIED_S if is_hurried else STATUS_S
    return min(first_s * 2.0 ** min(failures, 10), STATUS_S_MAX)


def _of_the_moment(error: InvalidUpstream) -> InvalidUpstream | Unavailable:
    """The same error as one to retry, where it speaks of the transfer and not of the repo.

    A page of a proxy, a cut or garbled body: the line's fault, or the host's until it repeats.
    """
    if error.check in {Check.RESPONSE, Check.LIMITS, Check.CAR}:
        return Unavailable(error.detail)
    return error


def _refused(error: XrpcFailure) -> HostStatus | None:
    if error.name == "RepoNotFound":
        return None
    status = INACTIVE_ERRORS.get(error.name)
    if status is not None:
        return HostStatus(status, None)
    raise Unavailable(f"getRepoStatus: {error}") from error
