"""Proposals to change an edge of the community's graph."""

from __future__ import annotations

from indexer.records.projection import Count, RecordType, json_text, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.graph.edgeProposal",
    did_column="proposer_did",
    own_columns=(
        text("proposal_type", "proposalType"),
        text("target_uri", "targetEdgeUri", is_indexed=True),
        json_text("proposed_edge", "proposedEdge"),
        text("rationale", "rationale"),
        json_text("evidence", "evidence"),
    ),
    counts=(
        Count("approve_count", "vote_approve", is_per_account=True),
        Count("reject_count", "vote_reject", is_per_account=True),
    ),
)
