"""Acceptances of invitations; see the invitation for when one counts."""

from __future__ import annotations

from indexer.records.projection import RecordType, text

RECORD_TYPE = RecordType(
    nsid="pub.chive.collaboration.inviteAcceptance",
    did_column="accepter_did",
    own_columns=(
        text("invite_uri", "invite", "uri", is_indexed=True),
        text("invite_cid", "invite", "cid"),
        text("subject_uri", "subject", "uri", is_indexed=True),
        text("subject_cid", "subject", "cid"),
    ),
)
