"""Votes on proposals. A person may hold several; counts go by person."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.derived import Mark
from indexer.records.projection import RecordContext, RecordType, Value, text

_COUNTED = {"approve": "vote_approve", "reject": "vote_reject"}


def _counted_vote(value: Value, _: RecordContext) -> Iterable[Mark]:
    """Other words are legal, kept in the row, and decide nothing."""
    name = _COUNTED.get(str(value.get("vote")))
    if name is not None:
        yield Mark(name, str(value.get("proposalUri")))


RECORD_TYPE = RecordType(
    nsid="pub.chive.graph.vote",
    did_column="voter_did",
    own_columns=(
        text("proposal_uri", "proposalUri", is_indexed=True),
        text("vote", "vote"),
        text("comment", "comment"),
    ),
    marks=(_counted_vote,),
)
