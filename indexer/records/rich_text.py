"""Rich text -> plain text and facets.

Owns the reading order of the 16 item kinds of `pub.chive.richtext.defs`. An item's kind is its own
`type`, else the name in its `$type`, so that items of older revisions, which named the union of
their own document, read the same. Items of kinds that we do not know are skipped: unions are open.

Kinds inside a line follow each other without a separator, as their authors typed them; kinds that
make a block stand on lines of their own, so that no two words grow together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from indexer.records.projection import Value, objects

_BLOCKS = frozenset({"codeBlock", "heading", "listItem", "blockquote"})


def plain_text(items: object) -> str:
    """What a reader of the rich text list sees, without formatting; "" for anything else."""
    parts: list[str] = []
    is_line_open = False
    for item in objects(items):
        kind = _kind(item)
        read = _READERS.get(kind)
        said = read(item) if read is not None else ""
        if not said:
            continue
        is_block = kind in _BLOCKS or (kind == "latex" and item.get("displayMode") is True)
        if parts and (is_block or not is_line_open):
            parts.append("\n")
        parts.append(said)
        is_line_open = not is_block
    return "".join(parts)


def all_facets(items: object) -> list[Value]:
    """The facets of all items, one after the other; byte ranges stay those of their item."""
    return [facet for item in objects(items) for facet in objects(item.get("facets"))]


def _kind(item: Value) -> str:
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    name = item.get("$type")
    return name.rpartition("#")[2].removesuffix("Item") if isinstance(name, str) else ""


def _field(*names: str, prefix: str = "") -> Callable[[Value], str]:
    """A reader of the first of the named fields that holds text."""

    def read(item: Value) -> str:
        for name in names:
            found = item.get(name)
            if isinstance(found, str) and found:
                return prefix + found
        return ""

    return read


def _read_mention(item: Value) -> str:
    handle = item.get("handle")
    if isinstance(handle, str) and handle:
        return "@" + handle
    did = item.get("did")
    return did if isinstance(did, str) else ""


_READERS: Mapping[str, Callable[[Value], str]] = {
    "text": _field("content"),
    "nodeRef": _field("label"),
    "wikidataRef": _field("label", "qid"),
    "fieldRef": _field("label"),
    "facetRef": _field("label"),
    "eprintRef": _field("label"),
    "annotationRef": _field("label"),
    "authorRef": _field("label"),
    "mention": _read_mention,
    "link": _field("label", "url"),
    "tag": _field("tag", prefix="#"),
    "latex": _field("content"),
    "codeBlock": _field("content"),
    "heading": _field("content"),
    "list": _field("content"),
    "listItem": _field("content"),
    "blockquote": _field("content"),
}
