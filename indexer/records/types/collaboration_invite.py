"""Invitations to work on a record together.

An invitation counts only together with an acceptance by the invitee of the same subject, and
before it expires; the state of a pair follows from both tables and is stored in neither.
"""

from __future__ import annotations

from indexer.derived import SqlValue
from indexer.protocol.syntax import datetime_to_unix, is_datetime, parse_at_uri
from indexer.records.projection import (
    RecordContext,
    RecordType,
    SqlType,
    Value,
    computed,
    pick,
    text,
)


def _subject_author(value: Value, _: RecordContext) -> SqlValue:
    return parse_at_uri(str(pick(value, "subject", "uri"))).authority


def _subject_collection(value: Value, _: RecordContext) -> SqlValue:
    return parse_at_uri(str(pick(value, "subject", "uri"))).collection


def _expires_unix(value: Value, _: RecordContext) -> SqlValue:
    """Unix seconds, which SQLite compares whatever the text is like; NULL: never.

    Its own functions know no leap second, nor offsets beyond 14 hours. What is no time at all,
    as only other lexicons allow, is long past.
    """
    expires_at = value.get("expiresAt")
    if expires_at is None:
        return None
    if not isinstance(expires_at, str) or not is_datetime(expires_at):
        return 0
    return int(datetime_to_unix(expires_at))


RECORD_TYPE = RecordType(
    nsid="pub.chive.collaboration.invite",
    did_column="inviter_did",
    own_columns=(
        text("invitee_did", "invitee", is_indexed=True),
        text("subject_uri", "subject", "uri", is_indexed=True, indexed_with=("invitee_did",)),
        text("subject_cid", "subject", "cid"),
        computed("subject_author_did", SqlType.TEXT, _subject_author, "subject"),
        computed("subject_collection", SqlType.TEXT, _subject_collection, "subject"),
        text("role", "role"),
        text("message", "message"),
        text("expires_at", "expiresAt"),
        computed("expires_unix", SqlType.INTEGER, _expires_unix, "expiresAt"),
    ),
)
