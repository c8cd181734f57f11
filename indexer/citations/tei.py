"""What GROBID answers: TEI with a `biblStruct` for each reference."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from indexer.citations.packages import parse_xml
from indexer.citations.reference import (
    REFERENCES_MAX,
    CitationSource,
    Reference,
    ReferenceList,
    bounded,
)

_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
_MONOGRAPH = "monogr"


def tei_references(data: bytes) -> ReferenceList:
    """The references in an answer. Raises `InvalidUpstream` for what is not plain XML."""
    root = parse_xml(data)
    structures = [each for each in root.iter() if _name(each) == "biblStruct"]
    # The document's own description comes in one too, but not in the list.
    listed = {id(each) for group in root.iter() if _name(group) == "listBibl" for each in group}
    wanted = [each for each in structures if not listed or id(each) in listed]
    found = [_reference(each) for each in wanted[:REFERENCES_MAX]]
    return ReferenceList(
        [each for each in found if each.match_keys() or each.raw is not None],
        max(len(wanted) - REFERENCES_MAX, 0),
    )


def _reference(structure: ET.Element) -> Reference:
    titles = [each for each in structure.iter() if _name(each) == "title"]
    main = [each for each in titles if each.get("level") == "a"]
    monograph = [each for each in titles if each.get("level") in {"m", "j", "s"}]
    title = _first(main) or _first(monograph)
    venue = _first(monograph) if main else None
    ids = {
        (each.get("type") or "").lower(): _text(each)
        for each in structure.iter()
        if _name(each) == "idno"
    }
    return bounded(
        Reference(
            source=CitationSource.GROBID,
            raw=_first(
                each
                for each in structure.iter()
                if _name(each) == "note" and each.get("type") == "raw_reference"
            ),
            title=title,
            authors=tuple(_authors(structure)),
            year=_year(structure),
            venue=venue,
            doi=ids.get("doi"),
            arxiv_id=ids.get("arxiv"),
            pmid=ids.get("pmid"),
            pmcid=ids.get("pmcid"),
        )
    )


def _authors(structure: ET.Element) -> Iterable[str]:
    groups = [each for each in structure if _name(each) in {"analytic", _MONOGRAPH}]
    for group in groups:
        names = [_person(each) for each in group if _name(each) == "author"]
        found = [name for name in names if name]
        if found:
            return found
    return []


def _person(author: ET.Element) -> str:
    parts = [
        _text(each)
        for wanted in ("forename", "surname")
        for each in author.iter()
        if _name(each) == wanted
    ]
    return " ".join(part for part in parts if part) or _text(author) or ""


def _year(structure: ET.Element) -> int | None:
    for date in (each for each in structure.iter() if _name(each) == "date"):
        found = _YEAR.search(date.get("when") or "") or _YEAR.search(_text(date) or "")
        if found is not None:
            return int(found.group())
    return None


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _text(element: ET.Element) -> str | None:
    return " ".join("".join(element.itertext()).split()) or None


def _first(elements: Iterable[ET.Element]) -> str | None:
    return next((text for each in elements if (text := _text(each)) is not None), None)
