"""Identifiers of works inside free text, and the forms in which they compare.

DOIs compare in lower case, without resolver or trailing punctuation; arXiv ids without version and
subject class; titles by their letters and digits alone, of every script, so that hyphens, line
breaks, case and accents make no difference.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

TEXT_CHARS_MAX = 10_000
"""No more of a text is looked at."""

DOI_CHARS_MAX = 200
TITLE_KEY_CHARS_MIN = 10
"""Shorter titles are shared by too many works."""
TITLE_KEY_CHARS_MAX = 200
DENSE_CHARS_MIN = 6
"""A title in a script whose characters are words or syllables says as much in fewer."""

_SICI_END = r"\s?<[^\"<>]{1,60}>\s?\d\.\d\.\s?[a-z]{2};\d(?:-[\w#])?"
"""How DOIs made of a serial item identifier end, as in `<0130:DNF>2.0.CO;2`.

All that stands before it is the same for every article of an issue. Lines are broken within it.
"""
_DOI = re.compile(
    r"(?<![\w.])10\.\d{4,9}(?:\.\d{1,9})*/[^\s\"<>{}|\\^`«»“”]{1,200}" + f"(?:{_SICI_END})?",
    re.IGNORECASE,
)
_ENCODED_DOI = re.compile(r"10\.\d{4,9}%2f[^\s\"<>]{1,300}", re.IGNORECASE)
_TRAILING = ".,;:'’*"
_PAIRS = {")": "(", "]": "["}

_ARXIV_NUMBER = r"(\d{4}\.\d{4,5}|[a-z-]{2,20}(?:\.[a-z-]{2,10})?/\d{7})(?:v\d{1,3})?(?![\d.]*\d)"
_ARXIV = re.compile(  # what repeats is possessive: else a run of spaces would take cubic time
    r"(?:\barxiv(?:\.org)?(?:\s++(?:preprint|e-?print))?(?:\s++arxiv)?\s*+[:/]?\s*+(?:abs/|pdf/|html/)?"
    r"|\babs/|\bcorr,?\s++abs/)\s*+\[?" + _ARXIV_NUMBER,
    re.IGNORECASE,
)
_SUBJECT_CLASS = re.compile(r"\.[a-z-]+(?=/)")
"""Older ids are given with it or without: math.DG/0211159 is math/0211159."""
_ARXIV_WHOLE = re.compile(_ARXIV_NUMBER, re.IGNORECASE)
_ARXIV_DOI = "10.48550/arxiv."
_PMID = re.compile(
    r"\bPMID:?\s*(\d{1,9})\b|pubmed(?:\.ncbi\.nlm\.nih\.gov)?/(\d{1,9})\b",
    re.IGNORECASE,
)
_PMCID = re.compile(r"\b(PMC\d{2,9})\b", re.IGNORECASE)
_DENSE = re.compile("[\u2e80-\u9fff\uac00-\ud7ff]")
_TAG = re.compile(r"<[^<>]{0,100}>")


def find_doi(text: str) -> str | None:
    """The first DOI in a text, in its normal form."""
    text = text[:TEXT_CHARS_MAX]
    found = _DOI.search(text) or _ENCODED_DOI.search(text)
    if found is not None and "%" in found.group():  # as in a link
        found = _DOI.search(unquote(found.group()))
    return _trimmed("".join(found.group().split())) if found is not None else None


def normal_doi(text: str) -> str | None:
    """A DOI however it is written, as it compares; None for anything else."""
    return find_doi(text.strip())


def _trimmed(doi: str) -> str | None:
    """Without the punctuation of the sentence that it stands in."""
    while doi:
        last = doi[-1]
        is_unbalanced = last in _PAIRS and doi.count(last) > doi.count(_PAIRS[last])
        if last not in _TRAILING and not is_unbalanced:
            break
        doi = doi[:-1]
    prefix, _, suffix = doi.partition("/")
    return f"{prefix}/{suffix}".lower() if suffix and len(doi) <= DOI_CHARS_MAX else None


def find_arxiv_id(text: str) -> str | None:
    """The first arXiv id in a text, without its version."""
    found = _ARXIV.search(text[:TEXT_CHARS_MAX])
    if found is not None:
        return _arxiv_id(found)
    return arxiv_id_of_doi(find_doi(text) or "")


def normal_arxiv_id(text: str) -> str | None:
    """An arXiv id however it is written, as it compares; None for anything else."""
    text = text.strip()[:TEXT_CHARS_MAX]
    whole = _ARXIV_WHOLE.fullmatch(text)
    return _arxiv_id(whole) if whole is not None else find_arxiv_id(text)


def arxiv_id_of_doi(doi: str) -> str | None:
    """The arXiv id that a DOI of arXiv's own contains."""
    if not doi.startswith(_ARXIV_DOI):
        return None
    found = _ARXIV_WHOLE.fullmatch(doi.removeprefix(_ARXIV_DOI))
    return _arxiv_id(found) if found is not None else None


def _arxiv_id(found: re.Match[str]) -> str:
    return _SUBJECT_CLASS.sub("", found[1].lower())


def find_pmid(text: str) -> str | None:
    """The first PubMed id in a text that calls it so."""
    found = _PMID.search(text[:TEXT_CHARS_MAX])
    return normal_pmid(found[1] or found[2]) if found is not None else None


def normal_pmid(text: str) -> str | None:
    """A PubMed id alone, as it compares."""
    digits = re.sub(r"^pmid:?\s*", "", text.strip(), flags=re.IGNORECASE).lstrip("0")
    return digits if re.fullmatch(r"[0-9]{1,9}", digits) else None


def find_pmcid(text: str) -> str | None:
    """The first PubMed Central id in a text."""
    found = _PMCID.search(text[:TEXT_CHARS_MAX])
    return found[1].lower() if found is not None else None


def normal_pmcid(text: str) -> str | None:
    """A PubMed Central id alone, with or without its letters, as it compares."""
    found = re.fullmatch(r"(?:pmc)?(\d{2,9})", text.strip().lower(), re.ASCII)
    return f"pmc{found[1]}" if found is not None else None


def title_key(title: str) -> str | None:
    """The letters and digits of a title; None where there are too few to tell works apart."""
    plain = _TAG.sub("", title[:TEXT_CHARS_MAX])
    decomposed = unicodedata.normalize("NFKD", plain).casefold()
    letters = "".join(filter(str.isalnum, decomposed))
    if len(letters) < (DENSE_CHARS_MIN if is_dense(letters) else TITLE_KEY_CHARS_MIN):
        return None
    return letters[:TITLE_KEY_CHARS_MAX]


def is_dense(text: str) -> bool:
    """Whether there are characters in it that stand for words or syllables."""
    return _DENSE.search(text) is not None


def without_identifiers(text: str) -> str:
    """The text without what stands for a link or an identifier: numbers in it mean nothing else."""
    for pattern in _LINKS:
        text = pattern.sub(" ", text)
    return " ".join(text.split())


_LINKS = (
    re.compile(r"\b(?:https?://|www\.)\S{1,400}", re.IGNORECASE),
    re.compile(r"\bdoi\s*+:?\s*+(?=10\.)", re.IGNORECASE),
    _DOI,
    re.compile(_ARXIV.pattern + r"\]?(?:\s*+\[[\w.-]{2,12}\])?", re.IGNORECASE),
    _PMID,
    _PMCID,
)
