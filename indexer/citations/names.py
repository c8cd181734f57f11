"""Names of authors before a title, taken apart as far as their style allows."""

from __future__ import annotations

import re

from indexer.citations.identifiers import is_dense

HEAD_CHARS_MAX = 2000

_STRONG = re.compile(r"\s*;\s*|\s+(?:and|und|et|y|e|og)\s+|\s*&\s*|、|，")
_INITIALS = re.compile(r"(?:[^\W\d_a-z]\.?[\s-]?){1,4}")
_NOISE = re.compile(r"\(?\b(?:eds?|editors?|hrsg)\b\.?\)?|\bet\s+al\.?|\.\.\.|…", re.IGNORECASE)
_PLAUSIBLE = re.compile(r"[^\W\d_][^\d:/]{1,80}")
NAME_WORDS_MAX = 6


def split_names(head: str) -> tuple[str, ...]:
    """The names in the part of an entry before its title or year, as they are written."""
    text = _NOISE.sub(" ", head[:HEAD_CHARS_MAX])
    names: list[str] = []
    for part in _STRONG.split(text):
        names += _of_list(part)
    return tuple(dict.fromkeys(name for name in map(_tidied, names) if _is_name(name)))


def _of_list(text: str) -> list[str]:
    """`Smith, J., Doe, A. B.` are two names, and so are `J. Smith, A. B. Doe`."""
    pieces = [piece.strip() for piece in text.split(",") if piece.strip(" .")]
    names: list[str] = []
    at = 0
    while at < len(pieces):
        piece = pieces[at]
        following = pieces[at + 1] if at + 1 < len(pieces) else ""
        if _INITIALS.fullmatch(following) and not _INITIALS.fullmatch(piece):
            names.append(f"{piece}, {following}")
            at += 2
        else:
            names.append(piece)
            at += 1
    if len(names) == len(pieces) == 2 and not is_dense(text) and " " not in pieces[0].strip():  # noqa: PLR2004 - Surname, Given
        return [", ".join(pieces)]
    return names


def _tidied(name: str) -> str:
    name = name.strip().strip(",;:&()").strip()
    return name if re.search(r"(?:^|[\s.-])[^\W\d_a-z]\.$", name) else name.rstrip(".")


def _is_name(name: str) -> bool:
    return _PLAUSIBLE.fullmatch(name) is not None and len(name.split()) <= NAME_WORDS_MAX
