"""Edges of the knowledge graph; personal ones also put items and sub-collections in collections."""

from __future__ import annotations

from indexer.derived import SqlValue
from indexer.records.projection import (
    RecordContext,
    RecordType,
    SqlType,
    Value,
    computed,
    integer,
    json_text,
    text,
)

_COLLECTION_SIDE = {"contains": "sourceUri", "subcollection-of": "targetUri"}
"""Relation -> the end of the edge whose owner decides whether it counts."""


def _authority(_: Value, context: RecordContext) -> SqlValue:
    return int(context.is_authority)


def _collection_uri(value: Value, _: RecordContext) -> SqlValue:
    """The collection that the edge adds to; NULL for any other relation."""
    side = _COLLECTION_SIDE.get(str(value.get("relationSlug")))
    uri = value.get(side) if side is not None else None
    return uri if isinstance(uri, str) else None


RECORD_TYPE = RecordType(
    nsid="pub.chive.graph.edge",
    did_column="owner_did",
    own_columns=(
        computed("authority", SqlType.INTEGER, _authority),
        text("edge_id", "id", is_indexed=True),
        text("source_uri", "sourceUri", is_indexed=True),
        text("target_uri", "targetUri", is_indexed=True),
        text("relation_uri", "relationUri"),
        text("relation_slug", "relationSlug"),
        integer("weight", "weight"),
        json_text("metadata", "metadata"),
        text("label", "metadata", "label"),
        text("status", "status"),
        text("proposal_uri", "proposalUri"),
        text("created_by", "createdBy"),
        text("updated_at", "updatedAt"),
        computed(
            "collection_uri",
            SqlType.TEXT,
            _collection_uri,
            "relationSlug",
            "sourceUri",
            "targetUri",
            is_indexed=True,
        ),
    ),
)
