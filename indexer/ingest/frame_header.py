"""The head of a WebSocket frame, as far as it is needed to find the frame's end.

Source: RFC 6455, section 5.2. What a frame means, and whether it may be, the protocol library says.
"""

from __future__ import annotations

WHOLE_BINARY = 0x82
"""First byte of a binary message in one frame, without extensions."""

HEADER_BYTES_MIN = 2
SIZE_IN_TWO_BYTES = 126
"""Value of the length byte: the two bytes behind it are the length. One more: the eight are."""

MASKED = 128


def payload_extent(buffer: memoryview, start: int, filled: int) -> tuple[int, int] | None:
    """(first byte of the payload, its size) of the frame that begins at `start`.

    `filled` bytes of `buffer` are there, of the payload perhaps none. None while the head itself
    is incomplete. A masked frame, which no server may send, has the size -1.
    """
    body = start + HEADER_BYTES_MIN
    if body > filled:
        return None
    size = buffer[start + 1]
    if size < SIZE_IN_TWO_BYTES:
        return body, size
    if size >= MASKED:
        return body, -1
    if size == SIZE_IN_TWO_BYTES:  # nearly every frame: no slice is made for it
        return None if body + 2 > filled else (body + 2, buffer[body] << 8 | buffer[body + 1])
    return None if body + 8 > filled else (body + 8, int.from_bytes(buffer[body : body + 8]))
