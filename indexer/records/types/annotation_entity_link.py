"""Links from a passage to an entity, in the annotation form."""

from __future__ import annotations

from indexer.records.anchors import entity_link_type

RECORD_TYPE = entity_link_type("pub.chive.annotation.entityLink")
