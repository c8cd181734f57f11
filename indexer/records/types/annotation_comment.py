"""Comments anchored to a passage of an eprint, and replies to them."""

from __future__ import annotations

from indexer.records.anchors import comment_type
from indexer.records.projection import Count

RECORD_TYPE = comment_type(
    "pub.chive.annotation.comment",
    did_column="annotator_did",
    parent=("parent_annotation", "parentAnnotation"),
    counts=(Count("reply_count", "reply"),),
    about="annotation",
)
