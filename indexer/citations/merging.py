"""The references that several sources give of one document, as one list without repetitions.

Two references are of the same work when they share an identifier, or a title and no two different
years or DOIs. The first description is kept and its gaps are filled from later ones, so sources
come in the order in which they are believed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from indexer.citations.reference import CitationSource, KeyKind, Reference

CITATIONS_MAX = 1000
"""Rows of one eprint: more than nearly every work has, and few enough to be stored in a moment."""

SAME_KEY_MAX = 20
"""Works with one key that a reference is compared with: a title may be that of thousands."""


@dataclass(frozen=True, slots=True)
class Citation:
    """One cited work, and every source that names it."""

    reference: Reference
    sources: tuple[CitationSource, ...]


def merged(
    references: Iterable[Reference], *, own_keys: Collection[str] = frozenset()
) -> tuple[tuple[Citation, ...], int]:
    """Every work once, in the order of its first mention; the citing work itself is left out.

    With them, how many mentions of others there was no room for.
    """
    left_out = 0
    citations: list[Citation] = []
    places: dict[str, list[int]] = {}  # key -> the first citations that have it
    for reference in references:
        # Where there is nothing but text, the same text is the same entry.
        keys = reference.match_keys() or _text_keys(reference)
        if not keys:
            continue
        if any(key in own_keys for key in keys):
            continue
        place = _place(reference, keys, citations, places)
        if place is None:
            if len(citations) == CITATIONS_MAX:
                left_out += 1
                continue
            place = len(citations)
            citations.append(Citation(reference, (reference.source,)))
        else:
            citations[place] = _joined(citations[place], reference)
            keys = citations[place].reference.match_keys()
        for key in (*keys, *_text_keys(citations[place].reference)):
            known = places.setdefault(key, [])
            if len(known) < SAME_KEY_MAX and place not in known:
                known.append(place)
    return tuple(citations), left_out


def filled(references: Sequence[Reference], works: Mapping[str, Reference]) -> list[Reference]:
    """The references with their gaps filled from works that were looked up by DOI."""
    found = ((each, works.get(each.doi or "")) for each in references)
    return [each if work is None else _completed(each, work) for each, work in found]


def _place(
    reference: Reference,
    keys: Sequence[str],
    citations: Sequence[Citation],
    places: Mapping[str, Sequence[int]],
) -> int | None:
    for key in keys:
        for place in places.get(key, ()):
            if not key.startswith(f"{KeyKind.TITLE}:") or _agree(
                citations[place].reference, reference
            ):
                return place
    return None


def _text_keys(reference: Reference) -> tuple[str, ...]:
    return () if reference.raw is None else (f"text:{reference.raw}",)


def _agree(one: Reference, other: Reference) -> bool:
    is_same_year = one.year is None or other.year is None or one.year == other.year
    is_same_doi = one.doi is None or other.doi is None or one.doi == other.doi
    return is_same_year and is_same_doi


def _joined(citation: Citation, reference: Reference) -> Citation:
    sources = tuple(dict.fromkeys((*citation.sources, reference.source)))
    return Citation(_completed(citation.reference, reference), sources)


def _completed(kept: Reference, other: Reference) -> Reference:
    return replace(
        kept,
        raw=kept.raw or other.raw,
        title=kept.title or other.title,
        authors=kept.authors or other.authors,
        year=kept.year or other.year,
        venue=kept.venue or other.venue,
        doi=kept.doi or other.doi,
        arxiv_id=kept.arxiv_id or other.arxiv_id,
        pmid=kept.pmid or other.pmid,
        pmcid=kept.pmcid or other.pmcid,
    )
