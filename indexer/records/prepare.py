"""One record from its block to everything that will be written of it.

Owns the order: data model, upgrade, lexicon, projection. Never raises for anything that the
network can send: what is wrong is a `problem` in the result, and the record keeps its row. Whether
a record comes live, by a fetch, from a dead letter or from our own rows at a rebuild, it passes
here, so all of them end in the same rows.
"""

from __future__ import annotations

from indexer.derived import Projection
from indexer.model import PreparedRecord
from indexer.protocol.cbor import decode_json, decode_record, encode_json
from indexer.records.projection import RecordContext, Value
from indexer.records.registry import Registry


def prepare_record(
    did: str, path: str, cid: str, block: bytes, registry: Registry
) -> PreparedRecord:
    """The record at `path` (collection/rkey) of the repo `did`, from its verified block."""
    collection = path.partition("/")[0]
    value, problem = decode_record(block, collection)
    if not isinstance(value, dict):
        return PreparedRecord(path, cid, None, problem or "value: must be an object")
    problem, projection = assess_value(did, path, value, registry)
    return PreparedRecord(path, cid, encode_json(value), problem, projection)


def prepare_stored(
    did: str, path: str, cid: str, value_text: str, registry: Registry
) -> PreparedRecord:
    """The same from the ATProto JSON text of a record row, for rebuilds and `verify`."""
    problem, projection = assess_value(did, path, decode_json(value_text), registry)
    return PreparedRecord(path, cid, value_text, problem, projection)


def prepare_trusted(
    did: str, path: str, cid: str, value_text: str, registry: Registry
) -> PreparedRecord:
    """The same of a value that has been held against the same lexicons, and found valid."""
    collection, _, rkey = path.partition("/")
    kind = registry.types.get(collection)
    projection = None
    if kind is not None:
        value = decode_json(value_text)
        context = RecordContext(did, f"at://{did}/{path}", rkey, registry.governance_did, value)
        projection = kind.project(kind.upgrade(value, context), context)
    return PreparedRecord(path, cid, value_text, None, projection)


def assess_value(
    did: str, path: str, value: Value, registry: Registry
) -> tuple[str | None, Projection | None]:
    """First violation, or the derived rows, of a value that satisfies the data model.

    Both are None for a collection that is kept generically and breaks no lexicon.
    """
    collection, _, rkey = path.partition("/")
    kind = registry.types.get(collection)
    key = registry.catalog.record_key(collection)
    if key is not None and key.startswith("literal:") and rkey != key[8:]:
        return f"rkey: must be {key[8:]}", None
    if kind is None:
        return registry.catalog.validate_record(collection, value), None
    context = RecordContext(did, f"at://{did}/{path}", rkey, registry.governance_did, value)
    upgraded = kind.upgrade(value, context)
    problem = registry.catalog.validate_record(collection, upgraded)
    if problem is not None:
        return problem, None
    return None, kind.project(upgraded, context)
