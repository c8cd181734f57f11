"""What is denied, as a transaction sees it that is about to write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from indexer.denials import HOST_DENIED, DenialKind, DeniedHosts, denied, moved_away
from indexer.model import AccountStatus
from indexer.planning import Repo

# The plus keeps SQLite from going through all denied records for each batch.
_RECORDS = """
SELECT subject FROM denial
WHERE +kind = 'record' AND subject IN (SELECT value FROM json_each(?))
"""

_ANY_RECORD = "SELECT EXISTS (SELECT 1 FROM denial WHERE kind = 'record')"


def load_denied_hosts(connection: sqlite3.Connection) -> DeniedHosts:
    """All denied hosts."""
    rows = connection.execute("SELECT subject FROM denial WHERE kind = ?", (DenialKind.HOST,))
    return DeniedHosts(row[0] for row in rows)


def judged_by_host(connection: sqlite3.Connection, repo: Repo, pds_url: str | None) -> Repo:
    """The repo as it is where it lives now: denied, or denied no more, with its host."""
    if load_denied_hosts(connection).covers(pds_url):
        return denied(repo, HOST_DENIED)
    return moved_away(repo) if repo.account_status is AccountStatus.DENIED else repo


def denied_records(connection: sqlite3.Connection, uris: Iterable[str]) -> frozenset[str]:
    """The denied ones among these AT-URIs; they are looked up only where any record is denied."""
    if not connection.execute(_ANY_RECORD).fetchone()[0]:
        return frozenset()
    rows = connection.execute(_RECORDS, (json.dumps(list(uris)),))
    return frozenset(row[0] for row in rows)
