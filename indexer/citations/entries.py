"""A list of references cut into its entries, by whatever its style offers.

Labels in brackets, running numbers, hanging indents, blank lines, and last the look of a line that
opens with an author after one that has closed an entry. The first that gives at least two entries
is believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from indexer.citations.lines import Line, joined

ENTRY_CHARS_MIN = 20
ENTRY_CHARS_MAX = 3000
ENTRIES_MAX = 2000
ENTRIES_MIN = 2

_LABEL = re.compile(r"\s*\[([^\W\d_][^\]]{1,40})\]\s*")
_BRACKETED = re.compile(r"\s*[\[(](\d{1,4})[\])]\s*")
_DOTTED = re.compile(r"\s*(\d{1,4})[.)]\s+(?=\D)")
_BARE = re.compile(r"\s*(\d{1,4})\s+(?=[^\W\d_])")
_ANY_LABEL = re.compile(
    r"\s*(?:\[[^\]]{1,40}\]|\(\d{1,4}\)|\d{1,4}[.)](?=\s)|\d{1,3}(?=\s+[^\W\d_])|[-*•–])\s*"
)
_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20)\d\d(?!\d)")
_CLOSED = re.compile(r"(?:[.)\]/]|\d|[.]\s*[\"”])\s*$")
_LINK = re.compile(r"(?:https?://|\b10\.\d{4,9}/)\S")
_NUMBER_SKIPPED_MAX = 2
_FIRST_WITHIN_LINES = 4

COLUMN_GAP = 90.0
"""Lines that begin so much further right are of another column."""
INDENT_MIN = 3.5
INDENT_MAX = 60.0
INDENTED_SHARE_MIN = 0.2

Starts = Callable[[Sequence[Line]], list[int]]


def split_entries(lines: Sequence[Line], *, is_wrapped: bool) -> list[str]:
    """The entries as texts without their labels; of a document that breaks no lines, its lines."""
    if not is_wrapped:
        return _texts([line.text] for line in lines)
    for find in (_labelled, _bracketed, _dotted, _hanging, _spaced, _bare, _by_authors):
        starts = find(lines)
        if len(starts) >= ENTRIES_MIN:
            bounds = [*starts, len(lines)]
            return _texts(
                [line.text for line in lines[first:last]] for first, last in pairwise(bounds)
            )
    return _texts([[line.text for line in lines]])


def unlabelled(text: str) -> str:
    """An entry without the number or label before it."""
    found = _ANY_LABEL.match(text)
    return text[found.end() :].strip() if found is not None else text.strip()


def _texts(groups: Iterable[Sequence[str]]) -> list[str]:
    found = []
    for group in groups:
        text = unlabelled(joined(group))[:ENTRY_CHARS_MAX]
        if len(text) >= ENTRY_CHARS_MIN or (
            len(text) * 2 >= ENTRY_CHARS_MIN and not text.isascii()
        ):
            found.append(text)
        if len(found) == ENTRIES_MAX:
            break
    return found


def _labelled(lines: Sequence[Line]) -> list[int]:
    starts = [at for at, line in enumerate(lines) if _LABEL.match(line.text)]
    return starts if starts[:1] < [_FIRST_WITHIN_LINES] else []


def _bracketed(lines: Sequence[Line]) -> list[int]:
    return _numbered(lines, _BRACKETED)


def _dotted(lines: Sequence[Line]) -> list[int]:
    return _numbered(lines, _DOTTED)


def _bare(lines: Sequence[Line]) -> list[int]:
    return _numbered(lines, _BARE)


def _numbered(lines: Sequence[Line], pattern: re.Pattern[str]) -> list[int]:
    """Lines with the next number; one that is out of turn belongs to the text."""
    starts: list[int] = []
    last = 0
    for at, line in enumerate(lines):
        found = pattern.match(line.text)
        if found is None:
            continue
        number = int(found[1])
        is_first = not starts and at < _FIRST_WITHIN_LINES
        if is_first or (starts and last < number <= last + 1 + _NUMBER_SKIPPED_MAX):
            starts.append(at)
            last = number
    return starts


def _hanging(lines: Sequence[Line]) -> list[int]:
    """Lines at the margin of their column, where the others are indented."""
    lefts = sorted({round(line.left, 1) for line in lines if line.left is not None})
    if len(lefts) < ENTRIES_MIN or any(line.left is None and line.text.strip() for line in lines):
        return []
    margins = [lefts[0]]
    for left in lefts:
        if left - margins[-1] > COLUMN_GAP:
            margins.append(left)
    starts, indented = [], 0
    for at, line in enumerate(lines):
        if line.left is None:
            continue
        indent = line.left - max(margin for margin in margins if margin <= line.left + 0.1)
        if indent < INDENT_MIN:
            starts.append(at)
        elif indent <= INDENT_MAX:
            indented += 1
    return starts if indented >= INDENTED_SHARE_MIN * len(lines) else []


def _spaced(lines: Sequence[Line]) -> list[int]:
    """Lines after blank ones."""
    return (
        [
            at
            for at, line in enumerate(lines)
            if line.text.strip() and at > 0 and not lines[at - 1].text.strip()
        ]
        if any(not line.text.strip() for line in lines[1:-1])
        else []
    )


def _by_authors(lines: Sequence[Line]) -> list[int]:
    """Lines that look like names, after an entry with a year that has come to an end."""
    starts: list[int] = []
    has_year = False
    before = ""
    for at, line in enumerate(lines):
        text = line.text.strip()
        if not text:
            continue
        is_after = has_year and (_CLOSED.search(before) is not None or _ends_in_link(before))
        if (not starts and _opens_with_name(text)) or (is_after and _opens_with_name(text)):
            starts.append(at)
            has_year = False
        has_year = has_year or _YEAR.search(text) is not None
        before = text
    return starts


def _ends_in_link(text: str) -> bool:
    # In the last word alone: a line of links without spaces would take the square of its length.
    return bool(text) and _LINK.search(text.rsplit(maxsplit=1)[-1]) is not None


_PARTICLE = r"(?:[Vv]an|[Vv]on|[Dd]e[nrl]?|[Dd]i|[Ll][ae]|[Ee]l|[Aa]l|[Tt]en|[Dd]os|[Dd]a)[ -]"
_NAME = rf"(?:{_PARTICLE}){{0,2}}[^\W\d_a-z][\w'’`´-]{{0,40}}"
_OPENING = re.compile(
    rf"(?:{_NAME}(?:\s{_NAME})?,\s*[^\W\d_a-z][\w.'’-]*"  # Surname, Given
    rf"|{_NAME}\s(?:[^\W\d_a-z]\.?-?){{1,3}}[,.&;\s]"  # Surname AB
    rf"|(?:[^\W\d_a-z]\.\s?-?){{1,3}}\s?{_NAME}"  # A. B. Surname
    rf"|{_NAME}\s{_NAME}(?:\s{_NAME})?(?:,|\.|\sand\s|\s&\s)"  # Given Surname,
    rf"|{_NAME}(?:\s[^\W\d_][\w'’-]*){{0,5}}[.,]?\s\(?(?:1[5-9]|20)\d\d)"  # Organisation (2020)
)


def _opens_with_name(text: str) -> bool:
    return _OPENING.match(unlabelled(text)) is not None
