"""How well references were read: precision and recall of works, and of each field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from indexer.citations.identifiers import title_key
from indexer.citations.reference import Reference
from tests.documents.labelled import LabelledDocument
from tests.documents.works import Work

FIELDS = ("doi", "arxiv_id", "year", "title")


@dataclass
class Score:
    """Counts of what was right, found and due, by field; `work` is the reference as such."""

    right: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    due: Counter[str] = field(default_factory=Counter)

    def precision(self, name: str) -> float:
        return self.right[name] / self.found[name] if self.found[name] else 1.0

    def recall(self, name: str) -> float:
        return self.right[name] / self.due[name] if self.due[name] else 1.0

    def add(self, other: Score) -> None:
        self.right += other.right
        self.found += other.found
        self.due += other.due


def score(document: LabelledDocument, references: Sequence[Reference]) -> Score:
    """A reference is right when it is of one work, the next one of the document's list."""
    result = Score()
    result.found["work"] = len(references)
    result.due["work"] = len(document.works)
    left = list(references)
    for work in document.works:
        match = next((each for each in left if is_of(each, work)), None)
        for name in FIELDS:
            wanted = getattr(work, name)
            if name == "title" and not document.has_titles:
                wanted = None
            result.due[name] += wanted is not None
        if match is None:
            continue
        left.remove(match)
        result.right["work"] += 1
        for name in FIELDS:
            if name == "title" and not document.has_titles:
                continue
            result.right[name] += _is_right(name, getattr(match, name), getattr(work, name))
    for reference in references:
        for name in FIELDS:
            if name != "title" or document.has_titles:
                result.found[name] += getattr(reference, name) is not None
    return result


def is_of(reference: Reference, work: Work) -> bool:
    """Whether an entry is that of this work and of no other: all that sets it apart is in it."""
    raw = title_key(reference.raw or "x" * 10) or ""
    whole = "".join(each for each in (reference.raw or "").casefold() if each.isalnum())
    title = title_key(work.title) or work.title
    has_title = title in _plain(reference.raw or "")
    has_pages = f"{work.pages[0]}" in whole
    return (
        bool(raw)
        and (has_title or has_pages)
        and f"{work.year}" in whole + (work.arxiv_id or "")
        and (
            _plain(reference.raw or "").startswith(_plain(work.authors[0][1])[:3])
            or _plain(work.authors[0][1]) in _plain(reference.raw or "")[:60]
        )
    )


def _plain(text: str) -> str:
    import unicodedata

    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return "".join(each for each in decomposed if each.isalnum())


def _is_right(name: str, found: object, wanted: object) -> bool:
    if wanted is None or found is None:
        return False
    if name == "title":
        return title_key(str(found)) == title_key(str(wanted))
    return str(found).lower() == str(wanted).lower()
