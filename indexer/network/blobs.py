"""Blobs of accounts: fetched from the host that the DID document names, onto disk, and checked."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import IO

from indexer.errors import Check, InvalidUpstream, LocalBusy, NotServed, Unavailable
from indexer.network.answers import XrpcFailure
from indexer.network.http import HttpClient
from indexer.network.identity import IdentityResolver
from indexer.network.spool import SpoolFolder
from indexer.protocol.cid import parse_cid

SHA256_DIGEST = b"\x12\x20"
"""Hash function and length before the digest, in a CID that can be checked."""


class BlobNetwork:
    """Satisfies `indexer.operations.citation_extraction.Blobs`."""

    def __init__(
        self,
        http: HttpClient,
        identities: IdentityResolver,
        folder: SpoolFolder,
        *,
        bytes_max: int,
        idle_s: float,
        total_s: float,
    ) -> None:
        self._http = http
        self._identities = identities
        self._folder = folder
        self._bytes_max = bytes_max
        self._idle_s = idle_s
        self._total_s = total_s

    @asynccontextmanager
    async def fetch(self, did: str, cid: str, size: int | None) -> AsyncIterator[IO[bytes]]:
        """A blob of an account as a file without a name, at its beginning.

        `size` is what its record says, in bytes. Raises `InvalidUpstream`: `LIMITS` for one that is
        too large, `BLOCK_HASH` for bytes that are not the CID's; `NotServed` where the host has no
        such blob, `Unavailable` for none that can be had now, `LocalBusy` without room on disk.
        """
        digest = _digest(cid)
        if size is not None and size > self._bytes_max:
            raise InvalidUpstream(Check.LIMITS, f"{size} bytes, where {self._bytes_max} are read")
        try:
            file = tempfile.TemporaryFile(dir=self._folder.path)  # noqa: SIM115 - closed below
        except OSError as error:
            raise LocalBusy(f"spool: {error.strerror}") from error
        taken = 0
        try:
            try:
                taken = await self._download(file, did, cid, digest, is_fresh=False)
            except (NotServed, Unavailable):
                # The account may have moved since its document was last read.
                await asyncio.to_thread(_empty, file)
                taken = await self._download(file, did, cid, digest, is_fresh=True)
            yield file
        finally:
            self._folder.give_back(taken)
            # What could not be written was told by then, and is tried once more by this.
            with suppress(OSError):
                file.close()

    async def _download(
        self, file: IO[bytes], did: str, cid: str, digest: bytes, *, is_fresh: bool
    ) -> int:
        """Fetch the bytes into the file; how many, taken of the folder's budget."""
        document = await self._identities.resolve(did, fresh=is_fresh)
        if document.pds_url is None:
            raise NotServed(f"{did} names no host")
        found = sha256()
        taken = 0
        try:
            async with self._http.stream(
                f"{document.pds_url}/xrpc/com.atproto.sync.getBlob",
                service="pds",
                params={"did": did, "cid": cid},
                bytes_max=self._bytes_max,
                idle_s=self._idle_s,
                total_s=self._total_s,
            ) as body:
                async for chunk in body:
                    self._folder.take(len(chunk))
                    taken += len(chunk)
                    found.update(chunk)
                    await asyncio.to_thread(_write, file, chunk)
            _insist_on(found.digest() == digest, f"{taken} bytes that are not {cid}")
            await asyncio.to_thread(file.seek, 0)
        except XrpcFailure as error:
            self._folder.give_back(taken)
            raise NotServed(f"{document.pds_url}: getBlob: {error}") from error
        except BaseException:
            self._folder.give_back(taken)
            raise
        return taken


def _digest(cid: str) -> bytes:
    binary = parse_cid(cid)
    head, digest = binary[:-32], binary[-32:]
    if not head.endswith(SHA256_DIGEST):
        raise InvalidUpstream(Check.FIELDS, f"{cid} has a hash that cannot be checked")
    return digest


def _insist_on(is_right: bool, detail: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not is_right:
        raise InvalidUpstream(Check.BLOCK_HASH, detail)


def _write(file: IO[bytes], chunk: bytes) -> None:
    """Write through the file's own buffer: what stays there fails later, out of place."""
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise LocalBusy(f"spool: {error.strerror}") from error


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()
