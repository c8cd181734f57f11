"""The real PDS and PLC directory as processes on loopback, and what an account does with them.

Owns the network's process (`make test-network` installs it) and thin XRPC clients: an account with
its session, an administrator of a PDS. What an account's repo holds is asked of the PDS itself
with `com.atproto.repo.listRecords`; nothing here knows the indexer.
"""

from __future__ import annotations

import io
import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

FOLDER = Path(__file__).parents[2] / ".network"
STOP_S = 20.0
WRITES_PER_BATCH = 200  # what applyWrites takes at most
PAGE = 100
STARTS_MAX = 3

Json = dict[str, Any]
_serial = itertools.count(1)


class Refused(Exception):
    """An XRPC error answer."""

    def __init__(self, nsid: str, status: int, body: Any) -> None:
        super().__init__(f"{nsid}: HTTP {status} {body}")
        self.status = status
        self.error = body.get("error") if isinstance(body, dict) else None


@contextmanager
def real_network(folder: Path, *options: str) -> Iterator[Json]:
    """A PLC directory and PDSes with empty stores in `folder`: what they said when all listened."""
    process, line = _started(folder, *options)
    try:
        yield json.loads(line)
    finally:
        _end(process)


def _started(folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """The process and its line. It chooses its ports before it listens: others may be quicker."""
    for attempt in range(STARTS_MAX):
        process = subprocess.Popen(
            [FOLDER / "start", "--data", folder / str(attempt), *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if line:
            return process, line
        _end(process)
    raise AssertionError(f"the network did not start {STARTS_MAX} times; stderr says why")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Network:
    """The clients' view of one running network."""

    def __init__(self, info: Json, session: aiohttp.ClientSession) -> None:
        self.plc_url: str = info["plc"]
        self.control_url: str = info["control"]
        self.pds_urls: list[str] = [pds["url"] for pds in info["pds"]]
        self._pds: list[Json] = info["pds"]
        self._admin = aiohttp.encode_basic_auth("admin", info["adminPassword"])
        self._session = session

    async def call(
        self,
        url: str,
        nsid: str,
        body: Any = None,
        *,
        authorization: str | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """A procedure. `body` is JSON, or bytes of `content_type`; raises `Refused`."""
        headers = {"Authorization": authorization} if authorization else {}
        data = body
        if body is not None:
            headers["Content-Type"] = content_type
            data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self._session.post(f"{url}/xrpc/{nsid}", data=data, headers=headers) as response:
            return await _answer(nsid, response)

    async def query(
        self, url: str, nsid: str, *, authorization: str | None = None, **params: Any
    ) -> Any:
        """A query: JSON, or the bytes of anything else; raises `Refused`."""
        headers = {"Authorization": authorization} if authorization else {}
        async with self._session.get(
            f"{url}/xrpc/{nsid}", params=params, headers=headers
        ) as response:
            return await _answer(nsid, response)

    async def control(self, path: str) -> None:
        async with self._session.post(f"{self.control_url}{path}") as response:
            assert response.status == 200, await response.text()

    async def mailed_token(self, address: str) -> str:
        """The newest token that was mailed to the address."""
        async with self._session.get(f"{self.control_url}/mail") as response:
            mails = await response.json()
        return next(mail["token"] for mail in reversed(mails) if mail["to"] == address)

    async def administer(self, pds: int, nsid: str, body: Json) -> Any:
        return await self.call(self.pds_urls[pds], nsid, body, authorization=self._admin)

    async def set_takedown(self, account: Account, *, applied: bool) -> None:
        subject = {"$type": "com.atproto.admin.defs#repoRef", "did": account.did}
        takedown = {"applied": applied, "ref": "interop"} if applied else {"applied": False}
        await self.administer(
            account.pds,
            "com.atproto.admin.updateSubjectStatus",
            {"subject": subject, "takedown": takedown},
        )

    async def account(self, pds: int = 0) -> Account:
        """A new account with a session."""
        name = f"author{next(_serial)}"
        answer = await self.call(
            self.pds_urls[pds],
            "com.atproto.server.createAccount",
            {
                "handle": self.handle(name, pds),
                "email": f"{name}@network.example.com",
                "password": name,
            },
        )
        return Account(self, pds, name, answer["did"], answer["handle"], answer["accessJwt"])

    def handle(self, name: str, pds: int) -> str:
        return name + self._pds[pds]["handleDomain"]

    def service_did(self, pds: int) -> str:
        return self._pds[pds]["did"]

    async def listed(self, pds: int = 0) -> dict[str, tuple[str, Any]]:
        """URI -> (CID, value) of every pub.chive record that this PDS lists for active accounts."""
        url, found = self.pds_urls[pds], {}
        async for repo in self._pages(url, "com.atproto.sync.listRepos", "repos", limit=PAGE):
            if repo["active"]:
                found |= await self.listed_of(url, repo["did"])
        return found

    async def listed_of(self, url: str, did: str) -> dict[str, tuple[str, Any]]:
        described = await self.query(url, "com.atproto.repo.describeRepo", repo=did)
        return {
            record["uri"]: (record["cid"], record["value"])
            for collection in described["collections"]
            if collection.startswith("pub.chive.")
            async for record in self._pages(
                url,
                "com.atproto.repo.listRecords",
                "records",
                repo=did,
                collection=collection,
                limit=PAGE,
            )
        }

    async def _pages(self, url: str, nsid: str, key: str, **params: Any) -> Any:
        while True:
            page = await self.query(url, nsid, **params)
            for item in page[key]:
                yield item
            if not page.get("cursor"):
                return
            params["cursor"] = page["cursor"]


@dataclass(slots=True)
class Account:
    """An author with a session on its PDS."""

    network: Network
    pds: int
    name: str
    did: str
    handle: str
    token: str

    @property
    def url(self) -> str:
        return self.network.pds_urls[self.pds]

    @property
    def email(self) -> str:
        return f"{self.name}@network.example.com"

    async def call(self, nsid: str, body: Any = None, **options: Any) -> Any:
        return await self.network.call(
            self.url, nsid, body, authorization=f"Bearer {self.token}", **options
        )

    async def query(self, nsid: str, **params: Any) -> Any:
        return await self.network.query(
            self.url, nsid, authorization=f"Bearer {self.token}", **params
        )

    async def create(self, record: Json, rkey: str | None = None) -> str:
        """The URI of a new record."""
        body = {"repo": self.did, "collection": record["$type"], "record": record}
        if rkey is not None:
            body["rkey"] = rkey
        return (await self.call("com.atproto.repo.createRecord", body))["uri"]

    async def put(self, record: Json, rkey: str) -> str:
        body = {"repo": self.did, "collection": record["$type"], "rkey": rkey, "record": record}
        return (await self.call("com.atproto.repo.putRecord", body))["uri"]

    async def delete(self, uri: str) -> None:
        collection, rkey = uri.split("/")[3:]
        await self.call(
            "com.atproto.repo.deleteRecord",
            {"repo": self.did, "collection": collection, "rkey": rkey},
        )

    async def apply_writes(self, writes: list[Json]) -> list[str]:
        """One commit per `WRITES_PER_BATCH`; an empty list is one empty commit.

        The URIs of what was created and updated, in order.
        """
        results = []
        for start in range(0, max(len(writes), 1), WRITES_PER_BATCH):
            answer = await self.call(
                "com.atproto.repo.applyWrites",
                {"repo": self.did, "writes": writes[start : start + WRITES_PER_BATCH]},
            )
            results += answer["results"]
        return [result["uri"] for result in results if "uri" in result]

    async def upload_blob(self, content: bytes, mime_type: str) -> Json:
        answer = await self.call("com.atproto.repo.uploadBlob", content, content_type=mime_type)
        return answer["blob"]

    async def migrate(self, pds: int) -> Account:
        """Move to another PDS as an author would: its session there. Rotates the signing key."""
        network, target = self.network, self.network.pds_urls[pds]
        permit = await self.query(
            "com.atproto.server.getServiceAuth",
            aud=network.service_did(pds),
            lxm="com.atproto.server.createAccount",
        )
        answer = await network.call(
            target,
            "com.atproto.server.createAccount",
            {
                "did": self.did,
                "handle": network.handle(self.name, pds),
                "email": self.email,
                "password": self.name,
            },
            authorization=f"Bearer {permit['token']}",
        )
        moved = Account(network, pds, self.name, self.did, answer["handle"], answer["accessJwt"])
        archive = await self.query("com.atproto.sync.getRepo", did=self.did)
        await moved.call(
            "com.atproto.repo.importRepo", archive, content_type="application/vnd.ipld.car"
        )
        await self.call("com.atproto.identity.requestPlcOperationSignature")
        credentials = await moved.query("com.atproto.identity.getRecommendedDidCredentials")
        signed = await self.call(
            "com.atproto.identity.signPlcOperation",
            {**credentials, "token": await network.mailed_token(self.email)},
        )
        await moved.call("com.atproto.identity.submitPlcOperation", signed)
        await moved.call("com.atproto.server.activateAccount")
        await self.call("com.atproto.server.deactivateAccount", {})
        return moved


def create(record: Json, rkey: str | None = None) -> Json:
    """A write of a batch; the PDS makes a key where none is given."""
    key = {} if rkey is None else {"rkey": rkey}
    return _write("create", collection=record["$type"], value=record, **key)


def update(record: Json, rkey: str) -> Json:
    return _write("update", collection=record["$type"], rkey=rkey, value=record)


def delete(uri: str) -> Json:
    collection, rkey = uri.split("/")[3:]
    return _write("delete", collection=collection, rkey=rkey)


def _write(verb: str, **fields: Any) -> Json:
    return {"$type": f"com.atproto.repo.applyWrites#{verb}", **fields}


async def _answer(nsid: str, response: aiohttp.ClientResponse) -> Any:
    is_json = response.content_type == "application/json"
    body = await (response.json() if is_json else response.read())
    if response.status != 200:
        raise Refused(nsid, response.status, body)
    return body
