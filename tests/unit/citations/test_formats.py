"""Documents that are no PDFs."""

from __future__ import annotations

import contextlib
import io
import json
import time
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.citations.extraction import FORMATS, TEXT_FORMATS, references_of_text
from indexer.citations.packages import Unreadable, parse_xml
from indexer.citations.reference import ReferenceList
from indexer.citations.tei import tei_references
from indexer.errors import InvalidUpstream
from tests.documents.hostile import laughing_docx

ONE = "Müller, A. (2019). Slow rivers of the plain. Open Hydrology, 3, 1-2. doi:10.1000/one"
TWO = "Roe, B., & Doe, C. (2001). Fast tides & their limits. Letters, 4, 5-6. arXiv:2001.00002"
FOUND = [
    ("Slow rivers of the plain", 2019, "10.1000/one", None),
    ("Fast tides & their limits", 2001, None, "2001.00002"),
]
ESCAPED = TWO.replace("&", "&amp;")


def packed(**members: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)
    return data.getvalue()


def rtf(text: str) -> str:
    return "".join(each if each.isascii() else f"\\u{ord(each)}?" for each in text)


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
DOCUMENTS = {
    "txt": "Body\n\nReferences\n\n" + ONE.replace("plain. ", "plain.\n")
    + f"\n\n{TWO}\n\nAppendix\n\nNo more.",
    "markdown": f"# Title\n\ntext\n\n## References\n\n- {ONE.replace('Slow rivers', '*Slow rivers*')}\n"
    f"- {TWO}\n\n## Notes\n\n- Not a reference, of 2020.",
    "latex": "\\section{A}\n\\begin{thebibliography}{9}\n\\bibitem{a} " + ONE.replace("ü", '\\"u')
    + "\n\\bibitem[R]{b} " + TWO.replace("&", "\\&") + "\n\\end{thebibliography}",
    "html": f"<html><head><title>References</title></head><body><h2>1 Body</h2><p>text</p>"
    f"<h2>References</h2><ol><li><p>{ONE}</p></li><li>{ESCAPED}</li></ol><h2>Appendix</h2>"
    "<p>Something of 2020 that is long.</p></body></html>",
    "rtf": "{\\rtf1{\\fonttbl{\\f0 Roman;}}\\pard Body\\par {\\b References}\\par "
    + rtf(ONE) + "\\par\n" + rtf(TWO) + "\\par}",
    "docx": packed(word__document_xml=f"<w:document {W}><w:body>" + "".join(
        f"<w:p><w:r><w:t>{each[:9]}</w:t></w:r><w:r><w:t>{each[9:]}</w:t></w:r></w:p>"
        for each in ("Body", "References", ONE, ESCAPED)) + "</w:body></w:document>"),
    "odt": packed(content_xml='<o:d xmlns:o="o" xmlns:text="t"><text:h>References</text:h>'
                  f"<text:p>{ONE[:9]}<text:span>{ONE[9:]}</text:span></text:p>"
                  f"<text:p>{ESCAPED}</text:p></o:d>"),
    "epub": packed(
        OEBPS__book_opf='<package><manifest><item id="b" href="b.xhtml"/><item id="a" href="a.xhtml"/>'
        '</manifest><spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
        OEBPS__b_xhtml=f"<h1>References</h1><p>{ONE}</p><p>{ESCAPED}</p>",
        OEBPS__a_xhtml="<h1>Body</h1><p>text</p>"),
    "jupyter": json.dumps({"cells": [
        {"cell_type": "code", "source": ["## References"]},
        {"cell_type": "markdown", "source": ["## References\n", "\n", f"1. {ONE}\n", f"2. {TWO}\n"]},
    ]}),
}  # fmt: skip


def data_of(form: str) -> bytes:
    document = DOCUMENTS[form]
    return document if isinstance(document, bytes) else document.encode()


def test_every_format_has_an_example():
    assert {*DOCUMENTS, "pdf"} == FORMATS


@pytest.mark.parametrize("form", DOCUMENTS)
def test_the_references_of_every_format_are_read(form: str):
    found = references_of_text(data_of(form), form)
    assert [(each.title, each.year, each.doi, each.arxiv_id) for each in found] == FOUND


@pytest.mark.parametrize(
    "written",
    [
        r"10.1175/1520-0469(1963)020$<$0130:DNF$>$2.0.CO;2",
        r"10.1175/1520-0469(1963)020{\textless}0130:DNF{\textgreater}2.0.CO;2",
        r"\url{https://doi.org/10.1175/1520-0469(1963)020%3C0130:DNF%3E2.0.CO;2}",
    ],
)
def test_angle_brackets_and_percent_signs_of_latex_cut_no_doi(written: str):
    """Else all articles of an issue would be one."""
    title = "Slow rivers of the plain"
    for text in (f"@article{{a, title={{{title}}}, doi={{{written}}}}}",
                 f"\\bibitem{{a}} A. Moreau, {title}, {written}. % checked"):  # fmt: skip
        [found] = references_of_text(text.encode(), "latex")
        assert found.doi == "10.1175/1520-0469(1963)020<0130:dnf>2.0.co;2"
        assert "checked" not in (found.raw or "")


def test_what_markdown_escapes_cuts_no_doi():
    """Else the chapters of a book would be one, and so would the articles of an issue."""
    dois = ("10.1007/978-3-030-12345-6_12", "10.1175/1520-0469(1963)020<0130:dnf>2.0.co;2")
    escaped = (doi.replace("_", r"\_").replace("<", r"\<").replace(">", r"\>") for doi in dois)
    entries = (f"{ONE.partition('doi:')[0]}doi:{each}" for each in escaped)
    text = "# References\n\n" + "\n\n".join(entries)
    assert tuple(each.doi for each in references_of_text(text.encode(), "markdown")) == dois


def test_bibtex_in_a_latex_document_has_the_first_word():
    text = "@article{a, title={Slow rivers of the plain}, year={2019}} \\bibitem{x} " + TWO
    (found,) = references_of_text(text.encode(), "latex")
    assert found.title == "Slow rivers of the plain"


@pytest.mark.parametrize("form", ["docx", "odt", "epub", "jupyter"])
def test_what_is_not_of_its_format_is_unreadable(form: str):
    with pytest.raises(Unreadable):
        references_of_text(b"garbage", form)


def test_xml_with_entities_is_refused():
    with pytest.raises(Unreadable):
        references_of_text(laughing_docx(), "docx")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_in_any_encoding(encoding: str):
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'
    with pytest.raises(Unreadable, match="document type"):
        parse_xml(text.encode(encoding))


@pytest.mark.parametrize("form", TEXT_FORMATS)
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
@settings(deadline=None, max_examples=12)
def test_any_bytes_give_references_or_are_unreadable(form: str, data: bytes):
    with contextlib.suppress(Unreadable):
        assert isinstance(references_of_text(data, form), list)


@pytest.mark.parametrize("form", ["docx", "odt", "epub", "rtf", "html"])
@given(at=st.integers(0, 10_000), junk=st.binary(min_size=1, max_size=8))
@settings(deadline=None, max_examples=12)
def test_a_damaged_document_gives_references_or_is_unreadable(form: str, at: int, junk: bytes):
    data = data_of(form)
    place = at % len(data)
    with contextlib.suppress(Unreadable):
        references_of_text(data[:place] + junk + data[place + len(junk) :], form)


@given(
    data=st.one_of(
        st.binary(max_size=200), st.text(max_size=200).map(lambda t: f"<a>{t}</a>".encode())
    )
)
@settings(deadline=None, max_examples=30)
def test_any_bytes_are_tei_or_refused(data: bytes):
    with contextlib.suppress(InvalidUpstream):
        assert isinstance(tei_references(data), ReferenceList)


@pytest.mark.parametrize("form", ["txt", "markdown", "latex"])
def test_found_by_fuzzing_a_line_of_links_takes_no_longer_than_its_length(form: str):
    lines = ["References", ONE, "see " + "https://doi.org/" * 600, TWO]
    started = time.process_time()
    references_of_text("\n".join(lines).encode(), form)
    assert time.process_time() - started < 1.0  # it took a minute
