"""didSync: bring one repo up to date, now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from indexer.errors import InvalidUpstream, RequestRefused
from indexer.model import SCHEDULE, Json, OperationType, SettledUnit
from indexer.operations.operation import Context, Request, insist, refuse_foreign_params
from indexer.ports import Compared
from indexer.protocol.syntax import parse_account_did

CLAIMS_MAX = 5
"""How often another claim of the same repo may come between before we give up."""

CONSENT = "acceptRollback"
"""The parameter by which an operator lets the host's state replace a newer one of ours."""

GOOD_RESULTS = frozenset({"fetched", "current", "hidden", "deleted"})


class SyncResult(Protocol):
    """The outcome of one attempt at a repo."""

    @property
    def result(self) -> str:
        """fetched, current, hidden, deleted; or why not."""

    @property
    def records(self) -> int:
        """In-scope records that are now known to equal the network's."""

    @property
    def reason(self) -> str | None:
        """What stood in the way."""

    @property
    def changes(self) -> Mapping[tuple[str, str], int]:
        """Rows that were changed: (collection, create | update | delete | refuse) -> number."""


class RepoSync(Protocol):
    """The resync as this operation needs it."""

    async def sync_now(
        self,
        did: str,
        *,
        is_scheduled: bool = False,
        accepts_rollback: bool = False,
        on_compared: Compared | None = None,
    ) -> SyncResult:
        """One attempt for an operator, or for nobody (`is_scheduled`), whatever its state."""


class DidSync:
    """Fresh identity, verified fetch with deletes, account status, for one DID."""

    type = OperationType.DID_SYNC
    unit = "repo"

    def __init__(self, repos: RepoSync) -> None:
        self._repos = repos

    def parse(self, params: Mapping[str, Json]) -> Request:
        """`did` is required; `acceptRollback` consents to what the host has set back."""
        refuse_foreign_params(params, frozenset({"did", CONSENT}), self.type)
        did = params.get("did")
        if not isinstance(did, str):
            raise RequestRefused("InvalidRequest", "parameter did is required for type didSync")
        try:
            parsed = parse_account_did(did)
        except InvalidUpstream as error:
            raise RequestRefused("InvalidRequest", f"parameter did: {error.detail}") from error
        consent: dict[str, Json] = {CONSENT: True} if params.get(CONSENT) is True else {}
        return Request(key=parsed, params={"did": parsed, **consent}, total_units=1)

    async def run(self, context: Context) -> None:
        """One repo is one unit; a resumed run finds equal revs and costs one request."""
        consents = context.operation.params.get(CONSENT) is True
        await sync_repo(self._repos, context, context.operation.key, accepts_rollback=consents)


async def sync_repo(
    repos: RepoSync,
    context: Context,
    did: str,
    *,
    is_detailed: bool = False,
    accepts_rollback: bool = False,
) -> None:
    """Bring a repo up to date and settle it as a unit; detailed, the note counts the changes."""
    if not await context.begin(did):
        return
    changes: Counter[tuple[str, str]] = Counter()
    attempt = partial(
        repos.sync_now,
        did,
        is_scheduled=context.operation.started_by == SCHEDULE,
        accepts_rollback=accepts_rollback,
        on_compared=context.compared(did),
    )
    for _ in range(CLAIMS_MAX):
        outcome = await insist(attempt)
        changes.update(outcome.changes)
        if outcome.result != "stale":
            break
    await context.settle(
        SettledUnit(
            unit=did,
            outcome=outcome.result,
            records=outcome.records,
            is_failed=outcome.result not in GOOD_RESULTS,
            message=outcome.reason,
            note=_counted(changes) if is_detailed else None,
        )
    )


def _counted(changes: Mapping[tuple[str, str], int]) -> str:
    """As `pub.chive.graph.node: 2 created, 1 deleted; pub.chive.graph.edge: ...`."""
    parts: dict[str, list[str]] = {}
    for (collection, action), rows in sorted(changes.items()):
        parts.setdefault(collection, []).append(f"{rows} {action}d")
    texts = [f"{collection}: {', '.join(each)}" for collection, each in parts.items()]
    return "; ".join(texts) or "nothing had changed"
