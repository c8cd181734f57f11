"""What Crossref and Semantic Scholar answer, as references.

Both are read tolerantly: a field that is not of the documented kind counts as absent, an entry that
says nothing is left out, and only an answer without the documented frame is refused. Of a list that
is longer than what is kept of one document the rest is not looked at: a service, or a publisher who
deposited it, decides how long a list is, and reading an entry takes a good part of a millisecond.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from indexer.citations.identifiers import normal_doi
from indexer.citations.parsing import parse_reference
from indexer.citations.reference import (
    RAW_CHARS_MAX,
    REFERENCES_MAX,
    CitationSource,
    Reference,
    ReferenceList,
    bounded,
    clipped,
)
from indexer.errors import Check, InvalidUpstream

_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")


def crossref_references(answer: object) -> ReferenceList:
    """What a publisher deposited, from the answer to `/works/{doi}`."""
    message = _member(answer, "message")
    if not isinstance(message, Mapping):
        raise InvalidUpstream(Check.RESPONSE, "Crossref: no work in the answer")
    entries = _list(message.get("reference"))
    found = [_deposited(each) for each in entries[:REFERENCES_MAX]]
    return ReferenceList(
        [each for each in found if each.match_keys() or each.raw is not None],
        max(len(entries) - REFERENCES_MAX, 0),
    )


def crossref_works(answer: object) -> dict[str, Reference]:
    """Works by DOI: from the answer to `/works?filter=doi:...`."""
    message = _member(answer, "message")
    if not isinstance(message, Mapping) or not isinstance(message.get("items"), list):
        raise InvalidUpstream(Check.RESPONSE, "Crossref: no list of works in the answer")
    works = {}
    for item in _list(message.get("items"))[:REFERENCES_MAX]:
        doi = normal_doi(_text(item.get("DOI")) or "")
        if doi is not None:
            works[doi] = _work(item, doi)
    return works


def semantic_scholar_references(answer: object) -> tuple[list[Reference], int | None]:
    """A page of the answer to `/paper/{id}/references`, and the offset of the next one."""
    data = _member(answer, "data")
    if not isinstance(answer, Mapping) or not (data is None or isinstance(data, list)):
        raise InvalidUpstream(Check.RESPONSE, "Semantic Scholar: no references in the answer")
    papers = (_member(each, "citedPaper") for each in _list(data)[:REFERENCES_MAX])
    found = [_paper(each) for each in papers if isinstance(each, Mapping)]
    following = answer.get("next")
    return [each for each in found if each.match_keys()], (
        following if type(following) is int and following > 0 else None
    )


def _deposited(entry: Mapping[str, object]) -> Reference:
    raw = clipped(_text(entry.get("unstructured")), RAW_CHARS_MAX)
    # A publisher that deposits only text leaves the rest to the reader.
    read = parse_reference(raw, source=CitationSource.CROSSREF) if raw is not None else None
    author = _text(entry.get("author"))
    title = next((t for name in _TITLES if (t := _text(entry.get(name))) is not None), None)
    venue = next((t for name in _VENUES if (t := _text(entry.get(name))) is not None), None)
    return bounded(
        Reference(
            source=CitationSource.CROSSREF,
            raw=raw,
            title=title or (read.title if read else None),
            authors=(author,) if author else (read.authors if read else ()),
            year=_year(entry.get("year")) or (read.year if read else None),
            venue=venue or (read.venue if read else None),
            doi=_text(entry.get("DOI")) or (read.doi if read else None),
            arxiv_id=read.arxiv_id if read else None,
            pmid=read.pmid if read else None,
        )
    )


_TITLES = ("article-title", "volume-title", "series-title")
_VENUES = ("journal-title", "conference-title")


def _work(item: Mapping[str, object], doi: str) -> Reference:
    return bounded(
        Reference(
            source=CitationSource.CROSSREF,
            title=_first_text(item.get("title")),
            authors=tuple(
                name for each in _list(item.get("author")) if (name := _person(each)) is not None
            ),
            year=_issued(item.get("issued")),
            venue=_first_text(item.get("container-title")) or _text(item.get("publisher")),
            doi=doi,
        )
    )


def _paper(paper: Mapping[str, object]) -> Reference:
    ids = paper.get("externalIds")
    names = (_text(each.get("name")) for each in _list(paper.get("authors")))
    return bounded(
        Reference(
            source=CitationSource.SEMANTIC_SCHOLAR,
            title=_text(paper.get("title")),
            authors=tuple(name for name in names if name is not None),
            year=_year(paper.get("year")),
            venue=_text(paper.get("venue")),
            doi=_text(_member(ids, "DOI")),
            arxiv_id=_text(_member(ids, "ArXiv")),
            pmid=_text(_member(ids, "PubMed")),
            pmcid=_text(_member(ids, "PubMedCentral")),
        )
    )


def _person(author: Mapping[str, object]) -> str | None:
    parts = (_text(author.get("given")), _text(author.get("family")))
    return " ".join(part for part in parts if part) or _text(author.get("name"))


def _issued(value: object) -> int | None:
    parts = _member(value, "date-parts")
    first = parts[0] if isinstance(parts, list) and parts else None
    return _year(first[0]) if isinstance(first, list) and first else None


def _year(value: object) -> int | None:
    found = _YEAR.search(str(value)) if isinstance(value, str | int) else None
    return int(found.group()) if found is not None else None


def _first_text(value: object) -> str | None:
    return _text(value[0]) if isinstance(value, list) and value else _text(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _list(value: object) -> list[Mapping[str, object]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None
