"""The relay: one stream of all hosts' events, and the lists that only relays serve.

Owns its own seqs, window and lies. Passes on what hosts say without judging it, so an account's
old host is heard after a migration as it is in the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from aiohttp import web

from tests.devnet import lies
from tests.devnet.faults import COMMIT, EVENT, SYNC, FaultSchedule, Param
from tests.devnet.frames import Event
from tests.devnet.keys import SigningKey
from tests.devnet.params import did_param, limit_param, param
from tests.devnet.pds import Pds
from tests.devnet.serving import Reply, Route, Server, XrpcError, json_reply
from tests.devnet.stream import EventStream
from tests.devnet.subscription import NSID as SUBSCRIBE
from tests.devnet.subscription import Subscriptions

_SYNC = "com.atproto.sync."


class Relay:
    """One relay over all PDSes of the devnet."""

    def __init__(
        self,
        hosts: list[Pds],
        faults: FaultSchedule,
        signing_key: Callable[[str], SigningKey],
        home: Callable[[str], Pds | None],
        rng: Random,
        window: int | None = None,
    ) -> None:
        self.server = Server("relay", faults)
        self.stream = EventStream(window)
        self.subscriptions = Subscriptions(self.stream, faults, "relay")
        self.serves_collections = True  # whether listReposByCollection exists here
        self.erases_deleted = True  # whether a deletion removes the account's earlier events
        self._hosts = hosts
        self._faults = faults
        self._signing_key = signing_key
        self._home = home
        self._rng = rng
        self.server.fallback(self._choose)

    @property
    def ws_url(self) -> str:
        """Origin for `firehose.url`."""
        return "ws" + self.server.url[4:]

    def receive(self, event: Event) -> None:
        """Take an event from a host: give it a seq, or do with it what a fault wants."""
        if event.body.get("status") == "deleted" and self.erases_deleted:
            self.stream.erase(event.did)
        for told in self._told(event):
            self.stream.append(told)

    def _told(self, event: Event) -> list[Event]:
        if not self._faults.scheduled:
            return [event]
        ops = event.body.get("ops")
        first = ops[0] if isinstance(ops, list) and ops else None
        path, action = (first["path"], first["action"]) if isinstance(first, dict) else ("", "")
        context: dict[str, Param] = {
            "service": "relay",
            "endpoint": SUBSCRIBE,
            "did": event.did,
            "type": event.kind,
            "seq": self.stream.last_seq + 1,
            "collection": str(path).partition("/")[0],
            "first_action": str(action),
        }
        kinds = (*EVENT, *COMMIT) if event.kind == "#commit" else EVENT
        fault = self._faults.take(kinds, **context)
        if fault is None and event.kind == "#sync":
            fault = self._faults.take_naming("type", SYNC, **context)
        if fault is None:
            return [event]
        return lies.tell(fault, event, self._signing_key(event.did), self._rng)

    def _choose(self, request: web.Request) -> Route:
        nsid = request.path.rpartition("/")[2]
        if nsid == SUBSCRIBE:
            return nsid, self.subscriptions.serve
        method = {
            _SYNC + "listHosts": self._list_hosts,
            _SYNC + "getHostStatus": self._get_host_status,
            _SYNC + "listRepos": self._list_repos,
            _SYNC + "getRepo": self._get_repo,
            _SYNC + "getRepoStatus": self._get_repo_status,
            _SYNC + "getLatestCommit": self._get_latest_commit,
            "_health": self._health,
        }.get(nsid)
        if nsid == _SYNC + "listReposByCollection" and self.serves_collections:
            method = self._list_repos_by_collection

        async def answer(request: web.Request) -> Reply:
            if method is None:
                raise XrpcError("MethodNotImplemented", f"Method Not Implemented: {nsid}", 501)
            return method(request)

        return nsid, answer

    def _health(self, _request: web.Request) -> Reply:
        return json_reply({"status": "ok"})

    def _list_hosts(self, request: web.Request) -> Reply:
        """One page at a time; the hostname of a loopback host carries its port."""
        start = int(request.query.get("cursor", "0"))
        end = start + limit_param(request, 200, 1000)
        listing = [_host(pds) for pds in self._hosts]
        answer: dict[str, object] = {"hosts": listing[start:end]}
        if end < len(listing):
            answer["cursor"] = str(end)
        return json_reply(answer)

    def _get_host_status(self, request: web.Request) -> Reply:
        hostname = param(request, "hostname")
        for pds in self._hosts:
            if _host(pds)["hostname"] == hostname:
                return json_reply(_host(pds))
        raise XrpcError("HostNotFound", f"host not found: {hostname}")

    def _homes(self) -> list[tuple[str, Pds]]:
        dids = sorted({did for pds in self._hosts for did in pds.hosted})
        homes = ((did, self._home(did)) for did in dids)
        return [(did, pds) for did, pds in homes if pds is not None and did in pds.hosted]

    def _list_repos(self, request: web.Request) -> Reply:
        after = request.query.get("cursor", "")
        limit = limit_param(request, 500, 1000)
        page = [(did, pds) for did, pds in self._homes() if did > after][:limit]
        answer: dict[str, object] = {"repos": [pds.listing(did) for did, pds in page]}
        if len(page) == limit:
            answer["cursor"] = page[-1][0]
        return json_reply(answer)

    def _list_repos_by_collection(self, request: web.Request) -> Reply:
        prefix = param(request, "collection") + "/"
        after = request.query.get("cursor", "")
        limit = limit_param(request, 500, 2000)
        found = [
            did
            for did, pds in self._homes()
            if did > after and any(path.startswith(prefix) for path in pds.hosted[did].repo.records)
        ]
        answer: dict[str, object] = {"repos": [{"did": did} for did in found[:limit]]}
        if len(found) > limit:
            answer["cursor"] = found[limit - 1]
        return json_reply(answer)

    def _known_home(self, request: web.Request) -> tuple[str, Pds]:
        did = did_param(request)
        pds = self._home(did)
        if pds is None or did not in pds.hosted:
            raise XrpcError("RepoNotFound", f"account not found: {did}", 404)
        return did, pds

    def _get_repo(self, request: web.Request) -> Reply:
        """Relays redirect to the account's host."""
        _, pds = self._known_home(request)
        location = f"{pds.url}{request.path}?{request.query_string}"
        return Reply([], status=302, headers={"Location": location})

    def _get_repo_status(self, request: web.Request) -> Reply:
        did, pds = self._known_home(request)
        listing = pds.listing(did)
        kept = ("did", "active", "status", "rev")
        return json_reply({name: listing[name] for name in kept if name in listing})

    def _get_latest_commit(self, request: web.Request) -> Reply:
        did, pds = self._known_home(request)
        listing = pds.listing(did)
        return json_reply({"cid": listing["head"], "rev": listing["rev"]})


def _host(pds: Pds) -> dict[str, object]:
    return {
        "hostname": f"127.0.0.1:{pds.server.port}",
        "seq": pds.stream.last_seq,
        "accountCount": len(pds.hosted),
        "status": "active",
    }
