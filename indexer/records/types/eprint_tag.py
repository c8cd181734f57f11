"""Tags in the older form; no lexicon of it was published, and it means the same."""

from __future__ import annotations

from indexer.records.tags import tag_type

RECORD_TYPE = tag_type("pub.chive.eprint.tag")
