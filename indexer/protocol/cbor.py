"""DAG-CBOR, strictly: one decoding for what is signed structure, one for records.

Commits and MST nodes are decoded with links and byte strings told apart; whatever is not the one
canonical encoding is refused. Records become ATProto JSON and are held to the limits of the data
model, but never refused: what is wrong with one is a reason beside it, since a bad record does not
spoil its repo. The JSON text encodes back to the very block it came from.
Source: the data model specification; its limits are the advice of the same.
"""

from __future__ import annotations

import re

import cbrrr
import msgspec

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.cid import parse_cid

RECORD_BYTES_MAX = 1_048_576
NESTING_MAX = 32
CONTAINER_ITEMS_MAX = 131_072
RECORD_ITEMS_MAX = 262_144
"""Items of all containers together: a mebibyte of empty lists would take 80 MB and a second."""

KEY_BYTES_MAX = 8192
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


_USUAL_LINK = re.compile(r"baf(?:yrei|krei)[a-z2-7]{52}")
"""DAG-CBOR or raw with SHA-256, in the text that the decoder makes of it."""


def _whole_number(text: str) -> int:
    """JSON has one kind of number: `1.0` is the integer 1, and `1.5` is not in the data model."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"not an integer: {text[:40]}")
    return int(number)


_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder(float_hook=_whole_number).decode


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


def has_float(value: object) -> bool:
    """Whether a decoded value holds a floating point number, which ATProto has none of."""
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) is float:
            return True
        if type(item) is dict:
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
    return False


def has_more_items(data: bytes, items_max: int) -> bool:
    """Whether CBOR holds more items than that, counted by structure alone, before allocating any.

    Says nothing about whether the bytes are CBOR at all; the decoder does.
    """
    offset, items, size = 0, 0, len(data)
    while offset < size:
        head = data[offset]
        major, extra = head >> 5, head & 0x1F
        offset += 1
        value = extra
        if 24 <= extra <= 27:
            width = 1 << (extra - 24)
            value = int.from_bytes(data[offset : offset + width])
            offset += width
        if major in (2, 3):
            offset += value
        items += 1
        if items > items_max:
            return True
    return False


def decode_record(block: bytes, collection: str) -> tuple[dict[str, object] | None, str | None]:
    """(ATProto JSON value, None), or (None, what breaks the data model). Never raises.

    Links are `{"$link": text}` and byte strings `{"$bytes": base64}`.
    """
    value, problem = decode_object(block)
    if value is not None and value.get("$type") != collection:
        return None, f"$type: must be {collection}"
    return value, problem


def decode_object(block: bytes) -> tuple[dict[str, object] | None, str | None]:
    """The same for an object of any type, or of none."""
    size = len(block)
    if size > RECORD_BYTES_MAX:
        return None, f"record: {size} bytes, more than {RECORD_BYTES_MAX}"
    if size > RECORD_ITEMS_MAX and has_more_items(block, RECORD_ITEMS_MAX):
        return None, f"record: more than {RECORD_ITEMS_MAX} items"
    try:
        value: object = cbrrr.decode_dag_cbor(block, atjson_mode=True)
    except (ValueError, RecursionError, MemoryError) as error:
        return None, f"record: not DAG-CBOR: {error}"
    problem = _data_model_problem(value)
    if problem is not None:
        return None, problem
    return (value, None) if isinstance(value, dict) else (None, "record: must be an object")


def encode_json(value: object) -> str:
    """Compact JSON text of an ATProto JSON value."""
    return _encode_json(value).decode()


def decode_json(text: str) -> dict[str, object]:
    """The object of a stored ATProto JSON text, which `encode_json` has made.

    Raises ValueError for anything else, which only a spoilt file can hold.
    """
    value: object = _decode_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"a record is an object, this is {type(value).__name__}")  # noqa: TRY004 - it is no argument of a wrong type
    return value


def json_to_dag_cbor(text: str) -> bytes:
    """The block that a stored JSON text came from.

    Raises ValueError for text that is no JSON, or no JSON of the data model.
    """
    try:
        return cbrrr.encode_dag_cbor(_decode_json(text), atjson_mode=True)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _data_model_problem(root: object) -> str | None:
    """What the data model forbids in a decoded value, walked without recursion."""
    level: list[object] = [root]  # without texts, which most values are and which break no rule
    depth = 0
    while level and type(root) is not str:
        deeper: list[object] = []
        is_nested = False
        for value in level:
            if value is None or type(value) is bool:
                continue
            problem = _value_problem(value)
            if problem is not None:
                return problem
            if isinstance(value, dict):
                deeper += [each for each in value.values() if type(each) is not str]
                is_nested = is_nested or bool(value)
            elif isinstance(value, list):
                deeper += [each for each in value if type(each) is not str]
                is_nested = is_nested or bool(value)
        depth += 1
        if is_nested and depth > NESTING_MAX:
            return f"record: nested more than {NESTING_MAX} deep"
        level = deeper
    return None


def _value_problem(value: object) -> str | None:
    """What is wrong with one number or container by itself."""
    if isinstance(value, int):
        return None if INT_MIN <= value <= INT_MAX else "record: integer out of range"
    if not isinstance(value, dict | list):
        return "record: floating point number"
    if len(value) > CONTAINER_ITEMS_MAX:
        return f"record: more than {CONTAINER_ITEMS_MAX} items in one container"
    return _map_problem(value) if isinstance(value, dict) else None


def _map_problem(value: dict[str, object]) -> str | None:
    """What the data model forbids in one map: keys, links, type names and the shape of blobs."""
    link = value.get("$link")
    if type(link) is str:
        # The decoder refuses maps that only look like links, so this one was a link.
        return None if _is_link_text(link) else "record: a link is not a CID of version 1"
    longest = max(map(len, value), default=0)
    if "" in value or (
        longest > KEY_BYTES_MAX // 4 and any(len(key.encode()) > KEY_BYTES_MAX for key in value)
    ):
        return f"record: a key is empty or has more than {KEY_BYTES_MAX} bytes"
    if "$type" not in value:
        return None
    name = value["$type"]
    if type(name) is not str or not name:
        return "record: $type must be a name"
    return _blob_problem(value) if name == "blob" else None


def _blob_problem(value: dict[str, object]) -> str | None:
    ref, mime_type, size = value.get("ref"), value.get("mimeType"), value.get("size")
    if type(ref) is not dict or "$link" not in ref:
        return "record: the ref of a blob must be a link"
    if type(mime_type) is not str or not mime_type:
        return "record: the mimeType of a blob must be a name"
    return None if type(size) is int and size >= 0 else "record: the size of a blob must be bytes"


def _is_link_text(text: str) -> bool:
    if _USUAL_LINK.fullmatch(text) is not None:
        return True
    try:
        parse_cid(text)
    except InvalidUpstream:
        return False
    return True
