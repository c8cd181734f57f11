"""PLC directory and PDS of the corpus, in one process: `python -m tests.bench.hosts --corpus DIR`.

Serves the tracked repos as they stand before the first frame, so that a daemon can be filled
over the protocol. Whatever it is not asked for in this suite answers as a PDS does that does not
know a method. Prints `port` when it listens.

`--beside DIR` serves the repos of another corpus too, and `--listed N` makes the list of the host
one of N further repos that never change, of which nothing else is known. `--blobs DIR` has blobs of
any account in files named after their CIDs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from tests.bench.corpus import Corpus, StartRepo

CAR_TYPE = "application/vnd.ipld.car"
LISTED_REV = "3lzzzzzzzzz2a"
PAGE_REPOS = 1000
LETTERS = "abcdefghij"


def listed_did(number: int) -> str:
    """One of the repos that are only listed."""
    return "did:plc:" + f"{number:024d}".translate(str.maketrans("0123456789", LETTERS))


class Hosts:
    """The answers; `origin` is known once the server listens."""

    def __init__(self, corpora: Sequence[Corpus], listed: int, blobs: Path | None) -> None:
        self._repos = {repo.did: repo for corpus in corpora for repo in corpus.repos}
        self._cars = {
            repo.did: corpus.directory / repo.car for corpus in corpora for repo in corpus.repos
        }
        self._listed = listed
        self._blobs = blobs
        self.origin = ""
        self._methods = {
            "com.atproto.sync.getBlob": self._get_blob,
            "com.atproto.sync.getRepo": self._get_repo,
            "com.atproto.sync.getRepoStatus": self._get_repo_status,
            "com.atproto.sync.getLatestCommit": self._get_latest_commit,
            "com.atproto.sync.listRepos": self._list_repos,
            "com.atproto.sync.listReposByCollection": self._list_repos_by_collection,
            "com.atproto.sync.listHosts": self._list_hosts,
            "com.atproto.identity.resolveHandle": self._resolve_handle,
        }

    def application(self) -> web.Application:
        """Routes of the directory and of the PDS."""
        application = web.Application()
        application.router.add_get("/xrpc/{method}", self._xrpc)
        application.router.add_get("/{did}", self._did_document)
        return application

    async def _xrpc(self, request: web.Request) -> web.StreamResponse:
        method = self._methods.get(request.match_info["method"])
        if method is None:
            return _failure(400, "InvalidRequest", "No service configured for this method")
        return method(request)

    async def _did_document(self, request: web.Request) -> web.StreamResponse:
        repo = self._repos.get(request.match_info["did"])
        if repo is None:
            return web.json_response({"message": "DID not registered"}, status=404)
        document = {
            "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
            "id": repo.did,
            "alsoKnownAs": [f"at://{repo.handle}"],
            "verificationMethod": [
                {
                    "id": f"{repo.did}#atproto",
                    "type": "Multikey",
                    "controller": repo.did,
                    "publicKeyMultibase": repo.signing_key,
                }
            ],
            "service": [
                {
                    "id": "#atproto_pds",
                    "type": "AtprotoPersonalDataServer",
                    "serviceEndpoint": self.origin,
                }
            ],
        }
        return web.json_response(document, content_type="application/did+ld+json")

    def _repo(self, request: web.Request) -> StartRepo:
        repo = self._repos.get(request.query.get("did", ""))
        if repo is None:
            body = json.dumps({"error": "RepoNotFound", "message": "Could not find repo"})
            raise web.HTTPBadRequest(text=body, content_type="application/json")
        return repo

    def _get_blob(self, request: web.Request) -> web.StreamResponse:
        path = None if self._blobs is None else self._blobs / Path(request.query["cid"]).name
        if path is None or not path.is_file():
            return _failure(400, "BlobNotFound", "Blob not found")
        return web.FileResponse(path, headers={"Content-Type": "application/pdf"})

    def _get_repo(self, request: web.Request) -> web.StreamResponse:
        path = self._cars[self._repo(request).did]
        return web.FileResponse(path, headers={"Content-Type": CAR_TYPE})

    def _get_repo_status(self, request: web.Request) -> web.StreamResponse:
        repo = self._repo(request)
        return web.json_response({"did": repo.did, "active": True, "rev": repo.rev})

    def _get_latest_commit(self, request: web.Request) -> web.StreamResponse:
        repo = self._repo(request)
        return web.json_response({"cid": repo.commit, "rev": repo.rev})

    def _list_repos(self, request: web.Request) -> web.StreamResponse:
        if self._listed:
            start = int(request.query.get("cursor", "0"))
            stop = min(start + int(request.query.get("limit", PAGE_REPOS)), self._listed)
            known = [
                {"did": listed_did(number), "rev": LISTED_REV, "active": True}
                for number in range(start, stop)
            ]
            return web.json_response({"repos": known} | ({"cursor": str(stop)} if known else {}))
        repos = [] if "cursor" in request.query else list(self._repos.values())
        page = [
            {"did": repo.did, "head": repo.commit, "rev": repo.rev, "active": True}
            for repo in repos
        ]
        return web.json_response({"repos": page})

    def _list_repos_by_collection(self, request: web.Request) -> web.StreamResponse:
        repos = [] if "cursor" in request.query else list(self._repos)
        return web.json_response({"repos": [{"did": did} for did in repos]})

    def _list_hosts(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"hosts": []})

    def _resolve_handle(self, request: web.Request) -> web.StreamResponse:
        for repo in self._repos.values():
            if repo.handle == request.query.get("handle"):
                return web.json_response({"did": repo.did})
        return _failure(400, "HandleNotFound", "Unable to resolve handle")


def _failure(status: int, error: str, message: str) -> web.Response:
    return web.json_response({"error": error, "message": message}, status=status)


async def serve(corpora: Sequence[Corpus], listed: int, blobs: Path | None) -> None:
    """Serve on a free loopback port until killed."""
    hosts = Hosts(corpora, listed, blobs)
    runner = web.AppRunner(hosts.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    hosts.origin = f"http://127.0.0.1:{port}"
    print(json.dumps({"port": port}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--listed", type=int, default=0)
    parser.add_argument("--blobs", type=Path)
    options = parser.parse_args()
    folders = [options.corpus, *([options.beside] if options.beside else [])]
    corpora = [Corpus.load(folder) for folder in folders]
    asyncio.run(serve(corpora, options.listed, options.blobs))


if __name__ == "__main__":
    main()
