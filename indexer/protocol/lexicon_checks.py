"""Lexicon schema -> one closure that checks a value.

Owns what each schema type demands of an ATProto JSON value (`{"$link"}`, `{"$bytes"}`, blobs).
A check returns None, or what is wrong as `path: reason` from the checked value on; a parent puts
its own step in front, so that a valid value builds no path at all:

    item: ": must be an integer"  ->  array: "[2]: must be..."  ->  object: ".order[2]: must be..."

Tolerant where published schemas are: known values and unions are open, an object may carry more
than its schema names, a reference to a schema that is not in the catalog accepts anything, and a
`$type` constant that differs from the definition's own name is accepted under either.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from indexer.protocol import syntax
from indexer.protocol.graphemes import count_graphemes

Check: TypeAlias = Callable[[object], str | None]
Schema: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Definitions:
    """What the schemas of one document may refer to."""

    nsid: str  # of the document
    find: Callable[[str], Check | None]  # full name -> its check; None: not in the catalog
    aliases: Mapping[str, str]  # full name -> the other `$type` that its definition demands


_FORMATS: dict[str, Callable[[str], bool]] = {
    "at-identifier": syntax.is_at_identifier,
    "at-uri": syntax.is_at_uri,
    "cid": syntax.is_cid,
    "datetime": syntax.is_datetime,
    "did": syntax.is_did,
    "handle": syntax.is_handle,
    "language": syntax.is_language,
    "nsid": syntax.is_nsid,
    "record-key": syntax.is_rkey,
    "tid": syntax.is_tid,
    "uri": syntax.is_uri,
}


def full_name(nsid: str, reference: str) -> str:
    """`#x` and `other.nsid#x` seen from document `nsid`, as `nsid#name` (`#main` spelled out)."""
    if reference.startswith("#"):
        return nsid + reference
    return reference if "#" in reference else reference + "#main"


def compile_schema(schema: Schema, definitions: Definitions) -> Check:
    """The check of one schema, which the catalog has found well formed."""
    kind = str(schema["type"])
    compile_nested = _NESTED.get(kind)
    if compile_nested is not None:
        return compile_nested(schema, definitions)
    compile_leaf = _LEAVES.get(kind)
    return compile_leaf(schema) if compile_leaf is not None else _FIXED[kind]


def compile_token(name: str) -> Check:
    """A token is only ever its own name; `name` is the full one."""
    spellings = (name, name.removesuffix("#main"))

    def check(value: object) -> str | None:
        return None if value in spellings else ": is not the name of the token"

    return check


def mapping(value: object) -> Mapping[str, object]:
    """A part of a document that is an object; absent counts as empty."""
    return value if isinstance(value, dict) else {}


def strings(value: object) -> list[str]:
    """A part of a document that is a list of names; absent counts as empty."""
    return [item for item in value if type(item) is str] if isinstance(value, list) else []


def _bound(schema: Schema, name: str) -> int | None:
    value = schema.get(name)
    return value if type(value) is int else None


def _allowed(schema: Schema) -> frozenset[object] | None:
    """The values that `const` and `enum` leave; None: any."""
    if "const" in schema:
        return frozenset({schema["const"]})
    values = schema.get("enum")
    return frozenset(values) if isinstance(values, list) else None


def _compile_object(schema: Schema, definitions: Definitions) -> Check:
    declared = mapping(schema.get("properties"))
    properties = {
        # The union that led here has judged the type name, and knows both of its spellings.
        name: _check_text if name == "$type" else compile_schema(mapping(inner), definitions)
        for name, inner in declared.items()
    }
    required = tuple(strings(schema.get("required")))
    nullable = frozenset(strings(schema.get("nullable")))
    find = properties.get

    def check(value: object) -> str | None:
        if type(value) is not dict:
            return ": must be an object"
        for name in required:
            if name not in value:
                return f".{name}: is required"
        for name, inner in value.items():
            inner_check = find(name)
            if inner_check is None or (inner is None and name in nullable):
                continue
            problem = inner_check(inner)
            if problem is not None:
                return f".{name}{problem}"
        if len(value) == 1 and ("$link" in value or "$bytes" in value):
            return ": must be an object"
        return None

    return check


def _check_text(value: object) -> str | None:
    return None if type(value) is str else ": must be a string"


def _compile_array(schema: Schema, definitions: Definitions) -> Check:
    item_check = compile_schema(mapping(schema["items"]), definitions)
    minimum = _bound(schema, "minLength") or 0
    maximum = _bound(schema, "maxLength")

    def check(value: object) -> str | None:
        if type(value) is not list:
            return ": must be an array"
        if maximum is not None and len(value) > maximum:
            return f": has {len(value)} items, at most {maximum} are allowed"
        if len(value) < minimum:
            return f": has {len(value)} items, at least {minimum} are required"
        for position, item in enumerate(value):
            problem = item_check(item)
            if problem is not None:
                return f"[{position}]{problem}"
        return None

    return check


def _compile_ref(schema: Schema, definitions: Definitions) -> Check:
    return _compile_reference(full_name(definitions.nsid, str(schema["ref"])), definitions)


def _compile_reference(name: str, definitions: Definitions) -> Check:
    """Looked up at the first use: definitions may refer to each other in circles."""
    found: Check | None = None

    def check(value: object) -> str | None:
        nonlocal found
        if found is None:
            found = definitions.find(name) or _check_anything
        return found(value)

    return check


def _check_anything(value: object) -> None:
    del value


def _compile_union(schema: Schema, definitions: Definitions) -> Check:
    is_closed = schema.get("closed") is True
    checks: dict[str, Check] = {}
    for reference in strings(schema["refs"]):
        name = full_name(definitions.nsid, reference)
        inner = _compile_reference(name, definitions)
        for spelling in (name, name.removesuffix("#main"), definitions.aliases.get(name, name)):
            checks[spelling] = inner

    def check(value: object) -> str | None:
        if type(value) is not dict:
            return ": must be an object"
        name = value.get("$type")
        inner = checks.get(name) if type(name) is str else None
        if inner is not None:
            return inner(value)
        if type(name) is not str or not name:
            return ".$type: is required"
        return ".$type: is not one of the allowed types" if is_closed else None

    return check


def _compile_string(schema: Schema) -> Check:
    allowed = _allowed(schema)
    format_name = schema.get("format")
    is_formatted = _FORMATS.get(str(format_name))  # a format of the future constrains nothing
    check_length = _compile_length(schema)

    def check(value: object) -> str | None:
        if type(value) is not str:
            return ": must be a string"
        if is_formatted is not None and not is_formatted(value):
            return f": is not a valid {format_name}"
        problem = check_length(value)
        if problem is None and allowed is not None and value not in allowed:
            return ": is not one of the allowed values"
        return problem

    return check


def _compile_length(schema: Schema) -> Callable[[str], str | None]:
    """Bytes of UTF-8 and characters as readers count them."""
    size_max = _bound(schema, "maxLength")
    size_min = _bound(schema, "minLength") or 0
    graphemes_max = _bound(schema, "maxGraphemes")
    graphemes_min = _bound(schema, "minGraphemes") or 0

    def check(value: str) -> str | None:
        size = len(value) if value.isascii() else _utf8_size(value)
        if size is None:
            return ": is not valid Unicode"
        if size_max is not None and size > size_max:
            return f": has {size} bytes, at most {size_max} are allowed"
        if size < size_min:
            return f": has {size} bytes, at least {size_min} are required"
        if graphemes_max is not None and len(value) > graphemes_max:
            count = count_graphemes(value)
            if count > graphemes_max:
                return f": has {count} characters, at most {graphemes_max} are allowed"
        if graphemes_min and count_graphemes(value) < graphemes_min:
            return f": has too few characters, at least {graphemes_min} are required"
        return None

    return check


def _utf8_size(text: str) -> int | None:
    """Bytes of the text in UTF-8; None for a lone surrogate, which JSON can carry."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def _compile_integer(schema: Schema) -> Check:
    allowed = _allowed(schema)
    minimum = _bound(schema, "minimum")
    maximum = _bound(schema, "maximum")

    def check(value: object) -> str | None:
        if type(value) is not int:
            return ": must be an integer"
        if minimum is not None and value < minimum:
            return f": must be at least {minimum}"
        if maximum is not None and value > maximum:
            return f": must be at most {maximum}"
        if allowed is not None and value not in allowed:
            return ": is not one of the allowed values"
        return None

    return check


def _compile_boolean(schema: Schema) -> Check:
    allowed = _allowed(schema)

    def check(value: object) -> str | None:
        if type(value) is not bool:
            return ": must be a boolean"
        if allowed is not None and value not in allowed:
            return ": is not one of the allowed values"
        return None

    return check


def _compile_bytes(schema: Schema) -> Check:
    maximum = _bound(schema, "maxLength")
    minimum = _bound(schema, "minLength") or 0

    def check(value: object) -> str | None:
        if (
            type(value) is not dict
            or len(value) != 1
            or type(text := value.get("$bytes")) is not str
        ):
            return ": must be bytes"
        try:
            size = len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
        except (binascii.Error, ValueError):
            return ": must be bytes in base64"
        if maximum is not None and size > maximum:
            return f": has {size} bytes, at most {maximum} are allowed"
        if size < minimum:
            return f": has {size} bytes, at least {minimum} are required"
        return None

    return check


def _compile_blob(schema: Schema) -> Check:
    accepted = tuple(strings(schema.get("accept")))
    size_max = _bound(schema, "maxSize")
    exact = frozenset(accepted)
    prefixes = tuple(pattern[:-1] for pattern in accepted if pattern.endswith("/*"))
    is_any_type = not accepted or "*/*" in exact

    def check(value: object) -> str | None:
        if type(value) is not dict:
            return ": must be a blob"
        problem = _blob_shape_problem(value)
        if problem is not None:
            return problem
        size = value.get("size", 0)  # the legacy form tells none
        if size_max is not None and size > size_max:
            return f".size: {size} bytes, at most {size_max} are allowed"
        mime_type = value["mimeType"]
        if is_any_type or mime_type in exact or mime_type.startswith(prefixes):
            return None
        return ".mimeType: is not an accepted type"

    return check


def _blob_shape_problem(value: dict[str, object]) -> str | None:
    """Today's form `{$type, ref, mimeType, size}`, or `{cid, mimeType}` as before 2023."""
    mime_type = value.get("mimeType")
    if type(mime_type) is not str or not mime_type:
        return ".mimeType: is required"
    if value.get("$type") != "blob":
        cid = value.get("cid")
        if "$type" in value or type(cid) is not str or not syntax.is_cid(cid):
            return ": must be a blob"
        return None
    if _check_link(value.get("ref")) is not None:
        return ".ref: must be a link"
    size = value.get("size")
    return None if type(size) is int and size >= 0 else ".size: must be a size in bytes"


def _check_link(value: object) -> str | None:
    if type(value) is dict and len(value) == 1:
        link = value.get("$link")
        if type(link) is str and syntax.is_cid(link):
            return None
    return ": must be a link"


def _check_unknown(value: object) -> str | None:
    """Any object of the data model that is not one of its own leaf types."""
    if type(value) is not dict or value.get("$type") == "blob":
        return ": must be an object"
    if len(value) == 1 and ("$link" in value or "$bytes" in value):
        return ": must be an object"
    return None


def _check_null(value: object) -> str | None:
    return None if value is None else ": must be null"


_NESTED: dict[str, Callable[[Schema, Definitions], Check]] = {
    "array": _compile_array,
    "object": _compile_object,
    "params": _compile_object,
    "ref": _compile_ref,
    "union": _compile_union,
}
_LEAVES: dict[str, Callable[[Schema], Check]] = {
    "blob": _compile_blob,
    "boolean": _compile_boolean,
    "bytes": _compile_bytes,
    "integer": _compile_integer,
    "string": _compile_string,
}
_FIXED: dict[str, Check] = {
    "cid-link": _check_link,
    "null": _check_null,
    "token": _check_text,
    "unknown": _check_unknown,
}
