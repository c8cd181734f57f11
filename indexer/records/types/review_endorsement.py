"""Endorsements of an eprint for what it contributes."""

from __future__ import annotations

from indexer.records.projection import RecordType, json_text, mark, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.review.endorsement",
    did_column="endorser_did",
    own_columns=(
        text("eprint_uri", "eprintUri", is_indexed=True),
        json_text("contributions", "contributions"),
        text("comment", "comment"),
    ),
    marks=(mark("endorsement", "eprintUri"),),
)
