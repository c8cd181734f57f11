"""HTTP by hand: what no client library would send, on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

DEADLINE_S = 10.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.headers["content-type"].startswith("application/json"), self
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The error's name, in a body that has nothing but name and text."""
        body = self.json()
        assert set(body) == {"error", "message"}, body
        assert isinstance(body["message"], str)
        return body["error"]


class Connection:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, *, is_head: bool = False) -> Answer:
        """The next answer."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            line, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (each.partition(":") for each in lines if each)
            }
            if is_head:
                body = b""
            elif "content-length" in headers:
                body = await self._reader.readexactly(int(headers["content-length"]))
            else:
                body = await self._reader.read()
        return Answer(int(line.split(" ")[1]), headers, body)

    async def informed(self) -> int:
        """The status of an interim answer, which has no body."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ")[1])

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        return await self._reader.read()

    async def ended(self, deadline_s: float = DEADLINE_S) -> bool:
        """Wait for the other side to close; False when it does not."""
        try:
            async with asyncio.timeout(deadline_s):
                while await self._reader.read(65536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def connected(
    port: int, host: str = "127.0.0.1", *, source: str | None = None
) -> AsyncIterator[Connection]:
    """`source` is the address to come from: any of 127.0.0.0/8."""
    local = None if source is None else (source, 0)
    reader, writer = await asyncio.open_connection(host, port, local_addr=local)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(
    path: str = "/",
    *headers: tuple[str, str],
    method: str = "GET",
    body: bytes | None = None,
    host: str | None = "localhost",
) -> bytes:
    """The bytes of a request; headers may repeat and hold anything."""
    lines = [f"{method} {path} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def exchange(port: int, data: bytes, *, source: str | None = None) -> Answer:
    """The answer to one request on a connection of its own."""
    async with connected(port, source=source) as connection:
        await connection.send(data)
        return await connection.answer(is_head=data.startswith(b"HEAD "))
