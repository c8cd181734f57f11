"""Clients of the services that know what a document cites: GROBID, Crossref, Semantic Scholar.

Each has a client of its own, whose pacing is its rate limit and whose only exemption from the rules
for strangers' hosts is the one origin in the settings. What they say is read by a thread: a list
of a thousand entries takes a second, and the live stream must not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import IO
from urllib.parse import quote

from indexer.citations.eprint import EprintDocument
from indexer.citations.identifiers import arxiv_id_of_doi
from indexer.citations.reference import REFERENCES_MAX, Reference, ReferenceList
from indexer.citations.services import (
    crossref_references,
    crossref_works,
    semantic_scholar_references,
)
from indexer.citations.tei import tei_references
from indexer.errors import Check, InvalidUpstream
from indexer.network.answers import NOT_FOUND, XrpcFailure
from indexer.network.http import Form, HttpClient

ANSWER_BYTES_MAX = 16 * 1024 * 1024
GROBID_S = 120.0
SERVICE_S = 30.0

ENTRIES_MAX = 500
"""Entries of a document without pages that GROBID is asked about."""

WORKS_ASKED = 20
"""DOIs in one question to Crossref, which bounds the length of its URL."""

WORKS_MAX = 200
"""DOIs of one document that Crossref is asked about."""

PAGE_REFERENCES = 500
PAGES_MAX = 2
FIELDS = "title,year,venue,authors,externalIds"


class Grobid:
    """A GROBID service: references of PDFs, and of entries that were found already."""

    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self._url = url

    async def of_pdf(self, document: IO[bytes]) -> ReferenceList:
        """The references of a PDF. Raises `InvalidUpstream` or `Unavailable`."""
        form: Form = {
            "input": document,
            "includeRawCitations": "1",
            "consolidateCitations": "0",
        }
        return await self._ask("processReferences", form)

    async def of_entries(self, entries: Sequence[str]) -> ReferenceList:
        """The same for entries as texts."""
        if not entries:
            return ReferenceList([])
        form: Form = {"citations": list(entries[:ENTRIES_MAX]), "includeRawCitations": "1"}
        return await self._ask("processCitationList", form)

    async def _ask(self, method: str, form: Form) -> ReferenceList:
        try:
            data = await self._http.post_form(
                f"{self._url}/api/{method}",
                form,
                service="grobid",
                accept="application/xml",
                bytes_max=ANSWER_BYTES_MAX,
                timeout_s=GROBID_S,
            )
        except XrpcFailure as error:
            raise _refused(error) from error
        # 204: there is nothing that could be structured.
        if not data.strip():
            return ReferenceList([])
        return await asyncio.to_thread(tei_references, data)


class Crossref:
    """The REST API of Crossref: what publishers deposited."""

    def __init__(self, http: HttpClient, url: str, *, mailto: str | None) -> None:
        self._http = http
        self._url = url
        self._who = {} if mailto is None else {"mailto": mailto}

    async def references(self, eprint: EprintDocument) -> ReferenceList:
        """What the published version cites, if there is one that Crossref knows."""
        if eprint.doi is None or arxiv_id_of_doi(eprint.doi) is not None:
            return ReferenceList([])
        try:
            answer = await self._http.get_json(
                f"{self._url}/works/{quote(eprint.doi, safe='')}",
                service="crossref",
                params=self._who,
                bytes_max=ANSWER_BYTES_MAX,
                timeout_s=SERVICE_S,
                is_configured=True,
            )
        except XrpcFailure as error:
            return ReferenceList(_nothing(error))
        return await asyncio.to_thread(crossref_references, answer)

    async def works(self, dois: Sequence[str]) -> dict[str, Reference]:
        """Works by DOI, those that Crossref knows."""
        found: dict[str, Reference] = {}
        # A comma separates filters: a DOI with one cannot be asked for.
        asked = [doi for doi in dict.fromkeys(dois) if "," not in doi][:WORKS_MAX]
        for at in range(0, len(asked), WORKS_ASKED):
            part = asked[at : at + WORKS_ASKED]
            try:
                answer = await self._http.get_json(
                    f"{self._url}/works",
                    service="crossref",
                    params={
                        "filter": ",".join(f"doi:{doi}" for doi in part),
                        "select": "DOI,title,author,issued,container-title,publisher",
                        "rows": str(len(part)),
                        **self._who,
                    },
                    bytes_max=ANSWER_BYTES_MAX,
                    timeout_s=SERVICE_S,
                    is_configured=True,
                )
            except XrpcFailure as error:
                _nothing(error)
                continue
            found |= await asyncio.to_thread(crossref_works, answer)
        return found


class SemanticScholar:
    """The Academic Graph API of Semantic Scholar."""

    def __init__(self, http: HttpClient, url: str) -> None:
        self._http = http
        self._url = url

    async def references(self, eprint: EprintDocument) -> ReferenceList:
        """What the paper cites, if it can be named there."""
        paper = _paper_id(eprint)
        if paper is None:
            return ReferenceList([])
        found: list[Reference] = []
        offset: int | None = 0
        for _ in range(PAGES_MAX):
            try:
                answer = await self._http.get_json(
                    f"{self._url}/graph/v1/paper/{quote(paper, safe=':')}/references",
                    service="semantic_scholar",
                    params={"fields": FIELDS, "limit": str(PAGE_REFERENCES), "offset": str(offset)},
                    bytes_max=ANSWER_BYTES_MAX,
                    timeout_s=SERVICE_S,
                    is_configured=True,
                )
            except XrpcFailure as error:
                return ReferenceList(_nothing(error) or found)
            before = offset
            page, offset = await asyncio.to_thread(semantic_scholar_references, answer)
            found += page
            if offset is None or offset <= (before or 0):
                break
        left_out = max(len(found) - REFERENCES_MAX, 0) + (offset is not None)
        return ReferenceList(found[:REFERENCES_MAX], left_out)


def _paper_id(eprint: EprintDocument) -> str | None:
    if eprint.semantic_scholar_id is not None:
        return eprint.semantic_scholar_id
    if eprint.doi is not None:
        return f"DOI:{eprint.doi}"
    return f"ARXIV:{eprint.arxiv_id}" if eprint.arxiv_id is not None else None


def _nothing(error: XrpcFailure) -> list[Reference]:
    """A service that does not know a work has answered; any other refusal is a failure."""
    if error.status not in NOT_FOUND:
        raise _refused(error) from error
    return []


def _refused(error: XrpcFailure) -> InvalidUpstream:
    return InvalidUpstream(Check.RESPONSE, str(error)[:300])
