"""All records, page by page: however slow whoever takes them is, no read stays open for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

PAGE_ROWS = 500

_PAGE = """
SELECT record.id, 'at://' || repo.did || '/' || record.path, repo.did, record.collection,
       record.rkey, record.cid, record.rev, record.indexed_at, record.problem IS NULL, record.value
FROM record JOIN repo ON repo.id = record.repo_id
WHERE record.id > :after AND repo.account_status = 'active'
  AND record.problem IS NOT 'denied'{conditions}
ORDER BY record.id LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class ExportedRecord:
    """A row of the view `records`."""

    uri: str
    did: str
    collection: str
    rkey: str
    cid: str
    rev: str
    indexed_at: str
    is_valid: bool
    value: str | None  # ATProto JSON text


def exported_records(
    connection: sqlite3.Connection, *, collection: str | None = None, did: str | None = None
) -> Iterator[ExportedRecord]:
    """The records of visible accounts in the order in which they came, each as of its page."""
    conditions = ""
    if collection is not None:
        conditions += " AND record.collection = :collection"
    if did is not None:
        conditions += " AND repo.did = :did"
    parameters = {"after": 0, "collection": collection, "did": did, "limit": PAGE_ROWS}
    while True:
        rows = connection.execute(_PAGE.format(conditions=conditions), parameters).fetchall()
        for row in rows:
            _, uri, owner, nsid, rkey, cid, rev, indexed_at, is_valid, value = row
            yield ExportedRecord(
                uri, owner, nsid, rkey, cid, rev, indexed_at, bool(is_valid), value
            )
        if len(rows) < PAGE_ROWS:
            return
        parameters["after"] = rows[-1][0]
