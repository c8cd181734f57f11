"""Which faults a seed gets, and when: spread over its traffic, each at a moment that will come."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from tests.devnet.faults import COMMIT, CONNECTION, EVENT, MESSAGE, Fault, FaultKind, FaultSchedule

Place: TypeAlias = Callable[[Random, int], dict[str, Any]]
"""(random source, events of the seed) -> conditions and parameters of one scheduled fault."""

KINDS_PER_SEED = 12

GET_REPO = "com.atproto.sync.getRepo"
GET_REPO_STATUS = "com.atproto.sync.getRepoStatus"


def _on_connection(rng: Random, events: int) -> dict[str, Any]:
    return {"at": rng.randrange(1, max(events // 20, 2))}


def _on_seq(rng: Random, events: int) -> dict[str, Any]:
    return {"seq": rng.randrange(events // 10, events)}


def _on_commit(rng: Random, events: int) -> dict[str, Any]:
    return {"type": "#commit", "skip": rng.randrange(events // 2)}


def _on_own_host(rng: Random, events: int) -> dict[str, Any]:
    return {"skip": rng.randrange(events // 2)}


def _on_fetch(rng: Random, _: int) -> dict[str, Any]:
    return {"service": "pds", "endpoint": GET_REPO, "skip": rng.randrange(3)}


def _on_http(rng: Random, _: int) -> dict[str, Any]:
    service, endpoint = rng.choice(
        (("pds", GET_REPO), ("pds", GET_REPO_STATUS), ("plc", "plc.document"))
    )
    return {"service": service, "endpoint": endpoint, "skip": rng.randrange(3)}


def _on_document(rng: Random, _: int) -> dict[str, Any]:
    return {"skip": rng.randrange(4)}


PLACES: dict[FaultKind, Place] = {
    FaultKind.HANDSHAKE_STATUS: lambda rng, events: {},
    FaultKind.CONNECT_THEN_FAIL: lambda rng, events: {},
    **dict.fromkeys((kind for kind in CONNECTION if kind is not FaultKind.HANG), _on_connection),
    **dict.fromkeys(MESSAGE, _on_seq),
    **dict.fromkeys(EVENT, _on_commit),
    **dict.fromkeys(COMMIT, _on_commit),
    FaultKind.SAME_PATH_TWICE: _on_own_host,
    FaultKind.EMPTY_COMMIT: _on_own_host,
    FaultKind.SYNC_REV_DIFFERS: _on_own_host,
    FaultKind.HTTP_STATUS: _on_http,
    FaultKind.HTTP_DELAY: lambda rng, events: _on_http(rng, events) | {"seconds": 0.2},
    FaultKind.HTTP_RESET: _on_http,
    FaultKind.HTTP_TRUNCATE: _on_http,
    FaultKind.HTTP_STALL: _on_fetch,
    FaultKind.HTTP_HTML: _on_http,
    FaultKind.HTTP_BODY: _on_fetch,
    FaultKind.HTTP_LENGTH_LIE: _on_fetch,
    FaultKind.CAR_WRONG_HASH: _on_fetch,
    FaultKind.CAR_MISSING_BLOCK: _on_fetch,
    FaultKind.PLC_STALE: _on_document,
    FaultKind.PLC_NOT_FOUND: _on_document,
}
"""Every kind of the campaign, and how it is placed."""

LOUD_KINDS = frozenset({FaultKind.HANDSHAKE_STATUS, FaultKind.CONNECT_THEN_FAIL})


def schedule_faults(schedule: FaultSchedule, rng: Random, events: int) -> list[Fault]:
    """Give the seed its faults: kinds chosen at random, each happening once."""
    kinds = rng.sample(sorted(PLACES), KINDS_PER_SEED)
    return [schedule.schedule(kind, **PLACES[kind](rng, events)) for kind in kinds]
