"""Accounts that somebody does not want to see."""

from __future__ import annotations

from indexer.records.projection import RecordType, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.actor.mute",
    own_columns=(text("subject_did", "subjectDid", is_indexed=True),),
)
