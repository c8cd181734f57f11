"""The head of a WebSocket frame against the library's own serialisation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import BINARY, CONT, PING, TEXT, Frame

from indexer.ingest.frame_header import WHOLE_BINARY, payload_extent

SIZES = st.one_of(st.integers(0, 300), st.integers(65_500, 65_600))


@given(SIZES, st.sampled_from([BINARY, TEXT, CONT, PING]), st.booleans(), st.integers(0, 9))
def test_the_payload_lies_where_the_library_put_it(size, opcode, fin, before):
    payload = bytes(i % 251 for i in range(size))
    if opcode is PING:
        payload, fin = payload[:125], True
    data = bytes(before) + Frame(opcode, payload, fin=fin).serialize(mask=False)
    extent = payload_extent(memoryview(data), before, len(data))
    assert extent is not None
    body, length = extent
    assert data[body : body + length] == payload
    assert body + length == len(data)
    assert (data[before] == WHOLE_BINARY) == (opcode is BINARY and fin)


@given(SIZES)
def test_an_incomplete_head_has_no_extent(size):
    data = Frame(BINARY, bytes(size)).serialize(mask=False)
    head = len(data) - size
    for filled in range(head):
        assert payload_extent(memoryview(data), 0, filled) is None
    assert payload_extent(memoryview(data), 0, head) == (head, size)


def test_a_masked_frame_is_told_apart():
    data = Frame(BINARY, b"x").serialize(mask=True)
    assert payload_extent(memoryview(data), 0, len(data)) == (2, -1)
