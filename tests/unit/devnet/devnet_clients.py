"""Plain clients of the devnet that know nothing of its code."""

from __future__ import annotations

import asyncio

import aiohttp
import libipld
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

SUBSCRIBE = "/xrpc/com.atproto.sync.subscribeRepos"


class Client:
    """An HTTP client and a subscriber."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, base: str, method: str, **params: str) -> tuple[int, object]:
        """Status and JSON of an XRPC query, or of any path that starts with a slash."""
        path = method if method.startswith("/") else f"/xrpc/{method}"
        async with self._session.get(base + path, params=params) as answer:
            return answer.status, await answer.json(content_type=None)

    async def raw(
        self, base: str, method: str, **params: str
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Response and body of an XRPC query."""
        path = method if method.startswith("/") else f"/xrpc/{method}"
        async with self._session.get(
            base + path, params=params, allow_redirects=False, timeout=aiohttp.ClientTimeout(2)
        ) as answer:
            return answer, await answer.read()


async def messages(url: str, cursor: object = None, *, count: int) -> list[bytes | str]:
    """The next `count` messages of a stream."""
    query = "" if cursor is None else f"?cursor={cursor}"
    async with asyncio.timeout(5):
        async with connect(url + SUBSCRIBE + query, max_size=None, compression=None) as socket:
            return [await socket.recv() for _ in range(count)]


async def until_end(
    url: str, cursor: object = None, *, max_size: int = 5_000_000, patience_s: float = 0.4
) -> tuple[list[bytes | str], object]:
    """All messages until the connection ends, and how: close code and reason, an HTTP status,
    `reset`, or `open` if it has not ended after `patience_s`."""
    query = "" if cursor is None else f"?cursor={cursor}"
    got: list[bytes | str] = []
    try:
        async with asyncio.timeout(patience_s):
            async with connect(
                url + SUBSCRIBE + query, max_size=max_size, compression=None, close_timeout=0.1
            ) as socket:
                while True:
                    got.append(await socket.recv())
    except ConnectionClosed as exc:
        if exc.rcvd is not None:
            return got, (exc.rcvd.code, exc.rcvd.reason)
        return got, exc.sent.code if exc.sent is not None else "reset"
    except InvalidStatus as exc:
        return got, exc.response.status_code
    except (InvalidMessage, ConnectionError, EOFError):
        return got, "reset"
    except TimeoutError:
        return got, "open"


def parse(frame: bytes | str) -> tuple[dict, dict]:
    """Header and body by an independent decoder."""
    assert isinstance(frame, bytes)
    header, body = libipld.decode_dag_cbor_multi(frame)
    return header, body


def kinds(frames: list[bytes | str]) -> list[str]:
    """Types of the frames."""
    return [parse(frame)[0].get("t", "error") for frame in frames]
