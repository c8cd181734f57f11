"""Methods for authors: how a record of theirs stands, and that it be looked at again.

None of them fetches or believes anything: what they ask for is a place in the queue of the verified
resync, or of the scans of hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from admin_api.limits import RequestLimit
from admin_api.ports import AuthorPorts
from admin_api.xrpc import AuthorMethod, Call
from indexer.authors import RecordState
from indexer.clock import Clock
from indexer.errors import InvalidUpstream, RequestRefused
from indexer.hosts import HostSource, HostState
from indexer.model import Json, utc_text
from indexer.protocol.did_document import parse_origin
from indexer.protocol.syntax import is_did, parse_at_uri

HOSTS_PER_S = 5 / 60
HOSTS_BURST = 5.0
"""Hosts that one author may name."""

DAY_S = 86_400.0
QUEUED = "the repo is going to be compared with its host"
NOT_QUEUED = "the repo is held back by a limit of this index; ask its operator"


@dataclass(frozen=True, slots=True)
class _Record:
    did: str
    path: str  # collection/rkey


class _AuthorMethods:
    """The code behind each method."""

    def __init__(self, ports: AuthorPorts, *, clock: Clock) -> None:
        self._ports = ports
        self._index = ports.index
        self._clock = clock
        self._limit = RequestLimit(HOSTS_PER_S, clock=clock, burst=HOSTS_BURST)

    async def index(self, call: Call) -> Json:
        uri, record = _target(call.input)
        is_queued = await self._index.want(record.did)
        state = await self._index.record(record.did, record.path)
        if state is not None and state.cid is not None:
            return {"uri": uri, "indexed": True, "cid": state.cid}
        return {"uri": uri, "indexed": False, "error": QUEUED if is_queued else NOT_QUEUED}

    async def refresh(self, call: Call) -> Json:
        uri, record = _target(call.input)
        if await self._index.record(record.did, record.path) is None:
            raise _unknown(uri)
        if await self._index.want(record.did):
            return {"uri": uri, "refreshed": True}
        return {"uri": uri, "refreshed": False, "error": NOT_QUEUED}

    async def staleness(self, call: Call) -> Json:
        uri, record = _target(call.params)
        state = await self._index.record(record.did, record.path)
        if state is None or state.cid is None:
            raise _unknown(uri)
        known: dict[str, Json] = {
            "indexedAt": state.indexed_at,
            "indexedCid": state.cid,
            "pdsUrl": state.pds_url,
        }
        value: dict[str, Json] = {"uri": uri, "isStale": not state.is_current}
        return value | {name: each for name, each in known.items() if each is not None}

    async def verify(self, call: Call) -> Json:
        uri, record = _target(call.params)
        state = await self._index.record(record.did, record.path)
        return {"uri": uri, **_verified(state, self._clock.now())}

    async def register(self, call: Call) -> Json:
        url = _origin(call.input, self._ports.check_host)
        self._limit.take(call.actor.did)
        status = await self._index.host_status(url)
        if status is None:
            await self._ports.hosts.register([url], HostSource.AUTHOR)
            is_kept = await self._index.host_status(url) is not None
            return {"pdsUrl": url, "registered": is_kept, "status": "pending"}
        is_scanned = status in (HostState.ACTIVE, HostState.EMPTY)
        known = "scanned" if is_scanned else "already_exists"
        return {"pdsUrl": url, "registered": True, "status": known}


def author_methods(ports: AuthorPorts, *, clock: Clock) -> Mapping[str, AuthorMethod]:
    """NSID -> what is checked before the author is proved, and the handler."""
    methods = _AuthorMethods(ports, clock=clock)
    own = _own(ports.is_in_scope)

    def check_host(_: str, given: Mapping[str, Json]) -> None:
        _origin(given, ports.check_host)

    return {
        "pub.chive.sync.indexRecord": AuthorMethod(own, methods.index),
        "pub.chive.sync.refreshRecord": AuthorMethod(own, methods.refresh),
        "pub.chive.sync.checkStaleness": AuthorMethod(_anybodys, methods.staleness),
        "pub.chive.sync.verify": AuthorMethod(_anybodys, methods.verify),
        "pub.chive.sync.registerPDS": AuthorMethod(check_host, methods.register),
    }


def _own(is_in_scope: Callable[[str], bool]) -> Callable[[str, Mapping[str, Json]], None]:
    def check(did: str, given: Mapping[str, Json]) -> None:
        _, record = _target(given)
        if record.did != did:
            raise RequestRefused("Forbidden", "the record is of another account", status=403)
        if not is_in_scope(record.path):
            raise RequestRefused("InvalidRequest", "uri: this collection is not indexed here")

    return check


def _anybodys(_: str, given: Mapping[str, Json]) -> None:
    _target(given)


def _target(given: Mapping[str, Json]) -> tuple[str, _Record]:
    uri = str(given["uri"])
    parts = parse_at_uri(uri)  # the lexicon has seen to its form
    if parts.rkey is None or not is_did(parts.authority):
        raise RequestRefused("InvalidRequest", "uri: must name a record, by the DID of its author")
    return uri, _Record(parts.authority, f"{parts.collection}/{parts.rkey}")


def _origin(given: Mapping[str, Json], check_host: Callable[[str], None]) -> str:
    url = parse_origin(str(given["pdsUrl"]))
    if url is None:
        raise RequestRefused("InvalidRequest", "pdsUrl: must be the origin of a host")
    try:
        check_host(url)
    except InvalidUpstream as error:
        raise RequestRefused("InvalidRequest", f"pdsUrl: {error.detail}") from error
    return url


def _unknown(uri: str) -> RequestRefused:
    return RequestRefused("NotFound", f"{uri} is not in this index", status=404)


def _verified(state: RecordState | None, now: float) -> dict[str, Json]:
    is_indexed = state is not None and state.cid is not None
    value: dict[str, Json] = {"indexed": is_indexed, "inSync": False}
    if state is None or state.cid is None:
        return value
    value["inSync"] = state.is_current
    if state.indexed_at is not None:
        value["indexedAt"] = state.indexed_at
    if state.compared_at:
        value["lastSyncedAt"] = utc_text(state.compared_at)
        value["staleDays"] = max(int((now - state.compared_at) // DAY_S), 0)
    return value
