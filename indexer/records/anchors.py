"""Comments on and links from passages: what `review.*` and `annotation.*` have in common.

Owns the declarations of the two comment types and the two entity link types, whose lexicons
differ in a few fields only.
"""

from __future__ import annotations

from indexer.derived import SqlValue
from indexer.protocol.cbor import encode_json
from indexer.records.projection import (
    Count,
    RecordContext,
    RecordType,
    SqlType,
    Value,
    computed,
    integer,
    json_text,
    mark,
    pick,
    text,
)
from indexer.records.rich_text import all_facets, plain_text

_LABEL_FIELDS = ("label", "displayName", "title", "identifier")
"""What the four kinds of linked entity call their label; the first that is there counts."""


def _facets(value: Value, _: RecordContext) -> SqlValue:
    facets = all_facets(value.get("body"))
    return encode_json(facets) if facets else None


def _body_plain_text(value: Value, _: RecordContext) -> SqlValue:
    return plain_text(value.get("body"))


def _page_number(value: Value, _: RecordContext) -> SqlValue:
    refined = pick(value, "target", "refinedBy")
    for page in (pick(refined, "pageNumber"), pick(refined, "boundingRect", "pageNumber")):
        if type(page) is int:
            return page
    return None


def _entity_label(value: Value, _: RecordContext) -> SqlValue:
    for name in _LABEL_FIELDS:
        label = pick(value, "linkedEntity", name)
        if isinstance(label, str) and label:
            return label
    return None


def _entity_type(value: Value, _: RecordContext) -> SqlValue:
    kind = pick(value, "linkedEntity", "type") or pick(value, "linkedEntity", "$type")
    return kind if isinstance(kind, str) else None


def comment_type(
    nsid: str, *, did_column: str, parent: tuple[str, str], counts: tuple[Count, ...], about: str
) -> RecordType:
    """A comment on an eprint; `parent` is the column and the field of what it replies to.

    `about` is the mark that it sets on the eprint. On its parent every comment sets `reply`.
    """
    column, field = parent
    return RecordType(
        nsid=nsid,
        did_column=did_column,
        own_columns=(
            text("eprint_uri", "eprintUri", is_indexed=True),
            json_text("body", "body"),
            computed("body_plain_text", SqlType.TEXT, _body_plain_text, "body"),
            computed("facets", SqlType.TEXT, _facets, "body"),
            json_text("anchor", "target"),
            computed("page_number", SqlType.INTEGER, _page_number, "target"),
            text("motivation_uri", "motivationUri"),
            text("motivation_fallback", "motivationFallback"),
            text("motivation", "motivationFallback", default="commenting"),
            text(column, field, is_indexed=True),
        ),
        marks=(mark(about, "eprintUri"), mark("reply", field)),
        counts=counts,
    )


def entity_link_type(nsid: str) -> RecordType:
    """A link from a passage of an eprint to an entity."""
    return RecordType(
        nsid=nsid,
        did_column="creator_did",
        own_columns=(
            text("eprint_uri", "eprintUri", is_indexed=True),
            json_text("anchor", "target"),
            computed("page_number", SqlType.INTEGER, _page_number, "target"),
            computed("entity_type", SqlType.TEXT, _entity_type, "linkedEntity"),
            json_text("entity_data", "linkedEntity"),
            computed("entity_label", SqlType.TEXT, _entity_label, "linkedEntity"),
            text("entity_uri", "linkedEntity", "uri", is_indexed=True),
            integer("confidence", "confidence"),
        ),
        marks=(mark("entity_link", "eprintUri"),),
    )
