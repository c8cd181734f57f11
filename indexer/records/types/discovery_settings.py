"""How people want eprints recommended; absent settings show the default of the lexicon."""

from __future__ import annotations

from indexer.records.projection import RecordType, flag, integer, json_text, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.discovery.settings",
    own_columns=(
        flag("enable_personalization", "enablePersonalization", default=True),
        json_text("related_papers_signals", "relatedPapersSignals"),
        json_text("related_papers_weights", "relatedPapersWeights"),
        json_text("related_papers_thresholds", "relatedPapersThresholds"),
        json_text("trending_preferences", "trendingPreferences"),
        text("citation_network_display", "citationNetworkDisplay", default="preview"),
        flag("show_recommendation_reasons", "showRecommendationReasons", default=True),
        text("recommendation_diversity", "recommendationDiversity", default="medium"),
        integer("minimum_endorsement_threshold", "minimumEndorsementThreshold", default=0),
        json_text("followed_field_uris", "followedFieldUris"),
        flag("following_tab_includes_work_fields", "followingTabIncludesWorkFields", default=False),
    ),
)
