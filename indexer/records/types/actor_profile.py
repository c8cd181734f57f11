"""Researchers' profiles: one an account."""

from __future__ import annotations

from indexer.derived import SqlValue
from indexer.protocol.cbor import encode_json
from indexer.records.projection import (
    RecordContext,
    RecordType,
    SqlType,
    Value,
    blob,
    computed,
    json_text,
    text,
    texts,
)
from indexer.records.upgrades import PROFILE_UPGRADES


def _field_ids(value: Value, _: RecordContext) -> SqlValue:
    """The last part of each field's URI: the id of its node."""
    uris = value.get("fieldUris")
    return encode_json([uri.rpartition("/")[2] for uri in texts(uris)]) if uris else None


RECORD_TYPE = RecordType(
    nsid="pub.chive.actor.profile",
    own_columns=(
        text("display_name", "displayName"),
        text("bio", "bio"),
        *blob("avatar_blob", "avatar"),
        text("orcid", "orcid", is_indexed=True),
        json_text("affiliations", "affiliations"),
        json_text("field_uris", "fieldUris"),
        computed("field_ids", SqlType.TEXT, _field_ids, "fieldUris"),
        json_text("name_variants", "nameVariants"),
        json_text("previous_affiliations", "previousAffiliations"),
        json_text("research_keywords", "researchKeywords"),
        text("semantic_scholar_id", "semanticScholarId"),
        text("open_alex_id", "openAlexId"),
        text("google_scholar_id", "googleScholarId"),
        text("arxiv_author_id", "arxivAuthorId"),
        text("open_review_id", "openReviewId"),
        text("dblp_id", "dblpId"),
        text("scopus_author_id", "scopusAuthorId"),
    ),
    upgrades=PROFILE_UPGRADES,
)
