"""DAG-CBOR, strictly: one decoding for what is signed structure, one for records.

Commits and MST nodes are decoded with links and byte strings told apart; whatever is not the one
canonical encoding is refused. Records become ATProto JSON and are held to the limits of the data
model, but never refused: what is wrong with one is a reason beside it, since a bad record does not
spoil its repo. The JSON text encodes back to the very block it came from.
"""

from __future__ import annotations

import cbrrr
import msgspec

from indexer.errors import Check, InvalidUpstream

RECORD_BYTES_MAX = 1_048_576
NESTING_MAX = 32
CONTAINER_ITEMS_MAX = 131_072
INT_MIN, INT_MAX = -(2**63), 2**63 - 1

_AMBIGUOUS_KEYS = (b"$link", b"$bytes")
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


class Link(bytes):
    """A binary CID inside a decoded block, as distinct from a byte string."""

    __slots__ = ()


def decode_block(block: bytes) -> object:
    """The value of a commit or MST node; links are `Link`.

    Raises `InvalidUpstream` (`Check.CBOR`) for anything but canonical DAG-CBOR.
    """
    try:
        return cbrrr.decode_dag_cbor(block, cid_ctor=Link)
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidUpstream(Check.CBOR, str(error)) from error


def encode_block(value: object) -> bytes:
    """Canonical DAG-CBOR of a value as `decode_block` returns it."""
    return cbrrr.encode_dag_cbor(value, cid_type=Link)  # type: ignore[arg-type]  # cid_ctor's own type


def decode_record(block: bytes, collection: str) -> tuple[object | None, str | None]:
    """(ATProto JSON value, None), or (None, what breaks the data model). Never raises.

    Links are `{"$link": text}` and byte strings `{"$bytes": base64}`.
    """
    if len(block) > RECORD_BYTES_MAX:
        return None, f"record: {len(block)} bytes, more than {RECORD_BYTES_MAX}"
    try:
        value = cbrrr.decode_dag_cbor(block, atjson_mode=True)
    except (ValueError, RecursionError, MemoryError) as error:
        return None, f"record: not DAG-CBOR: {error}"
    problem = _data_model_problem(value)
    if problem is None and any(key in block for key in _AMBIGUOUS_KEYS):
        problem = _ambiguity(value, block)
    if problem is not None:
        return None, problem
    if not isinstance(value, dict):
        return None, "record: must be an object"
    if value.get("$type") != collection:
        return None, f"$type: must be {collection}"
    return value, None


def encode_json(value: object) -> str:
    """Compact JSON text of an ATProto JSON value."""
    return _encode_json(value).decode()


def json_to_dag_cbor(text: str) -> bytes:
    """The block that a stored JSON text came from. Raises ValueError for text that is no JSON."""
    return cbrrr.encode_dag_cbor(_decode_json(text), atjson_mode=True)


def _data_model_problem(root: object) -> str | None:
    """What the data model forbids in a decoded value, walked without recursion."""
    level: list[object] = [root]
    depth = 0
    while level:
        deeper: list[object] = []
        for value in level:
            kind = type(value)
            if kind is str or kind is bool or value is None:
                continue
            if kind is int:
                if not INT_MIN <= value <= INT_MAX:  # type: ignore[operator]  # an int
                    return "record: integer out of range"
            elif kind is dict or kind is list:
                if len(value) > CONTAINER_ITEMS_MAX:  # type: ignore[arg-type]  # a container
                    return f"record: more than {CONTAINER_ITEMS_MAX} items in one container"
                deeper.extend(value.values() if kind is dict else value)  # type: ignore[attr-defined,arg-type]  # as tested
            else:
                return "record: floating point number"
        depth += 1
        if deeper and depth > NESTING_MAX:
            return f"record: nested more than {NESTING_MAX} deep"
        level = deeper
    return None


def _ambiguity(value: object, block: bytes) -> str | None:
    """A map that only looks like a link would come back as one: the text could not be trusted."""
    try:
        is_same = cbrrr.encode_dag_cbor(value, atjson_mode=True) == block  # type: ignore[arg-type]  # JSON
    except (ValueError, TypeError):
        is_same = False
    return None if is_same else "record: reserved key $link or $bytes"
