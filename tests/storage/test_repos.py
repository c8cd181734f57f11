"""What becomes of a repo is written back whole, by whichever statement it is written."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from indexer.model import AccountStatus, Priority, RepoState, Wanted
from indexer.planning import Repo
from storage.repos import insert_repo, load_repo, update_repos
from tests.storage.conftest import DID, KEY, World

AT = "2026-01-01T00:00:00Z"
STORED = Repo(id=None, did=DID, state=RepoState.ACTIVE)
OTHER: dict[str, object] = {
    "state": RepoState.ERROR,
    "account_status": AccountStatus.SUSPENDED,
    "account_at": 5.0,
    "signing_key": KEY,
    "identity_at": 6.0,
    "rev": "r2",
    "data": "root-r2",
    "host_rev": "r3",
    "scope_id": "scope",
    "wanted": Wanted.CONTENT,
    "claimed": Wanted.ACCOUNT,
    "claim": 7,
    "priority": Priority.OPERATOR,
    "retry_at": 8.0,
    "fetch_at": 9.0,
    "attempts": 10,
    "refusals": 11,
    "desyncs": 12,
    "synced_at": 13.0,
    "reason": "a reason",
}
"""Of every field but the two that say whose row it is, a value that `STORED` has not."""


def test_every_field_of_a_repo_is_tried():
    assert {field.name for field in fields(Repo)} == OTHER.keys() | {"id", "did"}
    assert all(getattr(STORED, name) != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("advance", [{}, {"rev": "r9", "data": "root-r9"}], ids=["alone", "moved"])
async def test_a_field_that_changes_is_stored_alone_and_along_with_a_commit(
    world: World, name: str, advance: dict[str, object]
):
    """Most commits move a repo along its chain: that has a statement of its own."""
    changed = advance | {name: OTHER[name]}

    def change(connection) -> Repo | None:
        repo = replace(STORED, id=insert_repo(connection, STORED, at=AT))
        update_repos(connection, [(repo, replace(repo, **changed))], at=AT)
        return load_repo(connection, DID)

    found = await world.database.write(change)
    assert found == replace(STORED, id=found.id, **changed)
