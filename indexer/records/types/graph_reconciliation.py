"""Claims that a node equals an entry of an authority file."""

from __future__ import annotations

from indexer.records.projection import RecordType, integer, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.graph.reconciliation",
    own_columns=(
        text("source_uri", "sourceUri", is_indexed=True),
        text("target_system", "targetSystem"),
        text("target_id", "targetId"),
        integer("confidence", "confidence"),
        text("match_type", "matchType"),
        text("status", "status"),
        text("verified_by", "verifiedBy"),
        text("notes", "notes"),
        text("updated_at", "updatedAt"),
    ),
)
