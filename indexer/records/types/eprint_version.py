"""Versions of an eprint, each with a note of what changed."""

from __future__ import annotations

from indexer.records.projection import RecordType, integer, mark, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.eprint.version",
    own_columns=(
        text("eprint_uri", "eprintUri", is_indexed=True),
        integer("version_number", "versionNumber"),
        text("previous_version_uri", "previousVersionUri"),
        text("changes", "changes"),
    ),
    marks=(mark("version", "eprintUri"),),
)
