"""Documents that are meant to do harm."""

from __future__ import annotations

import io
import zipfile
import zlib

from tests.documents.pdf import assemble, stream


def endless_pdf(pages: int = 500, size: int = 24_000_000) -> bytes:
    """Pages that all have the same content: millions of operators that come to nothing."""
    kids = b" ".join(b"%d 0 R" % (at + 4) for at in range(pages))
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 3 0 R>>"
    return assemble(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count %d/Kids[%s]>>" % (pages, kids),
            stream(b"q Q " * (size // 4)),
            *[page] * pages,
        ]
    )


def swollen_pdf(size: int = 600_000_000) -> bytes:
    """A page whose content unpacks to more than a process may have."""
    packer = zlib.compressobj(6)
    parts = [packer.compress(b"0 " * 5_000_000) for _ in range(size // 10_000_000)]
    packed = b"".join([*parts, packer.flush()])
    return assemble(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R>>",
            b"<</Length %d/Filter/FlateDecode>>stream\n%s\nendstream" % (len(packed), packed),
        ]
    )


def swollen_docx(size: int = 80_000_000) -> bytes:
    """An archive of some kilobytes whose document is megabytes of one letter."""
    data = io.BytesIO()
    with (
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("word/document.xml", "w", force_zip64=True) as member,
    ):
        member.write(b"<d><p><t>")
        for _ in range(size // 10_000_000):
            member.write(b"a" * 10_000_000)
        member.write(b"</t></p></d>")
    return data.getvalue()


def laughing_docx() -> bytes:
    """XML whose entities unfold without end."""
    levels = b"".join(
        b'<!ENTITY l%d "%s">' % (level, b"&l%d;" % (level - 1) * 10) for level in range(1, 12)
    )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "word/document.xml",
            b'<!DOCTYPE d [<!ENTITY l0 "ha">' + levels + b"]><d><p><t>&l11;</t></p></d>",
        )
    return data.getvalue()
