"""What a monitor without a credential is told of the store."""

from __future__ import annotations

from typing import Any

import pytest
from raw_http import exchange, request

from admin_api.server import AdminSettings, serve_admin
from indexer.clock import SystemClock
from indexer.errors import LocalBusy, LocalFault
from indexer.metrics import Metrics
from indexer.records.registry import load_registry

GOVERNANCE = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"


class Status:
    """A store that may be in trouble."""

    def __init__(self, trouble: Exception | None) -> None:
        self._trouble = trouble

    async def check_store(self) -> float:
        if self._trouble is not None:
            raise self._trouble
        return 0.0


class Ports:
    """Nothing behind the listener but the state of the store."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def __getattr__(self, _: str) -> Any:
        return self


@pytest.mark.parametrize(
    ("trouble", "faults"), [(LocalBusy("locked"), 0), (LocalFault("damaged"), 1), (None, 0)]
)
async def test_health_is_an_error_like_any_other_while_the_store_is_not_usable(
    trouble: Exception | None, faults: int
):
    noticed: list[LocalFault] = []
    async with serve_admin(
        AdminSettings(
            bind="127.0.0.1", port=0, hosts=(), trusted_proxies=(), passwords=(), dids=(),
            service_did=None, requests_per_s=100.0,
        ),
        Ports(Status(trouble)),
        catalog=load_registry(governance_did=GOVERNANCE, lexicon_dir=None).catalog,
        clock=SystemClock(),
        metrics=Metrics(),
        on_fault=noticed.append,
    ) as port:  # fmt: skip
        answer = await exchange(port, request("/xrpc/_health"))
    body = answer.json()
    assert body.pop("version")
    if trouble is None:
        assert (answer.status, body) == (200, {})
    else:
        told = {"error": "NotEnoughResources", "message": str(trouble)}
        assert (answer.status, body) == (503, told)
    assert len(noticed) == faults
