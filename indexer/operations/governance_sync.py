"""governanceSync: the nodes and edges of the graph's authority, made equal to its signed repo."""

from __future__ import annotations

from collections.abc import Mapping

from indexer.model import Json, OperationType
from indexer.operations.did_sync import RepoSync, sync_repo
from indexer.operations.operation import Context, Request, refuse_foreign_params


class GovernanceSync:
    """A verified fetch of the governance repo, with deletes; its note counts what has changed."""

    type = OperationType.GOVERNANCE_SYNC
    unit = "repo"

    def __init__(self, repos: RepoSync, *, did: str) -> None:
        self._repos = repos
        self._did = did

    def parse(self, params: Mapping[str, Json]) -> Request:
        """Takes nothing: whose graph it is, the settings say."""
        refuse_foreign_params(params, frozenset(), self.type)
        return Request(key=self.type.value, params={}, total_units=1)

    async def run(self, context: Context) -> None:
        """One repo, one unit."""
        await sync_repo(self._repos, context, self._did, is_detailed=True)
