"""Methods that show the tracked repos and where each stands."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from admin_api.ports import RepoListing
from admin_api.xrpc import Call, Handler
from indexer.errors import RequestRefused
from indexer.model import Json, RepoRow, utc_text

LISTED_DEFAULT = 50


def repo_handlers(listing: RepoListing) -> Mapping[str, Handler]:
    """NSID -> handler."""

    async def state(call: Call) -> Json:
        did = str(call.params["did"])
        found = await listing.repo(did)
        if found is None:
            raise RequestRefused("RepoNotFound", f"{did} is not tracked", status=404)
        row, collections = found
        total = sum(collections.values())
        counts: list[Json] = [
            {"collection": name, "records": rows} for name, rows in sorted(collections.items())
        ]
        return {"repo": repo_json(row) | {"recordCount": total}, "collections": counts}

    async def repos(call: Call) -> Json:
        limit = msgspec.convert(call.params.get("limit", LISTED_DEFAULT), int)
        found = await listing.repos(
            state=_text(call, "state"),
            status=_text(call, "status"),
            pds_url=_text(call, "pdsUrl"),
            after=_text(call, "cursor") or "",
            limit=limit,
        )
        value: dict[str, Json] = {"repos": [repo_json(row) for row in found]}
        if len(found) == limit:
            value["cursor"] = found[-1].did
        return value

    return {
        "pub.chive.indexer.getRepoState": state,
        "pub.chive.indexer.listRepos": repos,
    }


def repo_json(row: RepoRow) -> dict[str, Json]:
    """A repo as the lexicon has it; what is unknown is left out."""
    known: dict[str, Json] = {
        "handle": row.handle,
        "pdsUrl": row.pds_url,
        "rev": row.rev,
        "hostRev": row.host_rev,
        "dataCid": row.data,
        "reason": row.reason,
        "retryAt": None if row.retry_at is None else utc_text(row.retry_at),
        "syncedAt": utc_text(row.synced_at) if row.synced_at else None,
        "verifiedAt": utc_text(row.verified_at) if row.verified_at else None,
    }
    value: dict[str, Json] = {
        "did": row.did,
        "state": row.state,
        "status": row.status,
        "attempts": row.attempts,
        "trackedSince": row.tracked_since,
        "updatedAt": row.updated_at,
    }
    return value | {name: each for name, each in known.items() if each is not None}


def _text(call: Call, name: str) -> str | None:
    value = call.params.get(name)
    return None if value is None else str(value)
