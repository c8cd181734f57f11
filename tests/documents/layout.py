"""Paragraphs set into pages: columns, hanging indents, hyphens, headers and page numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.documents.pdf import CHAR_WIDTH, LEADING, PAGE_HEIGHT, PAGE_WIDTH, Page

MARGIN = 72.0
GUTTER = 24.0


@dataclass(frozen=True)
class Paragraph:
    """Text with the indent of its first line and of the others, in points."""

    text: str
    first: float = 0.0
    others: float = 0.0


def set_pages(
    paragraphs: Sequence[Paragraph],
    *,
    columns: int = 1,
    hyphenates: bool = False,
    header: str | None = None,
    is_numbered: bool = False,
) -> list[Page]:
    """Pages with the paragraphs one after another."""
    width = (PAGE_WIDTH - 2 * MARGIN - GUTTER * (columns - 1)) / columns
    rows = int((PAGE_HEIGHT - 2 * MARGIN) / LEADING)
    pages: list[Page] = []
    row = column = 0
    for paragraph in paragraphs:
        for at, line in enumerate(_wrapped(paragraph, width, hyphenates=hyphenates)):
            if row == rows:
                row, column = 0, column + 1
            if not pages or column == columns:
                pages.append(Page())
                row = column = 0
                if header is not None:
                    pages[-1].lines.append((MARGIN, PAGE_HEIGHT - 40, header))
            indent = paragraph.others if at else paragraph.first
            left = MARGIN + column * (width + GUTTER) + indent
            pages[-1].lines.append((left, PAGE_HEIGHT - MARGIN - LEADING * row, line))
            row += 1
    if is_numbered:
        for number, page in enumerate(pages, start=1):
            page.lines.append((PAGE_WIDTH / 2, 40, str(number)))
    return pages


def _wrapped(paragraph: Paragraph, width: float, *, hyphenates: bool) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in _words(paragraph.text):
        indent = paragraph.others if lines else paragraph.first
        room = int((width - indent) / CHAR_WIDTH)
        whole = f"{line} {word}".strip() if not _is_dense(word) else line + word
        if len(whole) * (2 if _is_dense(word) else 1) <= room:
            line = whole
            continue
        left = room - len(line) - 2
        if hyphenates and word.isalpha() and len(word) > 7 and left >= 3:
            cut = min(left, len(word) - 3)
            lines.append(f"{line} {word[:cut]}-")
            line = word[cut:]
            continue
        if line:
            lines.append(line)
        line = word
        while len(line) > room + 10:  # a link that no line can hold
            cut = line.rfind("/", 0, room) + 1 or room
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def _words(text: str) -> list[str]:
    words = []
    for word in text.split():
        words += list(word) if _is_dense(word) else [word]
    return words


def _is_dense(word: str) -> bool:
    return any("\u3000" <= each <= "\u9fff" for each in word)
