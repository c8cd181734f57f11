"""The lists that hosts and relays keep of their repos, page by page, as far as they can be read."""

from __future__ import annotations

from indexer.errors import Check, InvalidUpstream
from indexer.listings import Listed, ListingPage
from indexer.model import Json, account_status
from indexer.network.answers import XrpcFailure
from indexer.network.http import HttpClient
from indexer.protocol.syntax import is_did, is_tid

PAGE_REPOS = 500
"""Repos on a page: what one transaction may look at."""

CURSOR_CHARS_MAX = 1000


class RepoListings:
    """Satisfies `indexer.ingest.gap_repair.Listings`."""

    def __init__(self, http: HttpClient, *, relay_url: str) -> None:
        self._http = http
        self._relay_url = relay_url

    async def of_host(self, pds_url: str, cursor: str | None) -> ListingPage | None:
        """A page of a PDS's listRepos; None where that is not served."""
        url = f"{pds_url}/xrpc/com.atproto.sync.listRepos"
        return await self._page(url, {}, cursor, service="pds", is_configured=False)

    async def of_collection(self, collection: str, cursor: str | None) -> ListingPage | None:
        """A page of the relay's listReposByCollection; None where that is not served."""
        url = f"{self._relay_url}/xrpc/com.atproto.sync.listReposByCollection"
        asked = {"collection": collection}
        return await self._page(url, asked, cursor, service="relay", is_configured=True)

    async def _page(
        self,
        url: str,
        params: dict[str, str],
        cursor: str | None,
        *,
        service: str,
        is_configured: bool,
    ) -> ListingPage | None:
        params |= {"limit": str(PAGE_REPOS)}
        if cursor is not None:
            params["cursor"] = cursor
        try:
            answer = await self._http.get_json(
                url, service=service, params=params, is_configured=is_configured
            )
        except XrpcFailure:
            return None
        page = listing_page(answer)
        if page is None:
            raise InvalidUpstream(Check.RESPONSE, f"{url}: no list of repos")
        return page


def listing_page(answer: Json) -> ListingPage | None:
    """The page in an answer; entries that make no sense are left out. None for no page at all."""
    repos = answer.get("repos") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(repos, list):
        return None
    cursor = answer.get("cursor")
    is_usable = isinstance(cursor, str) and 0 < len(cursor) <= CURSOR_CHARS_MAX
    listed = [each for each in map(_listed, repos[:PAGE_REPOS]) if each is not None]
    # The real PDS ends with a page that is empty.
    return ListingPage(tuple(listed), str(cursor) if is_usable and repos else None)


def _listed(entry: Json) -> Listed | None:
    did = entry.get("did") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(did, str) or not is_did(did):
        return None
    rev, word = entry.get("rev"), entry.get("status")
    status = account_status(
        active=entry.get("active", True) is True, status=word if isinstance(word, str) else None
    )
    return Listed(did, status, rev if isinstance(rev, str) and is_tid(rev) else None)
