"""The protocol's own Python SDK as an admin's tool: its generic client calls every method."""

from __future__ import annotations

import time
from typing import Any

from tests.e2e.daemon import PASSWORD
from tests.e2e.test_admin_fuzz import served_methods
from tests.e2e.test_admin_methods import (
    ADMIN,
    INDEXER,
    SYNC,
    Stage,
    letters,
    refuse_a_commit,
    stage,
)
from tests.unit.admin.tokens import mint

__all__ = ["stage"]  # a fixture of the other module

"""Methods for types of operation that a version may not have."""


async def arguments(stage: Stage) -> dict[str, dict[str, Any]]:
    """What each method is called with; nothing for the others."""
    account = await refuse_a_commit(stage)
    await refuse_a_commit(stage)
    first, second = (int(letter["id"]) for letter in await letters(stage, 2))
    operation = await stage.do(ADMIN + "triggerDIDSync", did=account.did)
    stage.create(stage.admin)
    await stage.equal(stage.admin)
    [(uri,)] = stage.daemon.rows("SELECT uri FROM records WHERE did = ?", stage.admin.did)
    return {
        ADMIN + "triggerBackfill": {"type": "didSync", "did": account.did},
        ADMIN + "triggerDIDSync": {"did": account.did},
        ADMIN + "cancelBackfill": {"id": operation["operationId"]},
        ADMIN + "getBackfillStatus": {"id": operation["operationId"]},
        ADMIN + "rescanPDS": {"pdsUrl": stage.net.pds[0].url},
        ADMIN + "retryDLQEntry": {"index": first},
        ADMIN + "dismissDLQEntry": {"index": second},
        ADMIN + "listDLQEntries": {"limit": 5, "offset": 0},
        INDEXER + "getRepoState": {"did": account.did},
        INDEXER + "listRepos": {"limit": 2},
        INDEXER + "resetCursor": {"consent": True, "cursor": "oldest"},
        INDEXER + "deny": {"subject": "spam.example", "reason": "spam"},
        INDEXER + "allow": {"subject": "spam.example"},
        SYNC + "registerPDS": {"pdsUrl": stage.net.pds[1].url},
        **{SYNC + name: {"uri": uri} for name in ("indexRecord", "refreshRecord", "verify",
                                                  "checkStaleness")},
    }  # fmt: skip


async def call_all(stage: Stage, headers: Any) -> dict[str, int]:
    """NSID -> status, of every method that is served; `headers` makes those of one call."""
    from atproto_client.client.base import AsyncClientBase
    from atproto_client.exceptions import RequestErrorBase
    from atproto_client.models.base import DataModelBase
    from atproto_client.models.dot_dict import DotDict

    client = AsyncClientBase(base_url=stage.daemon.addresses.admin_url)
    given = await arguments(stage)
    served = await served_methods(stage)
    # Retries settle letters, so a letter is dismissed before; so does what a reset brings again.
    order = sorted(served, key=lambda nsid: ("resetCursor" in nsid, "retry" in nsid.lower(), nsid))
    statuses = {}
    for nsid in order:
        values = given.get(nsid, {})
        is_query = nsid.rpartition(".")[2].startswith(("get", "list", "check", "verify"))
        try:
            if is_query:
                answer = await client.invoke_query(
                    nsid, params=DotDict(values), headers=headers(nsid)
                )
            else:
                data = DotDict(values) if values else DataModelBase()
                answer = await client.invoke_procedure(
                    nsid, data=data, input_encoding="application/json", headers=headers(nsid)
                )
            statuses[nsid] = answer.status_code
        except RequestErrorBase as error:
            statuses[nsid] = error.response.status_code if error.response else 0
    await client.request.close()
    return statuses


def judge(statuses: dict[str, int]) -> None:
    assert len(statuses) >= 24
    for nsid, status in statuses.items():
        assert status == 200, (nsid, status)


async def test_the_generic_client_calls_every_method_with_the_password(stage: Stage):
    import base64

    basic = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    statuses = await call_all(stage, lambda _: {"Authorization": basic})
    of_authors = {nsid: statuses.pop(nsid) for nsid in [*statuses] if nsid.startswith(SYNC)}
    judge(statuses)
    assert set(of_authors.values()) == {401} and len(of_authors) == 5


async def test_the_generic_client_calls_every_method_with_a_token_for_each(stage: Stage):
    def bearer(nsid: str) -> dict[str, str]:
        now = int(time.time())
        token = mint(
            key=stage.admin.key, iss=stage.admin.did, iat=now, exp=now + 60, lxm=nsid, jti=nsid
        )
        return {"Authorization": f"Bearer {token}"}

    judge(await call_all(stage, bearer))
    log = await stage.get(ADMIN + "getAuditLog", actorDid=stage.admin.did, limit=100)
    assert log["total"] >= 12
    rows = stage.daemon.rows("SELECT DISTINCT started_by FROM operations")
    assert (stage.admin.did,) in rows
