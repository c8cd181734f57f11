"""A PDS: hosted repos, their status, and the com.atproto methods that an indexer calls.

Owns one host's view of its accounts and its own event stream. Answers, error names, messages and
cursors are those recorded from the real PDS; what that one does not serve, this one refuses the
same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from aiohttp import web

from tests.devnet.car import car_parts
from tests.devnet.cbor import JsonValue, cid_from_text, cid_text, decode, to_json
from tests.devnet.clock import tid
from tests.devnet.faults import FaultKind, FaultSchedule, Param
from tests.devnet.frames import Event
from tests.devnet.params import did_param, limit_param, param
from tests.devnet.repo import Repo
from tests.devnet.serving import CAR_TYPE, Reply, Route, Server, XrpcError, json_reply
from tests.devnet.stream import EventStream
from tests.devnet.subscription import NSID as SUBSCRIBE
from tests.devnet.subscription import Subscriptions

_REPO_ERRORS = {
    "takendown": ("RepoTakendown", "Repo has been takendown: {}"),
    "suspended": ("RepoSuspended", "Repo has been suspended: {}"),
    "deactivated": ("RepoDeactivated", "Repo has been deactivated: {}"),
}
_NO_HEAD = "bafyrei" + "a" * 52
Method: TypeAlias = Callable[[web.Request], Reply]


@dataclass(slots=True)
class Hosting:
    """An account as this host keeps it."""

    repo: Repo
    handle: str
    created_ms: int
    is_deactivated: bool = False
    moderation: str | None = None  # takendown | suspended
    hidden: set[str] = field(default_factory=set)  # paths of taken-down records
    blobs: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # CID -> type, content

    @property
    def status(self) -> str | None:
        """What getRepoStatus says; None is active. A takedown covers a deactivation."""
        return self.moderation or ("deactivated" if self.is_deactivated else None)


@dataclass(frozen=True, slots=True)
class Extra:
    """An account that is listed and described, and has no repo behind it: cheap, to be many."""

    did: str
    rev: str
    collections: tuple[str, ...]


class Pds:
    """One host with its server and stream."""

    def __init__(
        self,
        index: int,
        faults: FaultSchedule,
        resolve: Callable[[str], str | None],
        document: Callable[[str], JsonValue],
        window: int | None = None,
    ) -> None:
        self.index = index
        self.handle_domain = f"pds{index + 1}.test"
        self.server = Server("pds", faults, index)
        self.stream = EventStream(window)
        self.subscriptions = Subscriptions(self.stream, faults, "pds", index)
        self.hosted: dict[str, Hosting] = {}
        self.extras: dict[str, Extra] = {}
        self._faults = faults
        self._resolve = resolve
        self._document = document
        self._methods: dict[str, Method] = {
            "com.atproto.sync.getRepo": self._get_repo,
            "com.atproto.sync.getRecord": self._get_proof,
            "com.atproto.sync.getBlocks": self._get_blocks,
            "com.atproto.sync.getBlob": self._get_blob,
            "com.atproto.sync.listBlobs": self._list_blobs,
            "com.atproto.sync.getLatestCommit": self._get_latest_commit,
            "com.atproto.sync.getRepoStatus": self._get_repo_status,
            "com.atproto.sync.listRepos": self._list_repos,
            "com.atproto.repo.listRecords": self._list_records,
            "com.atproto.repo.getRecord": self._get_record,
            "com.atproto.repo.describeRepo": self._describe_repo,
            "com.atproto.identity.resolveHandle": self._resolve_handle,
            "com.atproto.server.describeServer": self._describe_server,
            "_health": lambda _request: json_reply({"version": "0.5.35"}),
        }
        self.server.fallback(self._choose)

    @property
    def url(self) -> str:
        """Origin, as DID documents name it."""
        return self.server.url

    @property
    def ws_url(self) -> str:
        """Origin for subscribeRepos of this host alone."""
        return "ws" + self.url[4:]

    def add_extras(self, count: int, collections: tuple[str, ...], *, at: float) -> list[Extra]:
        """So many more extras; `at` (unix seconds) is the time of the first one's rev.

        Each was written to a second after the one before.
        """
        first = len(self.extras)
        added = [
            Extra(_extra_did(self.index, number), tid(int((at + number) * 1_000_000)), collections)
            for number in range(first, first + count)
        ]
        self.extras.update((extra.did, extra) for extra in added)
        return added

    def emit(self, event: Event) -> None:
        """Put an event into this host's own stream."""
        if event.body.get("status") == "deleted":
            self.stream.erase(event.did)
        self.stream.append(event)

    def _choose(self, request: web.Request) -> Route:
        prefix, _, nsid = request.path.rpartition("/")
        if prefix != "/xrpc":
            return request.path, self._other_path
        if nsid == SUBSCRIBE:
            return nsid, self.subscriptions.serve
        method = self._methods.get(nsid)

        async def answer(request: web.Request) -> Reply:
            if method is None:
                raise XrpcError("InvalidRequest", f"No service configured for {nsid}")
            if request.method not in ("GET", "HEAD"):
                text = f"Incorrect HTTP method ({request.method}) expected GET"
                raise XrpcError("InvalidRequest", text)
            return method(request)

        return nsid, answer

    async def _other_path(self, request: web.Request) -> Reply:
        if request.path == "/.well-known/atproto-did":
            did = self._resolve(request.host.partition(":")[0])
            if did is not None:
                return Reply([did.encode()], "text/plain; charset=utf-8")
        raise XrpcError("NotFound", "Not Found", 404)

    def _hosting(self, did: str) -> Hosting:
        """The account, if this host serves it to the public."""
        hosting = self.hosted.get(did)
        if hosting is None:
            raise XrpcError("RepoNotFound", f"Could not find repo for DID: {did}")
        if hosting.status is not None:
            error, text = _REPO_ERRORS[hosting.status]
            raise XrpcError(error, text.format(did))
        return hosting

    def _get_repo(self, request: web.Request) -> Reply:
        repo = self._hosting(did_param(request)).repo
        return car_reply([repo.commit_cid], repo.snapshot(request.query.get("since")))

    def _get_proof(self, request: web.Request) -> Reply:
        repo = self._hosting(did_param(request)).repo
        path = f"{param(request, 'collection')}/{param(request, 'rkey')}"
        return car_reply([repo.commit_cid], list(repo.record_proof(path)))

    def _get_blocks(self, request: web.Request) -> Reply:
        repo = self._hosting(did_param(request)).repo
        param(request, "cids")
        texts = request.query.getall("cids")
        stored = {text: repo.blocks.get(cid_from_text(text)) for text in texts}
        missing = [text for text, block in stored.items() if block is None]
        if missing:
            raise XrpcError("InvalidRequest", f"Could not find cids: {','.join(missing)}")
        found = [(cid_from_text(text), block.data) for text, block in stored.items() if block]
        return car_reply([], found)

    def _get_blob(self, request: web.Request) -> Reply:
        blob = self._hosting(did_param(request)).blobs.get(param(request, "cid"))
        if blob is None:
            raise XrpcError("InvalidRequest", "Blob not found")
        headers = {
            "Content-Disposition": f'attachment; filename="{param(request, "cid")}"',
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
        }
        return Reply([blob[1]], blob[0], headers=headers, is_chunked=True)

    def _list_blobs(self, request: web.Request) -> Reply:
        after = request.query.get("cursor", "")
        known = sorted(self._hosting(did_param(request)).blobs)
        page = [cid for cid in known if cid > after][: limit_param(request, 500, 1000)]
        return json_reply({"cursor": page[-1], "cids": page} if page else {"cids": []})

    def _get_latest_commit(self, request: web.Request) -> Reply:
        repo = self._hosting(did_param(request)).repo
        return json_reply({"cid": cid_text(repo.commit_cid), "rev": repo.host_rev})

    def _get_repo_status(self, request: web.Request) -> Reply:
        did = did_param(request)
        hosting = self.hosted.get(did)
        if hosting is None:
            raise XrpcError("RepoNotFound", f"Could not find repo for DID: {did}")
        if hosting.status is not None:
            return json_reply({"did": did, "active": False, "status": hosting.status})
        return json_reply({"did": did, "active": True, "rev": hosting.repo.host_rev})

    def _list_repos(self, request: web.Request) -> Reply:
        cursor = request.query.get("cursor")
        after = (0, "") if cursor is None else _repo_cursor(cursor)
        limit = limit_param(request, 500, 1000)
        order = sorted((h.created_ms, did) for did, h in self.hosted.items())
        order = [*((0, did) for did in sorted(self.extras)), *order]
        page = [key for key in order if key > after][:limit]
        context: dict[str, Param] = {
            "service": "pds",
            "endpoint": "com.atproto.sync.listRepos",
            "host": self.index,
        }
        if self._faults.take((FaultKind.CURSOR_LOOP,), **context):
            page = order[:limit]
        repos = [self.listing(did) for _, did in page]
        bogus = self._faults.take((FaultKind.BOGUS_DIDS,), **context)
        if bogus is not None:
            repos += [_bogus(number) for number in range(int(bogus.number("count", 100)))]
        if not page:
            return json_reply({"repos": repos})
        return json_reply({"cursor": f"{page[-1][0]}::{page[-1][1]}", "repos": repos})

    def listing(self, did: str) -> dict[str, JsonValue]:
        """An account as listRepos gives it."""
        if did in self.extras:
            return {"did": did, "head": _NO_HEAD, "rev": self.extras[did].rev, "active": True}
        hosting = self.hosted[did]
        repo = hosting.repo
        listing: dict[str, JsonValue] = {
            "did": did,
            "head": cid_text(repo.commit_cid),
            "rev": repo.host_rev,
            "active": hosting.status is None,
        }
        if hosting.status is not None:
            listing["status"] = hosting.status
        return listing

    def _list_records(self, request: web.Request) -> Reply:
        did = self._repo_param(request)
        hosting = self.hosted.get(did)
        if hosting is None or hosting.status is not None:
            raise XrpcError("InvalidRequest", f"Could not find repo: {did}")
        collection = param(request, "collection")
        is_reverse = request.query.get("reverse") == "true"
        cursor = request.query.get("cursor")
        rkeys = sorted(_rkeys(hosting, collection), reverse=not is_reverse)
        if cursor is not None:
            rkeys = [rkey for rkey in rkeys if (rkey > cursor) == is_reverse and rkey != cursor]
        page = rkeys[: limit_param(request, 50, 100)]
        records = [_record_json(hosting, f"{collection}/{rkey}") for rkey in page]
        if not page:
            return json_reply({"records": []})
        return json_reply({"records": records, "cursor": page[-1]})

    def _get_record(self, request: web.Request) -> Reply:
        did = self._repo_param(request)
        hosting = self.hosted.get(did)
        if hosting is None or hosting.status is not None:
            raise XrpcError("InvalidRequest", "Could not locate record")
        path = f"{param(request, 'collection')}/{param(request, 'rkey')}"
        if path not in hosting.repo.records or path in hosting.hidden:
            raise XrpcError("RecordNotFound", f"Could not locate record: at://{did}/{path}")
        return json_reply(_record_json(hosting, path))

    def _describe_repo(self, request: web.Request) -> Reply:
        did = self._repo_param(request)
        if (extra := self.extras.get(did)) is not None:
            return json_reply({"did": did, "collections": list(extra.collections)})
        hosting = self._hosting(did)
        collections = sorted({path.partition("/")[0] for path in hosting.repo.records})
        return json_reply(
            {
                "handle": hosting.handle,
                "did": did,
                "didDoc": self._document(did),
                "collections": collections,
                "handleIsCorrect": self._resolve(hosting.handle) == did,
            }
        )

    def _resolve_handle(self, request: web.Request) -> Reply:
        did = self._resolve(param(request, "handle").lower())
        if did is None:
            raise XrpcError("HandleNotFound", "Unable to resolve handle")
        return json_reply({"did": did})

    def _describe_server(self, _request: web.Request) -> Reply:
        return json_reply(
            {
                "did": f"did:web:127.0.0.1%3A{self.server.port}",
                "availableUserDomains": [f".{self.handle_domain}"],
                "inviteCodeRequired": False,
                "links": {},
                "contact": {},
            }
        )

    def _repo_param(self, request: web.Request) -> str:
        repo = param(request, "repo")
        return repo if repo.startswith("did:") else self._resolve(repo) or repo


def car_reply(roots: Iterable[bytes], blocks: Iterable[tuple[bytes, bytes]]) -> Reply:
    """A CAR, chunked."""
    return Reply(car_parts(roots, blocks), CAR_TYPE, is_chunked=True)


def _repo_cursor(cursor: str) -> tuple[int, str]:
    number, _, did = cursor.partition("::")
    if not number.isdigit() or not did:
        raise XrpcError("InvalidRequest", "Malformed cursor")
    return int(number), did


def _bogus(number: int) -> dict[str, JsonValue]:
    return {"did": _did(number), "head": _NO_HEAD, "rev": "3kaaaaaaaaa22", "active": True}


def _extra_did(host: int, number: int) -> str:
    return _did(10**20 * (host + 1) + number)


def _did(number: int) -> str:
    return "did:plc:" + f"{number:024d}".translate(str.maketrans("0189", "abcd"))


def _rkeys(hosting: Hosting, collection: str) -> Iterator[str]:
    for path in hosting.repo.records:
        name, _, rkey = path.partition("/")
        if name == collection and path not in hosting.hidden:
            yield rkey


def _record_json(hosting: Hosting, path: str) -> dict[str, JsonValue]:
    repo = hosting.repo
    return {
        "uri": f"at://{repo.did}/{path}",
        "cid": cid_text(repo.records[path]),
        "value": to_json(decode(repo.block_of(path))),
    }
