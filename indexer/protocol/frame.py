"""Frames of `com.atproto.sync.subscribeRepos`: two CBOR objects in one binary message.

Decoding is strict about what would make the stream ambiguous (framing, header, seq) and lets
everything else through: unknown types and fields are the future. Bodies stay unparsed, because
most frames concern nobody here.
Source: the event stream specification.
"""

from __future__ import annotations

from typing import NamedTuple

import libipld

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.cbor import has_more_items

SEQ_MAX = 2**53 - 1
LARGE_FRAME_BYTES = 256 * 1024
ITEMS_MAX = 20_000
"""CBOR items of a frame; the largest legal commit has some 1,300 outside its blocks."""

ERROR = "#error"
INFO = "#info"
_DID_FIELDS = {"#commit": "repo", "#sync": "did", "#identity": "did", "#account": "did"}


class Frame(NamedTuple):
    """One message. `seq` and `did` are None where the type has none."""

    type: str  # as in the header; `#error` for an error frame; `` for an unknown op
    seq: int | None
    did: str | None
    body: dict[str, object]


def decode_frame(data: bytes) -> Frame:
    """Decode one message. Raises `InvalidUpstream` (`Check.FRAME`) for any other bytes."""
    if len(data) > LARGE_FRAME_BYTES and has_more_items(data, ITEMS_MAX):
        # 5 MB of empty lists would take 356 MB.
        raise InvalidUpstream(Check.FRAME, f"more than {ITEMS_MAX} items")
    try:
        header, body = libipld.decode_dag_cbor_multi(data)
        op = header["op"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, MemoryError) as error:
        raise InvalidUpstream(Check.FRAME, _brief(error)) from error
    if type(body) is not dict or type(op) is not int:
        raise InvalidUpstream(Check.FRAME, "header or body of the wrong type")
    if op == 1:
        kind = header.get("t")
        if type(kind) is not str:
            raise InvalidUpstream(Check.FRAME, "a message without type")
        field = _DID_FIELDS.get(kind)
        if field is not None:
            seq, did = body.get("seq"), body.get(field)
            if type(seq) is not int or not 0 < seq <= SEQ_MAX:
                raise InvalidUpstream(Check.FRAME, "no sequence number")
            if type(did) is not str:
                raise InvalidUpstream(Check.FRAME, f"{field} is not a string")
            return Frame(kind, seq, did, body)
        # Of a type that we do not know: its seq, if it is one, still moves the cursor.
        seq = body.get("seq")
        is_seq = type(seq) is int and 0 < seq <= SEQ_MAX
        return Frame(kind, seq if is_seq and kind != INFO else None, None, body)
    if op == -1:
        return Frame(ERROR, None, None, body)
    return Frame("", None, None, body)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
