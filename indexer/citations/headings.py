"""Where in a document its list of references lies."""

from __future__ import annotations

import re
from collections.abc import Sequence

from indexer.citations.lines import Line

HEADING_CHARS_MAX = 60

_TERMS = (
    "references", "references and notes", "references cited", "list of references", "bibliography",
    "works cited", "cited works", "literature", "literature cited", "cited literature",
    "notes and references", "selected bibliography",
    "références", "références bibliographiques", "bibliographie", "literatur",
    "literaturverzeichnis", "referencias", "referencias bibliográficas", "bibliografía",
    "bibliografia", "referências", "referências bibliográficas", "riferimenti bibliografici",
    "riferimenti", "literatuur", "referenser", "litteratur", "литература", "список литературы",
    "список використаних джерел",
    "参考文献", "參考文獻", "参考资料", "引用文献", "참고문헌", "المراجع",
)  # fmt: skip
_ENDS = (
    "appendix", "appendices", "acknowledgments", "acknowledgements", "acknowledgment",
    "supplementary material", "supplementary materials", "supplementary information",
    "supporting information", "author contributions", "about the authors", "about the author",
    "competing interests", "conflict of interest", "data availability", "figures", "tables",
    "figure legends", "endnotes", "biographies", "annexe", "anhang", "приложение", "附录",
)  # fmt: skip
_NUMBERING = r"(?:#{1,6}\s*)?(?:(?:\d{1,2}(?:\.\d{1,2})*|[ivxlc]{1,6}|[a-h])[.):]?\s+)?"
_HEADING = re.compile(
    rf"{_NUMBERING}(?:{'|'.join(map(re.escape, _TERMS))})\s*[.:：]?\s*#*", re.IGNORECASE
)
_END = re.compile(
    rf"{_NUMBERING}(?:{'|'.join(map(re.escape, _ENDS))})(?:\s+[a-z0-9])?"
    r"(?:\s*[.:–—-]\s*.{0,40}|\s*)",
    re.IGNORECASE,
)
_APPENDIX = re.compile(r"(?:#{1,6}\s*)?appendix\s+[a-z0-9]{1,3}\b.{0,40}", re.IGNORECASE)
_MARKDOWN_HEADING = re.compile(r"#{1,6}\s+\S")
_FIRST_LABEL = re.compile(r"\[1\]\s+\S")
_LABEL = re.compile(r"\[(\d{1,3})\]\s+\S")
_SPACED_LETTERS = re.compile(r"(?:\w )+\w")
LABELS_MIN = 3


def reference_section(lines: Sequence[Line]) -> Sequence[Line]:
    """The lines after the last heading that announces references, up to where they end.

    A document without such a heading may still close with entries that are numbered in brackets.
    """
    starts = [at for at, line in enumerate(lines) if is_heading(line.text)]
    start = starts[-1] + 1 if starts else _numbered_start(lines)
    if start is None:
        return ()
    section = lines[start:]
    end = next((at for at, line in enumerate(section) if _is_end(line.text)), len(section))
    return section[:end]


def is_heading(text: str) -> bool:
    """Whether a line is a heading for references and nothing else."""
    text = text.strip().strip("*_").strip()
    if len(text) > HEADING_CHARS_MAX:
        return False
    if _SPACED_LETTERS.fullmatch(text):  # as in R E F E R E N C E S
        text = text.replace(" ", "")
    return _HEADING.fullmatch(text) is not None


def _is_end(text: str) -> bool:
    text = text.strip()
    if len(text) > HEADING_CHARS_MAX:
        return False
    return any(each.fullmatch(text) for each in (_END, _APPENDIX)) or (
        _MARKDOWN_HEADING.match(text) is not None
    )


def _numbered_start(lines: Sequence[Line]) -> int | None:
    starts = [at for at, line in enumerate(lines) if _FIRST_LABEL.match(line.text.strip())]
    if not starts:
        return None
    wanted = 1
    for line in lines[starts[-1] :]:
        found = _LABEL.match(line.text.strip())
        if found is not None and int(found[1]) == wanted:
            wanted += 1
    return starts[-1] if wanted > LABELS_MIN else None
