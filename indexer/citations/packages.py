"""Formats that are containers: DOCX, ODT and EPUB in ZIP archives, notebooks in JSON.

Everything in them is read up to a bound, whatever the archive claims of its sizes, and XML with a
document type of its own is refused: what entities can do is of no use here.
"""

from __future__ import annotations

import io
import json
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from indexer.citations.markup import html_lines, markdown_lines
from indexer.errors import Check, InvalidUpstream

UNPACKED_BYTES_MAX = 64 * 1024 * 1024
"""Of all members together that are looked at."""

MEMBERS_MAX = 5000


class Unreadable(InvalidUpstream):
    """A document that is not what its format says."""

    def __init__(self, detail: str) -> None:
        super().__init__(Check.RECORD, detail)


class _Package:
    """A ZIP archive whose members are read within one budget."""

    def __init__(self, data: bytes) -> None:
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise Unreadable(f"no ZIP archive: {error}") from error
        self.names = self._archive.namelist()[:MEMBERS_MAX]
        self._left = UNPACKED_BYTES_MAX

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises `Unreadable` for one that is absent, broken or too large."""
        try:
            with self._archive.open(name) as member:
                data = member.read(self._left + 1)
        except (
            KeyError, zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError,
            EOFError, ValueError,
        ) as error:  # fmt: skip
            raise Unreadable(f"member {name[:100]!r}: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable(f"more than {UNPACKED_BYTES_MAX} bytes unpacked")
        return data

    def xml(self, name: str) -> ET.Element:
        """A member as XML."""
        return parse_xml(self.read(name))


class _Plain(ET.TreeBuilder):
    """Ends at a document type, before what it declares is read, in whatever encoding."""

    def doctype(self, *_: str | None) -> None:
        raise Unreadable("XML with a document type")


def parse_xml(data: bytes) -> ET.Element:
    """The root element. Raises `Unreadable` for anything that is not plain XML."""
    try:
        parser = ET.XMLParser(target=_Plain())  # noqa: S314 - no document type, as said above
        return ET.fromstring(data, parser)  # noqa: S314
    except (ET.ParseError, ValueError, LookupError) as error:
        raise Unreadable(f"XML: {error}") from error


def docx_lines(data: bytes) -> list[str]:
    """The paragraphs of the main document."""
    return list(_paragraphs(_Package(data).xml("word/document.xml"), "p"))


def odt_lines(data: bytes) -> list[str]:
    """The paragraphs and headings of the content."""
    root = _Package(data).xml("content.xml")
    lines = []
    for element in root.iter():
        if _local(element.tag) in {"p", "h"}:
            text = " ".join("".join(_odt_texts(element)).split())
            if text:
                lines.append(text)
    return lines


def epub_lines(data: bytes) -> list[str]:
    """The text of all chapters, in reading order where the book gives one."""
    package = _Package(data)
    lines: list[str] = []
    for name in _chapters(package):
        lines += html_lines(package.read(name).decode(errors="replace"))
    return lines


def notebook_lines(data: bytes) -> list[str]:
    """The lines of all Markdown cells."""
    try:
        notebook = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"no notebook: {error}"[:200]) from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    lines: list[str] = []
    for cell in cells if isinstance(cells, list) else []:
        if isinstance(cell, dict) and cell.get("cell_type") == "markdown":
            source = cell.get("source")
            parts = source if isinstance(source, list) else [source]
            text = "".join(part for part in parts if isinstance(part, str))
            lines += ["", *markdown_lines(text)]
    return lines


def _local(tag: object) -> str:
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _paragraphs(root: ET.Element, name: str) -> Iterator[str]:
    for paragraph in root.iter():
        if _local(paragraph.tag) != name:
            continue
        parts = []
        for element in paragraph.iter():
            kind = _local(element.tag)
            if kind == "t":
                parts.append(element.text or "")
            elif kind in {"tab", "br", "cr"}:
                parts.append(" ")
            elif kind == "noBreakHyphen":
                parts.append("-")
        text = " ".join("".join(parts).split())
        if text:
            yield text


def _odt_texts(element: ET.Element) -> Iterator[str]:
    for each in element.iter():
        if each is not element and _local(each.tag) in {"s", "tab", "line-break"}:
            yield " "
        yield each.text or ""
        if each is not element:
            yield each.tail or ""


def _chapters(package: _Package) -> list[str]:
    books = [name for name in package.names if name.endswith(".opf")]
    pages = [name for name in package.names if name.endswith((".xhtml", ".html", ".htm"))]
    if not books:
        return pages
    root = package.xml(books[0])
    folder = posixpath.dirname(books[0])
    files = {
        item.get("id"): posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "")))
        for item in root.iter()
        if _local(item.tag) == "item"
    }
    order = [files.get(ref.get("idref")) for ref in root.iter() if _local(ref.tag) == "itemref"]
    known = [name for name in order if name in pages]
    return [name for name in known if name is not None] or pages
