"""All sources of one document's references, each asked by itself and failing by itself.

What a source that fails had said of the same document before stays: an outage elsewhere makes no
list poorer than it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Protocol

import structlog

from indexer.citations.eprint import EprintDocument
from indexer.citations.extraction import EXTRACTOR_VERSION, PDF
from indexer.citations.merging import Citation, filled
from indexer.citations.reference import CitationSource, Reference, ReferenceList
from indexer.errors import InvalidUpstream, Unavailable

log = structlog.get_logger(__name__)


class Grobid(Protocol):
    """References as a GROBID service reads them."""

    async def of_pdf(self, document: IO[bytes]) -> ReferenceList:
        """The references of a PDF."""

    async def of_entries(self, entries: Sequence[str]) -> ReferenceList:
        """The references that these entries are."""


class ReferenceService(Protocol):
    """A service that knows what published works cite."""

    async def references(self, eprint: EprintDocument) -> ReferenceList:
        """What an eprint cites; nothing where the service does not know it."""


class WorkService(ReferenceService, Protocol):
    """A service that describes works too."""

    async def works(self, dois: Sequence[str]) -> dict[str, Reference]:
        """Works by DOI, those that it knows."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Those that are configured; None: off."""

    grobid: Grobid | None = None
    crossref: WorkService | None = None
    semantic_scholar: ReferenceService | None = None

    @property
    def version(self) -> str:
        """What an extraction says that it was made with: ours, and the services that are on."""
        services = {
            CitationSource.GROBID: self.grobid,
            CitationSource.CROSSREF: self.crossref,
            CitationSource.SEMANTIC_SCHOLAR: self.semantic_scholar,
        }
        names = [name.value for name, service in services.items() if service is not None]
        return "+".join([str(EXTRACTOR_VERSION), *names])

    async def ask(
        self,
        eprint: EprintDocument,
        document: IO[bytes] | None,
        read: Sequence[Reference],
        known: Sequence[Citation] = (),
    ) -> Asked:
        """All references, best described first: GROBID's, those `read` by us, the services'.

        `document` is None where it is of no use to ask about it; `known` is what the last
        extraction from it came to.
        """
        asked = Asked(known)
        grobid, crossref, scholar = self.grobid, self.crossref, self.semantic_scholar
        found: list[Reference] = []
        if grobid is not None and document is not None:
            if eprint.form == PDF:
                found += await asked.of(CitationSource.GROBID, grobid.of_pdf(document))
            else:
                entries = [each.raw for each in read if each.raw is not None]
                found += await asked.of(CitationSource.GROBID, grobid.of_entries(entries))
        found += read
        if crossref is not None:
            found += await asked.of(CitationSource.CROSSREF, crossref.references(eprint))
        if scholar is not None:
            found += await asked.of(CitationSource.SEMANTIC_SCHOLAR, scholar.references(eprint))
        if crossref is not None:
            found = await asked.filled(found, crossref.works)
        asked.references = found
        return asked


@dataclass(slots=True)
class Asked:
    """What the sources said, and which of them did not answer."""

    known: Sequence[Citation] = ()  # of the same document, from before
    references: Sequence[Reference] = ()
    failures: dict[CitationSource, str] = field(default_factory=dict)  # source -> reason
    left_out: int = 0  # references that one of them has beyond those that were taken, at least

    async def of(self, source: CitationSource, answer: Awaitable[ReferenceList]) -> list[Reference]:
        """One source's references; where it fails, which is kept, those that it gave before."""
        try:
            found = await answer
        except (InvalidUpstream, Unavailable) as error:
            self._keep(source, error)
            return [
                replace(each.reference, source=source)
                for each in self.known
                if source in each.sources
            ]
        self.left_out = max(self.left_out, found.left_out)
        return found.references

    async def filled(
        self,
        references: Sequence[Reference],
        works: Callable[[Sequence[str]], Awaitable[dict[str, Reference]]],
    ) -> list[Reference]:
        """References with a DOI and little else, completed."""
        dois = [each.doi for each in references if each.doi is not None and not each.is_complete]
        if not dois:
            return list(references)
        try:
            return filled(references, await works(dois))
        except (InvalidUpstream, Unavailable) as error:
            self._keep(CitationSource.CROSSREF, error)
            described = (each.reference for each in self.known)
            return filled(references, {each.doi: each for each in described if each.doi})

    def _keep(self, source: CitationSource, error: Exception) -> None:
        self.failures.setdefault(source, str(error))
        log.info("citations.source_failed", source=source.value, reason=str(error))
