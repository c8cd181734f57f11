"""A writer of small PDFs: lines of text at given places, in any script.

Latin text is in Helvetica with WinAnsi encoding, everything else in a composite font whose codes
are the characters themselves, with the map that says so. Nothing is embedded: who reads the text
needs no glyphs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PAGE_WIDTH, PAGE_HEIGHT = 612.0, 792.0
SIZE, LEADING = 10.0, 12.0
CHAR_WIDTH = 5.0
"""What a character takes on average, in points, at `SIZE`."""


@dataclass
class Page:
    """Lines as (left, baseline, text), in the order in which they are drawn."""

    lines: list[tuple[float, float, str]] = field(default_factory=list)


def write_pdf(pages: Sequence[Page], *, is_compressed: bool = True) -> bytes:
    """The bytes of a document with these pages."""
    objects: list[bytes] = [b"<</Type/Catalog/Pages 2 0 R>>", b""]
    fonts = len(pages) * 2 + 3
    kids = []
    for page in pages:
        number = len(objects) + 1
        kids.append(b"%d 0 R" % number)
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]/Contents %d 0 R"
            b"/Resources<</Font<</F1 %d 0 R/F2 %d 0 R>>>>>>"
            % (PAGE_WIDTH, PAGE_HEIGHT, number + 1, fonts, fonts + 1)
        )
        objects.append(stream(_content(page), is_compressed=is_compressed))
    objects[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), b" ".join(kids))
    objects += [
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
        (
            b"<</Type/Font/Subtype/Type0/BaseFont/Unseen/Encoding/Identity-H"
            b"/DescendantFonts[%d 0 R]/ToUnicode %d 0 R>>" % (fonts + 2, fonts + 3)
        ),
        b"<</Type/Font/Subtype/CIDFontType2/BaseFont/Unseen/DW 500"
        b"/CIDSystemInfo<</Registry(Adobe)/Ordering(Identity)/Supplement 0>>"
        b"/FontDescriptor %d 0 R>>" % (fonts + 4),
        stream(_TO_UNICODE, is_compressed=is_compressed),
        (
            b"<</Type/FontDescriptor/FontName/Unseen/Flags 4/FontBBox[0 -200 1000 900]/ItalicAngle 0"
            b"/Ascent 900/Descent -200/CapHeight 700/StemV 80>>"
        ),
    ]
    return assemble(objects)


def assemble(objects: Iterable[bytes]) -> bytes:
    """A file of numbered objects, the first of which is the catalog."""
    data = bytearray(b"%PDF-1.5\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, start)
    return bytes(data)


def stream(content: bytes, *, is_compressed: bool = True) -> bytes:
    """A stream object's body."""
    packed = zlib.compress(content) if is_compressed else content
    how = b"/Filter/FlateDecode" if is_compressed else b""
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(packed), how, packed)


def _content(page: Page) -> bytes:
    parts = [b"BT"]
    for left, baseline, text in page.lines:
        parts.append(b"1 0 0 1 %.2f %.2f Tm" % (left, baseline))
        try:
            plain = text.encode("cp1252")
            escaped = plain.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
            parts.append(b"/F1 %.1f Tf (%s) Tj" % (SIZE, escaped))
        except UnicodeEncodeError:
            parts.append(b"/F2 %.1f Tf <%s> Tj" % (SIZE, text.encode("utf-16-be").hex().encode()))
    return b"\n".join([*parts, b"ET"])


_TO_UNICODE = (
    b"""/CIDInit /ProcSet findresource begin 12 dict begin begincmap
/CMapName /Unseen def /CMapType 2 def
1 begincodespacerange <0000> <FFFF> endcodespacerange
"""
    + b"".join(
        b"%d beginbfrange\n%s\nendbfrange\n"
        % (
            len(block),
            b"\n".join(b"<%02X00> <%02XFF> <%02X00>" % (high, high, high) for high in block),
        )
        for block in (range(100), range(100, 200), range(200, 216), range(224, 256))
    )
    + b"endcmap CMapName currentdict /CMap defineresource pop end end\n"
)
