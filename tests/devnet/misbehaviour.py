"""Answers that a fault sends in place of the true one, or makes of it.

Owns the HTTP side of every fault kind that concerns bytes on the wire. `instead` runs before the
handler, `spoil` takes its reply and sends it wrongly.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web

from tests.devnet.car import car_header, car_section
from tests.devnet.cbor import cid_of
from tests.devnet.faults import Fault, FaultKind

if TYPE_CHECKING:
    from tests.devnet.serving import Reply


async def never() -> None:
    """Wait until the client gives up: aiohttp then cancels the handler."""
    await asyncio.Event().wait()


async def instead(fault: Fault, request: web.Request) -> web.StreamResponse | None:
    """The answer that replaces the handler's, or None to go on with it."""
    match fault.kind:
        case FaultKind.HTTP_STATUS:
            return _status(fault)
        case FaultKind.HTTP_429:
            return _too_many(fault)
        case FaultKind.HTTP_DELAY:
            await asyncio.sleep(fault.number("seconds", 1.0))
            return None
        case FaultKind.HTTP_HANG:
            await never()
            return None
        case FaultKind.HTTP_HTML:
            html = "<!doctype html><title>Please stand by</title>"
            return web.Response(text=html, content_type="text/html")
        case FaultKind.HTTP_BODY:
            kind = fault.text("content_type", "application/vnd.ipld.car")
            return web.Response(body=fault.raw("body") or b"", content_type=kind)
        case FaultKind.HTTP_REDIRECT:
            return web.Response(status=302, headers={"Location": fault.text("location", "/")})
        case FaultKind.GZIP_BOMB:
            return await _gzip_bomb(fault, request)
        case _:
            return await _endless(fault, request)


async def spoil(fault: Fault, request: web.Request, reply: Reply) -> web.StreamResponse:
    """Send `reply` wrongly."""
    parts = list(reply.parts)
    if fault.kind is FaultKind.CAR_WRONG_HASH and len(parts) > 1:
        at = len(parts) // 2 if len(parts) > 2 else 1
        parts[at] = parts[at][:-1] + bytes((parts[at][-1] ^ 1,))
    if fault.kind is FaultKind.CAR_MISSING_BLOCK and len(parts) > 1:
        del parts[int(fault.number("index", len(parts) // 2 or 1))]
    body = b"".join(parts)
    headers = {"Content-Type": reply.content_type}
    if fault.kind is FaultKind.HTTP_LENGTH_LIE:
        return await _raw_length(request, reply, body, int(fault.number("delta", 10)))
    response = web.StreamResponse(status=reply.status, headers=headers)
    await response.prepare(request)
    match fault.kind:
        case FaultKind.HTTP_TRUNCATE:
            await response.write(body[: _cut(fault, body)])
        case FaultKind.HTTP_RESET:
            await response.write(body[: int(fault.number("at", 0))])
            await _abort(request)
        case FaultKind.HTTP_STALL:
            await response.write(body[: _cut(fault, body)])
            await never()
        case FaultKind.HTTP_SLOW:
            size = int(fault.number("chunk", 1))
            for at in range(0, len(body), size):
                await response.write(body[at : at + size])
                await asyncio.sleep(fault.number("interval_s", 0.05))
        case _:
            await response.write(body)
    await response.write_eof()
    return response


def _cut(fault: Fault, body: bytes) -> int:
    return int(fault.number("at", len(body) * fault.number("fraction", 0.5)))


def _status(fault: Fault) -> web.Response:
    headers = fault.params.get("headers")
    extra = headers if isinstance(headers, dict) else {}
    status = int(fault.number("status", 500))
    body = fault.raw("body")
    if body is not None:
        return web.Response(status=status, headers=extra, body=body)
    error = fault.text("error", "InternalServerError")
    value = {"error": error, "message": fault.text("message", error)}
    return web.json_response(value, status=status, headers=extra)


def _too_many(fault: Fault) -> web.Response:
    """As the real PDS does, or as the proxy in front of the real ones: HTML and no header."""
    if fault.params.get("headers") is False:
        return web.Response(status=429, text="<h1>429</h1>", content_type="text/html")
    wait_s = int(fault.number("retry_after_s", 30))
    headers = {
        "RateLimit-Limit": "3000",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": str(int(fault.number("reset_at", 0))),
        "RateLimit-Policy": "3000;w=300",
        "Retry-After": str(wait_s),
    }
    value = {"error": "RateLimitExceeded", "message": "Rate Limit Exceeded"}
    return web.json_response(value, status=429, headers=headers)


async def _gzip_bomb(fault: Fault, request: web.Request) -> web.StreamResponse:
    packer = zlib.compressobj(9, wbits=31)
    kind = fault.text("content_type", "application/json")
    response = web.StreamResponse(headers={"Content-Encoding": "gzip", "Content-Type": kind})
    await response.prepare(request)
    block = bytes(1_000_000)
    with contextlib.suppress(ConnectionResetError):  # who has had enough hangs up
        for _ in range(int(fault.number("size", 50_000_000)) // len(block)):
            await response.write(packer.compress(block))
            await asyncio.sleep(0)
        await response.write(packer.flush())
        await response.write_eof()
    return response


async def _endless(fault: Fault, request: web.Request) -> web.StreamResponse:
    """A CAR of valid random blocks that does not end, up to a bound for a broken client."""
    response = web.StreamResponse(headers={"Content-Type": "application/vnd.ipld.car"})
    await response.prepare(request)
    sent = 0
    for part in _random_car(fault.text("salt", "")):
        if sent > fault.number("size_max", 1_000_000_000):
            break
        await response.write(part)
        sent += len(part)
        await asyncio.sleep(0)
    return response


def _random_car(salt: str) -> Iterator[bytes]:
    number = 0
    yield car_header([cid_of(b"root" + salt.encode())])
    while True:
        number += 1
        block = b"\x59\x10\x00" + hashlib.sha256(f"{salt}{number}".encode()).digest() * 128
        yield car_section(cid_of(block), block)


async def _raw_length(
    request: web.Request, reply: Reply, body: bytes, delta: int
) -> web.StreamResponse:
    """Announce a wrong Content-Length, which aiohttp itself would not let us."""
    transport = request.transport
    assert transport is not None
    head = (
        f"HTTP/1.1 {reply.status} OK\r\nContent-Type: {reply.content_type}\r\n"
        f"Content-Length: {len(body) + delta}\r\nConnection: close\r\n\r\n"
    )
    transport.write(head.encode() + body)
    transport.close()
    await never()
    return web.Response()


async def _abort(request: web.Request) -> None:
    """Reset the connection once what was written has gone out."""
    transport = request.transport
    assert isinstance(transport, asyncio.Transport)
    while transport.get_write_buffer_size():
        await asyncio.sleep(0.001)
    transport.abort()
    await never()


def flip(data: bytes, at: int) -> bytes:
    """`data` with one bit of byte `at` changed."""
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
