"""Text formats without a container: HTML, Markdown, RTF, as lines of plain text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

TEXT_CHARS_MAX = 20_000_000

_BLOCKS = frozenset({
    "address", "article", "blockquote", "body", "br", "dd", "div", "dl", "dt", "footer", "h1", "h2",
    "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre", "section", "table",
    "td", "th", "tr", "ul",
})  # fmt: skip
_SILENT = frozenset({"script", "style", "head", "template", "noscript"})
_ITEMS = frozenset({"li", "p", "dd", "div", "td"})


class _Text(HTMLParser):
    """Collects the text of blocks, one line each; a list item keeps together what it holds."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self._parts: list[str] = []
        self._silent = 0
        self._items = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        elif tag == "li":
            self.end_line()
            self._items += 1
        elif tag in _BLOCKS:
            self._break()
        elif tag == "a":
            link = dict(attrs).get("href") or ""
            if "doi.org/10." in link or "arxiv.org/" in link:
                self._parts.append(f" {link} ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(self._silent - 1, 0)
        elif tag == "li":
            self.end_line()
            self._items = max(self._items - 1, 0)
        elif tag in _BLOCKS:
            self._break()

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._parts.append(data)

    def _break(self) -> None:
        """Blocks within an item are parts of one entry."""
        if self._items:
            self._parts.append(" ")
        else:
            self.end_line()

    def end_line(self) -> None:
        """What was collected is a line."""
        text = " ".join("".join(self._parts).split())
        self._parts = []
        if text:
            self.lines.append(text)


def html_lines(text: str) -> list[str]:
    """The text of each block, in the order of the document."""
    parser = _Text()
    parser.feed(text[:TEXT_CHARS_MAX])
    parser.close()
    parser.end_line()
    return parser.lines


_MD_LINK = re.compile(r"!?\[([^\[\]]{0,500})\]\(<?([^()\s<>]{0,500})>?(?:\s+\"[^\"]{0,200}\")?\)")
_MD_AUTOLINK = re.compile(r"<(https?://[^<>\s]{1,500})>")
_MD_EMPHASIS = re.compile(
    r"(?<![\w*])(\*\*\*|\*\*|\*|__|_)(?=\S)([^*_\n]{1,500})(?<=\S)\1(?![\w*])"
)
_MD_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_MD_BULLET = re.compile(r"^(\s{0,12})(?:[-*+]\s+|\[\^([^\]]{1,40})\]:\s*)")


def markdown_lines(text: str) -> list[str]:
    """Its lines without emphasis, links, escapes; for the bullet of an item stands a blank line."""
    lines: list[str] = []
    for line in text[:TEXT_CHARS_MAX].splitlines():
        bullet = _MD_BULLET.match(line)
        if bullet is not None:
            lines.append("")
            line = line[bullet.end() :]  # noqa: PLW2901 - the rest of the same line
        line = _MD_LINK.sub(_link_text, line)  # noqa: PLW2901 - the same line
        line = _MD_AUTOLINK.sub(r"\1", line)  # noqa: PLW2901 - the same line
        line = _MD_EMPHASIS.sub(r"\2", line)  # noqa: PLW2901 - the same line
        lines.append(_MD_ESCAPED.sub(r"\1", line))
    return lines


def _link_text(found: re.Match[str]) -> str:
    text, link = found[1], found[2]
    return text if link in text or not link.startswith("http") else f"{text} {link}"


_RTF = re.compile(
    r"\\u(-?\d{1,6})[ ]?(?:\\'[0-9a-f]{2}|\?)?"  # a character, and one for older readers
    r"|\\'([0-9a-f]{2})"
    r"|\\([a-z]{1,32})(-?\d{1,10})?[ ]?"
    r"|\\([^a-z])"
    r"|([{}])|[\r\n]+|([^\\{}\r\n]+)",
    re.IGNORECASE,
)
_RTF_SILENT = frozenset({
    "fonttbl", "colortbl", "stylesheet", "info", "pict", "object", "header", "footer", "headerl",
    "headerr", "footerl", "footerr", "listtable", "listoverridetable", "generator", "themedata",
    "datastore", "fldinst", "xmlnstbl", "rsidtbl", "latentstyles",
})  # fmt: skip
_RTF_BREAKS = frozenset({"par", "line", "sect", "page", "row"})
_RTF_CHARACTERS = {
    "tab": " ", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "ldblquote": "“",
    "rdblquote": "”", "bullet": "•", "cell": " ",
}  # fmt: skip


def rtf_lines(text: str) -> list[str]:
    """Its paragraphs. Characters beyond ASCII are Windows-1252, or as written in Unicode."""
    lines, parts = [], list[str]()
    silent = [False]
    for found in _RTF.finditer(text[:TEXT_CHARS_MAX]):
        code, octet, word, _, symbol, brace, plain = found.groups()
        if brace == "{":
            silent.append(silent[-1])
        elif brace == "}":
            silent = silent[:-1] if len(silent) > 1 else silent
        elif symbol == "*" or (word or "").lower() in _RTF_SILENT:
            silent[-1] = True
        elif silent[-1]:
            continue
        elif word in _RTF_BREAKS:
            lines.append("".join(parts))
            parts = []
        elif code is not None:
            parts.append(chr(int(code) % 0x10000))
        elif octet is not None:
            parts.append(bytes([int(octet, 16)]).decode("cp1252", errors="replace"))
        elif symbol is not None:
            parts.append({"~": " ", "_": "-", "\n": "\n"}.get(symbol, symbol))
        else:
            parts.append(_RTF_CHARACTERS.get(word or "", "") or plain or "")
    lines.append("".join(parts))
    return [" ".join(line.split()) for line in lines if line.strip()]
