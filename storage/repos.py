"""Repo rows: how they are read into `planning.Repo` and written back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from indexer.model import AccountStatus, RepoState, Wanted
from indexer.planning import Repo
from storage.database import Row

COLUMNS = (
    "id, did, state, account_status, account_at, signing_key, identity_at, rev, data, host_rev,"
    " scope_id, wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at, reason,"
    " fetch_at, refusals"
)

HOST_URLS = """
WITH RECURSIVE host(url) AS (
    SELECT min(pds_url) FROM repo
    UNION ALL
    SELECT (SELECT min(pds_url) FROM repo WHERE pds_url > host.url) FROM host WHERE url IS NOT NULL)
SELECT url FROM host WHERE url IS NOT NULL
"""
"""The hosts that repos name: one step through the index for each, and no look at all repos."""

_INSERT = """
INSERT INTO repo (did, state, account_status, account_at, identity_at, wanted, claimed, claim,
                  priority, retry_at, attempts, desyncs, synced_at, verified_at, tracked_since,
                  updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)
"""

_UPDATE = """
UPDATE repo SET state = ?, account_status = ?, account_at = ?, signing_key = ?, identity_at = ?,
                rev = ?, data = ?, host_rev = ?, scope_id = ?, wanted = ?, claimed = ?, claim = ?,
                priority = ?, retry_at = ?, attempts = ?, desyncs = ?, synced_at = ?, reason = ?,
                fetch_at = ?, refusals = ?, updated_at = ?
WHERE id = ?
"""

# Most commits move a repo along its chain and change nothing else.
_ADVANCE = """
UPDATE repo SET rev = json_extract(value, '$[1]'), data = json_extract(value, '$[2]'),
                updated_at = ?
FROM json_each(?) WHERE repo.id = json_extract(value, '$[0]')
"""


def repo_from_row(row: Row) -> Repo:
    """The repo in a row of `COLUMNS`."""
    (
        identifier, did, state, status, account_at, key, identity_at, rev, data, host_rev,
        scope_id, wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at, reason,
        fetch_at, refusals,
    ) = row  # fmt: skip
    return Repo(
        id=identifier,
        did=did,
        state=RepoState(state),
        account_status=AccountStatus(status),
        account_at=account_at,
        signing_key=key,
        identity_at=identity_at,
        rev=rev,
        data=data,
        host_rev=host_rev,
        scope_id=scope_id,
        wanted=Wanted(wanted),
        claimed=Wanted(claimed),
        claim=claim,
        priority=priority,
        retry_at=retry_at,
        attempts=attempts,
        desyncs=desyncs,
        synced_at=synced_at,
        reason=reason,
        fetch_at=fetch_at,
        refusals=refusals,
    )


def load_repos(connection: sqlite3.Connection, dids: Iterable[str]) -> dict[str, Repo]:
    """The stored repos among `dids`."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM repo WHERE did IN (SELECT value FROM json_each(?))",  # noqa: S608 - a constant
        (json.dumps(list(dids)),),
    )
    return {repo.did: repo for repo in map(repo_from_row, rows)}


def load_repo(connection: sqlite3.Connection, did: str) -> Repo | None:
    """The repo of one DID, or None when it is not tracked."""
    return load_repos(connection, (did,)).get(did)


def insert_repo(connection: sqlite3.Connection, repo: Repo, *, at: str) -> int:
    """Start to track a repo; its row id. `at` is the time of the change as ISO text."""
    cursor = connection.execute(
        _INSERT,
        (
            repo.did, repo.state, repo.account_status, repo.account_at, repo.identity_at,
            repo.wanted, repo.claimed, repo.claim, repo.priority, repo.retry_at, repo.attempts,
            repo.desyncs, repo.synced_at, at, at,
        ),
    )  # fmt: skip
    if cursor.lastrowid is None:
        raise AssertionError("an insert has a rowid")
    return cursor.lastrowid


def update_repos(
    connection: sqlite3.Connection, changed: Iterable[tuple[Repo, Repo]], *, at: str
) -> None:
    """Write back repos given as (as loaded, as it becomes)."""
    advances: list[tuple[int | None, str | None, str | None]] = []
    updates: list[tuple[object, ...]] = []
    for old, new in changed:
        if _only_advances(old, new):
            advances.append((new.id, new.rev, new.data))
            continue
        updates.append(
            (
                new.state, new.account_status, new.account_at, new.signing_key, new.identity_at,
                new.rev, new.data, new.host_rev, new.scope_id, new.wanted, new.claimed, new.claim,
                new.priority, new.retry_at, new.attempts, new.desyncs, new.synced_at, new.reason,
                new.fetch_at, new.refusals, at, new.id,
            )
        )  # fmt: skip
    if advances:
        connection.execute(_ADVANCE, (at, json.dumps(advances)))
    if updates:
        connection.executemany(_UPDATE, updates)


def _only_advances(old: Repo, new: Repo) -> bool:
    return (
        old.state is new.state
        and old.wanted == new.wanted
        and old.claimed == new.claimed
        and old.account_status is new.account_status
        and old.account_at == new.account_at
        and old.host_rev == new.host_rev
        and old.retry_at == new.retry_at
        and old.fetch_at == new.fetch_at
        and old.refusals == new.refusals
        and old.claim == new.claim
        and old.scope_id == new.scope_id
        and old.signing_key == new.signing_key
        and old.identity_at == new.identity_at
        and old.synced_at == new.synced_at
        and old.attempts == new.attempts
        and old.desyncs == new.desyncs
        and old.priority == new.priority
        and old.reason == new.reason
    )
