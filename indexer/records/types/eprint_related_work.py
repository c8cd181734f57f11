"""Statements by people that two eprints are related."""

from __future__ import annotations

from indexer.records.projection import RecordType, mark, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.eprint.relatedWork",
    did_column="curator_did",
    own_columns=(
        text("source_eprint_uri", "eprintUri", is_indexed=True),
        text("target_eprint_uri", "relatedUri", is_indexed=True),
        text("relationship_type", "relationType"),
        text("description", "description"),
    ),
    marks=(mark("related_work", "eprintUri"),),
)
