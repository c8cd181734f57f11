"""Structured changelogs between versions of an eprint."""

from __future__ import annotations

from indexer.records.projection import RecordType, json_text, mark, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.eprint.changelog",
    own_columns=(
        text("eprint_uri", "eprintUri", is_indexed=True),
        json_text("version", "version"),
        json_text("previous_version", "previousVersion"),
        text("summary", "summary"),
        json_text("sections", "sections"),
        text("reviewer_response", "reviewerResponse"),
    ),
    marks=(mark("changelog", "eprintUri"),),
)
