"""Values made from lexicon documents: full ones, minimal ones, and one mutant a constraint."""

from __future__ import annotations

import copy

from indexer.records.registry import bundled_documents

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
OTHER_DID = "did:plc:44ybard66vv44zksje25o7dz"
GOVERNANCE_DID = "did:plc:5wzpn4a4nbqtz3q45hyud6hd"
CID = "bafkreiccldh766hwcnuxnf2wh6jgzepf2nlu2lvcllt63eww5p6chi4ity"
EPRINT_URI = f"at://{OTHER_DID}/pub.chive.eprint.submission/3kabcdefghi2a"

DOCUMENTS = {document["id"]: document for document in bundled_documents()}
RECORD_NSIDS = sorted(
    nsid
    for nsid, document in DOCUMENTS.items()
    if document["defs"].get("main", {}).get("type") == "record"
)

FORMAT_EXAMPLES = {
    "at-uri": EPRINT_URI,
    "cid": CID,
    "datetime": "2026-03-01T12:00:00.000Z",
    "did": OTHER_DID,
    "handle": "alice.example.com",
    "uri": "https://example.com/a?b=c",
    "nsid": "pub.chive.eprint.submission",
}


def lookup(nsid, reference):
    """(document id, definition name, schema) of a reference seen from `nsid`."""
    document, _, name = reference.partition("#")
    document = document or nsid
    return document, name or "main", DOCUMENTS[document]["defs"][name or "main"]


def record_schema(nsid):
    return DOCUMENTS[nsid]["defs"]["main"]["record"]


def record_key(nsid):
    key = DOCUMENTS[nsid]["defs"]["main"]["key"]
    return key.removeprefix("literal:") if key.startswith("literal:") else "3kabcdefghi2b"


def full(nsid):
    value = {"$type": nsid} | _example(nsid, record_schema(nsid), is_full=True, depth=0)
    return _current(nsid, value)


def minimal(nsid):
    value = {"$type": nsid} | _example(nsid, record_schema(nsid), is_full=False, depth=0)
    return _current(nsid, value)


def _current(nsid, value):
    """Marked with the revision of the document, so that no upgrade touches it."""
    if "schemaRevision" in record_schema(nsid)["properties"]:
        value["schemaRevision"] = DOCUMENTS[nsid]["revision"]
    return value


def _example(nsid, schema, *, is_full, depth):
    match schema["type"]:
        case "object":
            required = schema.get("required", [])
            return {
                name: _example(nsid, inner, is_full=is_full, depth=depth + 1)
                for name, inner in schema["properties"].items()
                if name in required or (is_full and depth < 8)
            }
        case "array":
            if schema["items"]["type"] == "union" and is_full:
                return [
                    _member(nsid, reference, is_full=True, depth=depth)
                    for reference in schema["items"]["refs"]
                ]
            count = max(schema.get("minLength", 0), 1 if is_full and depth < 8 else 0)
            return [
                _example(nsid, schema["items"], is_full=is_full, depth=depth + 1)
                for _ in range(count)
            ]
        case "ref":
            document, _, target = lookup(nsid, schema["ref"])
            return _example(document, target, is_full=is_full, depth=depth)
        case "union":
            return _member(nsid, schema["refs"][0], is_full=is_full, depth=depth)
        case "string":
            return _text(schema)
        case "integer":
            return schema.get("default", schema.get("minimum", 7))
        case "boolean":
            return True
        case "blob":
            mime_type = schema.get("accept", ["application/pdf"])[0]
            return {"$type": "blob", "ref": {"$link": CID}, "mimeType": mime_type, "size": 1000}
        case other:
            raise AssertionError(other)


def _member(nsid, reference, *, is_full, depth):
    document, name, target = lookup(nsid, reference)
    value = _example(document, target, is_full=is_full, depth=depth + 1)
    return {"$type": f"{document}#{name}"} | value


def _text(schema):
    if "const" in schema:
        return schema["const"]
    if "format" in schema:
        return FORMAT_EXAMPLES[schema["format"]]
    if "knownValues" in schema:
        return schema["knownValues"][0]
    return "Ä word"[: schema.get("maxLength", 10) // 2]


def mutants(nsid):
    """(what is violated, where, invalid value) for every constraint of the document."""
    value = full(nsid)
    for label, path, replacement in _violations(nsid, record_schema(nsid), value, ()):
        if path == () or (label, path[-1]) == ("const", "$type"):
            continue  # another name in an open union is legal
        mutant = copy.deepcopy(value)
        parent = mutant
        for step in path[:-1]:
            parent = parent[step]
        if replacement is ABSENT:
            del parent[path[-1]]
        else:
            parent[path[-1]] = replacement
        yield label, path, mutant


ABSENT = object()


def _violations(nsid, schema, value, path):
    kind = schema["type"]
    if kind == "ref":
        document, _, target = lookup(nsid, schema["ref"])
        yield from _violations(document, target, value, path)
    elif kind == "union":
        yield "type", path, "text"
        yield "union type", path, {}
        for reference in schema["refs"]:
            document, name, target = lookup(nsid, reference)
            if value["$type"] in (f"{document}#{name}", "app.bsky.richtext.facet#link"):
                yield from _violations(document, target, value, path)
                break
    elif kind == "object":
        yield from _object_violations(nsid, schema, value, path)
    elif kind == "array":
        yield from _array_violations(nsid, schema, value, path)
    else:
        for label, replacement in _leaf_violations(schema, value):
            yield label, path, replacement


def _object_violations(nsid, schema, value, path):
    yield "type", path, "text"
    yield "link", path, {"$link": CID}
    for name in schema.get("required", []):
        yield "required", (*path, name), ABSENT
    for name, inner in schema["properties"].items():
        if name in value:
            yield from _violations(nsid, inner, value[name], (*path, name))


def _array_violations(nsid, schema, value, path):
    yield "type", path, {}
    if "maxLength" in schema:
        yield "maxLength", path, [value[0]] * (schema["maxLength"] + 1)
    if schema.get("minLength"):
        yield "minLength", path, value[: schema["minLength"] - 1]
    for position, item in enumerate(value):
        yield from _violations(nsid, schema["items"], item, (*path, position))


def _leaf_violations(schema, value):
    match schema["type"]:
        case "string":
            yield from _text_violations(schema, value)
        case "integer":
            yield "type", "5"
            yield "type", 1.5
            yield "type", True
            if "minimum" in schema:
                yield "minimum", schema["minimum"] - 1
            if "maximum" in schema:
                yield "maximum", schema["maximum"] + 1
        case "boolean":
            yield "type", 1
        case "blob":
            yield "type", CID
            yield "ref", value | {"ref": CID}
            yield "mimeType", {k: v for k, v in value.items() if k != "mimeType"}
            if "accept" in schema:
                yield "accept", value | {"mimeType": "video/mp4"}
            if "maxSize" in schema:
                yield "maxSize", value | {"size": schema["maxSize"] + 1}


def _text_violations(schema, value):
    yield "type", 5
    yield "null", None
    if "maxLength" in schema:
        yield "maxLength", "ä" * (schema["maxLength"] // 2 + 1)
    if "maxGraphemes" in schema:
        yield "maxGraphemes", "x" * (schema["maxGraphemes"] + 1)
    if "const" in schema:
        yield "const", value + "x"
    if "format" in schema:
        yield "format", "no such thing "
