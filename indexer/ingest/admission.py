"""Who may be fetched for the first time today: so many repos of each domain and each address."""

from __future__ import annotations

from typing import Protocol

from indexer.claims import Claim, Identity
from indexer.limits import Limit
from indexer.metrics import Metrics


class AdmissionRows(Protocol):
    """The store as this module needs it."""

    async def admit(self, claim: Claim, identity: Identity, groups: tuple[str, ...]) -> bool:
        """Count a new repo among those of its groups today, or end its claim where they are full.

        False: it waits for another day, or was forgotten and is found again by the repair of a
        gap.
        """


class HostGroups(Protocol):
    """Who is behind a host."""

    def groups(self, pds_url: str) -> tuple[str, ...] | None:
        """Its registrable domain and its address; None before it was reached there."""


class DailyAdmission:
    """Satisfies `places.Admission`."""

    def __init__(self, rows: AdmissionRows, hosts: HostGroups, metrics: Metrics) -> None:
        self._rows = rows
        self._hosts = hosts
        self._refused = metrics.limits_refused.labels(Limit.NEW_REPOS_PER_HOST_DAY)

    async def admit(self, claim: Claim, identity: Identity) -> bool | None:
        """Whether the repo may be fetched; its claim is ended where it may not.

        None: that is not known before its host has answered, and nothing is counted before.
        """
        if identity.pds_url is None:
            return True
        groups = self._hosts.groups(identity.pds_url)
        if groups is None:
            return None
        is_admitted = await self._rows.admit(claim, identity, groups)
        if not is_admitted:
            self._refused.inc()
        return is_admitted
