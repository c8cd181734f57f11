"""A work that a document cites, and the keys by which works are recognised.

A key is a text such as `doi:10.1000/xyz`; two works that share one are the same. Keys are ranked:
an identifier outweighs a title. Eprints have keys of the same forms, so citations and eprints find
each other in whatever order they arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from indexer.citations.identifiers import (
    arxiv_id_of_doi,
    normal_arxiv_id,
    normal_doi,
    normal_pmcid,
    normal_pmid,
    title_key,
)

REFERENCES_MAX = 1000
"""References that are taken from one source of one document."""

RAW_CHARS_MAX = 2000
TITLE_CHARS_MAX = 500
AUTHORS_MAX = 50
AUTHOR_CHARS_MAX = 200
VENUE_CHARS_MAX = 300


class CitationSource(StrEnum):
    """Who says that a work is cited: the column `source` of the view `citations`."""

    DOCUMENT = "document"
    """The document itself, as we read it."""
    GROBID = "grobid"
    CROSSREF = "crossref"
    SEMANTIC_SCHOLAR = "semantic-scholar"


class KeyKind(StrEnum):
    """Kinds of keys, strongest first: the column `match_method` of the view `citations`."""

    DOI = "doi"
    ARXIV = "arxiv"
    PMID = "pmid"
    PMCID = "pmcid"
    TITLE = "title"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One cited work as a source describes it. Identifiers are in their normal forms."""

    source: CitationSource
    raw: str | None = None  # as it stands in the document
    title: str | None = None
    authors: tuple[str, ...] = ()
    year: int | None = None
    venue: str | None = None
    doi: str | None = None
    arxiv_id: str | None = None
    pmid: str | None = None
    pmcid: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to ask for."""
        return self.title is not None and self.year is not None and self.venue is not None

    def match_keys(self) -> tuple[str, ...]:
        """Its keys, strongest first."""
        return work_keys(
            doi=self.doi,
            arxiv_id=self.arxiv_id,
            pmid=self.pmid,
            pmcid=self.pmcid,
            title=self.title,
        )


@dataclass(frozen=True, slots=True)
class ReferenceList:
    """What one source says that a document cites: no more of it than is taken of one source."""

    references: list[Reference]
    left_out: int = 0  # how many more there are, at least


def work_keys(
    *,
    doi: str | None = None,
    arxiv_id: str | None = None,
    pmid: str | None = None,
    pmcid: str | None = None,
    title: str | None = None,
) -> tuple[str, ...]:
    """The keys of a work with these identifiers, strongest first; what makes no sense has none."""
    return tuple(dict.fromkeys(_keys(doi, arxiv_id, pmid, pmcid, title)))


def _keys(
    doi: str | None, arxiv_id: str | None, pmid: str | None, pmcid: str | None, title: str | None
) -> Iterator[str]:
    normal = normal_doi(doi) if doi else None
    of_doi = arxiv_id_of_doi(normal) if normal else None
    # A DOI that arXiv gave says no more than the number in it.
    found = {
        KeyKind.DOI: None if of_doi else normal,
        KeyKind.ARXIV: (normal_arxiv_id(arxiv_id) if arxiv_id else None) or of_doi,
        KeyKind.PMID: normal_pmid(pmid) if pmid else None,
        KeyKind.PMCID: normal_pmcid(pmcid) if pmcid else None,
        KeyKind.TITLE: title_key(title) if title else None,
    }
    for kind, value in found.items():
        if value is not None:
            yield f"{kind}:{value}"


def clipped(text: str | None, chars_max: int) -> str | None:
    """The text in one line, at most so long; None for one without words."""
    if text is None:
        return None
    # Surrogates are no text that SQLite could hold.
    words = text.encode(errors="ignore").decode().replace("\0", " ").split()
    return " ".join(words)[:chars_max].strip() or None


def bounded(reference: Reference) -> Reference:
    """The reference within the limits of a row; identifiers that are none are left out."""
    authors = (clipped(name, AUTHOR_CHARS_MAX) for name in reference.authors[:AUTHORS_MAX])
    return Reference(
        source=reference.source,
        raw=clipped(reference.raw, RAW_CHARS_MAX),
        title=clipped(reference.title, TITLE_CHARS_MAX),
        authors=tuple(name for name in authors if name is not None),
        year=reference.year if reference.year in YEARS else None,
        venue=clipped(reference.venue, VENUE_CHARS_MAX),
        doi=normal_doi(reference.doi or ""),
        arxiv_id=normal_arxiv_id(reference.arxiv_id or ""),
        pmid=normal_pmid(reference.pmid or ""),
        pmcid=normal_pmcid(reference.pmcid or ""),
    )


YEARS = range(1500, 2100)
"""Years in which anything that is cited can have appeared."""
