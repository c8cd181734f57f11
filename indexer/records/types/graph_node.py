"""Nodes of the knowledge graph: the governance account's are the authority, others personal.

A personal node of subkind `collection` is a collection; its columns are filled for every node.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.derived import Mark, SqlValue
from indexer.records.projection import (
    LABEL_MARK,
    Count,
    RecordContext,
    RecordType,
    SideColumn,
    SideTable,
    SqlType,
    Value,
    computed,
    json_text,
    pick,
    text,
    texts,
    without_nul,
)

_VISIBILITY = {
    "listed": "listed",
    "public": "listed",
    "unlisted": "unlisted",
    "private": "unlisted",
}
"""Words of older clients beside today's two."""


def _authority(_: Value, context: RecordContext) -> SqlValue:
    return int(context.is_authority)


def _visibility(value: Value, _: RecordContext) -> SqlValue:
    """Only a collection has one; what is not said to be listed is unlisted."""
    if value.get("subkind") != "collection":
        return None
    return _VISIBILITY.get(str(pick(value, "metadata", "visibility")), "unlisted")


ORDERED_MAX = 500
"""No lexicon bounds the list, and each of its items is a row that the writer makes at once."""


def _item_order(value: Value, _: RecordContext) -> Iterable[tuple[SqlValue, ...]]:
    """The edges of a collection in its owner's order, the first of them."""
    if value.get("subkind") == "collection":
        for edge_uri in texts(pick(value, "metadata", "itemOrder"))[:ORDERED_MAX]:
            yield (edge_uri,)


def _own_label(value: Value, context: RecordContext) -> Iterable[Mark]:
    yield Mark(LABEL_MARK, context.uri, without_nul(str(value.get("label", ""))))


RECORD_TYPE = RecordType(
    nsid="pub.chive.graph.node",
    did_column="owner_did",
    own_columns=(
        computed("authority", SqlType.INTEGER, _authority),
        text("node_id", "id", is_indexed=True),
        text("slug", "slug", is_indexed=True),
        text("kind", "kind"),
        text("subkind", "subkind", is_indexed=True),
        text("subkind_uri", "subkindUri"),
        text("label", "label"),
        json_text("alternate_labels", "alternateLabels"),
        text("description", "description"),
        json_text("external_ids", "externalIds"),
        json_text("metadata", "metadata"),
        text("status", "status"),
        text("deprecated_by", "deprecatedBy"),
        text("proposal_uri", "proposalUri"),
        text("created_by", "createdBy"),
        text("updated_at", "updatedAt"),
        computed("visibility", SqlType.TEXT, _visibility, "metadata"),
        json_text("tags", "metadata", "tags"),
        json_text("item_order", "metadata", "itemOrder"),
    ),
    side_tables=(
        SideTable("collection_order", (SideColumn("edge_uri", is_indexed=True),), _item_order),
    ),
    marks=(_own_label,),
    feeds_search=True,
    counts=(Count("eprint_count", "field"),),
)
