"""Lines of a page as they were set: joined again, and freed of what every page repeats."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EDGE_LINES = 2
"""Headers and footers are among so many first and last lines of a page."""

REPEATS_MIN = 3
LINE_CHARS_MAX = 5000

_PAGE_NUMBER = re.compile(
    r"[-–—\s]*(?:page\s+)?\d{1,4}(?:\s*(?:/|of)\s*\d{1,4})?[-–—\s]*",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")
_SOFT_HYPHENS = "\u00ad\u0002\ufffe\u2010"
_OPEN_LINK = re.compile(r"(?:https?://\S*|\b10\.\d{4,9}/\S*|\bdoi\.org/\S*)$", re.IGNORECASE)
_LINK_TOKEN = re.compile(r"[A-Za-z0-9<][A-Za-z0-9./()_;:<>-]*")
_LINK_REST_WORDS = 2
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_STRAY = re.compile(
    rf"(?<=[{_WIDE}]) (?=[{_WIDE},.;:()\[\]])|(?<=[\[(]) (?=[{_WIDE}A-Z])|(?<=[A-Z]) (?=\])"
)
"""Spaces that the places of wide characters suggest, and that nobody wrote."""
_CRAMPED = re.compile(rf"([.,;:])(?=[{_WIDE}])")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a document. `left` is where it begins, in points or columns, if that is known."""

    text: str
    left: float | None = None
    page: int = 0


def without_furniture(lines: Sequence[Line]) -> list[Line]:
    """Without page numbers, and lines that the edges of several pages have in common."""
    pages: defaultdict[int, list[int]] = defaultdict(list)
    for at, line in enumerate(lines):
        if line.text.strip():
            pages[line.page].append(at)
    edges = [
        [*of_page[:EDGE_LINES], *of_page[EDGE_LINES:][-EDGE_LINES:]] for of_page in pages.values()
    ]
    seen = Counter(text for edge in edges for text in {_pattern(lines[at].text) for at in edge})
    if len(pages) < EDGE_LINES:
        return list(lines)
    dropped = {
        at
        for edge in edges
        for at in edge
        if _PAGE_NUMBER.fullmatch(lines[at].text) or seen[_pattern(lines[at].text)] >= REPEATS_MIN
    }
    return [line for at, line in enumerate(lines) if at not in dropped]


def _pattern(text: str) -> str:
    return _DIGITS.sub("#", text.strip())


def joined(lines: Iterable[str]) -> str:
    """Lines of one paragraph as one text: words and links that were broken are whole again."""
    parts = [part for part in (line.strip()[:LINE_CHARS_MAX] for line in lines) if part]
    text = ""
    for at, part in enumerate(parts):
        text = _appended(text, part, is_near_end=at == len(parts) - 1)
    return _CRAMPED.sub(r"\1 ", _STRAY.sub("", " ".join(text.split())))


def _appended(text: str, part: str, *, is_near_end: bool) -> str:
    if not text:
        return part
    is_link = _OPEN_LINK.search(text[-300:]) is not None
    if text[-1] in _SOFT_HYPHENS:
        return text[:-1] + part
    if is_link and (text[-1] in "/._-" or _goes_on(part, is_near_end=is_near_end)):
        return text + part
    if text[-1] == "-" and text[-2:-1].isalpha() and part[0].islower() and not is_link:
        return text[:-1] + part
    return text + part if text[-1] == "-" else f"{text} {part}"


def _goes_on(part: str, *, is_near_end: bool) -> bool:
    """Whether a line can be the rest of a link that the line before broke off inside a word."""
    words = part.split()
    token = words[0].rstrip(".,;")
    return (
        is_near_end
        and len(words) <= _LINK_REST_WORDS
        and _LINK_TOKEN.fullmatch(token) is not None
        and any(each.isdigit() for each in token)
    )
