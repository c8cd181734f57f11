"""How profile pages are laid out; no lexicon of it was published."""

from __future__ import annotations

from indexer.records.projection import RecordType, json_text, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.actor.profileConfig",
    own_columns=(
        text("profile_type", "profileType", default="individual"),
        json_text("sections", "sections"),
        text("featured_collection_uri", "featuredCollectionUri"),
        text("updated_at", "updatedAt"),
    ),
)
