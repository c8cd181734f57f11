"""One entry of a list of references, understood: identifiers, year, title, authors, venue.

Identifiers are certain, the rest is judged by where citation styles put it: titles in quotation
marks (IEEE, MLA, Chicago), after the year (APA, Harvard, ACL), after a colon (Springer), or as the
first sentence after the names (Vancouver, Nature). What fits none of them has no title rather than
a wrong one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from indexer.citations.entries import unlabelled
from indexer.citations.identifiers import (
    find_arxiv_id,
    find_doi,
    find_pmcid,
    find_pmid,
    is_dense,
    without_identifiers,
)
from indexer.citations.names import split_names
from indexer.citations.reference import CitationSource, Reference, bounded

TITLE_CHARS_MIN = 8
TITLE_WORDS_MIN = 2
HEAD_CHARS_MAX = 1200
"""Names before a year or a title take no more; a year beyond is not the one after the names."""

SENTENCES_TRIED = 20
"""What follows a list of names is no title so often: then the entry has none. Each is read to its
end, which is that of the entry where every word is an abbreviation."""

_YEAR = r"(?:1[5-9]|20)\d\d"
_YEAR_ALONE = re.compile(rf"(?<![\d/.:–—-])({_YEAR})(?![\d/])[a-z]?(?!\s?[–—-]\s?\d)")
_YEAR_IN_BRACKETS = re.compile(
    rf"[(\[（][^()\[\]（）]{{0,30}}?({_YEAR})[a-z]?[^()\[\]（）]{{0,30}}[)\]）]"
)
_PAGES_BEFORE = re.compile(r"(?:\b(?:pp?\.?|pages?|no\.?|S\.|art\.?)|№)\s*$", re.IGNORECASE)

_QUOTED = (
    re.compile(r"[“„«]\s?([^“”„«»]{8,500}?)\s?[”“»]"),
    re.compile(r"(?<!\w)\"([^\"]{8,500})\""),
    re.compile(r"``([^`']{8,500})''"),
    re.compile(r"(?<!\w)[‘]([^‘]{8,500}?)[’](?=[\s,.;]|$)"),
    re.compile(r"[「『《]([^」』》]{4,300})[」』》]"),
)
_AFTER_BRACKETED_YEAR = re.compile(
    rf"[(\[（]\s*(?:\w+\.?\s+)?{_YEAR}[a-z]?(?:,[^()\[\]]{{0,40}})?[)\]）]\s*[.,:]?\s*"
)
_AFTER_YEAR = re.compile(rf"(?:^|[.,)]\s+){_YEAR}[a-z]?[.:,]\s+")
_AFTER_COLON = re.compile(r"^([^:]{3,600}?[.,]?\s?(?:[^\W\d_a-z]\.|et al\.)):\s+")
_BREAK = re.compile(r"[.。．]\s+|[.](?=\s*$)")
_TITLE_END = re.compile(
    r"[.?!](?=\s|$)|[。．？！]|\s+(?=In:\s)|,\s+(?=(?:in|In):?\s+(?:Proc|Proceedings|Advances)\b)|\s//\s"
)
_PROSE = re.compile(
    r"(?:\b(?!and\b|und\b|van\b|von\b)[^\W\d_A-ZÀ-Þ]{2,}\W+(?:[^\W\d]+\W+){0,2}){3}"
)
"""Lower-case words close together: no list of names."""
_SECOND_SENTENCE = re.compile(r"\s+(?:[^\W\d][\w’'-]*[,:]?\s+){3,30}[^\W\d][\w’'-]*\.\s+[^\W\d]")
"""After a question: words without a number, and then something else than one."""
_NAMES_GO_ON = re.compile(
    r"(?:&|and\b|et al|[^\W\d_a-z]\.|(?:van|von|de[nrl]?|di|l[ae])\s[^\W\d_]|"
    r"[^\W\d_a-z][\w'’-]+,?\s(?:[^\W\d_a-z]\.|[^\W\d_a-z]{1,3}[,.\s])|"
    r"[^\W\d_a-z][\w'’-]+(?:,?\s(?:and|&)\s|,\s)(?:[^\W\d_a-z]\.|et al)|"
    r"[^\W\d_a-z][\w'’-]+(?:\.\s|\set\sal))"
)
"""What follows a point and shows that it closed an initial, not the list of names."""

_NAMES_ONLY = re.compile(r"(?:[^\W\d_][\w'’`´.-]*+|&|,|;|\s|\(eds?\.?\))++", re.IGNORECASE)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[^\W\d_a-z]|vs|cf|e\.g|i\.e|etc|al|St|Dr|Mr|Mrs|Jr|Sr|No|Vol|vol|no|pp?|ed|eds|approx|ca|U\.S|U\.K)$"
)
_VENUE_LEAD = re.compile(r"^(?:in|In|IN)\s*:?\s+(?=\S)|^[\s.,;:/–—-]+")
_VENUE_END = re.compile(
    r"[.,;:]?\s*(?:,?\s*(?:vol(?:ume)?\b|no\b|pp?\b|pages?\b|issue\b)|\(?\d|\(|[.,;]\s|[.;,]?$)",
    re.IGNORECASE,
)
VENUE_WORDS_MAX = 14


@dataclass(frozen=True, slots=True)
class _Parts:
    """An entry cut around its title."""

    head: str
    title: str
    tail: str


def parse_reference(entry: str, *, source: CitationSource = CitationSource.DOCUMENT) -> Reference:
    """What an entry says. It may be of one line only; its label may still be there."""
    text = unlabelled(" ".join(entry.split()))
    rest = without_identifiers(text)
    parts = _cut(rest)
    head, title, tail = (parts.head, parts.title, parts.tail) if parts else ("", None, "")
    return bounded(
        Reference(
            source=source,
            raw=text,
            title=title,
            authors=split_names(head),
            year=find_year(rest),
            venue=_venue(tail),
            doi=find_doi(text),
            arxiv_id=find_arxiv_id(text),
            pmid=find_pmid(text),
            pmcid=find_pmcid(text),
        )
    )


def is_reference(reference: Reference) -> bool:
    """Whether an entry can be told from a stray paragraph: an identifier, or a year or title."""
    has_identifier = any((reference.doi, reference.arxiv_id, reference.pmid, reference.pmcid))
    return has_identifier or reference.year is not None or reference.title is not None


def find_year(text: str) -> int | None:
    """The year of appearance: one in brackets, else the last that can be no page or number."""
    in_brackets = _YEAR_IN_BRACKETS.search(text)
    if in_brackets is not None:
        return int(in_brackets[1])
    alone = [
        found
        for found in _YEAR_ALONE.finditer(text)
        if not _PAGES_BEFORE.search(text[: found.start()][-12:])
    ]
    after_names = next((f for f in alone if _AFTER_YEAR.match(text, max(f.start() - 2, 0))), None)
    chosen = after_names or (alone[-1] if alone else None)
    return int(chosen[1]) if chosen is not None else None


def _cut(text: str) -> _Parts | None:
    for find in (_quoted, _after_year, _after_colon, _after_names):
        parts = find(text)
        if parts is not None:
            return parts
    return None


def _quoted(text: str) -> _Parts | None:
    for pattern in _QUOTED:
        found = pattern.search(text)
        if found is not None and (title := _as_title(found[1])) is not None:
            return _Parts(text[: found.start()], title, text[found.end() :])
    return None


def _after_year(text: str) -> _Parts | None:
    for pattern in (_AFTER_BRACKETED_YEAR, _AFTER_YEAR):
        found = pattern.search(text)
        if found is not None and 0 < found.start() < HEAD_CHARS_MAX:
            parts = _sentence(text[: found.start()], text[found.end() :])
            if parts is not None:
                return parts
    return None


def _after_colon(text: str) -> _Parts | None:
    found = _AFTER_COLON.match(text)
    return None if found is None else _sentence(found[1], text[found.end() :])


def _after_names(text: str) -> _Parts | None:
    """The first sentence after one that holds nothing but names."""
    left = SENTENCES_TRIED
    for found in _BREAK.finditer(text[:HEAD_CHARS_MAX]):
        head, tail = text[: found.end()].strip(), text[found.end() :].strip()
        if not tail or _NAMES_ONLY.fullmatch(head) is None or _PROSE.search(head):
            return None
        if not _NAMES_GO_ON.match(tail):
            parts = _sentence(head, tail)
            left -= 1
            if parts is not None or not left:
                return parts
    return None


def _sentence(head: str, text: str) -> _Parts | None:
    """The title with which `text` begins."""
    for found in _TITLE_END.finditer(text):
        if found.group() == "." and _ABBREVIATION.search(text[: found.start()][-20:]):
            continue
        is_mark = found.group() in "?!？！"
        if is_mark and _SECOND_SENTENCE.match(text, found.end()):
            continue
        title = _as_title(text[: found.end() if is_mark else found.start()])
        return None if title is None else _Parts(head, title, text[found.end() :])
    title = _as_title(text)
    return None if title is None else _Parts(head, title, "")


def _as_title(text: str) -> str | None:
    title = re.sub(r"\s*[\[(](?:[^()\[\]]{0,40})[\])]$", "", text.strip().strip('“”"„«»'))
    title = title.strip().rstrip(",.;:").strip()
    letters = sum(each.isalpha() for each in title)
    if is_dense(title):
        return title if letters * 2 >= TITLE_CHARS_MIN else None
    if "et al" in title or title.startswith("("):
        return None
    is_prose = len(title.split()) >= TITLE_WORDS_MIN and letters * 2 >= len(title)
    return title if is_prose and letters >= TITLE_CHARS_MIN else None


def _venue(tail: str) -> str | None:
    text = tail.strip()
    while (lead := _VENUE_LEAD.match(text)) is not None and lead.end() > 0:
        text = text[lead.end() :]
    ends = (found for found in _VENUE_END.finditer(text))
    end = next((each.start() for each in ends if _ends_venue(text, each)), len(text))
    venue = text[:end].strip().strip(".,;:*_ ")
    is_plausible = (
        any(each.isalpha() for each in venue) and 0 < len(venue.split()) <= VENUE_WORDS_MAX
    )
    return venue if is_plausible else None


def _ends_venue(text: str, found: re.Match[str]) -> bool:
    """A point followed by another word may be that of an abbreviation."""
    is_point = found.group().strip(" .,;") == "" and found.end() < len(text)
    return not (is_point and _ABBREVIATED_VENUE.search(text[: found.start() + 1][-8:]))


_ABBREVIATED_VENUE = re.compile(r"(?:^|\s)[^\W\d_a-z][\w-]{0,5}\.$")
"""As in Phys. Rev. Lett.: the point ends a word, not the name."""
