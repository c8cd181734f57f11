"""Tags that people put on eprints."""

from __future__ import annotations

from indexer.records.tags import tag_type

RECORD_TYPE = tag_type("pub.chive.eprint.userTag")
