"""Blobs on a disk without room: what cannot be written is trouble that passes, and no bug."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from loopback import Loopback, Wire, answer, chunk, chunked

from indexer.errors import LocalBusy
from indexer.network.blobs import BlobNetwork
from indexer.network.identity import IdentityResolver
from indexer.network.spool import SpoolFolder
from indexer.protocol.cid import cid_text, raw_cid

DID = "did:plc:" + "a" * 24
ROOM_BYTES = 100_000


@contextmanager
def little_room() -> Iterator[None]:
    """No file of this process may become larger; what is beyond fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [ROOM_BYTES + 1, 2 * ROOM_BYTES], ids=["its end", "its midst"])
async def test_a_blob_for_which_there_is_no_room_on_disk_is_waited_for(
    client, clock, tmp_path, size: int
):
    body = bytes(range(251)) * (size // 251 + 1)
    parts = [body[at : min(at + 5_000, size)] for at in range(0, size, 5_000)]

    async def script(wire: Wire) -> None:
        if "getBlob" in wire.path:
            await wire.send(chunked("application/pdf"))
            for part in (*parts, b""):
                await wire.send(chunk(part))
            return
        service = {
            "id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": pds.url
        }  # fmt: skip
        await wire.send(answer(json.dumps({"id": DID, "service": [service]})))

    async with Loopback(script) as pds:
        http = await client(exempt=[pds.url])
        identities = IdentityResolver(
            http, plc_url=pds.url, handle_resolver_url=None, allow_private=True, clock=clock
        )
        folder = SpoolFolder(tmp_path / "spool", bytes_max=10**9, archive_bytes_max=10**9)
        blobs = BlobNetwork(http, identities, folder, bytes_max=10**9, idle_s=5.0, total_s=10.0)
        cid = cid_text(raw_cid(body[:size]))
        with little_room(), pytest.raises(LocalBusy, match="spool"):
            async with blobs.fetch(DID, cid, size):
                pass
        assert folder.bytes_used == 0
        async with blobs.fetch(DID, cid, size) as file:
            assert file.read() == body[:size]
        assert folder.bytes_used == 0
