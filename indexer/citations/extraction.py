"""From a document to the references in it: what runs in the document's own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from indexer.citations.bibtex import bibitems, bibtex_references, plain_latex
from indexer.citations.entries import split_entries
from indexer.citations.headings import reference_section
from indexer.citations.lines import Line, without_furniture
from indexer.citations.markup import html_lines, markdown_lines, rtf_lines
from indexer.citations.packages import docx_lines, epub_lines, notebook_lines, odt_lines
from indexer.citations.parsing import is_reference, parse_reference
from indexer.citations.reference import Reference

EXTRACTOR_VERSION = 2
"""Raised whenever a document would give other references: then all are read again."""

LINES_MAX = 400_000

PDF = "pdf"


def references_of_lines(lines: Sequence[Line], *, is_wrapped: bool) -> list[Reference]:
    """The references of a document given as lines; `is_wrapped` where a page's width broke them."""
    section = reference_section(without_furniture(lines[-LINES_MAX:]))
    parsed = map(parse_reference, split_entries(section, is_wrapped=is_wrapped))
    return [each for each in parsed if is_reference(each)]


def references_of_text(data: bytes, form: str) -> list[Reference]:
    """The references of a document in one of `TEXT_FORMATS`.

    Raises `packages.Unreadable` where the bytes are not of that format.
    """
    return TEXT_FORMATS[form](data)


def _wrapped(read: Callable[[str], list[str]]) -> Callable[[bytes], list[Reference]]:
    """A format whose authors may break lines, and which has blank ones."""

    def references(data: bytes) -> list[Reference]:
        lines = [_indented(line) for line in read(decoded(data))]
        return references_of_lines(lines, is_wrapped=True)

    return references


def _unwrapped(read: Callable[[bytes], list[str]]) -> Callable[[bytes], list[Reference]]:
    """A format in which every paragraph is a line."""

    def references(data: bytes) -> list[Reference]:
        return references_of_lines([Line(line) for line in read(data)], is_wrapped=False)

    return references


def _latex(data: bytes) -> list[Reference]:
    text = decoded(data)
    entries = bibtex_references(text)
    if entries:
        return entries
    items = [parse_reference(item) for item in bibitems(text)]
    if items:
        return [each for each in items if is_reference(each)]
    lines = [Line(plain_latex(line)) for line in text.splitlines()]
    return references_of_lines(lines, is_wrapped=True)


def _notebook(data: bytes) -> list[Reference]:
    lines = [_indented(line) for line in notebook_lines(data)]
    return references_of_lines(lines, is_wrapped=True)


def decoded(data: bytes) -> str:
    """Text in UTF-8 or UTF-16 with a mark, or else in Windows-1252, which everything can be."""
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _indented(text: str) -> Line:
    stripped = text.expandtabs(4).lstrip()
    left = len(text.expandtabs(4)) - len(stripped)
    # Columns of a typewriter, about as wide as points on a page.
    return Line(text.strip(), left * 5.0 if stripped else None)


TEXT_FORMATS: dict[str, Callable[[bytes], list[Reference]]] = {
    "txt": _wrapped(str.splitlines),
    "markdown": _wrapped(markdown_lines),
    "latex": _latex,
    "html": _unwrapped(lambda data: html_lines(decoded(data))),
    "rtf": _unwrapped(lambda data: rtf_lines(data.decode("latin-1"))),
    "docx": _unwrapped(docx_lines),
    "odt": _unwrapped(odt_lines),
    "epub": _unwrapped(epub_lines),
    "jupyter": _notebook,
}
"""Formats besides PDF, by the slugs of `pub.chive.defs#documentFormat`."""

FORMATS = frozenset({PDF, *TEXT_FORMATS})
