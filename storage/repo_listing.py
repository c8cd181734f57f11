"""The tracked repos for people to look at: one with its counts, or page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from indexer.model import RepoRow
from storage.database import Database, Row

_COLUMNS = (
    "did, handle, pds_url, account_status, state, rev, host_rev, data, reason, attempts,"
    " CASE WHEN wanted <> 0 THEN retry_at END, synced_at, verified_at, tracked_since, updated_at"
)


class RepoListing:
    """Satisfies `admin_api.ports.RepoListing`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def repo(self, did: str) -> tuple[RepoRow, Mapping[str, int]] | None:
        """One repo, and its rows by collection; None when it is not tracked."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM repo WHERE did = ?",  # noqa: S608 - a constant
            (did,),
        )
        if not rows:
            return None
        counts = await self._database.read(
            "SELECT record.collection, count(*) FROM record JOIN repo ON repo.id = record.repo_id"
            " WHERE repo.did = ? GROUP BY record.collection",
            (did,),
        )
        return _repo_row(rows[0]), {row[0]: row[1] for row in counts}

    async def repos(
        self,
        *,
        state: str | None,
        status: str | None,
        pds_url: str | None,
        after: str,
        limit: int,
    ) -> Sequence[RepoRow]:
        """Those with a DID behind `after`, by DID."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM repo WHERE did > ?1"  # noqa: S608 - a constant
            " AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR account_status = ?3)"
            " AND (?4 IS NULL OR pds_url = ?4) ORDER BY did LIMIT ?5",
            (after, state, status, pds_url, limit),
        )
        return [_repo_row(row) for row in rows]


def _repo_row(row: Row) -> RepoRow:
    (
        did, handle, pds_url, status, state, rev, host_rev, data, reason, attempts, retry_at,
        synced_at, verified_at, tracked_since, updated_at,
    ) = row  # fmt: skip
    return RepoRow(
        did=did,
        handle=handle,
        pds_url=pds_url,
        status=status,
        state=state,
        rev=rev,
        host_rev=host_rev,
        data=data,
        reason=reason,
        attempts=attempts,
        retry_at=retry_at,
        synced_at=synced_at,
        verified_at=verified_at,
        tracked_since=tracked_since,
        updated_at=updated_at,
    )
