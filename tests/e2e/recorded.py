"""The recorded network, played back over loopback.

Two PDSes, a PLC directory and one firehose answer as they did while the recording was made: what
they say of an account is what it was when the newest frame sent so far was emitted. DID documents
name the ports of this run. Decoding here is by libipld, not by the code under test.
"""

from __future__ import annotations

import asyncio
import io
import json
import lzma
import struct
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import libipld
from aiohttp import WSMsgType, web

DATA = Path(__file__).parent.parent / "data" / "recorded"
HOSTS = ("pds1", "pds2")
INACTIVE_ERRORS = {
    "deactivated": "RepoDeactivated",
    "takendown": "RepoTakendown",
    "deleted": "RepoNotFound",
}


def load_frames(host: str) -> list[bytes]:
    """Raw messages of one host's stream, in order."""
    raw = lzma.decompress((DATA / f"{host}.frames.xz").read_bytes())
    frames, offset = [], 0
    while offset < len(raw):
        (size,) = struct.unpack_from(">I", raw, offset)
        frames.append(raw[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return frames


def load_files() -> dict[str, bytes]:
    """Everything else of the recording: file name -> content."""
    raw = lzma.decompress((DATA / "state.tar.xz").read_bytes())
    files = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            if content is not None:
                files[member.name] = content.read()
    return files


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class RecordedNetwork:
    """One host's stream and everybody's HTTP answers.

    `repos` says what getRepo answers for accounts created on the streamed host: their `first`
    recorded commit (an empty repo), or the `final` CAR.
    """

    def __init__(self, host: str, repos: str) -> None:
        self.host = host
        self.repos = repos
        self.frames = [(data, *libipld.decode_dag_cbor_multi(data)) for data in load_frames(host)]
        self.files = load_files()
        accounts = json.loads(self.files["expected-state.json"])["accounts"]
        self.accounts: dict[str, dict[str, Any]] = {
            account["did"]: {**account, "name": name} for name, account in accounts.items()
        }
        self.old_ends = {
            pds["url"]: name
            for pds, name in zip(json.loads(self.files["network.json"])["pds"], HOSTS, strict=True)
        }
        self.release = asyncio.Event()  # until then the stream is open and silent
        self.sent = 0  # frames handed to a consumer, over all connections
        self.status: dict[str, str] = {}  # did -> last status on the streamed host
        self.revs: dict[str, str] = {}  # did -> last rev on the streamed host
        self.first_cars: dict[str, bytes] = {}
        self.repo_requests: list[str] = []  # DIDs in the order of getRepo
        for _, header, body in self.frames:
            if header.get("t") == "#commit" and body["repo"] not in self.first_cars:
                self.first_cars[body["repo"]] = body["blocks"]
        self.urls: dict[str, str] = {}

    @property
    def ended_at(self) -> float:
        return max(unix(body["time"]) for _, _, body in self.frames)

    @property
    def last_seq(self) -> int:
        return max(body["seq"] for _, _, body in self.frames)

    @property
    def is_finished(self) -> bool:
        return self.sent >= len(self.frames)

    def created_here(self, did: str) -> bool:
        """Whether the account came into being on the streamed host (not by migration)."""
        log = json.loads(self.files[f"plc-logs/{self.accounts[did]['name']}.json"])
        return self._end_of(log[0]["operation"]) == self.host

    def _end_of(self, operation: dict[str, Any]) -> str:
        return self.old_ends[operation["services"]["atproto_pds"]["endpoint"]]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[RecordedNetwork]:
        async with AsyncExitStack() as stack:
            self.urls["plc"] = await _start(stack, [web.get("/{did}", self._plc)])
            for host in HOSTS:
                routes = [
                    web.get("/xrpc/com.atproto.sync.getRepo", self._repo_of(host)),
                    web.get("/xrpc/com.atproto.sync.getRepoStatus", self._status_of(host)),
                ]
                if host == self.host:
                    routes.append(web.get("/xrpc/com.atproto.sync.subscribeRepos", self._subscribe))
                self.urls[host] = await _start(stack, routes)
            yield self

    def _now(self) -> float:
        """Time of the recording, as far as the stream has come."""
        newest = self.frames[max(self.sent, 1) - 1][2]["time"]
        return unix(newest) if not self.is_finished else float("inf")

    async def _plc(self, request: web.Request) -> web.Response:
        did = request.match_info["did"]
        if did not in self.accounts:
            return web.json_response({"message": f"DID not registered: {did}"}, status=404)
        log = json.loads(self.files[f"plc-logs/{self.accounts[did]['name']}.json"])
        past = [entry for entry in log if unix(entry["createdAt"]) <= self._now()]
        operation = (past or log[:1])[-1]["operation"]
        return web.json_response(
            {
                "id": did,
                "alsoKnownAs": operation["alsoKnownAs"],
                "verificationMethod": [
                    {
                        "id": f"{did}#{name}",
                        "type": "Multikey",
                        "controller": did,
                        "publicKeyMultibase": key.removeprefix("did:key:"),
                    }
                    for name, key in operation["verificationMethods"].items()
                ],
                "service": [
                    {
                        "id": f"#{name}",
                        "type": service["type"],
                        "serviceEndpoint": self.urls[self.old_ends[service["endpoint"]]],
                    }
                    for name, service in operation["services"].items()
                ],
            }
        )

    def _state_of(self, host: str, did: str) -> tuple[str, str | None]:
        """(status, rev) of an account as `host` would say now."""
        if host == self.host and not (self.is_finished and self.repos == "final"):
            status = self.status.get(did, "active")
            return status, self.revs.get(did) if status == "active" else None
        code, body = self.accounts[did]["getRepoStatus"]
        if code != 200:
            return "deleted", None
        return body.get("status", "active"), body.get("rev")

    def _status_of(self, host: str) -> Any:
        async def handle(request: web.Request) -> web.Response:
            did = request.query["did"]
            status, rev = self._state_of(host, did)
            if status == "deleted":
                return _refusal("RepoNotFound")
            body: dict[str, Any] = {"did": did, "active": status == "active"}
            if status != "active":
                body["status"] = status
            elif rev is not None:
                body["rev"] = rev
            return web.json_response(body)

        return handle

    def _repo_of(self, host: str) -> Any:
        async def handle(request: web.Request) -> web.Response:
            did = request.query["did"]
            self.repo_requests.append(did)
            status, _ = self._state_of(host, did)
            if status != "active":
                return _refusal(INACTIVE_ERRORS[status])
            if self.repos == "first" and host == self.host and self.created_here(did):
                content = self.first_cars[did]
            else:
                content = self.files[f"cars/{self.accounts[did]['name']}.car"]
            return web.Response(body=content, content_type="application/vnd.ipld.car")

        return handle

    async def _subscribe(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        cursor = int(request.query.get("cursor", 0))
        sender = asyncio.get_running_loop().create_task(self._send(socket, cursor))
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                break
        sender.cancel()
        return socket

    async def _send(self, socket: web.WebSocketResponse, cursor: int) -> None:
        await self.release.wait()
        for number, (data, header, body) in enumerate(self.frames):
            if body["seq"] <= cursor:
                continue
            if number >= self.sent:
                self._note(header["t"], body)
                self.sent = number + 1
            await socket.send_bytes(data)

    def _note(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "#account":
            self.status[body["did"]] = "active" if body["active"] else body["status"]
        elif kind == "#commit":
            self.revs[body["repo"]] = body["rev"]
        elif kind == "#sync":
            self.revs[body["did"]] = body["rev"]


def _refusal(name: str) -> web.Response:
    return web.json_response({"error": name, "message": name}, status=400)


async def _start(stack: AsyncExitStack, routes: list[web.RouteDef]) -> str:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"
