"""The head of a WebSocket frame, as far as it is needed to find the frame's end.

Source: RFC 6455, section 5.2. What a frame means, and whether it may be, the protocol library says.
"""

from __future__ import annotations

WHOLE_BINARY = 0x82
"""First byte of a binary message in one frame, without extensions."""

HEADER_BYTES_MIN = 2
MASKED = 128
EXTENDED_BYTES = {126: 2, 127: 8}  # value of the length byte -> bytes of the length behind it


def payload_extent(buffer: memoryview, start: int, filled: int) -> tuple[int, int] | None:
    """(first byte of the payload, its size) of the frame that begins at `start`.

    `filled` bytes of `buffer` are there, of the payload perhaps none. None while the head itself
    is incomplete. A masked frame, which no server may send, has the size -1.
    """
    if filled - start < HEADER_BYTES_MIN:
        return None
    size, body = buffer[start + 1], start + HEADER_BYTES_MIN
    if size in EXTENDED_BYTES:
        body += EXTENDED_BYTES[size]
        if body > filled:
            return None
        return body, int.from_bytes(buffer[start + HEADER_BYTES_MIN : body])
    return body, size if size < MASKED else -1
