"""Comments on an eprint as a whole, and replies to them."""

from __future__ import annotations

from indexer.records.anchors import comment_type
from indexer.records.projection import Count

RECORD_TYPE = comment_type(
    "pub.chive.review.comment",
    did_column="reviewer_did",
    parent=("parent_comment", "parentComment"),
    counts=(Count("reply_count", "reply"), Count("endorsement_count", "endorsement")),
    about="reply",
)
