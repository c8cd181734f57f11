"""The lists that hosts and relays keep, page by page, as far as they can be read."""

from __future__ import annotations

from indexer.errors import Check, InvalidUpstream
from indexer.hosts import HostsPage
from indexer.listings import Listed, ListingPage
from indexer.model import Json, account_status
from indexer.network.answers import XrpcFailure
from indexer.network.http import HttpClient
from indexer.network.ssrf import HostRefused, check_url
from indexer.protocol.did_document import parse_origin
from indexer.protocol.syntax import is_account_did, is_tid

PAGE_REPOS = 500
"""Repos on a page: what one transaction may look at."""

CURSOR_CHARS_MAX = 1000

HOSTS_PAGE = 1000
COLLECTIONS_MAX = 10_000
"""Names that one repo may list."""

NO_ANSWER = frozenset({401, 403, 501})
"""Statuses that say nothing about the repo that was asked about."""

GONE_HOSTS = frozenset({"offline", "banned"})
"""What a relay says of hosts that are not worth asking."""


class RepoListings:
    """Satisfies what `indexer.ingest.gap_repair` and `indexer.operations.pds_scan` read."""

    def __init__(self, http: HttpClient, *, relay_url: str, allow_private: bool) -> None:
        self._http = http
        self.relay_url = relay_url
        self._allow_private = allow_private

    async def of_host(
        self, pds_url: str, cursor: str | None, *, repos_max: int = PAGE_REPOS
    ) -> ListingPage | None:
        """A page of a PDS's listRepos; None where that is not served."""
        url = f"{pds_url}/xrpc/com.atproto.sync.listRepos"
        asked = {"limit": str(repos_max)}
        return await self._page(url, asked, cursor, service="pds", is_configured=False)

    async def of_collection(
        self, collection: str, cursor: str | None, *, repos_max: int = PAGE_REPOS
    ) -> ListingPage | None:
        """A page of the relay's listReposByCollection; None where that is not served."""
        url = f"{self.relay_url}/xrpc/com.atproto.sync.listReposByCollection"
        asked = {"collection": collection, "limit": str(repos_max)}
        return await self._page(url, asked, cursor, service="relay", is_configured=True)

    async def of_relay(self, cursor: str | None) -> HostsPage | None:
        """A page of the relay's listHosts, without those that are gone or that we do not contact.

        None where that is not served.
        """
        url = f"{self.relay_url}/xrpc/com.atproto.sync.listHosts"
        params = {"limit": str(HOSTS_PAGE)}
        if cursor is not None:
            params["cursor"] = cursor
        try:
            answer = await self._http.get_json(
                url, service="relay", params=params, is_configured=True
            )
        except XrpcFailure:
            return None
        hosts = answer.get("hosts") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(hosts, list):
            raise InvalidUpstream(Check.RESPONSE, f"{url}: no list of hosts")
        urls = [self._host_url(each) for each in hosts[:HOSTS_PAGE]]
        known = dict.fromkeys(url for url in urls if url is not None)
        return HostsPage(tuple(known), _usable(answer.get("cursor")) if hosts else None)

    async def collections_of(self, pds_url: str, did: str) -> tuple[str, ...] | None:
        """The collections of a repo, by its host's describeRepo; None where it has no such repo.

        Nothing is proved by it. Raises `InvalidUpstream` where the host answers no such question.
        """
        url = f"{pds_url}/xrpc/com.atproto.repo.describeRepo"
        try:
            answer = await self._http.get_json(url, service="pds", params={"repo": did})
        except XrpcFailure as error:
            if error.status in NO_ANSWER or error.name == "MethodNotImplemented":
                raise InvalidUpstream(Check.RESPONSE, f"{url}: {error}") from error
            return None
        names = answer.get("collections") if isinstance(answer, dict) else None
        if not isinstance(names, list):
            raise InvalidUpstream(Check.RESPONSE, f"{url}: no collections")
        return tuple(name for name in names[:COLLECTIONS_MAX] if isinstance(name, str))

    def _host_url(self, entry: Json) -> str | None:
        """Hosts are listed by name; they are as private as their relay, where that is allowed."""
        name = entry.get("hostname") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(name, str):
            return None
        if entry.get("status") in GONE_HOSTS:
            return None
        scheme = self.relay_url.partition(":")[0] if self._allow_private else "https"
        url = parse_origin(f"{scheme}://{name}")
        try:
            check_url(url or "", allow_private=self._allow_private)
        except HostRefused:
            return None
        return url

    async def _page(
        self,
        url: str,
        params: dict[str, str],
        cursor: str | None,
        *,
        service: str,
        is_configured: bool,
    ) -> ListingPage | None:
        if cursor is not None:
            params["cursor"] = cursor
        try:
            answer = await self._http.get_json(
                url, service=service, params=params, is_configured=is_configured
            )
        except XrpcFailure:
            return None
        page = listing_page(answer, repos_max=int(params["limit"]))
        if page is None:
            raise InvalidUpstream(Check.RESPONSE, f"{url}: no list of repos")
        return page


def listing_page(answer: Json, *, repos_max: int = PAGE_REPOS) -> ListingPage | None:
    """The page in an answer; entries that make no sense are left out. None for no page at all."""
    repos = answer.get("repos") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(repos, list):
        return None
    listed = [each for each in map(_listed, repos[:repos_max]) if each is not None]
    # The real PDS ends with a page that is empty.
    return ListingPage(tuple(listed), _usable(answer.get("cursor")) if repos else None)


def _usable(cursor: Json) -> str | None:
    is_usable = isinstance(cursor, str) and 0 < len(cursor) <= CURSOR_CHARS_MAX
    return str(cursor) if is_usable else None


def _listed(entry: Json) -> Listed | None:
    did = entry.get("did") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(did, str) or not is_account_did(did):
        return None
    rev, word = entry.get("rev"), entry.get("status")
    status = account_status(
        active=entry.get("active", True) is True, status=word if isinstance(word, str) else None
    )
    return Listed(did, status, rev if isinstance(rev, str) and is_tid(rev) else None)
