"""The lines of a PDF, by PDFium.

A PDF has no lines, only characters at places. PDFium puts them in the order of the page's content,
inserts the spaces and line breaks that the places imply, and marks hyphens at line ends.
"""

from __future__ import annotations

import ctypes
import re

import pypdfium2.raw as pdfium

from indexer.citations.lines import Line
from indexer.citations.packages import Unreadable

HYPHEN = "\ufffe"
"""What PDFium puts for a hyphen at the end of a line and the break after it."""

PAGES_MAX = 5000
PAGE_CHARS_MAX = 200_000
"""More than a page can show; what is beyond is not read."""

_BREAK = re.compile(f"[\n{HYPHEN}]")


def pdf_lines(data: bytes) -> list[Line]:
    """Every line with its left edge in points. Raises `Unreadable` for what is no PDF."""
    pdfium.FPDF_InitLibrary()
    document = pdfium.FPDF_LoadMemDocument64(data, len(data), None)
    if not document:
        raise Unreadable(f"no PDF that can be read (PDFium error {pdfium.FPDF_GetLastError()})")
    lines: list[Line] = []
    try:
        for number in range(min(pdfium.FPDF_GetPageCount(document), PAGES_MAX)):
            page = pdfium.FPDF_LoadPage(document, number)
            if page:
                lines += _page_lines(page, number)
                pdfium.FPDF_ClosePage(page)
    finally:
        pdfium.FPDF_CloseDocument(document)
    return lines


def _page_lines(page: pdfium.FPDF_PAGE, number: int) -> list[Line]:
    textpage = pdfium.FPDFText_LoadPage(page)
    if not textpage:
        return []
    try:
        count = min(pdfium.FPDFText_CountChars(textpage), PAGE_CHARS_MAX)
        units = (ctypes.c_ushort * (count + 1))()
        written = pdfium.FPDFText_GetText(textpage, 0, count, units)
        # The last unit is a zero.
        text = bytes(units)[: 2 * max(written - 1, 0)].decode("utf-16-le", errors="replace")
        lines, at = [], 0
        for line in _BREAK.split(text):
            stripped = line.strip()
            if stripped:
                first = at + len(line) - len(line.lstrip())
                ending = "-" if text[at + len(line) :][:1] == HYPHEN else ""
                lines.append(Line(stripped + ending, _left(textpage, first), number))
            at += len(line) + 1
    finally:
        pdfium.FPDFText_ClosePage(textpage)
    return lines


def _left(textpage: pdfium.FPDF_TEXTPAGE, at: int) -> float | None:
    left, baseline = ctypes.c_double(), ctypes.c_double()
    is_known = pdfium.FPDFText_GetCharOrigin(textpage, at, left, baseline)
    return left.value if is_known else None
