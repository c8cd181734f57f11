"""Which faults a seed gets, and when: spread over its traffic, each at a moment that will come."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from tests.devnet.faults import COMMIT, CONNECTION, EVENT, MESSAGE, Fault, FaultKind, FaultSchedule
from tests.simulation.mishaps import Mishap

Place: TypeAlias = Callable[[Random, int], dict[str, Any]]
"""(random source, events of the seed) -> conditions and parameters of one scheduled fault."""

KINDS_PER_SEED = 25
MISHAPS_PER_SEED = 3

GET_REPO = "com.atproto.sync.getRepo"
LIST_REPOS = "com.atproto.sync.listRepos"
GET_REPO_STATUS = "com.atproto.sync.getRepoStatus"


def _on_dial(_: Random, __: int) -> dict[str, Any]:
    return {}


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
        (
            ("pds", GET_REPO),
            ("pds", GET_REPO_STATUS),
            ("plc", "plc.document"),
            ("plc", "plc.export"),
        )
    )
    return {"service": service, "endpoint": endpoint, "skip": rng.randrange(3)}


def _on_list(rng: Random, _: int) -> dict[str, Any]:
    return {"service": "pds", "endpoint": LIST_REPOS, "host": rng.randrange(2)}


def _on_document(rng: Random, _: int) -> dict[str, Any]:
    return {"skip": rng.randrange(4)}


def _with(place: Place, **choices: tuple[Any, ...]) -> Place:
    """`place` and parameters of the kind, each chosen among some."""
    return lambda rng, events: (
        place(rng, events) | {name: rng.choice(values) for name, values in choices.items()}
    )


PLACES: dict[FaultKind, Place] = {
    FaultKind.HANDSHAKE_STATUS: _with(_on_dial, status=(503, 429, 404), retry_after_s=(3, 60)),
    FaultKind.HANDSHAKE_HANG: _on_dial,
    FaultKind.CONNECT_THEN_FAIL: _on_dial,
    **dict.fromkeys(CONNECTION, _on_connection),
    **dict.fromkeys(MESSAGE, _on_seq),
    FaultKind.SLOW_FRAME: _with(_on_seq, interval_s=(0.02, 0.3)),
    **dict.fromkeys(EVENT, _on_commit),
    **dict.fromkeys(COMMIT, _on_commit),
    FaultKind.OMITTED_OP: _with(_on_commit, action=(None,)),
    FaultKind.MISSING_PREV: _with(_on_commit, first_action=("update", "delete")),
    FaultKind.MISSING_BLOCK: _with(_on_commit, block=("record", "node", "commit")),
    FaultKind.SAME_PATH_TWICE: _with(
        _on_own_host, pattern=("create+update", "create+delete", "update+delete", "delete+create")
    ),
    FaultKind.EMPTY_COMMIT: _on_own_host,
    FaultKind.SYNC_REV_DIFFERS: _on_own_host,
    FaultKind.HTTP_STATUS: _with(_on_http, status=(500, 502, 404, 400)),
    FaultKind.HTTP_429: _with(_on_http, headers=(True, False), retry_after_s=(1, 30)),
    FaultKind.HTTP_DELAY: _with(_on_http, seconds=(0.2, 10.0)),
    FaultKind.HTTP_HANG: _on_http,
    FaultKind.HTTP_RESET: _with(_on_http, at=(0, 1, 500)),
    FaultKind.HTTP_TRUNCATE: _with(_on_http, fraction=(0.1, 0.5, 0.99)),
    FaultKind.HTTP_STALL: _on_fetch,
    FaultKind.HTTP_SLOW: _with(_on_http, chunk=(200,), interval_s=(0.05, 2.0)),
    FaultKind.HTTP_HTML: _on_http,
    FaultKind.HTTP_BODY: _on_fetch,
    FaultKind.HTTP_REDIRECT: _with(_on_http, location=("/elsewhere", "http://169.254.169.254/")),
    FaultKind.HTTP_LENGTH_LIE: _with(_on_fetch, delta=(10, -10)),
    FaultKind.GZIP_BOMB: _with(_on_http, size=(20_000_000,)),
    FaultKind.CAR_WRONG_HASH: _on_fetch,
    FaultKind.CAR_MISSING_BLOCK: _on_fetch,
    FaultKind.PLC_STALE: _on_document,
    FaultKind.PLC_NOT_FOUND: _on_document,
    FaultKind.CURSOR_LOOP: _on_list,
    FaultKind.BOGUS_DIDS: _on_list,
}
"""Every kind of the campaign, and how it is placed."""

DIALS = frozenset(
    {FaultKind.HANDSHAKE_STATUS, FaultKind.HANDSHAKE_HANG, FaultKind.CONNECT_THEN_FAIL}
)
DOCUMENTS = frozenset({FaultKind.PLC_STALE, FaultKind.PLC_NOT_FOUND})
LISTS = frozenset({FaultKind.CURSOR_LOOP, FaultKind.BOGUS_DIDS})


def schedule_faults(schedule: FaultSchedule, rng: Random, events: int) -> list[Fault]:
    """Give the seed its faults: kinds chosen at random, each happening once."""
    kinds = rng.sample(sorted(PLACES), KINDS_PER_SEED)
    return [schedule.schedule(kind, **PLACES[kind](rng, events)) for kind in kinds]


def choose_mishaps(rng: Random, events: int) -> list[tuple[int, Mishap]]:
    """Give the seed its mishaps: (number of events at which it is due, kind), in order."""
    kinds = rng.sample(sorted(Mishap), MISHAPS_PER_SEED)
    return sorted((rng.randrange(events // 10, events), kind) for kind in kinds)
