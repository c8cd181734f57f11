"""The little of RFC 6455 that a relay on loopback needs: handshake, headers, control frames.

A client's data frames have no meaning on this stream and are refused.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
REQUEST_BYTES_MAX = 16 * 1024

OPCODE_BINARY = 0x2
OPCODE_CLOSE = 0x8
OPCODE_PING = 0x9
OPCODE_PONG = 0xA
FINAL = 0x80


@dataclass(frozen=True, slots=True)
class Request:
    """An upgrade request, as far as it matters here."""

    target: str
    key: bytes  # value of Sec-WebSocket-Key

    @property
    def cursor(self) -> int | None:
        """The seq after which the client wants to go on."""
        _, found, rest = self.target.partition("cursor=")
        return int(rest.partition("&")[0]) if found else None


def parse_request(head: bytes) -> Request | None:
    """Read a request up to its blank line; None where it does not ask for a websocket."""
    lines = head.decode("latin-1").split("\r\n")
    target = lines[0].split(" ")[1]
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "sec-websocket-key":
            return Request(target, value.strip().encode())
    return None


def accept_response(request: Request) -> bytes:
    """The answer that opens the websocket, without extensions."""
    digest = hashlib.sha1(request.key + ACCEPT_SALT, usedforsecurity=False).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


def header(opcode: int, length: int) -> bytes:
    """Header of an unmasked, unfragmented frame, as servers send it."""
    if length < 126:
        return bytes((FINAL | opcode, length))
    if length < 65536:
        return struct.pack(">BBH", FINAL | opcode, 126, length)
    return struct.pack(">BBQ", FINAL | opcode, 127, length)


class ControlFrames:
    """Cuts what a client sends into control frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(opcode, unmasked payload) of each complete frame. ValueError on anything else."""
        self._rest += data
        frames = []
        while len(self._rest) >= 6:
            opcode, length = self._rest[0] & 0x0F, self._rest[1] & 0x7F
            if opcode < OPCODE_CLOSE or length > 125:
                raise ValueError(f"client sent a frame with opcode {opcode} and length {length}")
            end = 6 + length
            if len(self._rest) < end:
                break
            mask, masked = self._rest[2:6], self._rest[6:end]
            payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
            frames.append((opcode, payload))
            del self._rest[:end]
        return frames
