r"""References in LaTeX: BibTeX entries, `\bibitem`s, and its markup turned into plain text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from indexer.citations.identifiers import find_arxiv_id, normal_arxiv_id
from indexer.citations.reference import CitationSource, Reference, bounded

ENTRIES_MAX = 2000
ENTRY_CHARS_MAX = 20_000

_ENTRY = re.compile(r"@([A-Za-z]{2,30})\s*\{\s*[^\s,{}]{0,200}\s*,")
_NOT_WORKS = frozenset({"comment", "string", "preamble"})
_FIELD = re.compile(r"\s*,?\s*([A-Za-z][\w-]{0,40})\s*=\s*")
_ITEM = re.compile(r"\\bibitem(?:\[[^\]]{0,200}\])?\s*\{[^}]{0,200}\}")
_ITEMS_END = re.compile(r"\\end\s*\{thebibliography\}")
_COMMENT = re.compile(r"(\\(?:url|href)\s*\{[^}\n]{0,500}\})|(?<!\\)%[^\n]*")
"""In a link a percent sign stands for itself."""
_ACCENTED = re.compile(r"\\(['`^\"~=.cuvHrk])\s*\{?\s*(\\?[A-Za-z])\s*\}?")
_ACCENTS = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304",
    ".": "\u0307", "c": "\u0327", "u": "\u0306", "v": "\u030c", "H": "\u030b", "r": "\u030a",
    "k": "\u0328",
}  # fmt: skip
_LETTERS = {
    "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "o": "ø", "O": "Ø", "aa": "å",
    "AA": "Å", "l": "ł", "L": "Ł", "i": "i", "j": "j",
}  # fmt: skip
_LETTER = re.compile(r"\\(ss|ae|AE|oe|OE|aa|AA|[oOlLij])(?![A-Za-z])\s?(?:\{\})?")
_LINK = re.compile(r"\\(?:url|href)\s*\{([^}]{0,500})\}")
_ANGLE = re.compile(r"\$([<>])\$|\\text(less|greater)(?![A-Za-z])\s?(?:\{\})?")
"""Angle brackets outside of formulas, as DOIs of older articles have them."""
_COMMAND = re.compile(r"\\[A-Za-z]+\*?\s?")
_ESCAPED = re.compile(r"\\([&%$#_{}~^ -])")


def bibtex_references(text: str) -> list[Reference]:
    """The works of all BibTeX entries in a text."""
    found = []
    for kind, fields in _entries(text):
        if kind.lower() not in _NOT_WORKS:
            found.append(_reference(fields))
        if len(found) == ENTRIES_MAX:
            break
    return [each for each in found if each.title or each.doi or each.arxiv_id]


def bibitems(text: str) -> list[str]:
    r"""The texts of all `\bibitem`s, as plain text."""
    text = _COMMENT.sub(r"\1", text)
    starts = [(found.start(), found.end()) for found in _ITEM.finditer(text)][:ENTRIES_MAX]
    items = []
    for at, (_, begin) in enumerate(starts):
        end = starts[at + 1][0] if at + 1 < len(starts) else len(text)
        body = _ITEMS_END.split(text[begin:end])[0][:ENTRY_CHARS_MAX]
        items.append(plain_latex(body.replace("\\newblock", " ")))
    return [item for item in items if item]


def plain_latex(text: str) -> str:
    """Text without its markup; accents become letters."""
    text = _LINK.sub(r" \1 ", text)
    text = _ACCENTED.sub(_letter, text)
    text = _LETTER.sub(lambda found: _LETTERS[found[1]], text)
    text = _ANGLE.sub(lambda found: found[1] or ("<" if found[2] == "less" else ">"), text)
    text = _ESCAPED.sub(r"\1", text)
    text = _COMMAND.sub("", text)
    text = text.replace("``", "“").replace("''", "”").replace("---", "—").replace("--", "–")
    return " ".join(text.replace("~", " ").replace("{", "").replace("}", "").split())


def _letter(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", found[2].lstrip("\\") + _ACCENTS[found[1]])


def _entries(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    at = 0
    while (found := _ENTRY.search(text, at)) is not None:
        fields: dict[str, str] = {}
        at = found.end()
        limit = at + ENTRY_CHARS_MAX
        while at < limit and (field := _FIELD.match(text, at)) is not None:
            value, at = _value(text, field.end(), limit)
            fields.setdefault(field[1].lower(), value)
        yield found[1], fields


def _value(text: str, at: int, limit: int) -> tuple[str, int]:
    """A field's value from `at`, and where it ends: in braces, in quotation marks, or bare."""
    opening = text[at : at + 1]
    if opening not in {"{", '"'}:
        bare = re.compile(r"[^,}\n]{0,200}").match(text, at)
        end = bare.end() if bare is not None else at + 1
        return text[at:end].strip(), max(end, at + 1)
    depth = 0
    for position in range(at, min(len(text), limit)):
        character = text[position]
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        is_end = depth == 0 and position > at and character == ("}" if opening == "{" else '"')
        if is_end:
            return text[at + 1 : position], position + 1
    return "", limit


def _reference(fields: dict[str, str]) -> Reference:
    plain = {name: plain_latex(value) for name, value in fields.items()}
    year = re.search(r"(?:1[5-9]|20)\d\d", plain.get("year") or plain.get("date") or "")
    is_arxiv = (
        "arxiv" in " ".join((plain.get("archiveprefix", ""), plain.get("eprinttype", ""))).lower()
    )
    venue = next((plain[f] for f in _VENUES if plain.get(f)), None)
    authors = re.split(r"\s+and\s+", plain.get("author") or plain.get("editor") or "")
    return bounded(
        Reference(
            source=CitationSource.DOCUMENT,
            raw="; ".join(f"{name} = {value}" for name, value in plain.items()),
            title=plain.get("title"),
            authors=tuple(name for name in authors if name and name != "others"),
            year=int(year.group()) if year is not None else None,
            venue=venue,
            doi=plain.get("doi"),
            arxiv_id=(normal_arxiv_id(plain.get("eprint", "")) if is_arxiv else None)
            or find_arxiv_id(" ".join(plain.get(f, "") for f in _ARXIV_FIELDS)),
            pmid=plain.get("pmid"),
            pmcid=plain.get("pmcid"),
        )
    )


_VENUES = ("journal", "journaltitle", "booktitle", "publisher", "school", "institution")
_ARXIV_FIELDS = ("journal", "note", "howpublished", "url", "doi")
