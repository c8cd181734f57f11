"""Proposals to change a node of the community's graph."""

from __future__ import annotations

from indexer.records.projection import Count, RecordType, json_text, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.graph.nodeProposal",
    did_column="proposer_did",
    own_columns=(
        text("proposal_type", "proposalType"),
        text("kind", "kind"),
        text("subkind", "subkind"),
        text("target_uri", "targetUri", is_indexed=True),
        text("merge_into_uri", "mergeIntoUri"),
        json_text("proposed_node", "proposedNode"),
        text("rationale", "rationale"),
        json_text("evidence", "evidence"),
    ),
    counts=(
        Count("approve_count", "vote_approve", is_per_account=True),
        Count("reject_count", "vote_reject", is_per_account=True),
    ),
)
